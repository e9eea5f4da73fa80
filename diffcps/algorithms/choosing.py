"""How an action is chosen among N candidates of each observation, which are side by side."""

from collections.abc import Callable

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]
"""Values ``[K, B·N]`` of actions ``[K, B·N, a]``. A single candidate is not valued."""


def by_softmax(actions: Tensor, value: Value, uniform: Tensor) -> Tensor:
    """One draw from the softmax of the values at temperature 1, as a Gumbel maximum.

    Args:
        actions: ``[K, B·N, a]``.
        value: what values them.
        uniform: ``[K, B, N]`` on (0, 1).

    Returns:
        ``[K, B, a]``.
    """
    return by_value(actions, lambda each: value(each) - torch.log(-torch.log(uniform)).flatten(1), uniform.shape[-1])


def mean_of_drawn(actions: Tensor, values: Tensor, uniform: Tensor, count: int) -> Tensor:
    """The mean of ``count`` candidates drawn without replacement by weights exp(values), as the largest Gumbel values.

    Shapes as in ``by_softmax``. Of fewer candidates than ``count`` it is the mean of all.
    """
    candidates = uniform.shape[-1]
    drawn = values.unflatten(-1, (-1, candidates)) - torch.log(-torch.log(uniform))
    chosen = drawn.topk(min(count, candidates), dim=-1).indices[..., None].expand(-1, -1, -1, actions.shape[-1])
    return actions.unflatten(1, (-1, candidates)).gather(2, chosen).mean(dim=2)


def by_value(actions: Tensor, value: Value, candidates: int) -> Tensor:
    """The candidate of the largest value; shapes as in ``by_softmax``."""
    if candidates == 1:
        return actions
    chosen = value(actions).unflatten(-1, (-1, candidates)).argmax(dim=-1)
    choice = chosen[..., None, None].expand(-1, -1, 1, actions.shape[-1])
    return actions.unflatten(1, (-1, candidates)).gather(2, choice).squeeze(2)
