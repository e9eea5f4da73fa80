"""The noise net of IDQL's authors: residual blocks with layer norm and dropout, and learned waves for the diffusion step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from diffcps.algorithms.nn import Layers, Layout, first_layer, linear, norm

FREQUENCY = 0.2
"""Standard deviation of the frequencies of the step's waves at the start; they learn."""
WIDER = 4
"""How much wider a block is inside."""


@dataclass(frozen=True)
class Kept:
    """What dropout keeps: booleans ``[K, *shape]``, false with probability ``rate``, to 16 bits."""

    shape: tuple[int, ...]
    rate: float

    @property
    def count(self) -> int:
        """One word for two."""
        return (math.prod(self.shape) + 1) // 2

    def read(self, words: Tensor) -> Tensor:
        """See ``streams.Words``."""
        halves = torch.cat([words >> 16, words & 0xFFFF], dim=1)[:, : math.prod(self.shape)]
        return (halves >= round(self.rate * 2**16)).unflatten(1, self.shape)


class ResidualNet:
    """ε_θ(a, t, s) for all members at once, of the same form to its caller as ``nn.NoiseNet``.

    Action, observation and embedded step pass a linear layer, then blocks x + W₂ swish(W₁ norm(dropout(x))), then swish and a
    linear layer.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        steps: int,
        hidden: int,
        embedding: int,
        blocks: int,
        product: torch.dtype | None = None,
    ) -> None:
        self.action_size = action_size
        self.steps = steps
        self.embedding = embedding
        self.product = product
        self.blocks = blocks
        time = (0, embedding // 2), (embedding, 2 * embedding), (2 * embedding, 2 * embedding)
        block = (hidden, WIDER * hidden), (WIDER * hidden, hidden)
        inputs = action_size + 2 * embedding + observation_size
        self.layout = Layout((*time, (inputs, hidden), *block * blocks, (hidden, action_size)))

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """See ``base.Module``."""
        frequencies = self.embedding // 2
        waves = torch.stack([FREQUENCY * torch.randn(frequencies, generator=own) for own in generators])
        return torch.cat([waves, self.layout.initial(generators)[:, frequencies:]], dim=1)

    def time(self, layers: Layers) -> Tensor:
        """``[K, T, H]``: what each diffusion step gives to the first layer of each member."""
        weight = layers[3][0]
        number = torch.arange(self.steps, device=weight.device, dtype=weight.dtype)[:, None]
        frequencies = linear(number[:, :0].expand(len(weight), -1, -1), layers[0])  # the same in each row
        angles = math.tau * number * frequencies
        embedded = linear(silu(linear(torch.cat([angles.cos(), angles.sin()], dim=2), layers[1])), layers[2])
        return torch.bmm(embedded, weight[:, self.action_size : self.action_size + 2 * self.embedding])

    def observe(self, layers: Layers, observations: Tensor) -> Tensor:
        """``[K, B, H]``: what observations ``[K, B, o]`` give to the first layer, bias included."""
        weight, bias = layers[3]
        return linear(observations, (weight[:, self.action_size + 2 * self.embedding :], bias))

    def __call__(
        self, layers: Layers, actions: Tensor, observed: Tensor, kept: Tensor | None = None, rate: float = 0.0
    ) -> Tensor:
        """Predicted noise ``[K, B·n, a]`` for noisy actions ``[K, B·n, a]``, n of them for each observation.

        ``observed`` is as for ``nn.NoiseNet``. ``kept`` ``[K, blocks, B·n, H]``: what dropout of this rate keeps.
        """
        x = first_layer(actions, layers[3][0][:, : self.action_size], observed)
        for number in range(self.blocks):
            given = x if kept is None else x * kept[:, number] / (1.0 - rate)
            inside = linear(norm(given), layers[4 + 2 * number], self.product)
            x = x + linear(silu(inside), layers[5 + 2 * number], self.product)
        return linear(silu(x), layers[-1])
