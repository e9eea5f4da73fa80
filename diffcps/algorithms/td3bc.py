"""TD3+BC (Fujimoto and Gu, 2021, arXiv 2106.06860): TD3 whose deterministic policy also stays near the data's actions.

Observations are normalised by the mean and deviation of the data set. The targets of critic and policy follow on the steps
in which the policy learns, as in the authors' program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms.base import (
    Algorithm,
    Batch,
    Copy,
    Metrics,
    Network,
    Normal,
    Problem,
    Stage,
    StepKind,
    StepNoise,
)
from diffcps.algorithms.nn import Critic, Mlp
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Learning, TaskFacts
from diffcps.algorithms.settings import Critic as CriticSettings
from diffcps.config.plain import setting

CRITIC_METRICS = "critic_loss", "q_value", "critic_grad_norm"
POLICY_METRICS = "actor_loss", "behaviour_loss", "policy_q", "actor_grad_norm"
SMALLEST_STD = 1e-3
"""Added to the deviation of an observation before it is divided by."""
STEPS = 1_000_000


@dataclass(frozen=True)
class Settings(Learning, CriticSettings):
    """The settings of a member."""

    hidden_layers: int = setting(2, "a positive whole number")
    """Hidden layers of the policy's network and of each critic."""
    alpha: float = setting(2.5, "zero or more", search="0.5:10:log")
    """Weight of the value beside the squared distance to the data's actions; 0 is behaviour cloning."""
    policy_freq: int = setting(2, "a positive whole number")
    """The policy and the targets are updated every so many steps."""
    target_noise: float = setting(0.2, "zero or more")
    """Standard deviation of the noise on target actions, in units of the action bound."""
    target_noise_clip: float = setting(0.5, "zero or more")
    """The noise on target actions is cut off here, in units of the action bound."""


def actor_loss(values: Tensor, actions: Tensor, data: Tensor, alpha: Tensor) -> Tensor:
    """−λ mean Q(s, π(s)) + mean (π(s) − a)², with λ = α / mean |Q| a constant (equation 5), ``[K]``.

    ``values`` ``[K, B]``; ``actions`` and ``data`` ``[K, B, a]`` in units of their bound; ``alpha`` ``[K]``.
    """
    scale = alpha / values.detach().abs().mean(dim=1)
    return (actions - data).square().mean(dim=(1, 2)) - scale * values.mean(dim=1)


class TD3BC(Algorithm[Settings]):
    """Critic and deterministic policy."""

    settings = Settings
    chooses = False
    acting = "actor", "mean", "std"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, sizes = self.config, (problem.observation_size, problem.action_size)
        product = torch.bfloat16 if config.precision == "bf16" else None
        more: dict[str, Any] = {"product": product, "layers": config.hidden_layers, "activation": torch.relu}
        self.policy = Mlp(sizes[0], config.hidden_size, sizes[1], **more)
        self.critic = Critic(*sizes, config.hidden_size, **more)
        rates = [member.target_rate for member in members]
        self.networks = {
            "actor": Network(self.policy.layout, copies={"target_actor": Copy(rates)}),
            "critic": Network(self.critic, "critic_learning_rate", copies={"target": Copy(rates)}),
        }
        noise = {"target_noise": Normal((config.batch_size, problem.action_size))}
        self.kinds = {
            "policy": StepKind(config.batch_size, CRITIC_METRICS + POLICY_METRICS, noise),
            "critic": StepKind(config.batch_size, CRITIC_METRICS, noise),
        }
        self.stages = (Stage((*["critic"] * (config.policy_freq - 1), "policy")),)

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Table 3 of the paper; where rewards are 1 at a goal, which it does not have, r − 1 as in CORL's runs of AntMaze."""
        settings = {"reward_transform": "minus_one"} if task.goal_rewards else {}
        antmaze = task.domain.startswith("antmaze")
        if antmaze or task.domain == "locomotion":
            return {
                "steps": STEPS,
                "settings": settings,
                "evaluation": {"every": 5_000, "episodes": 100 if antmaze else 10},
            }
        return {"settings": {"discount": 0.0} if task.episode_limit == 1 else settings}

    def tensors(self) -> dict[str, Tensor]:
        """Mean and deviation of the data's observations, the same for all members ``[K, o]``; ``prepare`` sets them."""
        empty = torch.zeros(len(self.members), self.problem.observation_size, device=self.device)
        return {"mean": empty, "std": empty + 1.0}

    def prepare(self, pack: Pack, data: Batch) -> Batch:
        """Normalised observations, actions in units of their bound, transformed rewards."""
        data = super().prepare(pack, data)
        std, mean = torch.std_mean(data.observations.double(), dim=0, correction=0)
        pack["mean"].copy_(mean.expand_as(pack["mean"]))
        pack["std"].copy_((std + SMALLEST_STD).expand_as(pack["std"]))
        mean, std = pack["mean"][0], pack["std"][0]
        return replace(
            data,
            observations=(data.observations - mean) / std,
            next_observations=(data.next_observations - mean) / std,
            actions=data.actions / self.problem.max_action,
        )

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: critic, in a policy step also the policy, then both targets."""
        metrics = self.learn_critic(pack, batch, noise)
        if kind == "policy":
            metrics |= self.learn_policy(pack, batch)
            pack.move("target")
            pack.move("target_actor")
        return metrics

    def learn_critic(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """MSE(Q1) + MSE(Q2) to r + γ (1 − terminal) min(Q1', Q2') at a noisy action of the target policy."""
        leaves = self.critic.leaves(pack["critic"])
        with torch.no_grad():
            limit = pack.values["target_noise_clip"][:, None, None]
            shift = (pack.values["target_noise"][:, None, None] * noise["target_noise"]).clamp(-limit, limit)
            policy = self.policy(self.policy.layout.layers(pack["target_actor"]), batch.next_observations).tanh()
            actions = (policy + shift).clamp(-1.0, 1.0)
            values = self.critic(self.critic.layers(pack["target"]), batch.next_observations, actions).amin(dim=1)
            goal = batch.rewards + pack.values["discount"][:, None] * (1.0 - batch.terminals) * values
        estimates = self.critic(leaves, batch.observations, batch.actions)
        loss = (estimates - goal[:, None]).square().mean(dim=-1).sum(dim=-1)
        norm = pack.descend("critic", loss, leaves)
        return {
            "critic_loss": loss.detach(),
            "q_value": estimates.detach().mean(dim=(1, 2)),
            "critic_grad_norm": norm,
        }

    def learn_policy(self, pack: Pack, batch: Batch) -> Metrics:
        """Equation 5 with the first head of the critic."""
        leaves = self.policy.layout.leaves(pack["actor"])
        actions = self.policy(leaves, batch.observations).tanh()
        values = self.critic(self.critic.layers(pack["critic"]), batch.observations, actions)[:, 0]
        loss = actor_loss(values, actions, batch.actions, pack.values["alpha"])
        norm = pack.descend("actor", loss, leaves)
        return {
            "actor_loss": loss.detach(),
            "behaviour_loss": (actions.detach() - batch.actions).square().mean(dim=(1, 2)),
            "policy_q": values.detach().mean(dim=1),
            "actor_grad_norm": norm,
        }

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The policy's action."""
        normalised = (observations - parameters["mean"][:, None]) / parameters["std"][:, None]
        output = self.policy(self.policy.layout.layers(parameters["actor"]), normalised)
        return self.problem.max_action * output.tanh()
