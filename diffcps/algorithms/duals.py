"""The multiplier λ: how it moves, and what of it the policy's loss uses. Everything is ``[K]`` or ``[K, 1]``."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffcps.algorithms.nn import Adam, clip_by_norm
from diffcps.config import AlgorithmConfig

SMOOTHING = 0.01
"""Weight of a batch in the running violation that the ``pi`` controller sees."""


def initial(config: AlgorithmConfig, value: Tensor) -> Tensor:
    """The number that stands for λ = ``value``."""
    if config.dual != "softplus":
        return value.clone()
    value = value.clamp(min=1e-6)
    return value + torch.log(-torch.expm1(-value))  # the inverse of softplus


def value(config: AlgorithmConfig, multiplier: Tensor) -> Tensor:
    """λ that a number stands for."""
    return softplus(multiplier) if config.dual == "softplus" else multiplier


def weight(
    config: AlgorithmConfig, multiplier: Tensor, lambda_clip: Tensor, violation: Tensor, smoothed: Tensor | None
) -> Tensor:
    """λ as the policy's loss uses it, a constant: clamped to [λ_clip, λ_max], with what the dual adds to it.

    ``violation`` is C − κ of this batch, ``smoothed`` its running mean.
    """
    multiplier = value(config, multiplier)
    if config.dual == "pi":
        assert smoothed is not None
        multiplier = multiplier + config.dual_gain * smoothed
    elif config.dual == "augmented":
        multiplier = multiplier + config.dual_gain * violation
    return torch.maximum(multiplier, lambda_clip).clamp(max=config.lambda_max).detach()


def step(
    config: AlgorithmConfig,
    multiplier: Tensor,
    adam: Adam,
    slope: Tensor,
    lambda_clip: Tensor,
    grad_norm: Tensor,
    smoothed: Tensor | None,
) -> None:
    """Move λ ``[K, 1]`` against ``slope`` ``[K, 1]``, the gradient of the dual loss, in place.

    A ``pi`` controller's λ is its integral: it moves by the violation itself, at λ's learning rate.
    """
    if config.dual == "pi":
        assert smoothed is not None
        smoothed.lerp_(-slope[:, 0], SMOOTHING)
        multiplier.sub_(adam.learning_rate * slope)
    else:
        clipped, _ = clip_by_norm(slope, grad_norm)
        adam.step(multiplier, clipped)
    if config.dual in ("projected", "pi", "augmented"):
        multiplier.copy_(torch.maximum(multiplier, lambda_clip[:, None]).clamp(max=config.lambda_max))
