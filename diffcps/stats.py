"""Statistics of scores over seeds and tasks. Functions that draw random numbers take a generator."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Strata = Sequence[FloatArray]
"""For each task the scores of its seeds, ``[..., n_i]``. Leading axes are the same for all tasks, n_i is not."""

_CONFIDENCE = 0.95
"""Share of the resampled values inside every interval."""
RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval vary by about a hundredth of its width."""
STRATIFIED_RESAMPLES = 2_000
"""Resamples over several tasks, as in Agarwal et al. (2021)."""
_UNKNOWN = float("nan"), float("nan")
"""Ends of an interval that too few scores do not give."""


# One list of scores ----------------------------------------------------------------------------------------------------


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1) of ``[n]`` values; nan if n is too small."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if array.size else float("nan")
    return mean, float(array.std(ddof=1)) if array.size > 1 else float("nan")


# Percentile bootstrap --------------------------------------------------------------------------------------------------


def _ends(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends ``[...]`` of the central interval of 95 % of the resampled values ``[resamples, ...]``."""
    tail = 100.0 * (1.0 - _CONFIDENCE) / 2.0
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=0)
    return low, high


def _two_ends(values: FloatArray) -> tuple[float, float]:
    """``_ends`` of one value for each resample, ``[resamples]``."""
    low, high = _ends(values)
    return float(low), float(high)


def draw_weights(count: int, generator: np.random.Generator, resamples: int) -> FloatArray:
    """Share of each of ``count`` runs in each resample, ``[resamples, count]``.

    With these weights the mean of a resample is one row of a matrix product.
    """
    return generator.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count


def bootstrap_interval(
    values: ArrayLike, generator: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[FloatArray, FloatArray]:
    """95 % percentile-bootstrap interval of the mean over the first axis.

    Args:
        values: ``[n, ...]``, n independent runs (seeds).
        generator: draws the resamples.
        resamples: number of resamples.

    Returns:
        Lower and upper ends, each of shape ``[...]``; nan if n < 2.
    """
    array = np.asarray(values, dtype=np.float64)
    count, shape = len(array), array.shape[1:]
    if count < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    return weighted_interval(array, draw_weights(count, generator, resamples))


def weighted_interval(values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``bootstrap_interval`` of values ``[n, ...]`` with given resamples ``[resamples, n]``."""
    means = (weights @ values.reshape(len(values), -1)).reshape(len(weights), *values.shape[1:])
    return _ends(means)


def stratified_interval(
    scores: Sequence[ArrayLike], statistic: Callable[[Strata], FloatArray], generator: np.random.Generator
) -> tuple[float, float]:
    """95 % stratified-bootstrap interval of a statistic over several tasks (Agarwal et al., 2021).

    Seeds are redrawn within each task and never across tasks.

    Args:
        scores: for each task the scores ``[n_i]`` of its seeds.
        statistic: maps strata ``[resamples, n_i]`` to one value for each resample, as those in ``AGGREGATES`` do.
        generator: draws the resamples.

    Returns:
        Lower and upper end; nan if a task has fewer than two seeds.
    """
    if (draws := _redrawn(scores, generator)) is None:
        return _UNKNOWN
    return _two_ends(statistic(draws))


def difference_interval(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    statistic: Callable[[Strata], FloatArray],
    generator: np.random.Generator,
) -> tuple[float, float]:
    """95 % stratified-bootstrap interval of statistic(X) − statistic(Y); nan if a task has fewer than two seeds in X or Y.

    The seeds of X and of Y are redrawn independently, each within their task; otherwise as ``stratified_interval``.
    """
    first, second = (_redrawn(scores, generator) for scores in (x, y))
    return _UNKNOWN if first is None or second is None else _two_ends(statistic(first) - statistic(second))


def _redrawn(scores: Sequence[ArrayLike], generator: np.random.Generator) -> list[FloatArray] | None:
    """For each task ``[resamples, n_i]``: its scores redrawn with replacement; ``None`` if a task has fewer than two."""
    strata = [np.asarray(task, dtype=np.float64) for task in scores]
    if not strata or min(map(len, strata)) < 2:
        return None
    return [task[generator.integers(len(task), size=(STRATIFIED_RESAMPLES, len(task)))] for task in strata]


# Aggregates over tasks (Agarwal et al., 2021, "Deep RL at the Edge of the Statistical Precipice") ----------------------


def mean_of_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """Mean over tasks of each task's mean over seeds: every task has the same weight."""
    return _task_means(scores).mean(axis=-1)


def median_of_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """Median over tasks of each task's mean over seeds."""
    return np.median(_task_means(scores), axis=-1)


def interquartile_mean(scores: Sequence[ArrayLike]) -> FloatArray:
    """Mean of the middle half of the scores of all seeds and tasks; nan if one of them is no number."""
    ordered = np.sort(np.concatenate([np.asarray(task) for task in scores], axis=-1), axis=-1)
    cut = ordered.shape[-1] // 4
    middle = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    # nan is sorted behind the highest scores, where it would be cut off
    return np.where(np.isnan(ordered[..., -1]), np.nan, middle)


def optimality_gap(scores: Sequence[ArrayLike], target: float = 100.0) -> FloatArray:
    """Mean distance of scores below ``target`` (γ), with scores above it counted as γ; less is better.

    The default, 100, is the normalised score of the reference expert.
    """
    return target - _task_means([np.minimum(task, target) for task in scores]).mean(axis=-1)


AGGREGATES: Mapping[str, Callable[[Strata], FloatArray]] = MappingProxyType(
    {
        "IQM": interquartile_mean,
        "median": median_of_means,
        "mean": mean_of_means,
        "optimality gap": optimality_gap,
    }
)
"""Name -> aggregate, in the order of the report's table."""


def _task_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """``[..., tasks]``."""
    return np.stack([np.asarray(task, dtype=np.float64).mean(axis=-1) for task in scores], axis=-1)


# Expected online performance (Kurenkov & Kolesnikov, 2022) -------------------------------------------------------------


def expected_online_performance(scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the highest score of k policies drawn uniformly at random, for k = 1 … n.

    Policies are drawn with replacement, as in the paper and in Dodge et al. (2019): the highest of k is at most the i-th
    smallest score with probability (i/n)^k.

    Args:
        scores: ``[n]``, for each configuration its online score, mean over seeds.

    Returns:
        Mean and standard deviation of the maximum, each ``[n]``; entry k − 1 is for a budget of k online evaluations.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    budgets = np.arange(1, count + 1)[:, None]
    at_most = (np.arange(count + 1) / count) ** budgets
    chance = np.diff(at_most, axis=1)  # [k, i]: of the i-th smallest being the highest of k
    mean = chance @ ordered
    spread = (chance * (ordered - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(spread)


# Probability of improvement (Agarwal et al., 2021) ---------------------------------------------------------------------


def probability_of_improvement(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> float:
    """P(X > Y), mean over tasks: for each task the Mann-Whitney U of X divided by n·m; a tie counts one half.

    Args:
        x: for each task the scores ``[n_i]`` of X's seeds.
        y: for the same tasks in the same order the scores ``[m_i]`` of Y's.
    """
    return float(np.mean([pairs.mean() for pairs in _wins(x, y)]))


def improvement_interval(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    generator: np.random.Generator,
    resamples: int = STRATIFIED_RESAMPLES,
) -> tuple[float, float]:
    """95 % stratified-bootstrap interval of ``probability_of_improvement``; nan if a task has fewer than two seeds in X or Y.

    The seeds of X and of Y are redrawn independently, each within their task.
    """
    wins = _wins(x, y)
    if not wins or min(min(pairs.shape) for pairs in wins) < 2:
        return _UNKNOWN
    return _two_ends(np.mean([_resampled(pairs, generator, resamples) for pairs in wins], axis=0))


def _resampled(pairs: FloatArray, generator: np.random.Generator, resamples: int) -> FloatArray:
    first, second = (draw_weights(count, generator, resamples) for count in pairs.shape)
    return ((first @ pairs) * second).sum(axis=1)


def _wins(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> list[FloatArray]:
    """For each task ``[n_i, m_i]``: 1 if the run of X is higher, ½ if both are equal, else 0."""
    found = []
    for ours, theirs in zip(x, y, strict=True):
        difference = np.asarray(ours, dtype=np.float64)[:, None] - np.asarray(theirs, dtype=np.float64)
        found.append(np.heaviside(difference, 0.5))
    return found


# Performance profiles (Agarwal et al., 2021) ---------------------------------------------------------------------------


def performance_profile(
    scores: Sequence[ArrayLike],
    thresholds: ArrayLike,
    generator: np.random.Generator,
    resamples: int = STRATIFIED_RESAMPLES,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of runs with a score above each threshold, every task with the same weight, and its 95 % interval.

    Args:
        scores: for each task the scores ``[n_i]`` of its seeds.
        thresholds: ``[m]`` values of τ.
        generator: draws the resamples, within each task.
        resamples: number of resamples.

    Returns:
        The profile, its lower and its upper ends at each τ separately, each ``[m]``; the ends are nan
        if a task has fewer than two seeds.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    above = [(np.asarray(task, dtype=np.float64)[:, None] > limits).astype(np.float64) for task in scores]
    profile = np.mean([task.mean(axis=0) for task in above], axis=0)
    if min(len(task) for task in above) < 2:
        return profile, np.full(limits.shape, np.nan), np.full(limits.shape, np.nan)
    draws = np.mean([draw_weights(len(task), generator, resamples) @ task for task in above], axis=0)
    return profile, *_ends(draws)


# How well one number ranks another -------------------------------------------------------------------------------------


def ranks(values: ArrayLike) -> FloatArray:
    """Ranks ``[..., n]`` along the last axis from 1 for the lowest; equal values share their mean rank."""
    from scipy.stats import rankdata  # half a second to import

    found: FloatArray = rankdata(np.asarray(values, dtype=np.float64), axis=-1)
    return found


def rank_correlation(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Spearman's correlation along the last axis, ``[..., n]`` and ``[..., n]`` → ``[...]``; nan where one is constant."""
    x, y = (ranks(values) for values in (first, second))
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = np.where(size > 0, (x * y).sum(axis=-1) / size, np.nan)
    return found


def rank_interval(first: ArrayLike, second: ArrayLike, generator: np.random.Generator) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of Spearman's correlation over n pairs; nan for fewer than four."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) < 4:
        return _UNKNOWN
    chosen = generator.integers(len(x), size=(STRATIFIED_RESAMPLES, len(x)))
    found = rank_correlation(x[chosen], y[chosen])
    found = found[~np.isnan(found)]
    return _two_ends(found) if len(found) else _UNKNOWN


def regret(criterion: ArrayLike, scores: ArrayLike, count: int) -> float:
    """The highest score less the highest among the ``count`` policies that a criterion puts first."""
    order = np.argsort(-np.asarray(criterion, dtype=np.float64), kind="stable")[:count]
    array = np.asarray(scores, dtype=np.float64)
    return float(array.max() - array[order].max())
