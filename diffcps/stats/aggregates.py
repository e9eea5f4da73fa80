"""One number for several tasks (Agarwal et al., 2021, "Deep RL at the Edge of the Statistical Precipice").

Each takes ``Strata``: for each task the scores of its seeds, ``[..., n_i]``, and gives ``[...]``.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

from diffcps.stats.bootstrap import FloatArray, Strata


def mean_of_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """Mean over tasks of each task's mean over seeds, so that every task counts the same."""
    return _task_means(scores).mean(axis=-1)


def median_of_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """Median over tasks of each task's mean over seeds."""
    return np.median(_task_means(scores), axis=-1)


def interquartile_mean(scores: Sequence[ArrayLike]) -> FloatArray:
    """Mean of the middle half of all scores, of all seeds of all tasks together."""
    return np.asarray(trim_mean(np.concatenate([np.asarray(task) for task in scores], axis=-1), 0.25, axis=-1))


def optimality_gap(scores: Sequence[ArrayLike], target: float = 100.0) -> FloatArray:
    """How far scores fall short of ``target`` (γ) on average, what is above it counting as ``target``; less is better.

    By default γ = 100, where a normalised score is the reference expert's.
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
"""Name -> aggregate, in the order in which a table shows them."""


def _task_means(scores: Sequence[ArrayLike]) -> FloatArray:
    """``[..., tasks]``."""
    return np.stack([np.asarray(task, dtype=np.float64).mean(axis=-1) for task in scores], axis=-1)
