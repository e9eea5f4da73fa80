"""Hopper, HalfCheetah and Walker2d, version 4, with D4RL's body masses or today's.

Version 4 keeps the rewards, frictions and observations D4RL was recorded with; version 5 does not.
"""

from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v4 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v4 import Walker2dEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from diffcps.config import Physics
from diffcps.envs.physics import choose_physics, set_total_mass
from diffcps.envs.simulations import Floats, Moves, Simulated


@lru_cache
def _compile(path: str, physics: Physics) -> mujoco.MjModel:
    """The compiled model, shared by every environment of this process: stepping only reads it."""
    xml = ElementTree.parse(path).getroot()
    compiler = xml.find("compiler")
    # MuJoCo answers HalfCheetah's ``settotalmass`` with a log file in the working directory: apply it here instead.
    total_mass = compiler.attrib.pop("settotalmass", None) if compiler is not None else None
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(xml, encoding="unicode"))
    choose_physics(model, physics)
    if total_mass is not None:
        set_total_mass(model, float(total_mass))
    return model


class _WithPhysics(Simulated, EzPickle):
    """Loads the model with the chosen body masses; rewards, observations and resets are gymnasium's.

    The methods for many simulations repeat gymnasium's rules, in its order of arithmetic and with the environment's
    own constants.
    """

    _forward_reward_weight: float
    _ctrl_cost_weight: float

    def __init__(self, *args: Any, physics: Physics = "d4rl", **kwargs: Any) -> None:
        self._physics = physics
        super().__init__(*args, **kwargs)
        self._ezpickle_kwargs["physics"] = physics  # so that copies and pickles keep it

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = _compile(self.fullpath, self._physics)
        visual = model.vis.global_  # the renderer wants a frame buffer of at least this size
        visual.offwidth = max(visual.offwidth, self.width)
        visual.offheight = max(visual.offheight, self.height)
        return model, mujoco.MjData(model)

    def observe_many(self, qpos: Floats, qvel: Floats) -> Floats:
        """All but the distance covered, speeds limited to ±10."""
        return np.concatenate([qpos[:, 1:], np.clip(qvel, -10, 10)], axis=1)

    def _running(self, moves: Moves) -> tuple[Floats, NDArray[np.floating[Any]]]:
        """Reward for the speed and cost of the torques, ``[n]`` each."""
        speed = (moves.qpos[:, 0] - moves.before[:, 0]) / self.dt
        costs = self._ctrl_cost_weight * np.sum(np.square(moves.actions), axis=1)
        return self._forward_reward_weight * speed, costs


class _Upright(_WithPhysics):
    """A robot that must not fall."""

    _healthy_reward: float
    _terminate_when_unhealthy: bool

    def _healthy_many(self, moves: Moves) -> NDArray[np.bool_]:
        raise NotImplementedError

    def reward_many(self, moves: Moves) -> tuple[Floats, NDArray[np.bool_]]:
        """Reward for speed and for staying upright; a fall ends the episode."""
        forward, costs = self._running(moves)
        healthy = self._healthy_many(moves)
        bonus = (healthy | self._terminate_when_unhealthy) * self._healthy_reward
        return forward + bonus - costs, ~healthy & self._terminate_when_unhealthy


def _between(values: Floats, limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (limits[0] < values) & (values < limits[1])


class Hopper(_Upright, HopperEnv):
    """Hopper-v4: observation [11] float64, action [3] in [−1, 1]."""

    def _healthy_many(self, moves: Moves) -> NDArray[np.bool_]:
        others = np.concatenate([moves.qpos[:, 2:], moves.qvel], axis=1)
        return (
            _between(others, self._healthy_state_range).all(axis=1)
            & _between(moves.qpos[:, 1], self._healthy_z_range)
            & _between(moves.qpos[:, 2], self._healthy_angle_range)
        )


class HalfCheetah(_WithPhysics, HalfCheetahEnv):
    """HalfCheetah-v4: observation [17] float64, action [6] in [−1, 1]."""

    def observe_many(self, qpos: Floats, qvel: Floats) -> Floats:
        """All but the distance covered; speeds are not limited."""
        return np.concatenate([qpos[:, 1:], qvel], axis=1)

    def reward_many(self, moves: Moves) -> tuple[Floats, NDArray[np.bool_]]:
        """Reward for speed; nothing ends an episode."""
        forward, costs = self._running(moves)
        return forward - costs, np.zeros(len(forward), bool)


class Walker2d(_Upright, Walker2dEnv):
    """Walker2d-v4: observation [17] float64, action [6] in [−1, 1]."""

    def _healthy_many(self, moves: Moves) -> NDArray[np.bool_]:
        upright = _between(moves.qpos[:, 2], self._healthy_angle_range)
        return upright & _between(moves.qpos[:, 1], self._healthy_z_range)
