"""Bandits as environments of one step; the reward is the action's true mean reward."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

from diffcps.envs.simulations import Step, require_finite, require_seeds
from diffcps.tasks.bandits import Bandit, bandit


class BanditEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The bandit of a name: observation [1], always 0; action [d] in its bounds; every episode is one step."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, name: str) -> None:
        self.bandit = bandit(name)
        bound = self.bandit.bound
        self.action_space = Box(-bound, bound, (self.bandit.action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The constant observation; nothing here is random."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Give the action's reward and end the episode."""
        bound = self.bandit.bound
        reward = float(self.bandit.value(np.clip(np.asarray(action, dtype=np.float64), -bound, bound)))
        return np.zeros(1, np.float32), reward, True, False, {}


class BanditEnvironments:
    """A ``VectorEnvironment`` of ``n`` copies of a bandit, all in one NumPy expression."""

    def __init__(self, bandit: Bandit, n: int) -> None:
        self.bandit = bandit
        self.n = n

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        require_seeds(seeds, self.n)
        return np.zeros((self.n, 1), np.float32)

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        require_finite(actions, active)
        inside = np.where(active[:, None], np.clip(actions, -self.bandit.bound, self.bandit.bound), 0.0)
        rewards = self.bandit.value(inside)
        return np.zeros((self.n, 1), np.float32), np.where(active, rewards, 0.0), active.copy()

    def close(self) -> None:
        """Nothing to free."""
