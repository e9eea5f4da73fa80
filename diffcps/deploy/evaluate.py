"""Scores of a saved policy, computed as training's evaluations are, over episodes that training has not used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.algorithms.streams import NEW_EPISODES
from diffcps.config import Actor, Physics
from diffcps.deploy.saved import SavedPolicy
from diffcps.envs.simulations import Floats, Simulated
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, task_of
from diffcps.training.evaluation import Evaluator

PARALLEL_EPISODES = 100
"""Episodes that run at the same time."""


@dataclass(frozen=True, eq=False)
class RecordedEpisodes:
    """Positions in the first ``PARALLEL_EPISODES`` episodes, to film any of them."""

    rules: Simulated
    """The environment of the episodes."""
    positions: tuple[Floats, ...]
    """Positions before each control step, ``[n, nq]``; meaningless after an episode's end."""
    goals: Floats
    """(x, y) of each episode's goal in metres, ``[n, 2]``; zeros where there is none."""


@dataclass(frozen=True, eq=False)
class EpisodeResults:
    """The results of E episodes."""

    returns: NDArray[np.float64]
    """Undiscounted sums of the environment's rewards, ``[E]``; NaN where the policy gave actions that are not finite."""
    lengths: NDArray[np.int64]
    """Environment steps, ``[E]``."""
    scores: NDArray[np.float64]
    """Normalised scores, ``[E]``."""
    recording: RecordedEpisodes | None = None

    @property
    def typical(self) -> int:
        """Of the recorded episodes, the one with the return nearest to the median of all episodes.

        Raises ``UserError`` when no recorded episode has a return.
        """
        first = self.returns[:PARALLEL_EPISODES]
        if np.isnan(first).all():
            raise UserError(
                "no episode of this policy can be filmed: its networks have diverged, so its actions are not finite. "
                "Leave out --video, or choose another policy of the pack with --member."
            )
        return int(np.nanargmin(np.abs(first - np.nanmedian(self.returns))))

    def summary(self) -> dict[str, dict[str, float]]:
        """``return`` and ``score``: mean, std (sample, over episodes), and low and high, the 95 % interval of the mean.

        The interval is from the percentile bootstrap over episodes, NaN for one episode. ``length``: its mean.
        """
        found = {}
        for name, values in (("return", self.returns), ("score", self.scores)):
            mean, std = stats.mean_std(values)
            low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
            found[name] = {"mean": mean, "std": std, "low": float(low), "high": float(high)}
        return found | {"length": {"mean": float(self.lengths.mean())}}


def evaluate(
    policy: SavedPolicy,
    episodes: int = 100,
    candidates: int | None = None,
    actor: Actor | None = None,
    physics: Physics | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[], None] | None = None,
    record: bool = False,
    task: Task | None = None,
) -> EpisodeResults:
    """Run episodes of the policy's task.

    Args:
        policy: the policy that acts.
        episodes: E.
        candidates, actor: see ``SavedPolicy.act``; ``None``: as in training's evaluations.
        physics: body masses of the simulator; ``None``: as in training.
        seed: with the policy's own seed, it determines all episodes.
        threads: threads for the simulation; the results do not depend on their number.
        progress: called after each step of the environments.
        record: whether to keep positions for a film.
        task: ``None``: the task that the policy was trained for.

    Raises:
        UserError: an option does not fit the policy, or ``record`` is set for a task without films.
    """
    if episodes < 1 or seed < 0:
        raise UserError(f"episodes = {episodes}, seed = {seed}: at least 1 episode, and a seed of 0 or more.")
    run = policy.card.run
    task = task_of(run) if task is None else task
    if record:
        check_film(task)
    candidates, actor = policy.options(candidates, actor)
    config = run.evaluation.replaced(
        episodes=min(episodes, PARALLEL_EPISODES), final_episodes=None, candidates=candidates, actor=actor
    )
    positions: list[Floats] = []
    goals: list[Floats] = []

    def stepped() -> None:
        # episodes run in rounds, and those of the first round end within ``episode_limit`` steps
        if record and len(positions) < task.episode_limit:
            positions.append(simulations.qpos)
            goals.append(simulations.goals.copy())
        if progress is not None:
            progress()

    evaluator = Evaluator(
        task, physics or run.physics, run.members, config, threads=threads, heartbeat=stepped, purpose=NEW_EPISODES
    )
    simulations: Any = evaluator.environments
    try:
        rollouts = evaluator(policy.policy, seed, episodes)
        recording = RecordedEpisodes(simulations.rules, tuple(positions), goals[0]) if record else None
    finally:
        evaluator.close()
    returns = rollouts.returns[0]
    return EpisodeResults(returns, rollouts.lengths[0], task.normalised_score(returns), recording)


def check_film(task: Task) -> None:
    """Raise ``UserError`` for a task that cannot be filmed."""
    if task.bandit is not None:
        raise UserError(
            f"{task.name} cannot be filmed: an episode of a bandit is one action. Leave out --video; `diffcps toy` plots the "
            "actions of policies on a bandit."
        )
    if not task.environment.physics:
        raise UserError(
            f"{task.name} cannot be filmed: this project does not simulate its environment. Leave out --video."
        )
