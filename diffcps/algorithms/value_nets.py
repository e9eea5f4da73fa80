"""Networks that value actions, with several heads for each member: Q of clean actions, V_t of noisy ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffcps.algorithms.nn import (
    Activation,
    Init,
    Layers,
    Layout,
    NoiseNet,
    first_layer,
    linear,
    mish,
    mlp,
    tail,
)


class Heads:
    """Several networks of one layout for each member; the heads are one more axis of the stack."""

    heads: int
    layout: Layout

    def layers(self, flat: Tensor) -> Layers:
        """Views of ``flat`` ``[K, heads·P]`` as ``[K·heads, in, out]`` weights."""
        return self.layout.layers(flat.view(self.heads * flat.shape[0], -1))

    def leaves(self, flat: Tensor) -> Layers:
        """The same as leaves that ask for gradients."""
        return self.layout.leaves(flat.view(self.heads * flat.shape[0], -1))

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, heads·P]``."""
        return torch.cat([self.layout.initial(generators) for _ in range(self.heads)], dim=1)

    def for_heads(self, x: Tensor) -> Tensor:
        """``[K, B, n]`` → ``[K·heads, B, n]``, the rows of each member once for each head."""
        members, rows, size = x.shape
        return x[:, None].expand(members, self.heads, rows, size).reshape(self.heads * members, rows, size)


class Critic(Heads):
    """Q of observations and actions with several heads, by default Q1 and Q2."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: int,
        product: torch.dtype | None = None,
        layers: int = 3,
        heads: int = 2,
        activation: Activation = mish,
        init: Init = "uniform",
        last: float | None = None,
        first: int | None = None,
    ) -> None:
        """``first``: the width of the first hidden layer, by default that of all."""
        self.observation_size = observation_size
        self.product = product
        self.heads = heads
        self.activation = activation
        self.layout = Layout(mlp(observation_size + action_size, hidden, 1, layers=layers, first=first), init, last)

    def __call__(self, layers: Layers, observations: Tensor, actions: Tensor) -> Tensor:
        """Values ``[K, heads, B·n]`` of observations ``[K, B, o]`` and actions ``[K, B·n, a]``, n for each observation."""
        weight, bias = layers[0]
        observed = linear(self.for_heads(observations), (weight[:, : self.observation_size], bias))
        hidden = first_layer(self.for_heads(actions), weight[:, self.observation_size :], observed)
        return tail(hidden, layers[1:], self.product, self.activation).view(len(actions), self.heads, -1)


class NoisyCritic(Heads):
    """V_t of observations and noisy actions: a noise net that gives one number, for each head."""

    def __init__(self, net: NoiseNet, heads: int) -> None:
        """``net`` gives one number."""
        self.net, self.heads, self.layout = net, heads, net.layout

    def __call__(self, layers: Layers, observations: Tensor, actions: Tensor, which: Tensor) -> Tensor:
        """Values ``[K, heads, B·n]`` of noisy actions ``[K, B·n, a]``, n for each observation.

        ``which``: their steps, one-hot, ``[K, B, T]``.
        """
        observed = self.net.observe(layers, self.for_heads(observations)) + self.for_heads(which) @ self.net.time(
            layers
        )
        return self.net(layers, self.for_heads(actions), observed).view(len(actions), self.heads, -1)
