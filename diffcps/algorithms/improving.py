"""What DiffCPS and AWR share: a policy of any class, cloned first if wanted, then improved by a twin critic."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import bc
from diffcps.algorithms.base import (
    Batch,
    Coin,
    Copy,
    Metrics,
    Network,
    Normal,
    Problem,
    Stage,
    StepKind,
    StepNoise,
    Words,
)
from diffcps.algorithms.nn import Critic, Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Improving

CRITIC_METRICS = "critic_loss", "q_value", "critic_grad_norm"
S = TypeVar("S", bound=Improving)


class Improver(bc.Cloner[S]):
    """The critic's part of a step, stages, and a choice among candidates by value.

    A subclass gives ``improve_policy``, and the metrics and noise of the steps in which it is called.
    """

    acting = "actor", "average", "target", "step_losses"

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config = self.config
        sizes = problem.observation_size, problem.action_size, config.hidden_size
        self.critic = Critic(*sizes, self.product, config.hidden_layers)
        target = Copy([member.target_rate for member in members])
        self.networks["critic"] = Network(self.critic, "critic_learning_rate", copies={"target": target})
        self.next_candidates = config.max_q_candidates if config.max_q_backup else 1
        """Target actions for each next observation."""
        if config.discount == 0.0:
            self.next_candidates = 0

    def plan(self, metrics: tuple[str, ...], candidates: int) -> None:
        """Set kinds of step and stages.

        Args:
            metrics: what a step that improves the policy gives besides the critic's.
            candidates: actions that it draws for each observation, and a coin for each member.
        """
        batch = self.config.batch_size
        critic: dict[str, Normal | Words] = {"next_actions": self.actions_noise(self.next_candidates)}
        fitting = critic | self.fit_noise
        improving = fitting | {"actions": self.actions_noise(candidates), "swap": Coin()}
        self.kinds = {
            "policy": StepKind(batch, (*CRITIC_METRICS, *metrics), improving),
            "critic": StepKind(batch, CRITIC_METRICS, critic),
            "behaviour": StepKind(batch, (*CRITIC_METRICS, *bc.METRICS), fitting),
        }
        cloning, improving_stage = Stage(self.every("behaviour", "critic")), Stage(self.every("policy", "critic"))
        until = self.config.behaviour_steps
        self.stages = (Stage(cloning.cycle, until), improving_stage) if until else (improving_stage,)

    def actions_noise(self, candidates: int) -> Normal:
        """What drawing so many actions for each observation of a batch takes."""
        return Normal((self.policy.draws, self.config.batch_size * candidates, self.problem.action_size), member_axis=1)

    def critic_loss(
        self, critic: Layers, target: Layers, pack: Pack, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, Metrics]:
        """MSE(Q1) + MSE(Q2) to y = r + γ (1 − terminal) min(Q1', Q2') at an action of the averaged policy.

        With max-Q backup, ``max_q_candidates`` actions are drawn for each next state; each target head keeps its largest
        value before the minimum.
        """
        goal = batch.rewards
        if self.next_candidates:
            with torch.no_grad():
                average = self.weights(pack.tensors, "average")
                actions = self.policy.sample(average, batch.next_observations, noise["next_actions"])
                values = self.critic(target, batch.next_observations, actions)
                values = values.unflatten(-1, (-1, self.next_candidates)).amax(dim=-1)
                discount = pack.values["discount"][:, None]
                goal = batch.rewards + discount * (1.0 - batch.terminals) * values.amin(dim=1)
        estimates = self.critic(critic, batch.observations, batch.actions)
        loss = (estimates - goal[:, None]).square().mean(dim=-1).sum(dim=-1)
        return loss, {"critic_loss": loss.detach(), "q_value": estimates.detach().mean(dim=(1, 2))}

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: critic, in a policy step also the policy, then target critic."""
        critic = self.critic.leaves(pack["critic"])
        loss, metrics = self.critic_loss(critic, self.critic.layers(pack["target"]), pack, batch, noise)
        metrics["critic_grad_norm"] = pack.descend("critic", loss, critic, clip=True)
        if kind == "policy":
            metrics |= self.improve_policy(pack, batch, noise)
        elif kind == "behaviour":
            metrics |= self.clone(pack, batch, noise)
        pack.move("target")
        return metrics

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policies by the critic as it is now, in place."""
        raise NotImplementedError

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Draw N actions for each observation and choose one by softmax over the target critic.

        The choice is a Gumbel maximum, softmax at temperature 1 on min(Q1', Q2').
        """
        candidates = uniform.shape[-1]
        actions = super().act(parameters, observations, noise, uniform)
        if candidates == 1:
            return actions
        values = self.critic(self.critic.layers(parameters["target"]), observations, actions).amin(dim=1)
        gumbel = -torch.log(-torch.log(uniform))
        chosen = (values.unflatten(-1, (-1, candidates)) + gumbel).argmax(dim=-1)
        choice = chosen[..., None, None].expand(-1, -1, 1, actions.shape[-1])
        return actions.unflatten(1, (-1, candidates)).gather(2, choice).squeeze(2)
