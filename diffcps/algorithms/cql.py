"""Conservative Q-learning (Kumar et al., 2020, arXiv 2006.04779): soft actor-critic with a critic that is kept low off the data.

Each head of the critic pays for the soft maximum of its values over random and own actions, less its values of the data's
actions. The policy is a Gaussian squashed by a tanh. Where a threshold is set, a multiplier weighs the penalty by it. Losses,
networks and the first steps, in which the policy clones the data, are those of the authors' program.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
from diffcps.algorithms.nn import Constant, Layers, Mlp
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, Learning, TaskFacts, WithCritic, d4rl
from diffcps.algorithms.streams import Normal, Uniform
from diffcps.algorithms.value_nets import Critic
from diffcps.config import RunConfig
from diffcps.config.plain import setting

METRICS = (
    "critic_loss", "q_value", "gap", "penalty_weight", "actor_loss", "policy_q", "entropy", "temperature", "actor_grad_norm",
    "critic_grad_norm",
)  # fmt: skip
LOG_STD = -20.0, 2.0
"""Between these the logarithm of the policy's standard deviation stays, before the tanh."""
EDGE = 1e-6
"""The data's actions are kept this far from their bounds, in units of them, where their density is asked for."""
LARGEST_PENALTY = 1e6
"""The multiplier of the penalty stays below this."""
STEPS, CLONING = 1_000_000, 40_000
"""Gradient steps, and those of them in which the policy clones the data."""


@dataclass(frozen=True)
class Settings(Learning, WithCritic):
    """The settings of a member."""

    learning_rate: float = setting(1e-4, "a positive number")
    """Adam's learning rate for the policy and its temperature (the paper: 3e-5)."""
    penalty: float = setting(5.0, "zero or more", search="0.5:20:log")
    """w, weight of the penalty for values off the data (the authors: 5 or 10, by task)."""
    threshold: float | None = setting(None, "zero or more")
    """τ, where a multiplier keeps the weighted penalty; none: there is no multiplier. The authors' program has 5 on
    mazes and none on locomotion, where the paper has 10."""
    samples: int = setting(10, "a positive whole number")
    """Random actions, own actions and own actions of the next state that the penalty looks at, each so many."""
    max_q_backup: bool = False
    """Back up the largest value over ``samples`` next actions within each head."""
    cloning_steps: int = setting(CLONING, "a whole number, zero or more")
    """Gradient steps at the start in which the policy clones the data."""


def log_density(raw: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log density of tanh(raw) for raw ~ N(mean, std²), summed over the last axis."""
    scaled = (raw - mean) * (-log_std).exp()
    normal = -0.5 * scaled.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    # log(1 − tanh²) without a difference of nearly equal numbers
    slope = 2.0 * (math.log(2.0) - raw - softplus(-2.0 * raw))
    return (normal - slope).sum(dim=-1)


def soft_gap(values: Tensor, log_densities: Tensor, data: Tensor) -> Tensor:
    """Mean of log Σ_j exp(Q(s, a_j) − log p_j) − Q(s, a): ``[K, H, B, m]``, ``[K, 1, B, m]``, ``[K, H, B]`` → ``[K, H]``."""
    return (torch.logsumexp(values - log_densities, dim=-1) - data).mean(dim=-1)


def official(trial: RunConfig) -> Changes:
    """The published settings; a trial shorter than theirs clones for the same part of it."""
    return {"settings": {"cloning_steps": CLONING * min(trial.steps, STEPS) // STEPS}}


class CQL(Algorithm[Settings]):
    """Critic, squashed Gaussian policy, its temperature, and the penalty's multiplier."""

    settings = Settings
    profiles: ClassVar[Mapping[str, Callable[[RunConfig], Changes]]] = {"official": official}
    chooses = False
    unit_actions = True

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, states, size = self.config, problem.observation_size, problem.action_size
        more = {**self.shape, "activation": torch.relu}
        self.policy = Mlp(states, config.hidden_size, 2 * size, **more)
        self.critic = Critic(states, size, config.hidden_size, **more)
        zeros = torch.zeros(len(members), 1)
        self.networks = {
            "actor": Network(self.policy.layout),
            "critic": critics.network(self.critic, members),
            "log_temperature": Network(Constant(zeros)),
            "log_multiplier": Network(Constant(zeros), "critic_learning_rate"),
        }
        batch, many = config.batch_size, config.batch_size * config.samples
        backup = many if config.max_q_backup else batch
        noise: dict[str, Any] = {
            "actions": Normal((batch, size)),
            "next_actions": Normal((backup, size)),
            "own": Normal((many, size)),
            "following": Normal((many, size)),
            "random": Uniform((many, size)),
        }
        self.kinds = {name: StepKind(batch, METRICS, noise) for name in ("clone", "improve")}
        until = config.cloning_steps
        cloning = (Stage(("clone",), until),) if until else ()
        self.stages = (*cloning, Stage(("improve",)))

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program: on mazes a multiplier, max-Q backup and 4 (r − 0.5)."""
        settings: dict[str, Any] = {}
        if task.goal_rewards:
            settings = {"reward_transform": "antmaze", "threshold": 5.0, "max_q_backup": True}
        return d4rl(task, settings, STEPS)

    def parts(self, layers: Layers, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation before the tanh, ``[K, B, a]``."""
        mean, log_std = self.policy(layers, observations).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(self, layers: Layers, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[K, B·n, a]`` from noise of that shape, n for each observation, and their log densities ``[K, B·n]``."""
        mean, log_std = self.parts(layers, observations)
        count = noise.shape[1] // observations.shape[1]
        mean, log_std = mean.repeat_interleave(count, dim=1), log_std.repeat_interleave(count, dim=1)
        raw = mean + log_std.exp() * noise
        return raw.tanh(), log_density(raw, mean, log_std)

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: temperature, then policy, multiplier and critic, then target.

        The losses of the last three are those of the networks as they are before the step.
        """
        policy, critic = self.policy.layout.leaves(pack["actor"]), self.critic.leaves(pack["critic"])
        actions, density = self.sample(policy, batch.observations, noise["actions"])
        # of −log α (log π + target), the target of the entropy being −(size of an action)
        excess = density.detach().mean(dim=1) - self.problem.action_size
        pack.adams["log_temperature"].step(pack["log_temperature"], -excess[:, None])
        temperature = pack["log_temperature"].exp()

        values = self.critic(self.critic.layers(pack["critic"]), batch.observations, actions).amin(dim=1)
        gain = self.data_density(policy, batch) if kind == "clone" else values
        loss = (temperature * density - gain).mean(dim=1)

        td, gaps, estimates = self.critic_losses(critic, pack, batch, noise)
        threshold = pack.values["threshold"]
        bounded = ~threshold.isnan()
        multiplier = torch.where(bounded, pack["log_multiplier"][:, 0].exp().clamp(max=LARGEST_PENALTY), 1.0)
        over = (pack.values["penalty"][:, None] * gaps - threshold.nan_to_num(0.0)[:, None]).sum(dim=1)
        norms = {
            "actor_grad_norm": pack.descend("actor", loss, policy),
            "critic_grad_norm": pack.descend("critic", td + multiplier * over, critic),
        }
        # of −α' (w gap − τ), the mean over heads, with α' an exponential
        slope = torch.where(
            bounded & (multiplier < LARGEST_PENALTY), multiplier * over.detach() / self.critic.heads, 0.0
        )
        pack.adams["log_multiplier"].step(pack["log_multiplier"], -slope[:, None])
        pack.move("target")
        metrics = {
            "critic_loss": td,
            "q_value": estimates.mean(dim=(1, 2)),
            "gap": gaps.mean(dim=1),
            "penalty_weight": multiplier,
            "actor_loss": loss,
            "policy_q": values.mean(dim=1),
            "entropy": -density.mean(dim=1),
            "temperature": temperature[:, 0],
        }
        return detached(metrics) | norms

    def data_density(self, layers: Layers, batch: Batch) -> Tensor:
        """log π of the data's actions, ``[K, B]``."""
        mean, log_std = self.parts(layers, batch.observations)
        return log_density(batch.actions.clamp(-1.0 + EDGE, 1.0 - EDGE).atanh(), mean, log_std)

    def critic_losses(
        self, layers: Layers, pack: Pack, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum over heads of the squared errors ``[K]``, gaps ``[K, H]`` and values of the data's actions ``[K, H, B]``."""
        count, rows = self.config.samples, batch.rewards.shape[1]
        with torch.no_grad():
            policy, target = self.policy.layout.layers(pack["actor"]), self.critic.layers(pack["target"])
            actions, _ = self.sample(policy, batch.next_observations, noise["next_actions"])
            values = self.critic(target, batch.next_observations, actions)
            values = values.unflatten(-1, (rows, -1)).amax(dim=-1).amin(dim=1)
            goal = critics.one_step_ahead(pack, batch, values)
            own, own_density = self.sample(policy, batch.observations, noise["own"])
            following, following_density = self.sample(policy, batch.next_observations, noise["following"])
            random = 2.0 * noise["random"] - 1.0
            parts = [part.unflatten(1, (rows, count)) for part in (random, following, own)]
            others = torch.cat(parts, dim=2).flatten(1, 2)
            uniform = torch.full_like(own_density, -self.problem.action_size * math.log(2.0))
            densities = [part.unflatten(1, (rows, count)) for part in (uniform, following_density, own_density)]
        each, estimates = critics.errors(self.critic, layers, batch, goal)
        off = self.critic(layers, batch.observations, others).unflatten(-1, (rows, 3 * count))
        gaps = soft_gap(off, torch.cat(densities, dim=2)[:, None], estimates)
        return each.sum(dim=-1), gaps, estimates

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """tanh of the mean."""
        mean, _ = self.parts(self.policy.layout.layers(parameters["actor"]), observations)
        return self.problem.max_action * mean.tanh()
