"""Many environments stepped at once, the way evaluation needs it: one episode each, finished ones left alone."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from diffcps.envs import bandits

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


def _require_seeds(seeds: Sequence[int], n: int) -> None:
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} environments")


def _require_finite(actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> None:
    broken = active & ~np.isfinite(actions).all(axis=-1)
    if broken.any():
        raise ValueError(f"the actions of environments {np.flatnonzero(broken).tolist()} are not finite")


class SerialEnvironments:
    """A ``VectorEnvironment`` that steps its environments one after the other in this process."""

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self._environments = list(environments)
        self.n = len(self._environments)
        space = self._environments[0].action_space
        assert isinstance(space, Box)
        self._low, self._high = space.low, space.high
        (size,) = self._environments[0].observation_space.shape or (0,)
        self._observations = np.zeros((self.n, size), np.float32)

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        _require_seeds(seeds, self.n)
        for i, environment in enumerate(self._environments):
            self._observations[i], _ = environment.reset(seed=int(seeds[i]))
        return self._observations.copy()

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        _require_finite(actions, active)
        clipped = np.clip(actions, self._low, self._high)
        rewards, ended = np.zeros(self.n), np.zeros(self.n, bool)
        for i in np.flatnonzero(active):
            observation, reward, terminated, truncated, _ = self._environments[i].step(clipped[i])
            self._observations[i], rewards[i], ended[i] = observation, reward, terminated or truncated
        return self._observations.copy(), rewards, ended

    def close(self) -> None:
        """See ``VectorEnvironment.close``."""
        for environment in self._environments:
            environment.close()


class RingEnvironments:
    """A ``VectorEnvironment`` of ``n`` rings, all in one NumPy expression."""

    def __init__(self, n: int) -> None:
        self.n = n

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        _require_seeds(seeds, self.n)
        return np.zeros((self.n, 1), np.float32)

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        _require_finite(actions, active)
        rewards = bandits.ring_rewards(np.clip(actions, -bandits.BOUND, bandits.BOUND))
        return np.zeros((self.n, 1), np.float32), np.where(active, rewards, 0.0), active.copy()

    def close(self) -> None:
        """Nothing to free."""
