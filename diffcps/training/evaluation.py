"""Rolls out every member of a pack over many environments at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffcps.config import Actor, EvaluationConfig, Member, Physics
from diffcps.envs import make_vector
from diffcps.tasks.registry import Task
from diffcps.training.policy import Policy


@dataclass(frozen=True)
class Rollouts:
    """Raw results of one evaluation of K members over E episodes."""

    returns: NDArray[np.float64]
    """Undiscounted sums of untransformed rewards, ``[K, E]``; NaN where the policy's actions were no numbers."""
    lengths: NDArray[np.int64]
    """Environment steps, ``[K, E]``."""


class Evaluator:
    """Judges policies on a task. It keeps its environments between calls and owns every random stream it uses.

    The episodes of evaluation ``index`` of a member with seed s are set by (s, index) alone: the same at every attempt,
    other ones at every index, whatever the company and whatever the learner has drawn.
    """

    def __init__(
        self,
        task: Task,
        physics: Physics,
        members: Sequence[Member],
        config: EvaluationConfig,
        threads: int = 1,
        tick: Callable[[], None] | None = None,
        purpose: int = 2,
    ) -> None:
        """At most ``threads`` threads, the caller's among them, step the environments; no result depends on it.

        ``tick`` is called at each step of theirs. Evaluators of two purposes have other episodes.
        """
        self.tick = tick
        self.purpose = purpose
        self.task = task
        self.config = config
        self.seeds = [member.seed for member in members]
        # AntMaze v0 keeps one goal for an environment's life: each member's own, in every evaluation
        goals = [seed for seed in self.seeds for _ in range(config.episodes)]
        self.environments = make_vector(task, physics, len(members) * config.episodes, goals, threads)

    def __call__(self, policy: Policy, index: int, episodes: int | None = None) -> Rollouts:
        """Roll out all members of ``policy`` until every episode has ended.

        ``episodes`` of each, by default the configuration's: as many rounds in the same environments as it takes.
        """
        wanted, size = self.config.episodes if episodes is None else episodes, self.config.episodes
        acting = self.config.candidates, self.config.actor
        rounds = [self._round(policy, (index,), *acting)]
        rounds += [self._round(policy, (index, number), *acting) for number in range(1, -(-wanted // size))]
        returns, lengths = (
            np.concatenate([getattr(part, name) for part in rounds], axis=1) for name in ("returns", "lengths")
        )
        return Rollouts(returns[:, :wanted], lengths[:, :wanted])

    def judge(self, policy: Policy, index: int, candidates: int, actor: Actor) -> Rollouts:
        """One episode in every environment, with other candidates and another actor than the configuration's."""
        return self._round(policy, (index,), candidates, actor)

    def _round(self, policy: Policy, index: tuple[int, ...], candidates: int, actor: Actor) -> Rollouts:
        """One episode in every environment; which one, ``index`` and the members' seeds alone decide."""
        members, episodes = len(self.seeds), self.config.episodes
        roots = [np.random.SeedSequence([seed, self.purpose, *index]) for seed in self.seeds]
        generators = [generator_of(root, policy.model.device) for root in roots]
        resets = np.concatenate([root.spawn(1)[0].generate_state(episodes) for root in roots])

        observations = self.environments.reset([int(seed) for seed in resets])
        active = np.ones(members * episodes, dtype=bool)
        returns = np.zeros(members * episodes)
        lengths = np.zeros(members * episodes, dtype=np.int64)
        actions = np.zeros((members * episodes, self.task.action_size), dtype=np.float32)
        while active.any():
            if self.tick is not None:
                self.tick()
            waiting = active.reshape(members, episodes)
            states = observations.reshape(members, episodes, -1)
            rows = [states[k][waiting[k]] for k in range(members)]
            actions[active] = np.concatenate(policy.act(rows, generators, candidates, actor))
            # a member whose networks have diverged gets no number; its pack goes on without it
            diverged = active & ~np.isfinite(actions).all(axis=1)
            returns[diverged] = np.nan
            active = active & ~diverged
            if not active.any():
                break
            observations, rewards, ended = self.environments.step(actions, active)
            returns[active] += rewards[active]
            lengths[active] += 1
            active = active & ~ended
        return Rollouts(returns.reshape(members, episodes), lengths.reshape(members, episodes))

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()


def generator_of(root: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A torch generator on ``device``, seeded by ``root``."""
    seed = int(root.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)
