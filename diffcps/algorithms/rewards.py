"""The rewards that a critic learns from, made of those that were recorded; and where trajectories end."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffcps.algorithms.settings import REWARD_SCALES, SAME_STATE, RewardTransform
from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.algorithms.base import Batch


def transformed(transform: RewardTransform, data: "Batch") -> Tensor:
    """The rewards ``[N]`` of a whole data set under a transform, see ``settings.WithCritic.reward_transform``.

    Raises ``UserError`` where the data have no range of returns to divide by.
    """
    scale, shift = scale_and_shift(transform, data)
    return scale * data.rewards + shift if (scale, shift) != (1.0, 0.0) else data.rewards


def scale_and_shift(transform: RewardTransform, data: "Batch") -> tuple[float, float]:
    """The numbers by which a transform scales rewards, and what it adds; ``data`` is what is learned from.

    Raises ``UserError`` as ``transformed`` does.
    """
    return (1000.0 / _return_range(data), 0.0) if transform == "return_range" else REWARD_SCALES[transform]


def continues(data: "Batch") -> Tensor:
    """``[N]``: whether the next row of a whole data set is of the same trajectory.

    A trajectory ends at a terminal, and where the next row begins in another state: IQL's rule, which needs no time-outs.
    """
    jump = torch.linalg.vector_norm(data.next_observations[:-1] - data.observations[1:], dim=1) > SAME_STATE
    ends = (data.terminals[:-1] > 0) | jump
    return torch.cat([~ends, ends.new_zeros(1)])


def _return_range(data: "Batch") -> float:
    """Largest minus smallest sum of rewards of a trajectory; the last one counts even if it was cut."""
    ends = (~continues(data)[:-1]).long()
    number = torch.cat([ends.new_zeros(1), ends.cumsum(0)])
    returns = torch.zeros(int(number[-1]) + 1, dtype=torch.float64, device=number.device)
    returns.index_add_(0, number, data.rewards.double())
    found = float(returns.max() - returns.min())
    if found == 0.0:
        raise UserError(
            f"reward_transform = 'return_range' divides by the range of returns, and all {len(returns)} trajectories of "
            f"these data have the return {float(returns[0]):g}. Choose another, e.g. --set reward_transform=none."
        )
    return found
