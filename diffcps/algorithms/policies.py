"""What every class of policy offers to the algorithms."""

from typing import NamedTuple, Protocol

from torch import Tensor

from diffcps.algorithms.nn import Layers, Layout


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
    noised: Noised | None = None
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
        """Actions and weights: the weighted mean of any function over them is the policy's expectation of it, with gradients.

        Returns:
            Actions ``[K, B·m, a]`` from noise ``[D, K, B, a]``, and their weights ``[K, B·m]``, which sum to 1 for each
            observation; ``None`` where there is one action each.
        """

    def fit(self, weights: Weights, observations: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> Fit:
        """How well it fits ``actions`` ``[K, B, a]``, with diffusion steps ``[K, B]`` and noise ``[K, B, w]``."""
