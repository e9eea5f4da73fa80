"""Networks of a pack: every weight and every activation carries a leading member axis.

Parameters of one network of all K members live in one flat tensor ``[K, P]``; a layer's weight is a view
``[K, in, out]`` into it. A gradient norm, an Adam step or an average of all members is then one operation on ``[K, P]``,
and a forward pass is one batched matrix product per layer instead of K small ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]
"""Weight ``[K, in, out]`` and bias ``[K, 1, out]`` of each layer."""


@dataclass(frozen=True)
class Layout:
    """Where the layers of a network lie in a flat ``[K, P]`` tensor."""

    sizes: tuple[tuple[int, int], ...]
    """(inputs, outputs) of each linear layer."""

    @property
    def parameters(self) -> int:
        """P, the number of parameters of one member."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self.sizes)

    def layers(self, flat: Tensor) -> Layers:
        """Views of ``flat`` ``[K, P]`` as weights and biases."""
        members, offset, layers = flat.shape[0], 0, []
        for fan_in, fan_out in self.sizes:
            weight = flat[:, offset : offset + fan_in * fan_out].view(members, fan_in, fan_out)
            offset += fan_in * fan_out
            bias = flat[:, offset : offset + fan_out].view(members, 1, fan_out)
            offset += fan_out
            layers.append((weight, bias))
        return layers

    def leaves(self, flat: Tensor) -> Layers:
        """The same views as leaves that ask for gradients; they share memory with ``flat``."""
        return [(w.requires_grad_(), b.requires_grad_()) for w, b in self.layers(flat.detach())]

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, P]``: weights and biases of member k uniform on ±1/√inputs, drawn from its own (CPU) generator."""
        rows = []
        for generator in generators:
            parts = []
            for fan_in, fan_out in self.sizes:
                bound = 1.0 / math.sqrt(fan_in)
                draw = torch.rand((fan_in + 1) * fan_out, generator=generator)
                parts.append((2.0 * draw - 1.0) * bound)
            rows.append(torch.cat(parts))
        return torch.stack(rows)


def gradient(loss: Tensor, leaves: Layers) -> Tensor:
    """∂(Σ loss)/∂parameters as one ``[K, P]`` tensor in the order of ``Layout.layers``.

    Members do not touch each other, so the gradient of the sum holds each member's own gradient in its own row.
    """
    tensors = [tensor for layer in leaves for tensor in layer]
    gradients = torch.autograd.grad(loss.sum(), tensors)
    return torch.cat([g.reshape(g.shape[0], -1) for g in gradients], dim=1)


def linear(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    """``[K, B, in]`` → ``[K, B, out]``."""
    weight, bias = layer
    return torch.baddbmm(bias, x, weight)


class _Mish(torch.autograd.Function):
    """x·tanh(softplus(x)), the paper's activation, without its costly functions.

    With q = sigmoid(−x) and r = 1/(1 + q²): mish = x (2 r − 1) and mish' = 2 r − 1 + 4 x (1 − q)(r − r²), stable for
    every x. torch's own Mish costs as much on a CPU as the matrix product before it; this is a third of that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        q = torch.neg(x).sigmoid_()
        r = (q * q).add_(1.0).reciprocal_()
        ctx.save_for_backward(x, q, r)
        return (x * r).mul_(2.0).sub_(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x, q, r = ctx.saved_tensors
        bend = torch.addcmul(r, r, r, value=-1.0).mul_(x)
        bend = torch.addcmul(bend, bend, q, value=-1.0).mul_(4.0)
        return bend.add_(r, alpha=2.0).sub_(1.0).mul_(slope)


def mish(x: Tensor) -> Tensor:
    """x·tanh(softplus(x)) (Misra, 2019), elementwise."""
    return _Mish.apply(x)


def mlp(x: Tensor, layers: Layers) -> Tensor:
    """Linear layers with Mish between them (none after the last)."""
    for layer in layers[:-1]:
        x = mish(linear(x, layer))
    return linear(x, layers[-1])


def sinusoidal_embedding(steps: int, size: int) -> Tensor:
    """``[T, size]``: sin and cos of the integers 0..T−1 at geometric frequencies from 1 to 1/10 000."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angles = torch.arange(steps)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseNet:
    """ε_θ(a_t, t, s): the diffusion policy's network, for all members at once.

    The step enters as the integer 0..T−1 through a sinusoidal embedding and a small two-layer net (E → 2E → E),
    is concatenated with action and observation, and passes three hidden layers with Mish.
    """

    def __init__(self, observation_size: int, action_size: int, steps: int, hidden: int, embedding: int) -> None:
        self.action_size = action_size
        inputs = action_size + embedding + observation_size
        self.layout = Layout((
            (embedding, 2 * embedding), (2 * embedding, embedding),
            (inputs, hidden), (hidden, hidden), (hidden, hidden), (hidden, action_size),
        ))  # fmt: skip
        self.embedding = sinusoidal_embedding(steps, embedding)

    def to(self, device: torch.device) -> "NoiseNet":
        """Move its constants to ``device``."""
        self.embedding = self.embedding.to(device)
        return self

    def time_features(self, layers: Layers) -> Tensor:
        """``[K, T, E]``: what each member makes of each step; there are only T of them, so they are computed once."""
        members = layers[0][0].shape[0]
        return mlp(self.embedding.expand(members, -1, -1), layers[:2])

    def __call__(self, layers: Layers, observations: Tensor, actions: Tensor, time: Tensor) -> Tensor:
        """Predicted noise ``[K, B, a]`` from observations ``[K, B, o]``, noisy actions and time features ``[K, B, E]``."""
        return mlp(torch.cat([actions, time, observations], dim=-1), layers[2:])


class TwinCritic:
    """Q1 and Q2 of all members; the two heads are one more axis of the stack."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        self.layout = Layout(
            ((observation_size + action_size, hidden), (hidden, hidden), (hidden, hidden), (hidden, 1))
        )

    def layers(self, flat: Tensor) -> Layers:
        """Views of ``flat`` ``[K, 2 P]`` as ``[2 K, in, out]`` weights."""
        return self.layout.layers(flat.view(2 * flat.shape[0], -1))

    def leaves(self, flat: Tensor) -> Layers:
        """The same as leaves that ask for gradients."""
        return self.layout.leaves(flat.view(2 * flat.shape[0], -1))

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, 2 P]``."""
        heads = [self.layout.initial(generators) for _ in range(2)]
        return torch.cat(heads, dim=1)

    def __call__(self, layers: Layers, observations: Tensor, actions: Tensor) -> Tensor:
        """Values ``[K, 2, B]`` of observations ``[K, B, o]`` and actions ``[K, B, a]``."""
        inputs = torch.cat([observations, actions], dim=-1)
        members, batch, size = inputs.shape
        doubled = inputs[:, None].expand(members, 2, batch, size).reshape(2 * members, batch, size)
        return mlp(doubled, layers).view(members, 2, batch)
