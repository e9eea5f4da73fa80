"""Networks of a pack: every weight and every activation carries a leading member axis.

Parameters of one network of all K members live in one flat tensor ``[K, P]``; a layer's weight is a view
``[K, in, out]`` into it. A gradient norm, an Adam step or an average of all members is then one operation on ``[K, P]``,
and a forward pass is one batched matrix product per layer instead of K small ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

Layers = list[tuple[Tensor, Tensor]]
"""Weight ``[K, in, out]`` and bias ``[K, 1, out]`` of each layer."""
Activation = Callable[[Tensor], Tensor]
Init = Literal["uniform", "orthogonal"]
"""How weights start. ``uniform``: weights and biases on ±1/√inputs, as in torch. ``orthogonal``: orthogonal · √2, biases 0."""


@dataclass(frozen=True)
class Layout:
    """Where the layers of a network are in a flat ``[K, P]`` tensor."""

    sizes: tuple[tuple[int, int], ...]
    """(inputs, outputs) of each linear layer. One without inputs is a bias alone, free numbers that start at 0."""
    init: Init = "uniform"
    last: float | None = None
    """Weights and biases of the last layer start on ± this, and the other biases at 0.1; ``None``: by ``init``."""

    def layers(self, flat: Tensor) -> Layers:
        """Weights and biases out of ``flat`` ``[K, P]``; for reading, since a pack's weights may be copies.

        Each is dense: a CPU's batched product copies a stack of weights with gaps between members at every call.
        """
        members, offset, layers = flat.shape[0], 0, []
        for fan_in, fan_out in self.sizes:
            weight = flat[:, offset : offset + fan_in * fan_out].view(members, fan_in, fan_out).contiguous()
            offset += fan_in * fan_out
            bias = flat[:, offset : offset + fan_out].view(members, 1, fan_out)
            offset += fan_out
            layers.append((weight, bias))
        return layers

    def leaves(self, flat: Tensor) -> Layers:
        """The same as leaves that ask for gradients."""
        return [(w.requires_grad_(), b.requires_grad_()) for w, b in self.layers(flat.detach())]

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, P]``: weights and biases of member k, drawn from its own (CPU) generator."""
        return torch.stack([self._start(own) for own in generators])

    def _start(self, generator: torch.Generator) -> Tensor:
        parts = [_start_of_layer(*size, self.init, generator) for size in self.sizes]
        if self.last is not None:
            for (_, fan_out), part in zip(self.sizes[:-1], parts, strict=False):
                part[-fan_out:] = 0.1
            parts[-1] = self.last * (2.0 * torch.rand(len(parts[-1]), generator=generator) - 1.0)
        return torch.cat(parts)


def _start_of_layer(fan_in: int, fan_out: int, init: Init, generator: torch.Generator) -> Tensor:
    """Weights and biases of one layer at the start."""
    if fan_in == 0:
        return torch.zeros(fan_out)
    if init == "orthogonal":
        weight = torch.nn.init.orthogonal_(torch.empty(fan_in, fan_out), math.sqrt(2.0), generator)
        return torch.cat([weight.flatten(), torch.zeros(fan_out)])
    draw = torch.rand((fan_in + 1) * fan_out, generator=generator)
    return (2.0 * draw - 1.0) * (1.0 / math.sqrt(fan_in))


@dataclass(frozen=True)
class Constant:
    """A network without layers: free numbers ``[K, P]`` with a given start."""

    start: Tensor

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """The start."""
        return self.start.clone()


def gradient(loss: Tensor, leaves: Layers) -> Tensor:
    """∂(Σ loss)/∂parameters as one ``[K, P]`` tensor in the order of ``Layout.layers``.

    Members do not touch each other, so the gradient of the sum holds each member's own gradient in its own row.
    """
    tensors = [tensor for layer in leaves for tensor in layer]
    gradients = torch.autograd.grad(loss.sum(), tensors)
    return torch.cat([g.reshape(g.shape[0], -1) for g in gradients], dim=1)


def linear(x: Tensor, layer: tuple[Tensor, Tensor], product: torch.dtype | None = None) -> Tensor:
    """``[K, B, in]`` → ``[K, B, out]``; the matrix product rounds its factors and its result to the type ``product``."""
    weight, bias = layer
    if product is None:
        return torch.bmm(x, weight).add_(bias)
    return torch.bmm(x.to(product), weight.to(product)) + bias


class _Mish(torch.autograd.Function):
    """x·tanh(softplus(x)), the paper's activation, without its costly functions.

    With w = exp(x), h = 1 + w / 2 and r = 1 / (1 + w h): mish = x − x r and mish' = 1 − r + 2 x r (1 − h r). From x = 20 on r is
    nothing beside 1, and w stays where it is, for the slope would be ∞ · 0. On a CPU torch's own Mish costs as much as the
    matrix product before it; this is a third of that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        w = x.clamp(max=20.0).exp_()
        h = torch.add(w.new_ones(()), w, alpha=0.5)
        r = w.mul_(h).add_(1.0).reciprocal_()
        ctx.save_for_backward(x, h, r)
        return torch.addcmul(x, x, r, value=-1.0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x, h, r = ctx.saved_tensors
        bend = torch.addcmul(r, r, h * r, value=-1.0).mul_(x).sub_(r, alpha=0.5)
        return torch.addcmul(slope, slope, bend, value=2.0)


def mish(x: Tensor) -> Tensor:
    """x·tanh(softplus(x)) (Misra, 2019), elementwise."""
    if x.is_cuda:  # one kernel, where many passes over memory are what takes time
        return torch.nn.functional.mish(x)
    if torch.is_grad_enabled():
        return _Mish.apply(x)
    w = torch.exp(x)  # the same without what a gradient would need
    r = w.mul_(torch.add(w.new_ones(()), w, alpha=0.5)).add_(1.0).reciprocal_()
    return torch.addcmul(x, x, r, value=-1.0)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return torch.nn.functional.gelu(x, approximate="tanh")


def norm(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the width. Gains and shifts are left to the next layer's weights."""
    return layer_norm(x, x.shape[-1:], eps=1e-6)


def relu_norm(x: Tensor) -> Tensor:
    """``norm`` after ReLU."""
    return norm(torch.relu(x))


def mish_norm(x: Tensor) -> Tensor:
    """``norm`` after ``mish``."""
    return norm(mish(x))


def gelu_norm(x: Tensor) -> Tensor:
    """``norm`` after ``gelu``."""
    return norm(gelu(x))


def tail(x: Tensor, layers: Layers, product: torch.dtype | None = None, activation: Activation = mish) -> Tensor:
    """What follows the first linear layer, which gives ``x``: linear layers, each after an activation.

    The hidden layers, nearly all of the arithmetic, multiply in the type ``product``; the last one does not, for a
    noise or a value rounded to the 8 bits of bfloat16 would be visibly coarse.
    """
    for layer in layers[:-1]:
        x = linear(activation(x), layer, product)
    return linear(activation(x), layers[-1])


def first_layer(actions: Tensor, weight: Tensor, observed: Tensor) -> Tensor:
    """Join what actions give to the first layer, ``actions @ weight``, to what observations give.

    Args:
        actions: ``[K, B·n, a]``, n actions an observation, those of one observation side by side.
        weight: ``[K, a, H]``, the rows of the first layer's weight that belong to actions.
        observed: ``[K, B, H]``, the observations' part, bias included.

    Returns:
        ``[K, B·n, H]``.
    """
    product = torch.bmm(actions, weight)
    rows = observed.shape[1]
    if product.shape[1] == rows:
        return product.add_(observed)
    return product.unflatten(1, (rows, -1)).add(observed.unsqueeze(2)).flatten(1, 2)


def sinusoidal_embedding(steps: int, size: int) -> Tensor:
    """``[T, size]``: sin and cos of the integers 0..T−1 at geometric frequencies from 1 to 1/10 000."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angles = torch.arange(steps)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def mlp(
    inputs: int, hidden: int, outputs: int, layers: int = 3, first: int | None = None
) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of each linear layer of a network with so many hidden layers, the first one perhaps of another width."""
    widths = (first or hidden, *[hidden] * (layers - 1))
    return tuple(zip((inputs, *widths), (*widths, outputs), strict=True))


class Mlp:
    """Linear layers with an activation between them, for all members at once."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        layers: int = 3,
        product: torch.dtype | None = None,
        activation: Activation = mish,
        init: Init = "uniform",
        last: float | None = None,
    ) -> None:
        self.product = product
        self.activation = activation
        self.layout = Layout(mlp(inputs, hidden, outputs, layers), init, last)

    def __call__(self, layers: Layers, x: Tensor) -> Tensor:
        """``[K, B, inputs]`` → ``[K, B, outputs]``."""
        return tail(linear(x, layers[0]), layers[1:], self.product, self.activation)


class NoiseNet:
    """ε_θ(a_t, t, s): the diffusion policy's network, for all members at once.

    The step enters as the integer 0..T−1 through a sinusoidal embedding and a small two-layer net (E → 2E → E),
    is concatenated with action and observation, and passes the hidden layers with Mish. The first of them is linear
    in the three parts: what the observation gives to it is the same for all steps of a chain, and what the step gives
    is the same for all observations, so each is worked out once.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        steps: int,
        hidden: int,
        embedding: int,
        product: torch.dtype | None = None,
        layers: int = 3,
        outputs: int | None = None,
        activation: Activation = mish,
    ) -> None:
        """``layers`` hidden layers; ``outputs`` numbers come out, by default one for each of an action."""
        self.action_size = action_size
        self.product = product
        self.activation = activation
        inputs = action_size + embedding + observation_size
        time = (embedding, 2 * embedding), (2 * embedding, embedding)
        self.layout = Layout((*time, *mlp(inputs, hidden, action_size if outputs is None else outputs, layers)))
        self.embedding = sinusoidal_embedding(steps, embedding)

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, P]``, see ``Layout.initial``."""
        return self.layout.initial(generators)

    def to(self, device: torch.device) -> "NoiseNet":
        """Move its constants to ``device``."""
        self.embedding = self.embedding.to(device)
        return self

    def time(self, layers: Layers) -> Tensor:
        """``[K, T, H]``: what each diffusion step gives to the first hidden layer of each member."""
        (weight, _), size = layers[2], self.embedding.shape[1]
        embedded = self.embedding.expand(len(weight), -1, -1)
        features = tail(linear(embedded, layers[0]), layers[1:2])
        return torch.bmm(features, weight[:, self.action_size : self.action_size + size])

    def observe(self, layers: Layers, observations: Tensor) -> Tensor:
        """``[K, B, H]``: what observations ``[K, B, o]`` give to the first hidden layer, bias included."""
        weight, bias = layers[2]
        return linear(observations, (weight[:, self.action_size + self.embedding.shape[1] :], bias))

    def passed(self, layers: Layers) -> Layers:
        """The layers, the first one with its rows of actions alone. A chain cuts them out once for all its passes."""
        weight, bias = layers[2]
        return [*layers[:2], (weight[:, : self.action_size], bias), *layers[3:]]

    def __call__(self, layers: Layers, actions: Tensor, observed: Tensor) -> Tensor:
        """Predicted noise ``[K, B·n, a]`` (or all outputs) for noisy actions ``[K, B·n, a]``, n of them for each observation.

        ``observed`` ``[K, B, H]`` is the sum of ``observe`` and of ``time`` at the actions' diffusion step. ``layers`` may be
        those of ``passed``.
        """
        hidden = first_layer(actions, layers[2][0][:, : self.action_size], observed)
        return tail(hidden, layers[3:], self.product, self.activation)
