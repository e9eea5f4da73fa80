"""Simulations of one robot as the vector environment that stable-baselines3 learns in (the optional extra)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from diffcps.data.collecting.practice import Practice


class AsVecEnv(VecEnv):
    """``Practice`` behind stable-baselines3's interface: a finished episode restarts by itself."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._actions = np.zeros((practice.n, practice.actions), np.float32)
        super().__init__(
            practice.n,
            Box(-np.inf, np.inf, (practice.features,), np.float32),
            Box(-1.0, 1.0, (practice.actions,), np.float32),
        )

    def reset(self) -> Any:
        """Restart every simulation."""
        for i in range(self.num_envs):
            self._practice.restart(i)
        return self._practice.observe()

    def step_async(self, actions: Any) -> None:
        """Store the actions."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Apply them: observations, rewards, whether over, and the details of an end that stable-baselines3 needs."""
        rewards, ended, cut = self._practice.step(self._actions)
        over = ended | cut
        observations = self._practice.observe()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(over):
            infos[i] = {"terminal_observation": observations[i].copy(), "TimeLimit.truncated": bool(cut[i])}
            self._practice.restart(int(i))
        if over.any():
            observations = self._practice.observe()
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        """Nothing to free."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment; they have none but ``render_mode``."""
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There is nothing to set."""
        raise NotImplementedError(attr_name)

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **named: Any) -> list[Any]:
        """There is nothing to call."""
        raise NotImplementedError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """None is."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Simulations are seeded where they are made."""
        return [None] * self.num_envs
