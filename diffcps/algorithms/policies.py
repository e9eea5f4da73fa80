"""What every class of policy offers to the algorithms."""

from typing import NamedTuple, Protocol

from torch import Tensor

from diffcps.nn import Layers, Layout


class Explained(NamedTuple):
    """How well a policy explains the actions of a batch."""

    rows: Tensor
    """What κ bounds, for each action: ``[K, B]``; with gradients."""
    behaviour_loss: Tensor
    """L, the plain regression error of a diffusion or deterministic policy; −log μ of the others, in nats. ``[K]``."""
    fit: Tensor | None = None
    """What a network's own covariance adds to the loss where the constraint does not hold it, ``[K]``; with gradients."""
    step_losses: Tensor | None = None
    """Sum of (ε − ε_θ)², mean over action dimensions, at each diffusion step: ``[K, T]``, a constant."""
    step_counts: Tensor | None = None
    """Actions at each step, ``[K, T]``."""


class Policy(Protocol):
    """A class of policies of K members; it holds no parameters."""

    layout: Layout
    """Of the network's parameters."""
    draws: int
    """D, normal numbers for each number of a sampled action."""
    noise_width: int
    """w, normal numbers for each action that is explained."""

    def sample(self, actor: Layers, observations: Tensor, noise: Tensor, step_losses: Tensor | None) -> Tensor:
        """Actions ``[K, B·n, a]`` within the bounds, from noise ``[D, K, B·n, a]``; differentiable where the class allows."""

    def proposals(
        self, actor: Layers, observations: Tensor, noise: Tensor, step_losses: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Actions whose weighted mean of any function is the policy's expectation of it, with gradients.

        Returns:
            Actions ``[K, B·m, a]`` from noise ``[D, K, B, a]``, and their weights ``[K, B·m]``, which sum to 1 for each
            observation; ``None`` where there is one action each.
        """

    def explain(
        self,
        actor: Layers,
        observations: Tensor,
        actions: Tensor,
        step: Tensor,
        noise: Tensor,
        step_losses: Tensor | None,
    ) -> Explained:
        """How well it explains ``actions`` ``[K, B, a]``, with diffusion steps ``[K, B]`` and noise ``[K, B, w]``."""
