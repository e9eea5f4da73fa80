"""Percentile-bootstrap intervals: over the seeds of one task, and stratified by task over several."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Strata = Sequence[FloatArray]
"""For each task the scores of its seeds, ``[..., n_i]``: all leading axes alike, n_i the task's own."""

RESAMPLES = 10_000
"""Bootstrap resamples; the ends of a 95 % interval then scatter by about a hundredth of its width."""
STRATIFIED_RESAMPLES = 2_000
"""The same over several tasks, as in Agarwal et al. (2021)."""


def percentile_ends(values: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """The two ends between which the share ``confidence`` of resampled values ``[resamples, ...]`` lies."""
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=0)
    return low, high


def draw_weights(count: int, generator: np.random.Generator, resamples: int) -> FloatArray:
    """How often each of ``count`` runs is drawn in each resample, as shares: ``[resamples, count]``.

    A mean over a resample is then one row of a matrix product, without a copy of every draw.
    """
    return generator.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count


def bootstrap_interval(
    values: ArrayLike, generator: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[FloatArray, FloatArray]:
    """Percentile-bootstrap interval of the mean over the first axis.

    Args:
        values: ``[n, ...]``, n independent runs (seeds).
        generator: draws the resamples.
        confidence: share of the resampled means inside the interval.
        resamples: number of resamples.

    Returns:
        Lower and upper ends, each of shape ``[...]``; nan when n < 2, since one run says nothing about its spread.
    """
    array = np.asarray(values, dtype=np.float64)
    count, shape = len(array), array.shape[1:]
    if count < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    return weighted_interval(array, draw_weights(count, generator, resamples), confidence)


def weighted_interval(
    values: FloatArray, weights: FloatArray, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """``bootstrap_interval`` of ``[n, ...]`` values with resamples that were drawn before, ``[resamples, n]``."""
    means = (weights @ values.reshape(len(values), -1)).reshape(len(weights), *values.shape[1:])
    return percentile_ends(means, confidence)


def stratified_interval(
    scores: Sequence[ArrayLike],
    statistic: Callable[[Strata], FloatArray],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = STRATIFIED_RESAMPLES,
) -> tuple[float, float]:
    """Stratified-bootstrap interval of a statistic over several tasks (Agarwal et al., 2021).

    Seeds are redrawn within each task and never across tasks.

    Args:
        scores: for each task the scores ``[n_i]`` of its seeds.
        statistic: of strata ``[resamples, n_i]``, one value for each resample; those of ``aggregates`` are such.
        generator: draws the resamples.
        confidence: share of the resampled values inside the interval.
        resamples: number of resamples.

    Returns:
        Lower and upper end; nan when any task has fewer than two seeds.
    """
    strata = [np.asarray(task, dtype=np.float64) for task in scores]
    if not strata or min(len(task) for task in strata) < 2:
        return float("nan"), float("nan")
    draws = [task[generator.integers(len(task), size=(resamples, len(task)))] for task in strata]
    low, high = percentile_ends(statistic(draws), confidence)
    return float(low), float(high)
