"""A member of a pack in NumPy and double precision: networks, gradients without differentiation, Adam.

A gradient is the central difference of a loss in every parameter, all of them at once along a leading axis. So a loss takes
the flat parameters ``[..., P]`` of the network that learns and gives ``[...]``; whatever is a constant in it is worked out
before, with the parameters as they are.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Loss = Callable[[Array], Array]
SHIFT = 1e-6
"""Of a parameter in a difference."""


# Networks -------------------------------------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def mish(x: Array) -> Array:
    return x * np.tanh(np.logaddexp(0.0, x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def normed(activation: Loss) -> Loss:
    """The activation, then mean 0 and variance 1 over the width."""

    def apply(x: Array) -> Array:
        x = activation(x)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    return apply


def cat(*parts: Array) -> Array:
    lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, lead + part.shape[-1:]) for part in parts], axis=-1)


def mlp(flat: Array, widths: tuple[int, ...], activation: Loss, x: Array) -> Array:
    """Of a flat ``[..., P]``: each layer's weight ``[in, out]``, then its bias. ``[..., B, in]`` → ``[..., B, out]``."""
    start = 0
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight = flat[..., start : start + inputs * outputs].reshape(*flat.shape[:-1], inputs, outputs)
        start += inputs * outputs
        bias = flat[..., None, start : start + outputs]
        start += outputs
        x = (activation(x) if number else x) @ weight + bias
    return x


def normal_log_density(x: Array, mean: Array, log_std: Array) -> Array:
    each = -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
    return np.asarray(each.sum(-1))


# One member -----------------------------------------------------------------------------------------------------------


@dataclass
class Adam:
    first: Array
    second: Array
    count: float
    rate: float
    cosine: int | None
    """Updates over which the rate falls to 0."""
    decay: float


class Member:
    """Parameters, copies, optimisers and settings of one member."""

    def __init__(self, settings: Any, sizes: tuple[int, int, float], tensors: dict[str, Array]) -> None:
        self.v, self.tensors = settings, tensors
        self.states, self.actions, self.bound = sizes
        self.adams: dict[str, Adam] = {}
        self.b, self.n, self.number = SimpleNamespace(), SimpleNamespace(), 0
        """The batch, the noise and the number of the step."""
        self.said: dict[str, Any] = {}

    def learn(self, **losses: Loss) -> None:
        """A step of each network down its loss, all losses with the parameters as they are."""
        slopes = {name: self.slope(name, loss) for name, loss in losses.items()}
        for name, slope in slopes.items():
            self.step(name, slope)

    def slope(self, name: str, loss: Loss) -> Array:
        at = self.tensors[name]
        shifts = SHIFT * np.eye(len(at))
        above, below = np.split(loss(np.concatenate([at + shifts, at - shifts])), 2)
        return (above - below) / (2.0 * SHIFT)

    def step(self, name: str, slope: Array, clip: bool = False) -> None:
        norm = float(np.sqrt((slope**2).sum()))
        self.said[f"{name}_grad_norm"] = norm
        if clip:
            slope = slope * min(1.0, self.v.grad_norm / (norm + 1e-6))  # as torch clips
        adam = self.adams[name]
        rate = adam.rate * (0.5 * (1.0 + math.cos(math.pi * adam.count / adam.cosine)) if adam.cosine else 1.0)
        adam.count += 1
        adam.first = 0.9 * adam.first + 0.1 * slope
        adam.second = 0.999 * adam.second + 0.001 * slope**2
        mean, square = adam.first / (1.0 - 0.9**adam.count), adam.second / (1.0 - 0.999**adam.count)
        at = self.tensors[name]
        self.tensors[name] = at - rate * (mean / (np.sqrt(square) + 1e-8) + adam.decay * at)

    def learn_clipped(self, name: str, loss: Loss) -> None:
        """A step of one network, its gradient scaled down to the setting ``grad_norm``."""
        self.step(name, self.slope(name, loss), clip=True)

    def move(self, copy: str, network: str, rate: float) -> None:
        self.tensors[copy] = (1.0 - rate) * self.tensors[copy] + rate * self.tensors[network]

    def say(self, **values: Any) -> None:
        self.said |= values

    # what networks give; a network is named, or given by its parameters

    def flat(self, network: str | Array) -> Array:
        return self.tensors[network] if isinstance(network, str) else network

    def widths(self, inputs: int, outputs: int) -> tuple[int, ...]:
        return (inputs, *[self.v.hidden_size] * self.v.hidden_layers, outputs)

    def net(self, network: str | Array, activation: Loss, outputs: int, *parts: Array) -> Array:
        x = cat(*parts)
        return mlp(self.flat(network), self.widths(x.shape[-1], outputs), activation, x)

    def q(self, network: str | Array, activation: Loss, states: Array, actions: Array, heads: int = 2) -> Array:
        """``[..., heads, B]``."""
        flat, x = self.flat(network), cat(states, actions)[..., None, :, :]
        flat = flat.reshape(*flat.shape[:-1], heads, -1)
        return mlp(flat, self.widths(x.shape[-1], 1), activation, x)[..., 0]

    def goal(self, values: Array) -> Array:
        return np.asarray(self.b.rewards + self.v.discount * (1.0 - self.b.terminals) * values)

    def errors(self, goal: Array, activation: Loss, heads: int = 2) -> Loss:
        """Mean squared error of each head to the goal, ``[..., heads]``."""
        b = self.b
        self.say(q_value=self.q("critic", activation, b.observations, b.actions, heads).mean())
        return lambda w: ((self.q(w, activation, b.observations, b.actions, heads) - goal) ** 2).mean(-1)

    def summed(self, goal: Array, activation: Loss) -> Loss:
        """The sum of the heads' errors, the loss of most critics."""
        errors = self.errors(goal, activation)

        def loss(w: Array) -> Array:
            return np.asarray(errors(w).sum(-1))

        self.say(critic_loss=loss(self.tensors["critic"]))
        return loss
