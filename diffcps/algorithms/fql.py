"""Flow Q-learning (Park, Li and Levine, 2025, arXiv 2502.02538): a one-step policy beside a flow that clones the data.

A velocity field learns to carry noise to the data's actions. A second network learns to reach in one step what ten Euler steps
of the field reach from the same noise, and to raise the critic. It is the policy; the field never acts. The target follows the
updated critic; in the authors' program it lags one step behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import (
    Algorithm,
    Batch,
    Metrics,
    Network,
    Problem,
    Stage,
    StepKind,
    StepNoise,
    detached,
)
from diffcps.algorithms.nn import Layers, Mlp, gelu, gelu_norm
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Learning, TaskFacts, WithCritic, d4rl
from diffcps.algorithms.streams import Normal, Uniform
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import setting

METRICS = (
    *critics.METRICS, "behaviour_loss", "distillation_loss", "policy_q", "actor_loss", "actor_grad_norm", "flow_grad_norm",
)  # fmt: skip
STEPS = 500_000


@dataclass(frozen=True)
class Settings(Learning, WithCritic):
    """The settings of a member. The field learns at the rate of the policy."""

    hidden_size: int = setting(512, "a positive whole number")
    """Width of the hidden layers of every network."""
    hidden_layers: int = setting(4, "a positive whole number")
    """Hidden layers of every network."""
    alpha: float = setting(10.0, "zero or more", search="0.3:300:log")
    """α, weight of the distance to the flow beside the value. Published for mazes (10, on large ones 3), not for locomotion,
    where 1 beside a normalised value is this project's guess: search it."""
    flow_steps: int = setting(10, "a positive whole number")
    """Euler steps of the flow."""
    normalise_value: bool = False
    """Whether the value in the policy's loss is divided by its mean size."""


def euler(velocity: Any, noise: Tensor, steps: int) -> Tensor:
    """Where ``velocity(x, t)`` carries ``noise`` ``[K, B, a]`` from t = 0 to 1 in so many steps."""
    x = noise
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
    return x


class FQL(Algorithm[Settings]):
    """Velocity field, one-step policy and critic."""

    settings = Settings
    chooses = False
    unit_actions = True
    edge = 1e-5

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, states, actions = self.config, problem.observation_size, problem.action_size
        more = self.shape
        self.flow = Mlp(states + actions + 1, config.hidden_size, actions, **more, activation=gelu)
        self.policy = Mlp(states + actions, config.hidden_size, actions, **more, activation=gelu)
        self.critic = Critic(states, actions, config.hidden_size, **more, activation=gelu_norm)
        self.networks = {
            "actor": Network(self.policy.layout),
            "flow": Network(self.flow.layout),
            "critic": critics.network(self.critic, members),
        }
        shape = config.batch_size, actions
        normal = {name: Normal(shape) for name in ("next_noise", "start", "noise")}
        self.kinds = {"step": StepKind(config.batch_size, METRICS, {**normal, "time": Uniform((config.batch_size,))})}
        self.stages = (Stage(("step",)),)
        self.draws = 1

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Section 5 of the paper, on mazes: α 10, on large ones 3.

        There are no published settings for locomotion, which its authors did not run. There the value is normalised here, and
        α = 1 is this project's guess, not tuned.
        """
        settings: dict[str, Any] = {"normalise_value": True, "alpha": 1.0}
        if task.goal_rewards:
            settings = {"reward_transform": "minus_one", "alpha": 3.0 if "large" in task.name else 10.0}
        return d4rl(task, settings, STEPS, {"locomotion": (100_000, 10), "antmaze": (100_000, 50)})

    def velocity(self, layers: Layers, observations: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v(s, x, t) ``[K, B, a]``, with x ``[K, B, a]`` and t ``[K, B, 1]``."""
        return self.flow(layers, torch.cat([observations, x, time], dim=2))

    def one_step(self, layers: Layers, observations: Tensor, noise: Tensor) -> Tensor:
        """μ(s, z) ``[K, B, a]``, not kept within the bound."""
        return self.policy(layers, torch.cat([observations, noise], dim=2))

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: all three losses of the networks as they are, then their steps."""
        losses = {
            "critic": self.critic_loss(pack, batch, noise),
            "flow": self.flow_loss(pack, batch, noise),
            "actor": self.policy_loss(pack, batch, noise),
        }
        metrics: Metrics = {}
        for name, (loss, leaves, found) in losses.items():
            metrics |= found | {f"{name}_grad_norm": pack.descend(name, loss, leaves)}
        pack.move("target")
        return metrics

    def critic_loss(self, pack: Pack, batch: Batch, noise: StepNoise) -> tuple[Tensor, Layers, Metrics]:
        """The mean over heads of the squared error to r + γ (1 − terminal) mean(Q1', Q2') at an action of the policy."""
        leaves = self.critic.leaves(pack["critic"])
        with torch.no_grad():
            layers = self.policy.layout.layers(pack["actor"])
            actions = self.one_step(layers, batch.next_observations, noise["next_noise"]).clamp(-1.0, 1.0)
            values = self.critic(self.critic.layers(pack["target"]), batch.next_observations, actions).mean(dim=1)
            goal = critics.one_step_ahead(pack, batch, values)
        loss, metrics = critics.loss(self.critic, leaves, batch, goal, average=True)
        return loss, leaves, metrics

    def flow_loss(self, pack: Pack, batch: Batch, noise: StepNoise) -> tuple[Tensor, Layers, Metrics]:
        """Mean (v(s, x_t, t) − (a − z))² with x_t = (1 − t) z + t a."""
        leaves = self.flow.layout.leaves(pack["flow"])
        time, start = noise["time"][..., None], noise["start"]
        x = (1.0 - time) * start + time * batch.actions
        loss = (self.velocity(leaves, batch.observations, x, time) - (batch.actions - start)).square().mean(dim=(1, 2))
        return loss, leaves, {"behaviour_loss": loss.detach()}

    def policy_loss(self, pack: Pack, batch: Batch, noise: StepNoise) -> tuple[Tensor, Layers, Metrics]:
        """α mean (μ(s, z) − flow(s, z))² − mean Q(s, μ(s, z)), the flow kept within the bound and a constant."""
        leaves, z = self.policy.layout.leaves(pack["actor"]), noise["noise"]
        with torch.no_grad():
            flow = self.flow.layout.layers(pack["flow"])

            def velocity(x: Tensor, time: float) -> Tensor:
                return self.velocity(flow, batch.observations, x, torch.full_like(x[..., :1], time))

            goal = euler(velocity, z, self.config.flow_steps).clamp(-1.0, 1.0)
        actions = self.one_step(leaves, batch.observations, z)
        distance = (actions - goal).square().mean(dim=(1, 2))
        values = self.critic(self.critic.layers(pack["critic"]), batch.observations, actions.clamp(-1.0, 1.0))
        values = values.mean(dim=1)
        q = values.mean(dim=1)
        scale = values.detach().abs().mean(dim=1) if self.config.normalise_value else torch.ones_like(q)
        loss = pack.values["alpha"] * distance - q / scale
        metrics = {"distillation_loss": distance, "policy_q": q, "actor_loss": loss}
        return loss, leaves, detached(metrics)

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """One step from noise, kept within the bound."""
        layers = self.policy.layout.layers(parameters["actor"])
        return self.problem.max_action * self.one_step(layers, observations, noise[0]).clamp(-1.0, 1.0)
