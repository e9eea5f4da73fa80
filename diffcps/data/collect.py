"""Data sets made on the spot: behaviour policies rolled out in the real environments, deterministic in the seed.

They stand in for downloaded data where there is none. They are not D4RL's data, and everything that shows a score
learned from them says so.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffcps import envs
from diffcps.config import DataConfig
from diffcps.data import behaviour
from diffcps.data.transitions import Episode
from diffcps.data.waypoints import WaypointController
from diffcps.envs.bandits import ring_actions
from diffcps.errors import UserError
from diffcps.tasks import Task

Progress = Callable[[int, int], None]
"""Called now and then with the rows collected so far and the rows wanted."""

_PROGRESS_EVERY = 1000


class Controller(Protocol):
    """What chooses the actions while data are collected."""

    def reset(self, env: gymnasium.Env[Any, Any], seed: int | None) -> NDArray[np.floating]:
        """Start an episode of ``env`` and return its first observation [o]; ``seed`` is given the first time only."""

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action [a] for an observation [o]."""


def collect(task: Task, data: DataConfig, progress: Progress | None = None) -> list[Episode]:
    """Exactly ``data.rows`` steps of the task's behaviour under ``task.physics``; the same seed gives the same bits.

    The last episode may be cut by the row count; it then ends with neither flag. All arrays but the flags are float32.
    Raises ``UserError`` for a task that has no behaviour to collect with.
    """
    if "collected" not in task.sources:
        raise UserError(
            f"data source = 'collected': {task.name} has no behaviour policy of its own; its data come from "
            f"{', '.join(task.sources)}."
        )
    generator = np.random.default_rng(data.seed)
    if task.domain == "bandit":
        return [_ring(data.rows, generator, progress)]
    env = envs.make(task, task.physics)
    controller: Controller
    if task.domain == "pointmaze":
        controller = WaypointController(generator)
    else:
        controller = _PolicyController(behaviour.load(task.environment), generator, task.max_action)
    try:
        return _record(env, controller, data.rows, int(generator.integers(2**31)), progress)
    finally:
        env.close()


class _PolicyController:
    """A shipped behaviour policy with its action noise."""

    def __init__(self, policy: behaviour.BehaviourPolicy, generator: np.random.Generator, bound: float) -> None:
        self._policy, self._generator, self._bound = policy, generator, bound

    def reset(self, env: gymnasium.Env[Any, Any], seed: int | None) -> NDArray[np.floating]:
        return env.reset(seed=seed)[0]

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        return self._policy.act(observation, self._generator, self._bound)


def _record(
    env: gymnasium.Env[Any, Any], controller: Controller, rows: int, seed: int, progress: Progress | None
) -> list[Episode]:
    episodes: list[Episode] = []
    recorded = 0
    while recorded < rows:
        observation = controller.reset(env, None if episodes else seed)
        observations, actions, rewards = [observation], [], []
        terminated = truncated = False
        while not (terminated or truncated) and recorded < rows:
            action = controller.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            truncated = truncated and not terminated
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
            recorded += 1
            if progress is not None and (recorded % _PROGRESS_EVERY == 0 or recorded == rows):
                progress(recorded, rows)
        flags = np.zeros((2, len(rewards)), dtype=bool)
        flags[:, -1] = terminated, truncated
        episodes.append(
            Episode(
                observations=np.asarray(observations, dtype=np.float32),
                actions=np.asarray(actions, dtype=np.float32),
                rewards=np.asarray(rewards, dtype=np.float32),
                terminations=flags[0],
                truncations=flags[1],
            )
        )
    return episodes


def _ring(rows: int, generator: np.random.Generator, progress: Progress | None) -> Episode:
    """One-step episodes with reward 1, packed into one ``Episode`` whose every step terminates."""
    if progress is not None:
        progress(rows, rows)
    return Episode(
        observations=np.zeros((rows + 1, 1), dtype=np.float32),
        actions=np.asarray(ring_actions(rows, generator), dtype=np.float32),
        rewards=np.ones(rows, dtype=np.float32),
        terminations=np.ones(rows, dtype=bool),
        truncations=np.zeros(rows, dtype=bool),
    )
