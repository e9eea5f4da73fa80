"""When a trial of a search is ended early because others of its task do better, as its run folder and theirs say."""

import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from diffcps.config import RunConfig
from diffcps.runs import criteria
from diffcps.runs.plan import PruningRule
from diffcps.runs.trial import Trial

FEWEST = 4
"""Trials that must have reached the same evaluation before one is compared with them."""
ETA = 3
"""ASHA continues one in ``ETA`` of the trials that reach a rung."""


def behind(rule: PruningRule, own: Sequence[float], others: Iterable[Sequence[float]], planned: int) -> str:
    """Why a trial is ended after its newest evaluation; an empty text if it continues.

    ``median`` (Golovin et al., 2017): in the second half of its evaluations, its best value so far is below the median over
    other trials of their means so far. Before, it would end those that learn slowly and well.
    ``asha`` (Li et al., 2020): at a rung, one of its evaluations 1, 3, 9, …, it is not in the best third of the trials that
    have reached that rung.

    Args:
        rule: which.
        own: the objective at each evaluation so far, higher is better; no number counts as the worst.
        others: the same of the other trials of the task, each as long as it has got.
        planned: evaluations of the whole trial.
    """
    count = len(own)
    reached = [_numbers(values[:count]) for values in others if len(values) >= count]
    if rule == "divergence" or not count or len(reached) < FEWEST:
        return ""
    values = _numbers(own)
    if rule == "median":
        middle, best = statistics.median(float(np.mean(other)) for other in reached), max(values)
        worse = 2 * count > planned and best < middle
        return f"its best of {count}, {best:.4g}, is below the median of {len(reached)}, {middle:.4g}" if worse else ""
    if not _is_rung(count):
        return ""
    at_rung = [other[-1] for other in reached] + [values[-1]]
    least = sorted(at_rung, reverse=True)[max(1, len(at_rung) // ETA) - 1]
    worse = values[-1] < least
    return f"{values[-1]:.4g} at evaluation {count} is not in the best third of {len(at_rung)}" if worse else ""


def evaluated_alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether two trials are of one task and are evaluated at the same steps, so that their curves can be compared."""
    return (
        all(one.value(name) == other.value(name) for name in ("steps", "evaluation.every")) and one.task == other.task
    )


def _numbers(values: Sequence[float]) -> list[float]:
    """Without nan, which compares with nothing: a diverged policy is the worst."""
    return [-math.inf if math.isnan(value) else value for value in values]


def _is_rung(count: int) -> bool:
    while count % ETA == 0:
        count //= ETA
    return count == 1


def curve(trial: Trial, objective: str) -> list[float]:
    """The objective of a trial at each evaluation so far, mean over members."""
    steps, values = criteria.along(trial, objective)
    every, end = trial.config.evaluation.every, trial.config.steps
    return [float(row.mean()) for step, row in zip(steps, values, strict=True) if step % every == 0 or step == end]
