"""What most algorithms do with a critic: look one step ahead, and move its values there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms.base import Batch, Metrics
from diffcps.algorithms.nn import Critic, Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Learning

METRICS = "critic_loss", "q_value", "critic_grad_norm"
"""What a step of a critic gives."""


def shape(config: Learning) -> dict[str, Any]:
    """Depth and type of products of a network with these settings, for ``nn.Mlp``, ``nn.Critic`` and their like."""
    return {"layers": config.hidden_layers, "product": torch.bfloat16 if config.precision == "bf16" else None}


def one_step_ahead(pack: Pack, batch: Batch, values: Tensor) -> Tensor:
    """r + γ (1 − terminal) · the values of the next state, ``[K, B]``."""
    return batch.rewards + pack.values["discount"][:, None] * (1.0 - batch.terminals) * values


def errors(critic: Critic, leaves: Layers, batch: Batch, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of each head to the goal ``[K, B]``: ``[K, heads]``; and the values ``[K, heads, B]``."""
    values = critic(leaves, batch.observations, batch.actions)
    return (values - goal[:, None]).square().mean(dim=-1), values


def loss(
    critic: Critic, leaves: Layers, batch: Batch, goal: Tensor, *, average: bool = False
) -> tuple[Tensor, Metrics]:
    """The sum of the heads' errors, or with ``average`` their mean, ``[K]``; and the metrics ``METRICS`` but for the last."""
    each, values = errors(critic, leaves, batch, goal)
    found = each.sum(dim=-1) / critic.heads if average else each.sum(dim=-1)
    return found, {"critic_loss": found.detach(), "q_value": values.detach().mean(dim=(1, 2))}


def value_loss(critic: Critic, layers: Layers, observations: Tensor) -> Callable[[Tensor], Tensor]:
    """q(a) = −mean Q / mean |Q| ``[K]`` of actions ``[K, B, a]``, over batch and heads, the divisor a constant."""

    def value(actions: Tensor) -> Tensor:
        values = critic(layers, observations, actions).mean(dim=1)
        return -values.mean(dim=1) / values.detach().abs().mean(dim=1)

    return value


def learn(
    pack: Pack, critic: Critic, batch: Batch, goal: Tensor, *, average: bool = False, clip: bool = False
) -> Metrics:
    """One step of the critic down ``loss``, in place; ``clip``: see ``Pack.descend``."""
    leaves = critic.leaves(pack["critic"])
    found, metrics = loss(critic, leaves, batch, goal, average=average)
    return metrics | {"critic_grad_norm": pack.descend("critic", found, leaves, clip=clip)}
