"""Implicit Q-learning (Kostrikov, Nair and Levine, 2021, arXiv 2110.06169).

A value network learns an upper expectile of the target critic's values of the data's actions, so no other action is ever
valued. The policy is a Gaussian with a deviation that does not depend on the state. It is fitted to the data's actions, each
weighted by the exponential of its advantage. It acts by its mean. The order of a step is that of the authors' program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import Algorithm, Batch, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.gaussian import GaussianNet, log_density
from diffcps.algorithms.nn import Mlp
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Learning, TaskFacts, WithCritic, d4rl
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import setting

VALUE_METRICS = (*critics.METRICS, "value_loss", "value")
METRICS = (*VALUE_METRICS, "actor_loss", "actor_grad_norm", "mean_weight")
LARGEST_WEIGHT = 100.0
"""A regression weight is cut off here."""
LOG_STD = -5.0, 2.0
"""Between these the logarithm of the policy's standard deviation stays, in units of the action bound."""
STEPS = 1_000_000


@dataclass(frozen=True)
class ImplicitSettings(Learning, WithCritic):
    """Those of value network and critic. The value network learns at the rate of the critic."""

    hidden_layers: int = setting(2, "a positive whole number")
    """Hidden layers of every network."""
    expectile: float = setting(0.7, "between 0 and 1", search="0.5:0.95")
    """τ of the value network: .5 is the mean over the data's actions, 1 their largest value."""


@dataclass(frozen=True)
class Settings(ImplicitSettings):
    """The settings of a member."""

    inverse_temperature: float = setting(3.0, "zero or more", search="0.5:20:log")
    """β of the weights exp(β · advantage); 0 is behaviour cloning."""


S = TypeVar("S", bound=ImplicitSettings)


def expectile_loss(excess: Tensor, expectile: Tensor) -> Tensor:
    """Mean of |τ − 1[u ≤ 0]| u² over the last axis (section 4.1 of the paper), for u ``[K, B]`` and τ ``[K]``."""
    weight = torch.where(excess > 0, expectile[:, None], 1.0 - expectile[:, None])
    return (weight * excess.square()).mean(dim=-1)


def advantage_weights(advantages: Tensor, inverse_temperature: Tensor) -> Tensor:
    """min(exp(β A), 100), for A ``[K, B]`` and β ``[K]``."""
    return (inverse_temperature[:, None] * advantages).exp().clamp(max=LARGEST_WEIGHT)


class Implicit(Algorithm[S]):
    """Value network and critic, what IQL and IDQL share; a subclass adds a policy."""

    unit_actions = True
    edge = 1e-5

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, states = self.config, problem.observation_size
        self.value = Mlp(states, config.hidden_size, 1, **self.shape)
        self.critic = Critic(states, problem.action_size, config.hidden_size, **self.shape)
        self.values_networks = {
            "value": Network(self.value.layout, "critic_learning_rate"),
            "critic": critics.network(self.critic, members),
        }

    @property
    def shape(self) -> dict[str, Any]:
        """Besides depth and products: ReLU, and how weights start."""
        return {**super().shape, "activation": torch.relu, "init": "orthogonal"}

    def learn_value(self, pack: Pack, batch: Batch) -> tuple[Metrics, Tensor]:
        """Equation 5; also returns min(Q1', Q2')(s, a) − V(s) ``[K, B]`` with the new V."""
        leaves = self.value.layout.leaves(pack["value"])
        with torch.no_grad():
            target = self.critic(self.critic.layers(pack["target"]), batch.observations, batch.actions).amin(dim=1)
        values = self.value(leaves, batch.observations).squeeze(-1)
        loss = expectile_loss(target - values, pack.values["expectile"])
        pack.descend("value", loss, leaves)
        metrics = {"value_loss": loss.detach(), "value": values.detach().mean(dim=1)}
        return metrics, target - self._values(pack, batch.observations)

    def learn_critic(self, pack: Pack, batch: Batch) -> Metrics:
        """Equation 6, the sum over both heads: the goal is r + γ (1 − terminal) V(s')."""
        goal = critics.one_step_ahead(pack, batch, self._values(pack, batch.next_observations))
        return critics.learn(pack, self.critic, batch, goal)

    @torch.no_grad()
    def _values(self, pack: Pack, observations: Tensor) -> Tensor:
        """V ``[K, B]``."""
        return self.value(self.value.layout.layers(pack["value"]), observations).squeeze(-1)


class IQL(Implicit[Settings]):
    """Value network, policy and critic."""

    settings = Settings
    chooses = False

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        sizes = problem.observation_size, problem.action_size, self.config.hidden_size
        self.policy = GaussianNet(*sizes, log_std=LOG_STD, squash=True, **self.shape)
        self.networks = {"actor": Network(self.policy.layout, decay_steps=problem.steps), **self.values_networks}
        self.kinds = {"step": StepKind(self.config.batch_size, METRICS)}
        self.stages = (Stage(("step",)),)

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Section 5 and appendix B: the same settings for all locomotion tasks, and others for all AntMaze tasks.

        Other tasks get those of the kind that their rewards are like. A bandit gets neither: its values are its rewards.
        """
        if task.goal_rewards:
            settings = {"reward_transform": "minus_one", "expectile": 0.9, "inverse_temperature": 10.0}
        else:
            settings = {"reward_transform": "return_range"}
        return d4rl(task, settings, STEPS, {"locomotion": (5_000, 10), "antmaze": (100_000, 100)})

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: value, then policy and critic by the new value, then target."""
        metrics, advantages = self.learn_value(pack, batch)
        metrics |= self.learn_policy(pack, batch, advantages)
        metrics |= self.learn_critic(pack, batch)
        pack.move("target")
        return metrics

    def learn_policy(self, pack: Pack, batch: Batch, advantages: Tensor) -> Metrics:
        """Equation 7."""
        leaves = self.policy.layout.leaves(pack["actor"])
        weights = advantage_weights(advantages, pack.values["inverse_temperature"])
        mean, log_std = self.policy.mean(leaves, batch.observations), self.policy.log_std(leaves, batch.observations)
        loss = -(weights * log_density(batch.actions, mean, log_std)).mean(dim=1)
        norm = pack.descend("actor", loss, leaves)
        return {"actor_loss": loss.detach(), "actor_grad_norm": norm, "mean_weight": weights.mean(dim=1)}

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The mean."""
        mean = self.policy.mean(self.policy.layout.layers(parameters["actor"]), observations)
        return self.problem.max_action * mean
