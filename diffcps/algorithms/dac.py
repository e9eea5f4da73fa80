"""Diffusion actor-critic (Fang et al., 2024, arXiv 2405.20555): the noise net itself learns the critic's slope.

The policy's loss is the behaviour loss, weighted by η, and the product of the predicted noise with the critic's gradient at
the noisy action, so no chain is differentiated. The critic is a mean of ten heads less ρ of their deviations. η holds the
behaviour loss at a bound, or is fixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import Batch, Metrics, Network, Problem, StepNoise, detached
from diffcps.algorithms.choosing import by_value
from diffcps.algorithms.improving import Improver
from diffcps.algorithms.nn import Constant, Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Covariance, Improving, TaskFacts, published
from diffcps.config.plain import require, setting

METRICS = "behaviour_loss", "actor_loss", "q_loss", "q_scale", "eta", "actor_grad_norm", "constraint"
"""Of a step that improves the policy, besides those of the critic."""
ETA = 0.001, 100.0
"""η stays between these."""
STEPS = 2_000_000
CANDIDATES = 10
"""Actions among which the policy chooses."""


@dataclass(frozen=True)
class Settings(Improving):
    """The settings of a member. ``max_q_candidates`` next actions are drawn with and without a max-Q backup."""

    policy_freq: int = setting(1, "a positive whole number")
    """The policy is updated every so many steps."""
    covariance: Covariance = "forward"
    """Reverse variance of the chain: β in the authors' program."""
    grad_norm: float = setting(1.0, "a positive number")
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""
    cosine_decay: bool = True
    """Learning rates of policy and critic fall to 0 along a cosine, as in the authors' program."""
    eta: float = setting(1.0, "a positive number", symbol="η")
    """η, the weight of the behaviour loss, at the start."""
    eta_learning_rate: float = setting(1e-3, "zero or more")
    """How fast η moves with what the behaviour loss exceeds its bound by; 0 keeps it."""
    bound: float | None = setting(1.0, "zero or more")
    """The behaviour loss that η holds; none keeps η."""
    pessimism: float = setting(1.0, "zero or more", symbol="ρ", search="0:2")
    """ρ: a value is the mean of the heads less ρ of their standard deviations."""
    heads: int = setting(10, "a positive whole number")
    """Heads of the critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.policy == "diffusion", "policy", self.policy, "'diffusion', for DAC shapes the noise net of a chain"
        )


class DAC(Improver[Settings]):
    """Critic of many heads, policy and η."""

    settings = Settings
    edge = 1e-5
    average_heads = True

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        initial = torch.tensor([[member.eta] for member in members])
        self.networks["eta"] = Network(Constant(initial), learning_rate=None)
        self.next_candidates = 0 if self.config.discount == 0.0 else self.config.max_q_candidates
        self.plan(METRICS, 0)

    @property
    def heads(self) -> int:
        """Of the critic."""
        return self.config.heads

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Appendix of the paper, with the rewards of the authors' runs, which divide by the range of returns everywhere."""
        common = cls.settings.among(task.settings) | {"policy_freq": 1, "grad_norm": 1.0, "learning_rate": 3e-4}
        common["max_q_backup"] = task.goal_rewards
        evaluation = {"candidates": CANDIDATES}
        own = published("dac", task)
        if not own:
            return {"settings": common, "evaluation": evaluation}
        settings = common | own | {"reward_transform": "return_range"}
        return {"settings": settings, "steps": STEPS, "evaluation": evaluation | {"every": 10_000, "episodes": 10}}

    def next_values(self, target: Layers, pack: Pack, batch: Batch, noise: StepNoise) -> Tensor:
        """Mean over next actions (their maximum in a max-Q backup) within each head, then the heads' lower bound."""
        average = self.weights(pack.tensors, "average")
        actions = self.policy.sample(average, batch.next_observations, noise["next_actions"])
        values = self.critic(target, batch.next_observations, actions).unflatten(-1, (-1, self.next_candidates))
        each = values.amax(dim=-1) if self.config.max_q_backup else values.mean(dim=-1)
        return critics.lower_bound(each, pack.values["pessimism"])

    def slope(self, pack: Pack, batch: Batch, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """∇_a Q'(s, a) at noisy actions ``[K, B, a]``, Q' the mean of the target's heads, in units of mean |Q'| on the data."""
        layers = self.critic.layers(pack["target"])
        with torch.no_grad():
            scale = self.critic(layers, batch.observations, batch.actions).mean(dim=1).abs().mean(dim=1)
        points = noisy.detach().requires_grad_()
        values = self.critic(layers, batch.observations, points).mean(dim=1)
        (found,) = torch.autograd.grad(values.sum(), points)
        return found / scale[:, None, None], scale

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policy down η L + mean √(1 − ᾱ) g·ε̂, then of η by the loss that this leaves, in place."""
        weights = self.learning_weights(pack)
        fit = self.fit(weights, batch, noise)
        assert fit.noised is not None
        noisy, predicted, signal = fit.noised
        slope, scale = self.slope(pack, batch, noisy)
        constraint, eta = fit.rows.mean(dim=1), pack["eta"][:, 0].clone()
        q = ((1.0 - signal).sqrt() * slope * predicted).mean(dim=(1, 2))
        loss = eta * constraint + q
        metrics = {
            "actor_loss": loss,
            "behaviour_loss": fit.behaviour_loss,
            "q_loss": q,
            "q_scale": scale,
            "eta": eta,
            "constraint": constraint,
        }
        found = detached(metrics)
        found["actor_grad_norm"] = self.improve(pack, weights, fit.with_variance(loss), fit)
        with torch.no_grad():
            left = self.fit(self.weights(pack.tensors), batch, noise).rows.mean(dim=1)
            excess = (left - pack.values["bound"]).clamp(-1.0, 1.0).nan_to_num(0.0)
            pack["eta"].add_((pack.values["eta_learning_rate"] * excess)[:, None]).clamp_(*ETA)
        return found

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Of N actions the one with the largest mean value of the target's heads."""
        actions = self.policy.sample(self.weights(parameters), observations, noise)
        value = critics.mean_of_heads(self.critic, parameters["target"], observations)
        return by_value(actions, value, uniform.shape[-1])
