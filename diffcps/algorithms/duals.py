"""The multiplier λ: how it moves, and the value that the policy's loss uses. Everything is ``[K]`` or ``[K, 1]``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffcps.algorithms.adam import Adam, clip_by_norm
from diffcps.algorithms.settings import Dual

SMOOTHING = 0.01
"""Weight of a batch in the running violation that the ``pi`` controller sees."""


def initial(dual: Dual, value: Tensor) -> Tensor:
    """The number that represents λ = ``value``."""
    if dual != "softplus":
        return value.clone()
    value = value.clamp(min=1e-6)
    return value + torch.log(-torch.expm1(-value))  # the inverse of softplus


def value(dual: Dual, multiplier: Tensor) -> Tensor:
    """The λ that a number represents."""
    return softplus(multiplier) if dual == "softplus" else multiplier


def weight(
    dual: Dual, values: Mapping[str, Tensor], multiplier: Tensor, violation: Tensor, smoothed: Tensor | None
) -> Tensor:
    """λ as the policy's loss uses it, a constant: clamped to [λ_clip, λ_max], with what the dual adds to it.

    ``values`` are settings of the members, ``violation`` is C − κ of this batch, ``smoothed`` its running mean: all ``[K]``.
    """
    multiplier = value(dual, multiplier)
    if dual == "pi":
        assert smoothed is not None
        multiplier = multiplier + values["dual_gain"] * smoothed
    elif dual == "augmented":
        multiplier = multiplier + values["dual_gain"] * violation
    return torch.minimum(torch.maximum(multiplier, values["lambda_clip"]), values["lambda_max"]).detach()


def step(
    dual: Dual,
    values: Mapping[str, Tensor],
    multiplier: Tensor,
    adam: Adam,
    slope: Tensor,
    smoothed: Tensor | None,
) -> None:
    """Move λ ``[K, 1]`` against ``slope`` ``[K, 1]``, the gradient of the dual loss, in place.

    A ``pi`` controller's λ is its integral: it moves by the violation itself, at λ's learning rate.
    """
    if dual == "pi":
        assert smoothed is not None
        smoothed.lerp_(-slope[:, 0], SMOOTHING)
        multiplier.sub_(adam.learning_rate * slope)
    else:
        clipped, _ = clip_by_norm(slope, values["grad_norm"])
        adam.step(multiplier, clipped)
    if dual in ("projected", "pi", "augmented"):
        low, high = values["lambda_clip"][:, None], values["lambda_max"][:, None]
        multiplier.copy_(torch.minimum(torch.maximum(multiplier, low), high))


# How far it gets in a training of some length


@dataclass(frozen=True)
class Reach:
    """Where λ can be after some updates, from its start."""

    low: float
    high: float

    @classmethod
    def of(cls, dual: Dual, start: float, distance: float) -> "Reach":
        """λ when the number that represents it has moved by at most ``distance``."""
        number = initial(dual, torch.tensor(start, dtype=torch.float64))
        return cls(float(value(dual, number - distance)), float(value(dual, number + distance)))


def steady(dual: Dual, gain: float) -> bool:
    """Whether λ moves by its learning rate an update and by nothing else: by Adam alone, without a gain."""
    return dual != "pi" and (dual != "augmented" or gain == 0.0)


def updates_until(dual: Dual, start: float, end: float, rate: float) -> float:
    """Updates at ``rate`` in one direction that take λ from ``start`` to ``end``; infinity where it does not move."""
    numbers = initial(dual, torch.tensor([start, end], dtype=torch.float64))
    return float((numbers[0] - numbers[1]).abs()) / rate if rate else math.inf
