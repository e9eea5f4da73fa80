"""Statistics of scores over seeds and tasks. Whatever draws random numbers takes its generator from the caller."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import trim_mean

FloatArray = NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap resamples; the ends of a 95 % interval then scatter by about a hundredth of its width."""


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1) of ``[n]`` values; nan where n is too small to have one."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if array.size else float("nan")
    return mean, float(array.std(ddof=1)) if array.size > 1 else float("nan")


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half of all scores (Agarwal et al., 2021); nan of no score."""
    array = np.asarray(scores, dtype=np.float64).ravel()
    return float(trim_mean(array, 0.25)) if array.size else float("nan")


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
    # how often each run is drawn, instead of a copy of every draw: the means are then one matrix product
    weights = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
    means = (weights @ array.reshape(count, -1)).reshape(resamples, *shape)
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(means, [tail, 100.0 - tail], axis=0)
    return low, high


def stratified_interval(
    scores: Sequence[ArrayLike],
    statistic: Callable[[Sequence[FloatArray]], float],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[float, float]:
    """Stratified-bootstrap interval of a statistic over several tasks (Agarwal et al., 2021).

    Seeds are redrawn within each task and never across tasks.

    Args:
        scores: for each task the scores ``[n_i]`` of its seeds.
        statistic: of such a list.
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
    values = [statistic([task[i] for task in draws]) for i in range(resamples)]
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def mean_of_means(scores: Sequence[FloatArray]) -> float:
    """Mean over tasks of each task's mean over seeds, so that every task counts the same."""
    return float(np.mean([np.mean(task) for task in scores]))
