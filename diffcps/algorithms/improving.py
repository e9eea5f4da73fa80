"""A policy of any class, cloned first if wanted, then improved by a critic: the base of DiffCPS and similar algorithms."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import bc, critics
from diffcps.algorithms.base import Batch, Metrics, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.choosing import by_softmax
from diffcps.algorithms.nn import Layers, mish, mish_norm
from diffcps.algorithms.observations import FACTS
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Weights
from diffcps.algorithms.settings import Improving
from diffcps.algorithms.streams import Coin, Noise, Normal
from diffcps.algorithms.value_nets import Critic

S = TypeVar("S", bound=Improving)


class Improver(bc.Cloner[S]):
    """The critic's part of a step, stages, and a choice among candidates by value.

    A subclass gives ``improve_policy``, and the metrics and noise of the steps in which it is called.
    """

    acting = "actor", "average", "student", "target", "step_losses", *FACTS
    judge = "target"
    """The critic by whose values an action is chosen."""
    average_heads = False
    """Whether the critic's loss is the mean of its heads' errors, not their sum."""

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config = self.config
        sizes = problem.observation_size, problem.action_size, config.hidden_size
        activation = mish_norm if config.critic_norm else mish
        self.critic = Critic(*sizes, **self.shape, heads=self.heads, activation=activation)
        decay = problem.steps if config.cosine_decay else None
        self.networks["critic"] = critics.network(self.critic, members, decay)
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
        critic: dict[str, Noise] = {"next_actions": self.actions_noise(self.next_candidates)}
        fitting = critic | self.fit_noise
        improving = fitting | {"actions": self.actions_noise(candidates), "swap": Coin()}
        self.kinds = {
            "policy": StepKind(batch, (*critics.METRICS, *metrics, *self.student_metrics), improving),
            "critic": StepKind(batch, critics.METRICS, critic),
            "behaviour": StepKind(batch, (*critics.METRICS, *bc.METRICS, *self.student_metrics), fitting),
        }
        self.add_student()
        until = self.config.behaviour_steps
        cloning = (Stage(self.every("behaviour", "critic"), until),) if until else ()
        self.stages = (*cloning, Stage(self.every("policy", "critic")))

    def actions_noise(self, candidates: int) -> Normal:
        """What drawing so many actions for each observation of a batch takes."""
        return Normal((self.policy.draws, self.config.batch_size * candidates, self.problem.action_size), member_axis=1)

    @property
    def heads(self) -> int:
        """Of the critic."""
        return 2

    def next_values(self, target: Layers, pack: Pack, batch: Batch, noise: StepNoise) -> Tensor:
        """min(Q1', Q2') ``[K, B]`` at an action of the averaged policy.

        With max-Q backup, ``max_q_candidates`` actions are drawn for each next state; each target head keeps its largest
        value before the minimum.
        """
        average = self.weights(pack.tensors, "average")
        actions = self.policy.sample(average, batch.next_observations, noise["next_actions"])
        values = self.critic(target, batch.next_observations, actions)
        values = values.unflatten(-1, (-1, self.next_candidates)).amax(dim=-1)
        return values.amin(dim=1)

    @torch.no_grad()
    def goal(self, pack: Pack, batch: Batch, noise: StepNoise) -> Tensor:
        """Of the critic: r + γ (1 − terminal) ``next_values``, ``[K, B]``."""
        if not self.next_candidates:
            return batch.rewards
        target = self.critic.layers(pack["target"])
        return critics.one_step_ahead(pack, batch, self.next_values(target, pack, batch, noise))

    def value_loss(
        self, weights: Weights, critic: Layers, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q = −mean Q1(s, â)/mean|Q2(s, â)| ``[K]``, the divisor a constant, or with the heads swapped.

        Gradients flow through all that makes the policies' actions â. Also returns the means of both heads ``[K, 2]`` and the
        divisor ``[K]``.
        """
        actions, shares = self.policy.proposals(weights, batch.observations, noise["actions"])
        values = self.critic(critic, batch.observations, actions)
        sizes = values.detach().abs()
        if shares is None:
            means, scales = values.mean(dim=-1), sizes.mean(dim=-1)
        else:
            share = shares[:, None] / batch.observations.shape[1]
            means, scales = (values * share).sum(dim=-1), (sizes * share.detach()).sum(dim=-1)
        swap = noise["swap"]
        scale = torch.where(swap, scales[:, 0], scales[:, 1])
        return -torch.where(swap, means[:, 1], means[:, 0]) / scale, means, scale

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: critic, in a policy step also the policy, then target critic."""
        goal = self.goal(pack, batch, noise)
        metrics = critics.learn(pack, self.critic, batch, goal, average=self.average_heads, clip=True)
        if kind == "policy":
            metrics |= self.improve_policy(pack, batch, noise)
            value = critics.value_loss(self.critic, self.critic.layers(pack["critic"]), batch.observations)
            metrics |= self.teach(pack, batch, noise, value)
        elif kind == "behaviour":
            metrics |= self.clone(pack, batch, noise) | self.teach(pack, batch, noise)
        pack.move("target")
        return metrics

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policies by the critic as it is now, in place."""
        raise NotImplementedError

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Draw N actions for each observation and choose one by softmax over the smaller of both heads' values."""
        actions = super().act(parameters, observations, noise, uniform)
        return by_softmax(actions, critics.least_of_heads(self.critic, parameters[self.judge], observations), uniform)
