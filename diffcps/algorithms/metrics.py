"""The metrics that a gradient step may give, by name."""

from torch import Tensor

Metrics = dict[str, Tensor]
"""Each ``[K]`` and detached."""

METRICS = (
    "behaviour_loss", "lambda", "critic_loss", "q_value", "actor_loss", "q_loss", "policy_q", "dual_loss",
    "critic_grad_norm", "actor_grad_norm", "constraint", "target_kl", "violation", "q_scale",
)  # fmt: skip
"""Every one of them, in the order in which a person wants to read them; an algorithm gives those that it has."""
