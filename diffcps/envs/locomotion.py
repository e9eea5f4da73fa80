"""Hopper, HalfCheetah and Walker2d, version 4, with D4RL's body masses or today's.

Version 4 keeps the rewards, frictions and observations D4RL was recorded with; version 5 does not.
"""

from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import mujoco
from gymnasium.envs.mujoco.half_cheetah_v4 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.envs.mujoco.walker2d_v4 import Walker2dEnv
from gymnasium.utils import EzPickle

from diffcps.config import Physics
from diffcps.envs.physics import choose_physics, set_total_mass


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


class _WithPhysics(MujocoEnv, EzPickle):
    """Loads the model with the chosen body masses; rewards, observations and resets are gymnasium's."""

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


class Hopper(_WithPhysics, HopperEnv):
    """Hopper-v4: observation [11] float64, action [3] in [−1, 1]."""


class HalfCheetah(_WithPhysics, HalfCheetahEnv):
    """HalfCheetah-v4: observation [17] float64, action [6] in [−1, 1]."""


class Walker2d(_WithPhysics, Walker2dEnv):
    """Walker2d-v4: observation [17] float64, action [6] in [−1, 1]."""
