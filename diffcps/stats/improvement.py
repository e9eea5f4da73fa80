"""Probability of improvement: how likely a run of X beats a run of Y on the same task (Agarwal et al., 2021)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffcps.stats.bootstrap import STRATIFIED_RESAMPLES, FloatArray, draw_weights, percentile_ends


def probability_of_improvement(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> float:
    """P(X > Y), averaged over tasks: on each the Mann-Whitney U of X over n·m, which counts a tie as one half.

    Args:
        x: for each task the scores ``[n_i]`` of X's seeds.
        y: for the same tasks in the same order the scores ``[m_i]`` of Y's.
    """
    return float(np.mean([pairs.mean() for pairs in _wins(x, y)]))


def improvement_interval(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = STRATIFIED_RESAMPLES,
) -> tuple[float, float]:
    """Stratified-bootstrap interval of ``probability_of_improvement``; nan when a task has fewer than two seeds in either.

    The seeds of X and of Y are redrawn independently, each within their task.
    """
    wins = _wins(x, y)
    if not wins or min(min(pairs.shape) for pairs in wins) < 2:
        return float("nan"), float("nan")
    values = np.mean([_resampled(pairs, generator, resamples) for pairs in wins], axis=0)
    low, high = percentile_ends(values, confidence)
    return float(low), float(high)


def _resampled(pairs: FloatArray, generator: np.random.Generator, resamples: int) -> FloatArray:
    first, second = (draw_weights(count, generator, resamples) for count in pairs.shape)
    return ((first @ pairs) * second).sum(axis=1)


def _wins(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> list[FloatArray]:
    """For each task ``[n_i, m_i]``: 1 where the run of X is higher, ½ where both are equal, else 0."""
    found = []
    for ours, theirs in zip(x, y, strict=True):
        difference = np.asarray(ours, dtype=np.float64)[:, None] - np.asarray(theirs, dtype=np.float64)
        found.append(np.heaviside(difference, 0.5))
    return found
