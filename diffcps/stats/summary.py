"""Statistics of one list of scores."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1) of ``[n]`` values; nan where n is too small to have one."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if array.size else float("nan")
    return mean, float(array.std(ddof=1)) if array.size > 1 else float("nan")


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half of all scores (Agarwal et al., 2021); nan of no score."""
    array = np.asarray(scores, dtype=np.float64).ravel()
    return float(trim_mean(array, 0.25)) if array.size else float("nan")
