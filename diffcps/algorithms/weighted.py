"""Weighted cloning: imitate the data's actions, the better ones more.

The policy maximises E_{(s, a) ~ data} w(A(s, a)) log μ(a|s), which for a diffusion policy is a weighted behaviour loss. Values
are learned as in DiffCPS; there is no constraint and no λ. It is in the style of AWR, CRR and AWAC and is none of them: the
advantages are in units of the mean value, and the weights of a batch have mean 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms.base import Batch, Metrics, Problem, StepNoise, detached
from diffcps.algorithms.improving import Improver
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Fit, Weights
from diffcps.algorithms.settings import Improving
from diffcps.config.plain import setting

METRICS = "behaviour_loss", "actor_loss", "policy_q", "actor_grad_norm", "constraint", "q_scale"
"""Of a step that improves the policy, besides those of the critic."""
LARGEST_WEIGHT = 100.0
"""A regression weight is cut off here: one lucky action must not be all that a batch says."""


@dataclass(frozen=True)
class Settings(Improving):
    """The settings of a member. V is the mean over ``max_q_candidates`` actions of the policy."""

    temperature: float = setting(1.0, "a positive number")
    """Of the weights exp(A / temperature), with advantages A in units of the mean value's size."""


class WeightedCloning(Improver[Settings]):
    """Critic and weighted policy."""

    settings = Settings

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        self.plan(METRICS, self.config.max_q_candidates)

    def actor_loss(
        self, weights: Weights, critic: Layers, pack: Pack, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, Metrics, Fit]:
        """Mean of w·C over the batch, C how badly the policy fits an action and w = exp(A / temperature) divided by its mean.

        A = (min(Q1, Q2)(s, a) − V(s)) / mean|V|, V the mean of min(Q1, Q2) over several actions of the policy.
        """
        fit = self.fit(weights, batch, noise)
        with torch.no_grad():
            own = self.policy.sample(weights, batch.observations, noise["actions"])
            values = self.critic(critic, batch.observations, own).amin(dim=1)
            values = values.unflatten(-1, (batch.observations.shape[1], -1)).mean(dim=-1)
            estimates = self.critic(critic, batch.observations, batch.actions).amin(dim=1)
            scale = values.abs().mean(dim=1)
            advantages = (estimates - values) / scale[:, None]
            factors = (advantages / pack.values["temperature"][:, None]).exp().clamp(max=LARGEST_WEIGHT)
            factors = factors / factors.mean(dim=1, keepdim=True)
        loss = (factors * fit.rows).mean(dim=1)
        metrics = {
            "actor_loss": loss,
            "behaviour_loss": fit.behaviour_loss,
            "policy_q": values.mean(dim=1),
            "q_scale": scale,
            "constraint": fit.rows.mean(dim=1),
        }
        return fit.with_variance(loss), detached(metrics), fit

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policy, in place."""
        weights = self.learning_weights(pack)
        critic = self.critic.layers(pack["critic"])
        loss, metrics, fit = self.actor_loss(weights, critic, pack, batch=batch, noise=noise)
        metrics["actor_grad_norm"] = self.improve(pack, weights, loss, fit)
        return metrics
