"""Expected online performance: what tuning is worth when only some policies may be tried (Kurenkov & Kolesnikov, 2022)."""

import numpy as np
from numpy.typing import ArrayLike

from diffcps.stats.bootstrap import FloatArray


def expected_online_performance(scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Expected highest score, and its standard deviation, of k policies picked uniformly at random, for k = 1 … n.

    Policies are picked with replacement, as in the paper and as Dodge et al. (2019) do: the highest of k is at most the
    i-th smallest score with probability (i/n)^k.

    Args:
        scores: ``[n]``, the online score of the policy of each configuration that was tried, its mean over seeds.

    Returns:
        Mean and standard deviation of the maximum, each ``[n]``, entry k − 1 for a budget of k online evaluations.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    budgets = np.arange(1, count + 1)[:, None]
    at_most = (np.arange(count + 1) / count) ** budgets
    chance = np.diff(at_most, axis=1)  # [k, i]: of the i-th smallest being the highest of k
    mean = chance @ ordered
    spread = (chance * (ordered - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(spread)
