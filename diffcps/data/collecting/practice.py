"""Where behaviour policies are trained and scored: a locomotion task as it is, or an open plane for the ant.

D4RL's AntMaze data were made by an ant that walks in any wanted direction; this is what the ant learns here. The input of
its policy is relative to its heading: positions on the ground are left out and directions are rotated. Walking north and
walking east are then the same, and are learned once.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from diffcps.envs.simulations import Simulations
from diffcps.tasks.registry import Task

Floats = NDArray[np.float64]

FEATURES = 28
"""Size of the policy's input."""
TOP_SPEED = 1.5
"""Metres per second towards the target beyond which nothing more is rewarded: a hurried ant turns over."""
_CONTROL_COST = 0.02
"""Reward lost for each unit of squared action."""
_FALLEN = 0.3
"""The ant has fallen when its up vector's vertical part is below this."""
_EPISODE = 300
"""Control steps of an episode in training."""
_TURN_PROBABILITY = 0.02
"""Chance in every step of a new direction: a turn every five seconds."""


def features(qpos: Floats, qvel: Floats, directions: Floats) -> Floats:
    """What a walking policy sees, ``[n, 28]``, of positions ``[n, 15]``, velocities ``[n, 14]``, directions ``[n, 2]``.

    Directions are in the world's frame and of any length but zero. The columns are height, the world's up in the
    torso's frame (3), joint angles (8), the torso's velocity (3) as seen from its heading, its turning rates (3), joint
    speeds (8), and the wanted direction as seen from its heading (2).
    """
    w, x, y, z = np.moveaxis(qpos[:, 3:7] / np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True), 1, 0)
    up = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1)
    heading = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
    wanted = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    moving = _turned(qvel[:, :2], heading)
    return np.concatenate([qpos[:, 2:3], up, qpos[:, 7:], moving, qvel[:, 2:], _turned(wanted, heading)], axis=1)


def _turned(vectors: Floats, heading: Floats) -> Floats:
    """Vectors ``[n, 2]`` of the world as seen by one who faces ``heading`` ``[n]``, in radians."""
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([cos * vectors[:, 0] + sin * vectors[:, 1], cos * vectors[:, 1] - sin * vectors[:, 0]], axis=1)


class Practice(ABC):
    """``n`` simulations of one robot.

    Args:
        simulations: what is stepped.
        seed: of the episodes' starts, and of what else is random.
        features: size of what the policy sees.
    """

    def __init__(self, simulations: Simulations, seed: int, features: int) -> None:
        self._simulations, self._generator = simulations, np.random.default_rng(seed)
        self.n, self.features, self.actions = simulations.n, features, simulations.rules.model.nu
        for i in range(self.n):
            self.restart(i)

    def restart(self, i: int) -> None:
        """A new episode in simulation ``i``."""
        self._simulations.restart(i, int(self._generator.integers(2**31)))

    @abstractmethod
    def observe(self) -> NDArray[np.float32]:
        """What the policy sees now, ``[n, features]``."""

    @abstractmethod
    def step(self, actions: NDArray[np.float32]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """One control step: rewards ``[n]``, ended for good ``[n]``, and cut off by the limit ``[n]``."""

    @abstractmethod
    def scores(self, returns: Floats, lengths: NDArray[np.int64]) -> Floats:
        """Scores of episodes with these returns and lengths, all ``[n]``."""


class Runs(Practice):
    """``n`` simulations of a locomotion task, as they are."""

    def __init__(self, task: Task, simulations: Simulations, seed: int) -> None:
        self._task = task
        super().__init__(simulations, seed, features=simulations.observations.shape[1])

    def observe(self) -> NDArray[np.float32]:
        """The observations, ``[n, features]``."""
        return self._simulations.observations

    def step(self, actions: NDArray[np.float32]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """See ``Practice.step``."""
        _, rewards, over = self._simulations.step(actions, np.ones(self.n, bool))
        ended = self._simulations.terminated
        return rewards, ended, over & ~ended

    def scores(self, returns: Floats, lengths: NDArray[np.int64]) -> Floats:
        """The task's normalised scores."""
        return self._task.normalised_score(returns)


class Walks(Practice):
    """``n`` ants on an open plane, each to walk in a direction that changes now and then."""

    def __init__(self, simulations: Simulations, seed: int) -> None:
        self._directions = np.zeros((simulations.n, 2))
        self._age = np.zeros(simulations.n, np.int64)
        super().__init__(simulations, seed, FEATURES)

    def restart(self, i: int) -> None:
        """A new episode for ant ``i``, in a random direction."""
        super().restart(i)
        self._turn(i)
        self._age[i] = 0

    def _turn(self, i: int) -> None:
        angle = self._generator.uniform(-np.pi, np.pi)
        self._directions[i] = np.cos(angle), np.sin(angle)

    def observe(self) -> NDArray[np.float32]:
        """What the policy sees now, ``[n, 28]``."""
        return features(self._simulations.qpos, self._simulations.qvel, self._directions).astype(np.float32)

    def step(self, actions: NDArray[np.float32]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Rewards ``[n]``, fallen ``[n]`` and cut off by the limit ``[n]`` of one control step."""
        before = self._simulations.qpos
        self._simulations.step(actions, np.ones(self.n, bool))
        after = self._simulations.qpos
        travelled = after[:, :2] - before[:, :2]
        speed = (travelled * self._directions).sum(axis=1) / self._simulations.rules.dt
        rewards = np.minimum(speed, TOP_SPEED) - _CONTROL_COST * np.square(actions).sum(axis=1)
        x, y = after[:, 4], after[:, 5]
        fallen = 1 - 2 * (x * x + y * y) < _FALLEN
        self._age += 1
        for i in np.flatnonzero(self._generator.random(self.n) < _TURN_PROBABILITY):
            self._turn(int(i))
        return rewards, fallen, (self._age >= _EPISODE) & ~fallen

    def scores(self, returns: Floats, lengths: NDArray[np.int64]) -> Floats:
        """Mean rewards of a step, which are nearly speeds."""
        return returns / lengths
