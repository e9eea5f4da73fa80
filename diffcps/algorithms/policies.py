"""What every class of policy offers to the algorithms."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffcps.algorithms.base import Problem
from diffcps.algorithms.nn import Layers, Layout, Mlp
from diffcps.algorithms.settings import Cloning


class Weights(NamedTuple):
    """What a policy computes with: parameters, and the running mean that a calibrated covariance needs."""

    layers: Layers
    step_losses: Tensor | None = None
    """Running behaviour loss of each diffusion step, ``[K, T]``."""


class Noised(NamedTuple):
    """Actions of a batch with the noise of a diffusion step, and what a noise net says of them."""

    actions: Tensor
    """a_t, ``[K, B, a]``."""
    predicted: Tensor
    """The predicted noise, ``[K, B, a]``; with gradients."""
    signal: Tensor
    """ᾱ_t, ``[K, B, 1]``."""


class Fit(NamedTuple):
    """How well a policy fits the actions of a batch."""

    rows: Tensor
    """C of each action: what its κ bounds and what cloning lowers, ``[K, B]``; with gradients."""
    behaviour_loss: Tensor
    """L, the plain regression error of a diffusion or deterministic policy; −log μ of the others, in nats. ``[K]``."""
    variance_loss: Tensor | None = None
    """A further loss by which the network's own covariance learns where C does not depend on it, ``[K]``; with gradients."""
    step_losses: Tensor | None = None
    """Sum of (ε − ε_θ)², mean over action dimensions, at each diffusion step: ``[K, T]``, a constant."""
    step_counts: Tensor | None = None
    """Actions at each step, ``[K, T]``."""
    noised: "Noised | None" = None
    """Of a chain: what its error is measured on."""

    def with_variance(self, loss: Tensor) -> Tensor:
        """A policy's loss ``[K]`` with that of its own covariance, where it has one that learns apart."""
        return loss if self.variance_loss is None else loss + self.variance_loss


class Policy(Protocol):
    """A class of policies of K members; it holds no parameters."""

    layout: Layout
    """Of the network's parameters."""
    draws: int
    """D, normal numbers for each number of a sampled action."""
    noise_width: int
    """w, normal numbers for each action of the data that is fitted."""

    def sample(self, weights: Weights, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions ``[K, B·n, a]`` within the bounds, from noise ``[D, K, B·n, a]``; differentiable where the class allows."""

    def proposals(self, weights: Weights, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Actions whose weighted mean of any function is the policy's expectation of it, with gradients.

        Returns:
            Actions ``[K, B·m, a]`` from noise ``[D, K, B, a]``, and their weights ``[K, B·m]``, which sum to 1 for each
            observation; ``None`` where there is one action each.
        """

    def fit(self, weights: Weights, observations: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> Fit:
        """How well it fits ``actions`` ``[K, B, a]``, with diffusion steps ``[K, B]`` and noise ``[K, B, w]``."""


# Policies with a density in closed form: one Gaussian, a mixture of them, and none at all (a deterministic policy).

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
        self.network = Mlp(problem.observation_size, config.hidden_size, outputs, config.hidden_layers, product)
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
