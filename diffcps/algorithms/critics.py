"""What most algorithms do with a critic: look one step ahead, and move its values there."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms.base import Batch, Copy, Metrics, Network, values_of
from diffcps.algorithms.choosing import Value
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.value_nets import Critic

METRICS = "critic_loss", "q_value", "critic_grad_norm"
"""What a step of a critic gives."""


def network(
    critic: Critic, members: Sequence[Any], decay_steps: int | None = None, target_every: int | None = None
) -> Network:
    """The network of a critic whose copy ``target`` follows at the setting ``target_rate``; see ``Network`` and ``Copy``."""
    target = Copy(values_of(members, "target_rate"), target_every)
    return Network(critic, "critic_learning_rate", copies={"target": target}, decay_steps=decay_steps)


def one_step_ahead(pack: Pack, batch: Batch, values: Tensor) -> Tensor:
    """r + γ (1 − terminal) · the values of the next state, ``[K, B]``."""
    return batch.rewards + pack.values["discount"][:, None] * (1.0 - batch.terminals) * values


def lower_bound(values: Tensor, pessimism: Tensor) -> Tensor:
    """Mean of the heads less ρ of their (population) standard deviation: ``[K, heads, B]`` → ``[K, B]``, ρ ``[K]``."""
    deviation, mean = torch.std_mean(values, dim=1, correction=0)
    return mean - pessimism[:, None] * deviation


def least_of_heads(critic: Critic, parameters: Tensor, observations: Tensor) -> Value:
    """The smallest value of the heads at observations ``[K, B, o]``, to choose among actions by."""
    return lambda actions: critic(critic.layers(parameters), observations, actions).amin(dim=1)


def mean_of_heads(critic: Critic, parameters: Tensor, observations: Tensor) -> Value:
    """The mean value of the heads, in the same way."""
    return lambda actions: critic(critic.layers(parameters), observations, actions).mean(dim=1)


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
