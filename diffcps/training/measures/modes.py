"""Which modes of a bandit a policy has."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from diffcps.tasks.bandits import Bandit

SHARE = 0.1
"""A mode is recalled by a policy that gives its support at least this part of what the behaviour gives it."""


def nearest_mode(found: Bandit, actions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the mode nearest to each action, ``[..., d] -> [...]``."""
    _, nearest = KDTree(found.modes).query(actions)
    return np.asarray(nearest, dtype=np.int64)


def sample_recall(found: Bandit, actions: NDArray[np.float64]) -> float:
    """Share of the modes that samples ``[n, d]`` recall."""
    assert found.modes is not None
    assert found.mode_weights is not None
    on = actions[~found.off_support(actions)]
    counts = np.bincount(nearest_mode(found, on), minlength=len(found.modes))
    return float((counts >= SHARE * found.mode_weights * len(actions)).mean())
