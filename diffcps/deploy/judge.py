"""Scores of a saved policy, by the evaluation that training has, over episodes that training has not seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.config import Actor, Physics
from diffcps.deploy.saved import SavedPolicy
from diffcps.envs.simulations import Floats, Simulated
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, task_of
from diffcps.training.evaluation import Evaluator

_PURPOSE = 6
"""Of the random streams: the episodes are none of training's evaluations'."""
AT_ONCE = 100
"""Episodes that are played at the same time."""


@dataclass(frozen=True, eq=False)
class Recording:
    """The episodes of the first round as positions, for a film of any of them."""

    rules: Simulated
    """The environment in which they were played."""
    positions: tuple[Floats, ...]
    """Positions before each control step, ``[n, nq]``; meaningless after an episode's end."""
    goals: Floats
    """(x, y) of each episode's goal in metres, ``[n, 2]``; zeros where there is none."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a policy came to in E episodes."""

    returns: NDArray[np.float64]
    """Undiscounted sums of untransformed rewards, ``[E]``; NaN where its actions were no numbers."""
    lengths: NDArray[np.int64]
    """Environment steps, ``[E]``."""
    scores: NDArray[np.float64]
    """Normalised scores, ``[E]``."""
    recording: Recording | None = None

    @property
    def typical(self) -> int:
        """The first-round episode whose return is nearest to the median of all.

        Raises ``UserError`` when none of them has a return: the policy's networks have diverged.
        """
        first = self.returns[:AT_ONCE]
        if np.isnan(first).all():
            raise UserError(
                "no episode of this policy can be filmed: its actions are no numbers, for its networks have diverged. "
                "Leave out --video, or choose another policy of the pack with --member."
            )
        return int(np.nanargmin(np.abs(first - np.nanmedian(self.returns))))

    def summary(self) -> dict[str, dict[str, float]]:
        """``return`` and ``score``: mean, std (sample, over episodes), and low and high, the 95 % interval of the mean.

        The interval is the percentile bootstrap's over episodes; NaN for a single one. ``length``: its mean.
        """
        found = {}
        for name, values in (("return", self.returns), ("score", self.scores)):
            mean, std = stats.mean_std(values)
            low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
            found[name] = {"mean": mean, "std": std, "low": float(low), "high": float(high)}
        return found | {"length": {"mean": float(self.lengths.mean())}}


def judge(
    policy: SavedPolicy,
    episodes: int = 100,
    candidates: int | None = None,
    actor: Actor | None = None,
    physics: Physics | None = None,
    seed: int = 0,
    threads: int = 1,
    tick: Callable[[], None] | None = None,
    record: bool = False,
) -> Judged:
    """Play episodes of the policy's task.

    Args:
        policy: who plays.
        episodes: E.
        candidates: see ``SavedPolicy.act``; by default as in training's evaluation.
        actor: likewise.
        physics: body masses of the simulator; by default training's.
        seed: which episodes; with the policy's own seed it decides all of them.
        threads: that step the environments; no result depends on it.
        tick: called at each step of all environments.
        record: whether to keep the first round's positions, for a film.

    Raises:
        UserError: an option that does not fit the policy, or a task of which there is nothing to film.
    """
    if episodes < 1 or seed < 0:
        raise UserError(f"episodes = {episodes}, seed = {seed}: play at least one episode, of a seed of at least 0.")
    run, task = policy.card.run, task_of(policy.card.run)
    if record:
        check_film(task)
    candidates, actor = policy.options(candidates, actor)
    config = run.evaluation.replaced(
        episodes=min(episodes, AT_ONCE), final_episodes=None, candidates=candidates, actor=actor
    )
    positions: list[Floats] = []
    goals: list[Floats] = []

    def ticked() -> None:
        # rounds follow each other; no episode of the first outlasts the first ``episode_limit`` of all steps
        if record and len(positions) < task.episode_limit:
            positions.append(simulations.qpos)
            goals.append(simulations.goals.copy())
        if tick is not None:
            tick()

    evaluator = Evaluator(task, physics or run.physics, run.members, config, threads, ticked, _PURPOSE)
    simulations: Any = evaluator.environments
    try:
        rollouts = evaluator(policy.policy, seed, episodes)
        recording = Recording(simulations.rules, tuple(positions), goals[0]) if record else None
    finally:
        evaluator.close()
    returns = rollouts.returns[0]
    return Judged(returns, rollouts.lengths[0], task.normalised_score(returns), recording)


def check_film(task: Task) -> None:
    """Raise ``UserError`` for a task of which there is nothing to film."""
    if task.bandit is not None:
        raise UserError(
            f"{task.name}: an episode of a bandit is one action, of which there is nothing to film. Leave out --video; "
            "`diffcps toy` draws what policies do on a bandit."
        )
    if not task.environment.physics:
        raise UserError(f"{task.name}: only environments that this project simulates can be filmed. Leave out --video.")


# Judging a policy that has been trained: scores over many episodes, and one of them as a film.
