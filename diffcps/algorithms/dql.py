"""Diffusion-QL (Wang, Hunt and Zhou, 2022, arXiv 2208.06193): a diffusion policy near the data that a critic raises.

The policy learns in every step from L + η q: its behaviour loss, and the critic's value of its own actions through the whole
chain. As in the authors' program the divisor of the value is the other head's, gradients are cut at the task's norm, and the
averaged policy, which gives the target actions, stays at its initial copy for the first 1000 steps.
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
from diffcps.algorithms.settings import Changes, Improving, TaskFacts, published
from diffcps.config.plain import setting

METRICS = "behaviour_loss", "actor_loss", "q_loss", "policy_q", "actor_grad_norm", "constraint", "q_scale"
"""Of a step that improves the policy, besides those of the critic."""


@dataclass(frozen=True)
class Settings(Improving):
    """The settings of a member."""

    policy_freq: int = setting(1, "a positive whole number")
    """The policy is updated every so many steps."""
    eta: float = setting(1.0, "zero or more", symbol="η", search="0.1:10:log")
    """η, the weight of the value beside the behaviour loss; 0 is behaviour cloning."""


class DQL(Improver[Settings]):
    """Critic and policy."""

    settings = Settings
    chains = 1
    """Whole chains for each observation in the policy's loss."""

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        self.plan(METRICS, self.chains)

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Appendix D of the paper. Tasks that are not in it get what they have in common with DiffCPS."""
        common = cls.settings.among(task.settings) | {"policy_freq": 1}
        if not (own := published("dql", task)):
            return {"settings": common}
        steps = 1_000_000 if task.goal_rewards else 2_000_000
        return {"settings": common | own, "steps": steps, "evaluation": {"every": 50_000}}

    def value_term(
        self, fit: Fit, weights: Weights, critic: Layers, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, ...]:
        """q, the means of both heads and the divisor; see ``value_loss``."""
        return self.value_loss(weights, critic, batch, noise)

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policy down L + η q, in place."""
        weights = self.learning_weights(pack)
        fit = self.fit(weights, batch, noise)
        q, means, scale = self.value_term(fit, weights, self.critic.layers(pack["critic"]), batch=batch, noise=noise)
        constraint = fit.rows.mean(dim=1)
        loss = constraint + pack.values["eta"] * q
        metrics = {
            "actor_loss": loss,
            "behaviour_loss": fit.behaviour_loss,
            "q_loss": q,
            "policy_q": means.mean(dim=1),
            "q_scale": scale,
            "constraint": constraint,
        }
        found = detached(metrics)
        return found | {"actor_grad_norm": self.improve(pack, weights, fit.with_variance(loss), fit)}
