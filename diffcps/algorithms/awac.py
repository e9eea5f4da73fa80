"""AWAC (Nair et al., 2020, arXiv 2006.09359): the data's actions, weighted by the exponential of their advantage.

The policy is a Gaussian whose deviation does not depend on the state. The critic learns from the policy's own next actions.
Settings and order of a step are those of CORL's program, which gave the published scores on D4RL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import Batch, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.gaussian import GaussianNet, log_density
from diffcps.algorithms.observations import FACTS, Normalised
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Learning, TaskFacts, WithCritic, d4rl
from diffcps.algorithms.streams import Normal
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import setting

METRICS = (*critics.METRICS, "actor_loss", "actor_grad_norm", "advantage", "mean_weight")
LARGEST_WEIGHT = 100.0
"""A regression weight is cut off here."""
LOG_STD = -20.0, 2.0
"""Between these the logarithm of the policy's standard deviation stays, in units of the action bound."""
STEPS = 1_000_000


@dataclass(frozen=True)
class Settings(Learning, WithCritic):
    """The settings of a member."""

    temperature: float = setting(1.0 / 3.0, "a positive number", search="0.03:3:log")
    """λ of the weights exp(advantage / λ)."""


S = TypeVar("S", bound=Settings)


def exponential(advantages: Tensor, temperature: Tensor, largest: float) -> Tensor:
    """min(exp(A / λ), largest), for A ``[K, B]`` and λ ``[K]``."""
    return (advantages / temperature[:, None]).exp().clamp(max=largest)


class Weighted(Normalised[S]):
    """Critic and weighted Gaussian policy: what AWAC and CRR share. A subclass gives ``weights``."""

    chooses = False
    unit_actions = True
    acting: ClassVar[tuple[str, ...]] = ("actor", *FACTS)
    samples = 1
    """Actions of the policy, of which the mean value is that of the state."""
    target_every: int | None = None
    """The target critic moves every so many steps; ``None``: as a part of each."""
    next_actor = "actor"
    """The parameters of the policy that gives next actions: the actor, or a copy that the subclass adds to it."""

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, sizes = self.config, (problem.observation_size, problem.action_size)
        more = {**self.shape, "activation": torch.relu}
        self.policy = GaussianNet(*sizes, config.hidden_size, log_std=LOG_STD, squash=False, **more)
        self.critic = Critic(*sizes, config.hidden_size, **more)
        self.networks = {
            "actor": Network(self.policy.layout),
            "critic": critics.network(self.critic, members, target_every=self.target_every),
        }
        batch = config.batch_size
        noise = {
            "next_actions": Normal((batch, problem.action_size)),
            "actions": Normal((batch * self.samples, problem.action_size)),
        }
        self.kinds = {"step": StepKind(batch, METRICS, noise)}
        self.stages = (Stage(("step",)),)

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: critic, then policy by the new critic, then target."""
        metrics = self.learn_critic(pack, batch, noise)
        metrics |= self.learn_policy(pack, batch, noise)
        if self.target_every is None:
            pack.move("target")
        return metrics

    def learn_critic(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """MSE(Q1) + MSE(Q2) to r + γ (1 − terminal) min(Q1', Q2') at an action of the policy."""
        with torch.no_grad():
            layers = self.policy.layout.layers(pack[self.next_actor])
            actions = self.policy.sample(layers, batch.next_observations, noise["next_actions"])
            values = self.critic(self.critic.layers(pack["target"]), batch.next_observations, actions).amin(dim=1)
            goal = critics.one_step_ahead(pack, batch, values)
        return critics.learn(pack, self.critic, batch, goal)

    def weights(self, advantages: Tensor, pack: Pack) -> Tensor:
        """Regression weights ``[K, B]`` of advantages ``[K, B]``."""
        raise NotImplementedError

    def learn_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """−mean w log π(a|s), w by A = min(Q1, Q2)(s, a) − the mean of min(Q1, Q2)(s, ·) over actions of the policy."""
        leaves = self.policy.layout.leaves(pack["actor"])
        critic = self.critic.layers(pack["critic"])
        with torch.no_grad():
            own = self.policy.sample(leaves, batch.observations, noise["actions"])
            values = self.critic(critic, batch.observations, own).amin(dim=1)
            values = values.unflatten(1, (-1, self.samples)).mean(dim=2)
            advantages = self.critic(critic, batch.observations, batch.actions).amin(dim=1) - values
            weights = self.weights(advantages, pack)
        mean, log_std = self.policy.mean(leaves, batch.observations), self.policy.log_std(leaves, batch.observations)
        loss = -(weights * log_density(batch.actions, mean, log_std)).mean(dim=1)
        norm = pack.descend("actor", loss, leaves)
        return {
            "actor_loss": loss.detach(),
            "actor_grad_norm": norm,
            "advantage": advantages.mean(dim=1),
            "mean_weight": weights.mean(dim=1),
        }

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The mean, kept within the bound."""
        mean = self.policy.mean(self.policy.layout.layers(parameters["actor"]), observations)
        return self.problem.max_action * mean.clamp(-1.0, 1.0)


def of_task(task: TaskFacts, maze: dict[str, Any]) -> Changes:
    """A million steps on the tasks of D4RL; r − 1 and further settings where rewards are 1 at a goal."""
    settings = {"reward_transform": "minus_one"} | maze if task.goal_rewards else {}
    return d4rl(task, settings, STEPS)


class AWAC(Weighted[Settings]):
    """Critic and weighted policy."""

    settings = Settings

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """CORL's runs. They evaluate every 1000 steps, which takes longer than learning; here every 5 000 or 50 000."""
        return of_task(task, {"temperature": 0.1})

    def weights(self, advantages: Tensor, pack: Pack) -> Tensor:
        """min(exp(A / λ), 100)."""
        return exponential(advantages, pack.values["temperature"], LARGEST_WEIGHT)
