"""Environments as a data set recorded them: made from Gymnasium's own specification and stepped one after the other.

What a policy sees is the observation flattened by Gymnasium's rule; ``flatten`` does the same to an episode's recorded
observations. Only spaces of real vectors, and actions with one bound for all, can be learned from here.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from diffcps.envs.vector import Step, require_finite, require_seeds
from diffcps.errors import UserError


def read_spec(text: str) -> EnvSpec:
    """A specification from its JSON; fields that only older versions of Gymnasium know are left out.

    Raises ``UserError`` when the text is none.
    """
    try:
        values = json.loads(text)
        known = {field.name for field in fields(EnvSpec) if field.init} | {"additional_wrappers"}
        return EnvSpec.from_json(json.dumps({key: value for key, value in values.items() if key in known}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{text[:200]!r} is no specification of a Gymnasium environment ({error}).") from error


def make(spec: str, episode_limit: int | None) -> gymnasium.Env[Any, Any]:
    """The environment of a specification (JSON), cut off at ``episode_limit`` steps.

    Raises ``UserError`` when it cannot be made here, with the reason.
    """
    read = read_spec(spec)
    read.disable_env_checker = True  # it would sit in the path of every step
    try:
        return gymnasium.make(read, max_episode_steps=episode_limit)
    # the specification names a class and its arguments, of any package: what making it raises is for that class to say
    except Exception as error:
        raise UserError(
            f"the environment {read.id} ({read.entry_point}) cannot be made here ({type(error).__name__}: {error}). "
            f"Install the package that it comes from, in a version that still has it."
        ) from error


def observation_size(space: spaces.Space[Any], name: str = "observations") -> int:
    """Numbers in a flattened observation. Raises ``UserError`` naming the space when it is not of real vectors."""
    if isinstance(space, spaces.Dict):
        return sum(observation_size(part, f"{name}[{key!r}]") for key, part in space.spaces.items())
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f"{name} are of {space}; only vectors of real numbers (Box of floats, and Dict of them) can be learned from: "
            f"no images, no choices, no text."
        )
    return int(np.prod(space.shape))


def action_bounds(space: spaces.Space[Any]) -> tuple[int, float]:
    """Numbers in an action and the bound b of all of them: each lies in [−b, b]. Raises ``UserError`` naming the space."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or len(space.shape) != 1:
        raise UserError(f"actions are of {space}; only vectors of real numbers (Box of floats) can be learned from.")
    bound = float(space.high[0])
    if not (np.isfinite(bound) and bound > 0 and np.all(space.high == bound) and np.all(space.low == -bound)):
        raise UserError(
            f"actions are of {space}; they must lie in [−b, b] with one finite b for all of their {space.shape[0]} numbers."
        )
    return int(space.shape[0]), bound


def flatten(space: spaces.Space[Any], observations: Any) -> NDArray[np.floating[Any]]:
    """``gymnasium.spaces.flatten`` of ``L`` observations of ``space``, stacked as Minari stacks them: ``[L, o]``.

    Raises ``ValueError`` or ``KeyError`` when they are not of the space.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(part, observations[key]) for key, part in space.spaces.items()], axis=1)
    array = np.asarray(observations)
    if array.shape[1:] != space.shape:
        raise ValueError(f"observations have shape {array.shape[1:]}, the space has {space.shape}")
    return array.reshape(len(array), -1)


class RecordedEnvironments:
    """A ``VectorEnvironment`` of ``n`` environments of one specification (JSON)."""

    def __init__(self, spec: str, episode_limit: int, n: int) -> None:
        self.n = n
        self._environments = [flattened(make(spec, episode_limit)) for _ in range(n)]
        space = self._environments[0].action_space
        assert isinstance(space, spaces.Box)
        self._actions = space
        shape = self._environments[0].observation_space.shape
        assert shape is not None
        self._observations = np.zeros((n, *shape), np.float32)

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


def flattened(environment: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment with observations flattened to one vector, by Gymnasium's rule."""
    return FlattenObservation(environment)
