"""Many environments stepped at once, the way evaluation needs it: one episode each, finished ones left alone."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Step = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]


class VectorEnvironment(Protocol):
    """``n`` environments of one task, each playing one episode at a time."""

    n: int

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Start an episode in each environment from its own seed (``n`` of them): observations [n, o]."""

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """Step the environments where ``active`` [n] holds, with ``actions`` [n, a] clipped to the bounds.

        Returns observations [n, o], rewards [n] and ended [n] (terminated or cut off by the limit). The others keep
        their last observation, with reward 0 and not ended. Raises ``ValueError`` when an active environment is given
        an action that is not finite.
        """

    def close(self) -> None:
        """Free what the environments hold."""


def require_seeds(seeds: Sequence[int], n: int) -> None:
    """Raise ``ValueError`` unless there are ``n`` seeds."""
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} environments")


def require_finite(actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> None:
    """Raise ``ValueError`` naming the active environments whose actions are no finite numbers."""
    broken = active & ~np.isfinite(actions).all(axis=-1)
    if broken.any():
        raise ValueError(f"the actions of environments {np.flatnonzero(broken).tolist()} are not finite")


def reached(positions: NDArray[np.float64], goals: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Whether positions ``[..., 2 or more]``, of which x and y count, are within ``radius`` of goals ``[..., 2]``."""
    return np.square(positions[..., :2] - goals).sum(axis=-1) <= radius**2
