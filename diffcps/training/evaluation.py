"""Rolls out every member of a pack in many environments at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffcps.algorithms import streams
from diffcps.config import Actor, EvaluationConfig, Member, Physics
from diffcps.envs import VectorEnvironment, make_vector
from diffcps.tasks.registry import Task
from diffcps.training.policy import Policy

Watch = Callable[[NDArray[np.floating[Any]], NDArray[np.bool_]], None]
"""Sees observations, and the environments that they are to be read of."""


@dataclass(frozen=True)
class Rollouts:
    """Raw results of one evaluation of K members over E episodes."""

    returns: NDArray[np.float64]
    """Undiscounted sums of rewards as the environment gives them, ``[K, E]``; NaN where the policy's actions were not finite."""
    lengths: NDArray[np.int64]
    """Environment steps, ``[K, E]``."""


class Evaluator:
    """Evaluates policies on a task. It keeps its environments between calls and owns every random stream it uses.

    Reset seeds depend only on (member seed, evaluation index), so results do not change with resumes, with other members,
    or with the learner's random state.

    Args:
        task: the task.
        physics: of the environments.
        members: those of the pack.
        config: episodes, candidates and actor. Without episodes no environment is made.
        threads: at most so many, the caller's among them, step the environments; results do not depend on it.
        heartbeat: called at each step of the environments.
        purpose: evaluators of two purposes have different episodes.
    """

    def __init__(
        self,
        task: Task,
        physics: Physics,
        members: Sequence[Member],
        config: EvaluationConfig,
        *,
        threads: int = 1,
        heartbeat: Callable[[], None] = lambda: None,
        purpose: int = streams.EVALUATION,
    ) -> None:
        self.heartbeat = heartbeat
        self.purpose = purpose
        self.task = task
        self.config = config
        self.seeds = [member.seed for member in members]
        # AntMaze v0 keeps one goal for an environment's life: each member's own, in every evaluation
        goals = [seed for seed in self.seeds for _ in range(config.episodes)]
        self.environments: VectorEnvironment | None = None
        if goals:
            self.environments = make_vector(task, physics, len(goals), goal_seeds=goals, threads=threads)

    def __call__(
        self,
        policy: Policy,
        index: int,
        episodes: int | None = None,
        *,
        candidates: int | None = None,
        actor: Actor | None = None,
        watch: Watch = lambda observations, active: None,
    ) -> Rollouts:
        """Roll out all members of ``policy`` until every episode has ended.

        Args:
            policy: who acts.
            index: of the evaluation; the same index gives the same episodes, however the policy acts in them.
            episodes: of each member, by default the configuration's; more take several rounds in the same environments.
            candidates: by default the configuration's.
            actor: by default the configuration's.
            watch: called before each step with the observations ``[n, o]`` of all environments, member after member, and which
                of them ``[n]`` act; and after it with the last observations, and which episodes they are the end of.
        """
        wanted, size = self.config.episodes if episodes is None else episodes, self.config.episodes
        acting = candidates or self.config.candidates, actor or self.config.actor, watch
        rounds = [self._round(policy, (index,), *acting)]
        rounds += [self._round(policy, (index, number), *acting) for number in range(1, -(-wanted // size))]
        returns, lengths = (
            np.concatenate([getattr(part, name) for part in rounds], axis=1) for name in ("returns", "lengths")
        )
        return Rollouts(returns[:, :wanted], lengths[:, :wanted])

    def _round(self, policy: Policy, index: tuple[int, ...], candidates: int, actor: Actor, watch: Watch) -> Rollouts:
        """One episode in every environment; its start depends only on ``index`` and the members' seeds."""
        assert self.environments is not None, "an evaluation has episodes"
        members, episodes = len(self.seeds), self.config.episodes
        roots = [np.random.SeedSequence([seed, self.purpose, *index]) for seed in self.seeds]
        generators = [generator_of(root, policy.algorithm.device) for root in roots]
        resets = np.concatenate([root.spawn(1)[0].generate_state(episodes) for root in roots])

        observations = self.environments.reset([int(seed) for seed in resets])
        active = np.ones(members * episodes, dtype=bool)
        returns = np.zeros(members * episodes)
        lengths = np.zeros(members * episodes, dtype=np.int64)
        actions = np.zeros((members * episodes, self.task.action_size), dtype=np.float32)
        while active.any():
            self.heartbeat()
            watch(observations, active)
            waiting = active.reshape(members, episodes)
            states = observations.reshape(members, episodes, -1)
            rows = [states[k][waiting[k]] for k in range(members)]
            actions[active] = np.concatenate(policy.act(rows, generators, candidates, actor))
            # a member whose networks have diverged gets NaN; the others continue
            diverged = active & ~np.isfinite(actions).all(axis=1)
            returns[diverged] = np.nan
            active = active & ~diverged
            if not active.any():
                break
            observations, rewards, ended = self.environments.step(actions, active)
            returns[active] += rewards[active]
            lengths[active] += 1
            watch(observations, active & ended)
            active = active & ~ended
        return Rollouts(returns.reshape(members, episodes), lengths.reshape(members, episodes))

    def close(self) -> None:
        """Close the environments."""
        if self.environments is not None:
            self.environments.close()


def generator_of(root: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A torch generator on ``device``, seeded by ``root``."""
    seed = int(root.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)
