"""Environments from Gymnasium's specifications, such as a data set records, and their spaces.

Policies see observations flattened by Gymnasium's rule; ``flatten`` does the same to recorded observations. Learning
needs observations that are real vectors and actions with one bound for all of their numbers.
"""

import json
from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

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


def made(spec: EnvSpec, episode_limit: int | None) -> gymnasium.Env[Any, Any]:
    """The environment of a specification, cut off at ``episode_limit`` steps.

    Raises ``UserError`` when it cannot be made here, with the reason.
    """
    try:
        # the checker would run in every step
        return gymnasium.make(spec, max_episode_steps=episode_limit, disable_env_checker=True)
    except UserError:
        raise
    # the specification names a class of any package, which may raise anything
    except Exception as error:
        raise UserError(
            f"the environment {spec.id} ({spec.entry_point}) cannot be made here ({type(error).__name__}: {error}). "
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


def flattened(environment: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment with observations flattened to one vector, by Gymnasium's rule; itself where they are flat."""
    space = environment.observation_space
    return environment if isinstance(space, spaces.Box) and len(space.shape) == 1 else FlattenObservation(environment)
