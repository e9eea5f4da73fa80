"""Behaviour-regularised diffusion policy optimisation (Gao et al., 2025, arXiv 2502.04778).

A chain clones the data first. The policy starts as its copy, and each of its denoising steps is then an action of its own: it
pays η times the KL divergence from the same step of the clone, which for two Gaussians of one variance is a squared difference
of predicted noises. Q values clean actions; V_t values noisy ones, as what is left of the chain will make of them, less what it
will pay. So the policy learns one step at a time, and no chain is differentiated. Q and V have several heads; goals take their
mean less ρ standard deviations, and acting takes the mean. What a chain pays is discounted and ends with the episode, like the
values that it is paid from; in the authors' program it is neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffcps.algorithms import critics
from diffcps.algorithms.base import Batch, Copy, Metrics, Network, Problem, Stage, StepKind, StepNoise, require_stages
from diffcps.algorithms.choosing import by_value
from diffcps.algorithms.diffusion import (
    Schedule,
    add_noise,
    one_hot,
    reverse_chain,
    reverse_mean,
    variance_preserving,
)
from diffcps.algorithms.forward_chain import ForwardChain
from diffcps.algorithms.nn import Layers, NoiseNet, mish, mish_norm
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import (
    Chain,
    Changes,
    Learning,
    TaskFacts,
    WithCritic,
    WithRaisedStudent,
    d4rl,
    published,
)
from diffcps.algorithms.streams import Integers, Noise, Normal
from diffcps.algorithms.value_nets import Critic, NoisyCritic
from diffcps.config import RunConfig
from diffcps.config.plain import require, setting

BEHAVIOUR_METRICS = "behaviour_loss", "behaviour_grad_norm"
VALUE_METRICS = "value_loss", "value", "value_grad_norm", "path_divergence"
POLICY_METRICS = "actor_loss", "actor_grad_norm"
STEPS = 4_000_000
"""Two million of the clone; then two million of values and, after a warm-up, of all."""
CANDIDATES = 10
"""Actions among which the policy chooses."""
ONE_SAMPLE = "antmaze-umaze-diverse"
"""The data set on which it draws a single one."""
MAZES = {
    "reward_transform": "times_100", "discount": 0.995, "critic_norm": True, "max_q_backup": True, "policy_width": 2,
    "behaviour_learning_rate": 1e-4,
}  # fmt: skip
"""Settings of the authors for all mazes."""


@dataclass(frozen=True)
class Settings(WithRaisedStudent, Chain, WithCritic, Learning):
    """The settings of a member."""

    learning_rate: float = setting(1e-5, "a positive number")
    """Adam's learning rate for the policy after cloning. It falls along a cosine that ends after as many updates as critics get,
    so at ``policy_freq`` 5 by a tenth, as in the authors' program."""
    behaviour_learning_rate: float = setting(3e-4, "a positive number")
    """Adam's learning rate for the clone."""
    behaviour_share: float = setting(0.5, "between 0 and 1", pack=True)
    """Share of the training in which the clone alone learns, at its beginning."""
    warmup_share: float = setting(0.0125, "between 0 and 1", pack=True)
    """Share of the training, after that, in which only values learn."""
    policy_freq: int = setting(5, "a positive whole number")
    """Policy and clone are updated every so many steps."""
    policy_layers: int = setting(4, "a positive whole number")
    """Hidden layers of the noise nets."""
    policy_width: int = setting(1, "a positive whole number")
    """The noise nets are so many times as wide as ``hidden_size``."""
    time_embedding: int = setting(64, "a positive whole number")
    """Size of the sinusoidal embedding of the diffusion step (even)."""
    eta: float = setting(0.2, "zero or more", symbol="η", search="0.02:2:log")
    """η, the price of a nat by which a step of the policy's chain differs from the clone's."""
    pessimism: float = setting(1.0, "zero or more", symbol="ρ", search="0:2")
    """ρ: a value is the mean of the heads less ρ of their standard deviations."""
    heads: int = setting(10, "a positive whole number")
    """Heads of Q, and of V: two or more, for the deviation of a single one has no slope."""
    samples: int = setting(10, "a positive whole number")
    """Next actions, and noisy actions after a step of the chain, whose values are averaged."""
    max_q_backup: bool = False
    """Back up the largest value over the next actions, in place of their mean."""
    critic_norm: bool = False
    """A layer norm after each activation of Q; V always has them."""
    ema_rate: float = setting(0.005, "between 0 and 1")
    """How fast the averages of policy and clone follow them, in each of their updates."""
    grad_norm: float = setting(1.0, "a positive number")
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.behaviour_share + self.warmup_share
        require(self.heads > 1, "heads", self.heads, "2 or more")
        require(both < 1.0, "behaviour_share + warmup_share", both, "less than 1")


class Denoised(NamedTuple):
    """One step of the policy's chain at noisy actions of the data."""

    actions: Tensor
    """a_t, ``[K, B, a]``."""
    step: Tensor
    """t − 1, integers ``[K, B]``."""
    mean: Tensor
    """Of a_{t−1}, ``[K, B, a]``."""
    after: Tensor
    """n draws of a_{t−1} of each, ``[K, B·n, a]``; where t = 1 each is the mean."""
    divergence: Tensor
    """KL divergence from the clone's step, ``[K, B]``."""


def divergence_weights(schedule: Schedule) -> Tensor:
    """``[T]``: the KL divergence of two steps of variance β from each other over Σ (ε − ε')², β / (2 (1 − β) (1 − ᾱ)).

    The clamp of the implied a_0 does not lower it, and the last step, which draws nothing, pays as if it did.
    """
    return schedule.beta / (2.0 * (1.0 - schedule.beta) * (1.0 - schedule.alpha_bar))


class BDPO(ForwardChain[Settings]):
    """Clone, policy, Q and V."""

    settings = Settings
    acting = "actor", "average", "student", "target"
    edge = 1e-5
    unit_actions = True

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, size = self.config, problem.action_size
        self.schedule = variance_preserving(config.diffusion_steps, config.beta_min, config.beta_max).to(device)
        width = config.policy_width * config.hidden_size
        sizes = problem.observation_size, size, config.diffusion_steps, width, config.time_embedding
        self.noise_net = NoiseNet(*sizes, layers=config.policy_layers, product=self.product).to(device)
        activation = mish_norm if config.critic_norm else mish
        self.critic = Critic(*sizes[:2], config.hidden_size, **self.shape, heads=config.heads, activation=activation)
        valued = *sizes[:3], config.hidden_size, config.time_embedding
        value_net = NoiseNet(*valued, **self.shape, outputs=1, activation=mish_norm).to(device)
        self.noisy_critic = NoisyCritic(value_net, config.heads)
        self.next_actions = 0 if config.discount == 0.0 else config.samples
        shares = config.behaviour_share, config.warmup_share, 1.0 - config.behaviour_share - config.warmup_share
        cycles = [("behaviour",), ("critic",), ("policy", *["critic"] * (config.policy_freq - 1))]
        self.stages = Stage.in_shares(cycles, shares, problem.steps)
        self.networks = self._networks(decay=problem.steps - (self.stages[0].until or 0))
        self.kinds = self._kinds()
        self.add_student()
        self.draws = config.diffusion_steps

    def _networks(self, decay: int) -> dict[str, Network]:
        follow = Copy([member.ema_rate for member in self.members])
        target = Copy([member.target_rate for member in self.members])
        return {
            "actor": Network(self.noise_net, copies={"average": follow}, decay_steps=decay),
            "behaviour": Network(self.noise_net, "behaviour_learning_rate", copies={"behaviour_average": follow}),
            "critic": critics.network(self.critic, self.members, decay),
            "value": Network(
                self.noisy_critic, "critic_learning_rate", copies={"value_target": target}, decay_steps=decay
            ),
        }

    def _kinds(self) -> dict[str, StepKind]:
        config, size = self.config, self.problem.action_size
        rows = config.batch_size

        def noised(prefix: str = "") -> dict[str, Noise]:
            return {f"{prefix}noise": Normal((rows, size)), f"{prefix}step": Integers((rows,), config.diffusion_steps)}

        draws = Normal((rows * config.samples, size))
        chain = Normal((config.diffusion_steps, rows * self.next_actions, size), member_axis=1)
        values = {**noised(), "draws": draws, "next_actions": chain}
        policy = {**values, **noised("policy_"), "policy_draws": draws, **noised("behaviour_")}
        learning = (*critics.METRICS, *VALUE_METRICS)
        return {
            "behaviour": StepKind(rows, BEHAVIOUR_METRICS, noised("behaviour_")),
            "critic": StepKind(rows, (*learning, *self.student_metrics), values),
            "policy": StepKind(rows, (*learning, *POLICY_METRICS, *BEHAVIOUR_METRICS, *self.student_metrics), policy),
        }

    @classmethod
    def check(cls, trial: RunConfig, settings: Settings) -> None:
        """See ``Algorithm.check``."""
        require_stages(trial, 3)

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program for D4RL; tasks that it does not have get what is common to their kind."""
        settings = MAZES if task.goal_rewards else {"reward_transform": "return_range"}
        evaluations = {"locomotion": (50_000, 10), "antmaze": (50_000, 100)}
        changes = d4rl(task, settings | published("bdpo", task), STEPS, evaluations)
        acting = {"candidates": 1 if task.name.startswith(ONE_SAMPLE) else CANDIDATES, "actor": "average"}
        return changes | {"evaluation": acting | changes.get("evaluation", {})}

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: values and their targets, then policy and clone by the new ones.

        While cloning, the clone's average is the policy.
        """
        if kind == "behaviour":
            metrics = self.clone(pack, batch, noise)
            pack["actor"].copy_(pack["behaviour_average"])
            pack["average"].copy_(pack["behaviour_average"])
            return metrics
        metrics = self.learn_values(pack, batch, noise)
        if kind == "policy":
            metrics |= self.improve(pack, batch, noise)
            metrics |= self.clone(pack, batch, noise)
        if self.student is None:
            return metrics
        value = critics.value_loss(self.critic, self.critic.layers(pack["critic"]), batch.observations)
        return metrics | self.teach(pack, batch, noise, value)

    def clone(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """The clone down the mean of (ε − ε_b)²."""
        leaves = self.noise_net.layout.leaves(pack["behaviour"])
        step, drawn = noise["behaviour_step"], noise["behaviour_noise"]
        noisy = add_noise(self.schedule, batch.actions, step, drawn)
        loss = (drawn - self.predicted(leaves, batch.observations, noisy, step)).square().mean(dim=(1, 2))
        norm = pack.descend("behaviour", loss, leaves, clip=True)
        pack.move("behaviour_average")
        return {"behaviour_loss": loss.detach(), "behaviour_grad_norm": norm}

    def predicted(self, layers: Layers, observations: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        """ε_θ ``[K, B, a]`` at noisy actions ``[K, B, a]`` of steps ``[K, B]``."""
        which = one_hot(step, self.schedule.steps, noisy.dtype)
        observed = self.noise_net.observe(layers, observations) + which @ self.noise_net.time(layers)
        return self.noise_net(layers, noisy, observed)

    def learn_values(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """Q and V down the means of their heads' squared errors to goals of their targets; then the targets move."""
        goal, divergence = self.goal(pack, batch, noise)
        with torch.no_grad():
            layers = self.noise_net.layout.layers(pack["average"])
            at = self.denoised(pack, layers, batch, (noise["step"], noise["noise"], noise["draws"]))
            noisy_goal = self.worth(pack, batch, at)
        metrics = critics.learn(pack, self.critic, batch, goal, average=True, clip=True)
        leaves = self.noisy_critic.leaves(pack["value"])
        which = one_hot(at.step, self.schedule.steps, at.actions.dtype)
        values = self.noisy_critic(leaves, batch.observations, at.actions, which)
        loss = (values - noisy_goal[:, None]).square().mean(dim=(1, 2))
        norm = pack.descend("value", loss, leaves, clip=True)
        pack.move("target")
        pack.move("value_target")
        return metrics | {
            "value_loss": loss.detach(),
            "value": values.detach().mean(dim=(1, 2)),
            "value_grad_norm": norm,
            "path_divergence": divergence,
        }

    @torch.no_grad()
    def goal(self, pack: Pack, batch: Batch, noise: StepNoise) -> tuple[Tensor, Tensor]:
        """Of Q: r + γ (1 − terminal) (lower bound of Q' at next actions − η · what their chains pay), ``[K, B]``.

        Also the mean divergence of these chains, ``[K]``, which is 0 where a discount of 0 leaves them out.
        """
        if not self.next_actions:
            return batch.rewards, batch.rewards.new_zeros(len(batch.rewards))
        actions, divergence = self.chain(pack, batch.next_observations, noise["next_actions"])
        values = self.critic(self.critic.layers(pack["target"]), batch.next_observations, actions)
        values, divergence = (found.unflatten(-1, (-1, self.next_actions)) for found in (values, divergence))
        each = values.amax(dim=-1) if self.config.max_q_backup else values.mean(dim=-1)
        paid = pack.values["eta"][:, None] * divergence.mean(dim=-1)
        ahead = critics.lower_bound(each, pack.values["pessimism"]) - paid
        return critics.one_step_ahead(pack, batch, ahead), divergence.mean(dim=(1, 2))

    def chain(self, pack: Pack, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[K, B·n, a]`` of the averaged policy, and the KL divergence of their chains from the clone's ``[K, B·n]``."""
        own, clone = (self.denoiser(pack[name], observations) for name in ("average", "behaviour_average"))
        weights, paid = divergence_weights(self.schedule), []

        def denoise(current: Tensor, step: int) -> tuple[Tensor, Tensor]:
            predicted, beta = own(current, step)
            paid.append(weights[step] * (predicted - clone(current, step)[0]).square().sum(dim=-1))
            return predicted, beta

        return reverse_chain(denoise, self.schedule, noise, 1.0), torch.stack(paid).sum(dim=0)

    def denoised(self, pack: Pack, layers: Layers, batch: Batch, drawn: tuple[Tensor, Tensor, Tensor]) -> Denoised:
        """One step of the policy with these layers, at the data's actions with the noise of a step.

        ``drawn``: steps ``[K, B]``, noise ``[K, B, a]``, and noise of the draws ``[K, B·n, a]``.
        """
        step, noise, draws = drawn
        noisy = add_noise(self.schedule, batch.actions, step, noise)
        predicted = self.predicted(layers, batch.observations, noisy, step)
        with torch.no_grad():
            clone = self.noise_net.layout.layers(pack["behaviour_average"])
            cloned = self.predicted(clone, batch.observations, noisy, step)
        divergence = divergence_weights(self.schedule)[step] * (predicted - cloned).square().sum(dim=-1)
        column = step[..., None]
        mean = reverse_mean(self.schedule, noisy, column, predicted, 1.0)
        spread = self.schedule.beta.sqrt()[column] * (column > 0)
        after = mean.unsqueeze(2) + spread.unsqueeze(2) * draws.unflatten(1, (step.shape[1], -1))
        return Denoised(noisy, step, mean, after.flatten(1, 2), divergence)

    def worth(self, pack: Pack, batch: Batch, at: Denoised) -> Tensor:
        """What the rest of the chain is worth after a step, less what the step pays: ``[K, B]``.

        The lower bound of V'_{t−1}(s, a_{t−1}), and where t = 1 of Q'(s, a_0), less η times the step's divergence.
        """
        states, before = batch.observations, (at.step - 1).clamp(min=0)
        which = one_hot(before, self.schedule.steps, at.actions.dtype)
        noisy = self.noisy_critic(self.noisy_critic.layers(pack["value_target"]), states, at.after, which)
        noisy = noisy.unflatten(-1, (-1, self.config.samples)).mean(dim=-1)
        clean = self.critic(self.critic.layers(pack["target"]), states, at.mean)
        values = torch.where((at.step == 0)[:, None], clean, noisy)
        paid = pack.values["eta"][:, None] * at.divergence
        return critics.lower_bound(values, pack.values["pessimism"]) - paid

    def improve(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """The policy up the mean of ``worth`` at its own step."""
        leaves = self.noise_net.layout.leaves(pack["actor"])
        drawn = noise["policy_step"], noise["policy_noise"], noise["policy_draws"]
        loss = -self.worth(pack, batch, self.denoised(pack, leaves, batch, drawn)).mean(dim=1)
        norm = pack.descend("actor", loss, leaves, clip=True)
        pack.move("average")
        return {"actor_loss": loss.detach(), "actor_grad_norm": norm}

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Of N actions the one with the largest mean value of the target's heads."""
        actions = reverse_chain(self.denoiser(parameters["actor"], observations), self.schedule, noise, 1.0)
        value = critics.mean_of_heads(self.critic, parameters["target"], observations)
        return self.problem.max_action * by_value(actions, value, uniform.shape[-1])
