"""A Gaussian policy whose deviation does not depend on the state, as IQL, AWAC and CRR have it."""

import math

import torch
from torch import Tensor

from diffcps.algorithms.nn import Activation, Init, Layers, Layout, linear, mlp, tail


class GaussianNet:
    """A Gaussian over actions in units of their bound: the mean is a network's, the deviation one free vector.

    Args:
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        hidden: width of the hidden layers.
        layers: how many there are.
        log_std: between these the logarithm of the standard deviation stays.
        squash: whether the mean passes a tanh.
        product: type of the hidden layers' products.
        activation: between the layers.
        init: how weights start.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: int,
        layers: int,
        *,
        log_std: tuple[float, float],
        squash: bool,
        product: torch.dtype | None = None,
        activation: Activation = torch.relu,
        init: Init = "uniform",
    ) -> None:
        self.layout = Layout((*mlp(observation_size, hidden, action_size, layers), (0, action_size)), init)
        self.limits, self.squash, self.product, self.activation = log_std, squash, product, activation

    def mean(self, layers: Layers, observations: Tensor) -> Tensor:
        """``[K, B, o]`` → ``[K, B, a]``."""
        output = tail(linear(observations, layers[0]), layers[1:-1], self.product, self.activation)
        return output.tanh() if self.squash else output

    def log_std(self, layers: Layers, observations: Tensor) -> Tensor:
        """``[K, B, a]``, the same at every observation."""
        return linear(observations[..., :0], layers[-1]).clamp(*self.limits)

    def sample(self, layers: Layers, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions ``[K, B·n, a]``, kept within the bound, from noise of that shape, n for each observation ``[K, B, o]``."""
        count = noise.shape[1] // max(1, observations.shape[1])
        mean = self.mean(layers, observations).repeat_interleave(count, dim=1)
        std = self.log_std(layers, observations).exp().repeat_interleave(count, dim=1)
        return (mean + std * noise).clamp(-1.0, 1.0)


def log_density(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; mean, diag std²) ``[K, B]``, with all three ``[K, B, a]``."""
    scaled = (actions - mean) * (-log_std).exp()
    return -(0.5 * scaled.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)
