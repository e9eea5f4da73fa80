"""Performance profiles: which share of runs scores above each of many thresholds (Agarwal et al., 2021)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffcps.stats.bootstrap import STRATIFIED_RESAMPLES, FloatArray, draw_weights, percentile_ends


def performance_profile(
    scores: Sequence[ArrayLike],
    thresholds: ArrayLike,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = STRATIFIED_RESAMPLES,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The share of runs that score above each threshold, every task counting the same, with its interval.

    Args:
        scores: for each task the scores ``[n_i]`` of its seeds.
        thresholds: ``[m]`` values of τ.
        generator: draws the resamples, within each task.
        confidence: share of the resampled profiles inside the interval, at each τ by itself.
        resamples: number of resamples.

    Returns:
        The profile, its lower and its upper ends, each ``[m]``; the ends nan when any task has fewer than two seeds.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    above = [(np.asarray(task, dtype=np.float64)[:, None] > limits).astype(np.float64) for task in scores]
    profile = np.mean([task.mean(axis=0) for task in above], axis=0)
    if min(len(task) for task in above) < 2:
        return profile, np.full(limits.shape, np.nan), np.full(limits.shape, np.nan)
    draws = np.mean([draw_weights(len(task), generator, resamples) @ task for task in above], axis=0)
    return profile, *percentile_ends(draws, confidence)
