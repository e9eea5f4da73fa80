"""Written controllers, which make data in environments of Gymnasium where no policy had to be trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.data import own
from diffcps.data.transitions import Episode
from diffcps.tasks.registry import Task

Array = NDArray[np.floating[Any]]

SWING_NOISE = 1.2
"""Standard deviation of the noise on the pendulum's torque, which is at most 2."""


def swing_up(observation: Array, generator: np.random.Generator) -> Array:
    """A mediocre controller of ``Pendulum-v1``: pumps energy while it hangs, brakes when it is upright, with much noise.

    ``observation`` is ``[3]`` (cosine, sine, velocity); returns a torque ``[1]``.
    """
    cosine, sine, velocity = observation
    braking = -8.0 * sine - 2.0 * velocity
    torque = braking if cosine > 0.8 else np.sign(velocity)
    return np.clip([torque + generator.normal(0.0, SWING_NOISE)], -2.0, 2.0)


CONTROLLERS: Mapping[str, own.Act] = {"Pendulum-v1": swing_up}
"""By the environment's id."""


def played(task: Task, rows: int, seed: int) -> list[Episode]:
    """At least ``rows`` steps of the task's controller in its environment, in whole episodes.

    These environments end an episode only at its limit, so the number of episodes is known.
    """
    environment = task.environment.id
    episodes = own.record(environment, CONTROLLERS[environment], -(-rows // task.episode_limit), seed)
    assert all(len(episode.rewards) == task.episode_limit for episode in episodes)
    return [replace(episode, rewards=episode.rewards.astype(np.float32)) for episode in episodes]
