"""What TD3+BC and ReBRAC share: TD3 (Fujimoto, van Hoof and Meger, 2018) on a fixed data set.

A twin critic learns from noisy actions of a target policy. The deterministic policy and both targets move every few steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import Algorithm, Batch, Copy, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.nn import Mlp
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Learning, WithCritic
from diffcps.algorithms.streams import Normal
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import setting

POLICY_METRICS = "actor_loss", "behaviour_loss", "policy_q", "actor_grad_norm"


@dataclass(frozen=True)
class Settings(Learning, WithCritic):
    """The settings of a member. The target policy follows at the rate of the target critic."""

    policy_freq: int = setting(2, "a positive whole number")
    """The policy and the targets are updated every so many steps."""
    target_noise: float = setting(0.2, "zero or more")
    """Standard deviation of the noise on target actions, in units of the action bound."""
    target_noise_clip: float = setting(0.5, "zero or more")
    """The noise on target actions is cut off here, in units of the action bound."""


S = TypeVar("S", bound=Settings)


class TD3(Algorithm[S]):
    """Critic and deterministic policy. A subclass gives ``policy_loss``."""

    chooses = False
    unit_actions = True
    policy_shape: ClassVar[Mapping[str, Any]] = {"activation": torch.relu}
    critic_shape: ClassVar[Mapping[str, Any]] = {"activation": torch.relu}
    reads: tuple[str, ...] = ()
    """Columns of its own that a step reads."""

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, sizes = self.config, (problem.observation_size, problem.action_size)
        more = self.shape
        self.policy = Mlp(sizes[0], config.hidden_size, sizes[1], **more, **self.policy_shape)
        self.critic = Critic(sizes[0], sizes[1], config.hidden_size, **more, **self.critic_shape)
        target = Copy([member.target_rate for member in members])
        self.networks = {
            "actor": Network(self.policy.layout, copies={"target_actor": target}),
            "critic": critics.network(self.critic, members),
        }
        noise = {"target_noise": Normal((config.batch_size, problem.action_size))}
        self.kinds = {
            "policy": StepKind(config.batch_size, critics.METRICS + POLICY_METRICS, noise, self.reads),
            "critic": StepKind(config.batch_size, critics.METRICS, noise, self.reads),
        }
        self.stages = (Stage((*["critic"] * (config.policy_freq - 1), "policy")),)

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: critic, in a policy step also the policy, then both targets."""
        metrics = self.learn_critic(pack, batch, noise)
        if kind == "policy":
            metrics |= self.learn_policy(pack, batch)
            pack.move("target")
            pack.move("target_actor")
        return metrics

    def learn_critic(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """MSE(Q1) + MSE(Q2) to r + γ (1 − terminal) (min(Q1', Q2') − penalty) at a noisy action of the target policy."""
        with torch.no_grad():
            limit = pack.values["target_noise_clip"][:, None, None]
            shift = (pack.values["target_noise"][:, None, None] * noise["target_noise"]).clamp(-limit, limit)
            policy = self.policy(self.policy.layout.layers(pack["target_actor"]), batch.next_observations).tanh()
            actions = (policy + shift).clamp(-1.0, 1.0)
            values = self.critic(self.critic.layers(pack["target"]), batch.next_observations, actions).amin(dim=1)
            goal = critics.one_step_ahead(pack, batch, self.penalised(values, actions, pack, batch))
        return critics.learn(pack, self.critic, batch, goal)

    def penalised(self, values: Tensor, actions: Tensor, pack: Pack, batch: Batch) -> Tensor:
        """Values ``[K, B]`` of target actions ``[K, B, a]``, less what the algorithm charges for them; by default nothing."""
        return values

    def policy_loss(self, values: Tensor, actions: Tensor, pack: Pack, batch: Batch) -> Tensor:
        """The loss ``[K]`` of the policy's actions ``[K, B, a]`` with values of both heads ``[K, 2, B]``."""
        raise NotImplementedError

    def learn_policy(self, pack: Pack, batch: Batch) -> Metrics:
        """One step of the policy down ``policy_loss``."""
        leaves = self.policy.layout.leaves(pack["actor"])
        actions = self.policy(leaves, batch.observations).tanh()
        values = self.critic(self.critic.layers(pack["critic"]), batch.observations, actions)
        loss = self.policy_loss(values, actions, pack, batch)
        norm = pack.descend("actor", loss, leaves)
        return {
            "actor_loss": loss.detach(),
            "behaviour_loss": (actions.detach() - batch.actions).square().mean(dim=(1, 2)),
            "policy_q": values.detach()[:, 0].mean(dim=1),
            "actor_grad_norm": norm,
        }

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The policy's action."""
        output = self.policy(self.policy.layout.layers(parameters["actor"]), observations)
        return self.problem.max_action * output.tanh()
