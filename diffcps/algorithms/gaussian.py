"""Gaussian policies: ``GaussianPolicy``, a class of policies, and ``GaussianNet``, the policy of IQL, AWAC and CRR."""

import math

import torch
from torch import Tensor

from diffcps.algorithms.base import Problem
from diffcps.algorithms.nn import Activation, Init, Layers, Layout, Mlp, linear, mlp, tail
from diffcps.algorithms.policies import Fit, Weights
from diffcps.algorithms.settings import Cloning

_LOG_STD = -6.0, 1.0
"""The logarithm of a standard deviation, in units of the action bound, stays between these."""


class GaussianPolicy:
    """Implements ``policies.Policy`` by M Gaussians with diagonal covariance, M = 1 unless it is a ``mixture``.

    A ``deterministic`` policy is the mean of one, fitted by the squared distance.
    """

    def __init__(self, config: Cloning, problem: Problem, product: torch.dtype | None, device: torch.device) -> None:
        self.max_action = problem.max_action
        self.action_size = action_size = problem.action_size
        self.deterministic = config.policy == "deterministic"
        self.components = config.mixture_components if config.policy == "mixture" else 1
        outputs = action_size if self.deterministic else self.components * (1 + 2 * action_size)
        sizes = problem.observation_size, config.hidden_size, outputs
        self.network = Mlp(*sizes, layers=config.hidden_layers, product=product)
        self.layout = self.network.layout
        self.draws = 1 + (self.components > 1)
        self.noise_width = 0

    def parts(self, layers: Layers, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log weights ``[K, B, M]``, means and standard deviations ``[K, B, M, a]`` at observations ``[K, B, o]``."""
        output = self.network(layers, observations)
        if self.deterministic:
            mean = self.max_action * output.unsqueeze(2).tanh()
            return torch.zeros_like(mean[..., 0]), mean, torch.zeros_like(mean)
        logits, rest = output.split([self.components, 2 * self.components * self.action_size], dim=-1)
        mean, raw = rest.unflatten(-1, (self.components, -1)).chunk(2, dim=-1)
        low, high = _LOG_STD
        log_std = low + (high - low) * raw.sigmoid() + math.log(self.max_action)
        return logits.log_softmax(dim=-1), self.max_action * mean.tanh(), log_std.exp()

    def sample(self, weights: Weights, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``policies.Policy``. The last draw makes the action, the one before it chooses the Gaussian."""
        log_weights, mean, std = self.parts(weights.layers, observations)
        own = noise[-1].unflatten(1, (observations.shape[1], -1))
        chosen = torch.zeros(own.shape[:-1], dtype=torch.int64, device=own.device)
        if self.components > 1:
            uniform = torch.special.ndtr(noise[0].unflatten(1, (observations.shape[1], -1))[..., :1])
            below = log_weights.exp().cumsum(dim=-1)[:, :, None, :-1] < uniform
            chosen = below.sum(dim=-1)
        index = chosen[..., None].expand(own.shape)
        actions = mean.gather(2, index) + std.gather(2, index) * own
        return actions.flatten(1, 2).clamp(-self.max_action, self.max_action)

    def proposals(self, weights: Weights, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``policies.Policy``: an action of every Gaussian, with the Gaussians' weights."""
        log_weights, mean, std = self.parts(weights.layers, observations)
        actions = (mean + std * noise[-1].unsqueeze(2)).clamp(-self.max_action, self.max_action)
        return actions.flatten(1, 2), log_weights.exp().flatten(1) if self.components > 1 else None

    def fit(self, weights: Weights, observations: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> Fit:
        """See ``policies.Policy``: −log μ(a|s) in nats, or the mean squared distance of a deterministic policy."""
        log_weights, mean, std = self.parts(weights.layers, observations)
        if self.deterministic:
            rows = (actions - mean.squeeze(2)).square().mean(dim=-1)
        else:
            scaled = (actions.unsqueeze(2) - mean) / std
            each = -(0.5 * scaled.square() + std.log() + 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)
            rows = -torch.logsumexp(log_weights + each, dim=-1)
        return Fit(rows, rows.detach().mean(dim=1))


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
        product: torch.dtype | None,
        activation: Activation,
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
