"""Many environments stepped at once, as evaluation needs it: one episode each; finished ones are not stepped."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box
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


class OneByOne:
    """A ``VectorEnvironment`` of Gymnasium environments of one kind, stepped one after the other."""

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self.n = len(environments)
        self._environments = list(environments)
        actions, observations = environments[0].action_space, environments[0].observation_space
        assert isinstance(actions, Box)
        assert observations.shape is not None
        self._actions = actions
        self._observations = np.zeros((self.n, *observations.shape), np.float32)

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        require_seeds(seeds, self.n)
        for i, seed in enumerate(seeds):
            self._observations[i], _ = self._environments[i].reset(seed=int(seed))
        return self._observations.copy()

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        require_finite(actions, active)
        rewards, ended = np.zeros(self.n), np.zeros(self.n, bool)
        clipped = np.clip(actions, self._actions.low, self._actions.high).astype(self._actions.dtype)
        for i in np.flatnonzero(active):
            observation, reward, terminated, truncated, _ = self._environments[i].step(clipped[i])
            self._observations[i], rewards[i], ended[i] = observation, reward, terminated or truncated
        return self._observations.copy(), rewards, ended

    def close(self) -> None:
        """See ``VectorEnvironment.close``."""
        for environment in self._environments:
            environment.close()


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
