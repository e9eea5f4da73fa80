"""DiffCPS: the highest value subject to a bound κ on the behaviour's cross-entropy, which the multiplier λ enforces.

With the settings of the ``official`` profile it computes what the paper's released program does. Losses ``[K]`` are pure
functions of parameters, a batch and random numbers, and never step an optimiser.
A gradient step begins in ``improving.Improver.update``: the critic there, then ``DiffCPS.improve_policy`` here.
Shapes: K members, B transitions, T diffusion steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms import duals
from diffcps.algorithms.adam import Adam
from diffcps.algorithms.base import Batch, Copy, Inert, Metrics, Network, Problem, StepNoise, detached
from diffcps.algorithms.improving import Improver
from diffcps.algorithms.nn import Constant, Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Fit, Weights
from diffcps.algorithms.settings import OFFICIAL, Changes, Constrained, Dual, Improving
from diffcps.config import RunConfig
from diffcps.config.plain import require, setting
from diffcps.text import counted

METRICS = (
    "behaviour_loss", "lambda", "actor_loss", "q_loss", "policy_q", "dual_loss", "actor_grad_norm", "constraint",
    "target_kl", "violation", "q_scale", "multiplier",
)  # fmt: skip
"""Of a step that improves the policy, besides those of the critic."""
CLONED_PART = 5
"""L_BC is the mean over the last fifth of the policy steps of behaviour cloning: before, it still falls."""
SLACK = 0.1
"""δ of the principled profile: the behaviour loss may be a tenth above what behaviour cloning reaches, on every task."""
TIGHT = 0.02
"""δ of the robust profile."""
CLONING = 100_000
"""Gradient steps of behaviour cloning before κ is read, in the profiles that clone: a tenth of the trial where that is more, or
a half (``principled``) or a quarter (``robust``) of it where even that is less. On 60 000 rows of Hopper its loss fell by a tenth
over the last 11 000 of 30 000."""
HARDLY = 0.1
"""Where λ moves by less than this share of its start, κ hardly changes what is learned."""
FINAL_EPISODES = 100
"""Least number of episodes by which these profiles evaluate the last checkpoint."""


@dataclass(frozen=True)
class Settings(Improving):
    """The settings of a member."""

    lambda_init: float = setting(1.0, "zero or more")
    """λ before the first step."""
    lambda_clip: float = setting(0.0, "zero or more", symbol="λ-clip", search="0:1")
    """Lower clip of λ where the policy's loss uses it (the paper's λ_clip)."""
    lambda_max: float = setting(100.0, "a positive number")
    """Upper clip of λ where the policy's loss uses it."""
    lambda_learning_rate: float = setting(3e-5, "zero or more")
    """Adam's learning rate for the multiplier λ."""
    dual: Dual = "released"
    """How λ moves: as ``released``, clipped only where it is used; ``projected`` on [λ_clip, λ_max] at each step;
    ``softplus`` of a free number; a ``pi`` controller; an ``augmented`` Lagrangian."""
    dual_gain: float = setting(1.0, "zero or more")
    """Gain of the ``pi`` controller's proportional part, and penalty of the ``augmented`` Lagrangian."""
    target_kl: float = setting(0.05, "zero or more", symbol="κ", search="0.01:0.3:log")
    """κ, the bound on the behaviour loss that λ enforces."""
    slack: float | None = setting(None, "zero or more")
    """Sets κ from what behaviour cloning reaches in ``behaviour_steps``: (1 + slack)·L_BC for the behaviour loss, and
    slack nats above it for the cross-entropies; ``none`` keeps ``target_kl``."""
    constraint_policy: Constrained = "online"
    """Which policy the constraint applies to: ``online`` (as released) or its EMA ``average`` (less noisy). With
    ``average``, ``slack`` is relative to the EMA policy at the end of behaviour cloning."""


def principled(trial: RunConfig) -> Changes:
    """What the paper's equations ask for.

    * The covariance of a chain is calibrated and its last step noisy, so κ bounds the likelihood of the
      policy that acts.
    * Behaviour cloning for max(steps/10, min(``CLONING``, steps/2)) steps, then κ = (1 + ``SLACK``)·L_BC.
    * λ starts at 1, has learning rate 3e-3 and is projected on [0, λ_max].
    * The last checkpoint is evaluated by at least ``FINAL_EPISODES`` episodes.
    """
    settings: dict[str, Any] = {"slack": SLACK, "lambda_clip": 0.0}
    if trial.value("policy") == "diffusion":
        settings |= {"covariance": "calibrated", "last_step_noise": True}
    return _after_cloning(trial, 2, settings)


def robust(trial: RunConfig) -> Changes:
    """What keeps the policy with narrow data, as the study ``robustness`` measures it.

    * Observations are normalised, the critic has layer norms, learning rates fall along a cosine.
    * Behaviour cloning for max(steps/10, min(``CLONING``, steps/4)) steps, then κ = (1 + ``TIGHT``)·L_BC.
    * λ is projected on [1, λ_max], with learning rate 3e-3: cloning never has less weight than the value.
    * The chain is the released one, with variance β̃ and a silent last step: its actions scatter less than the data's.
    """
    remedies = {"normalise": True, "critic_norm": True, "cosine_decay": True}
    return _after_cloning(trial, 4, {**remedies, "slack": TIGHT, "lambda_clip": 1.0})


def _after_cloning(trial: RunConfig, part: int, settings: dict[str, Any]) -> Changes:
    """These settings, κ from cloning for one in ``part`` of the steps (see ``CLONING``), a projected λ, and a long evaluation."""
    # an L_BC that is read too early is far above what can be reached, and κ would bound nothing
    cloning = max(4 * trial.value("policy_freq"), trial.steps // 10, min(CLONING, trial.steps // part))
    dual = {"dual": "projected", "lambda_learning_rate": 3e-3, "lambda_init": 1.0}
    evaluation = {"final_episodes": max(FINAL_EPISODES, trial.evaluation.episodes)}
    return {"settings": {**settings, **dual, "behaviour_steps": cloning}, "evaluation": evaluation}


class DiffCPS(Improver[Settings]):
    """Critic, policy and λ; with ``slack``, κ is set by what behaviour cloning reaches."""

    settings = Settings
    profiles = OFFICIAL | {"principled": principled, "robust": robust}
    rounded = "violation", "dual_loss"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config = self.config
        self.in_nats = config.constraint != "behaviour_loss" or config.policy in ("gaussian", "mixture")
        """Whether what κ bounds is a cross-entropy."""
        self.from_average = config.constraint_policy == "average" and config.behaviour_steps > 0
        """Whether slack is measured from the averaged policy at the end of cloning."""
        initial = torch.tensor([[member.lambda_init] for member in members])
        multiplier = Constant(duals.initial(config.dual, initial))
        self.networks["multiplier"] = Network(multiplier, "lambda_learning_rate")
        if self.from_average:
            actor = self.networks["actor"]
            copies = {**actor.copies, "cloned": Copy([0.0 for _ in members])}
            self.networks["actor"] = replace(actor, copies=copies)
        self.plan(METRICS, 1)

    @classmethod
    def check(cls, trial: RunConfig, settings: Settings) -> None:
        """Raise ``UserError`` where slack cannot set κ from behaviour cloning in this trial."""
        if settings.slack is None:
            return
        steps, least = settings.behaviour_steps, 4 * settings.policy_freq
        require(steps >= least, "behaviour_steps", steps, f"at least {least}, from which slack can set κ")
        require(
            steps < trial.steps,
            "behaviour_steps",
            steps,
            f"fewer than the {trial.steps} steps, or κ would bound nothing",
        )
        if settings.constraint_policy == "average":
            rule = f"at least {settings.average_settles:.0f}: five times the memory of the EMA policy after ema_start"
            require(steps >= settings.average_settles, "behaviour_steps", steps, rule)

    @classmethod
    def inert(cls, trial: RunConfig, settings: Settings) -> dict[str, Inert]:
        """λ-clip where λ does not come down to it, κ where λ hardly moves, and ``target_kl`` where slack sets κ.

        A steady violation moves λ by its learning rate an update. ``Adam.farthest`` is the bound for any violations.
        """
        found = {"target_kl": Inert("no effect", "slack sets κ")} if settings.slack is not None else {}
        if not duals.steady(settings.dual, settings.dual_gain):
            return found
        start, clip, rate = settings.lambda_init, settings.lambda_clip, settings.lambda_learning_rate
        frequency, begun = settings.policy_freq, settings.behaviour_steps
        updates = max(0, -(-trial.steps // frequency) - -(-begun // frequency))
        reach = duals.Reach.of(settings.dual, start, rate * updates)
        most = duals.Reach.of(settings.dual, start, rate * Adam.farthest(updates))
        moves = "its parameter moves" if settings.dual == "softplus" else "moves"
        why = (
            f"λ starts at {start:g} and {moves} by about {rate:g} in each of {counted(updates, 'policy update')}, so it stays "
            f"between {reach.low:.4g} and {reach.high:.4g}"
        )
        if clip < reach.low:
            needed = begun + frequency * duals.updates_until(settings.dual, start, clip, rate)
            found["lambda_clip"] = Inert("no effect" if clip < most.low else "hardly any effect", why, needed)
        bound = "target_kl" if settings.slack is None else "slack"
        if settings.dual in ("released", "softplus") and reach.high <= clip:
            below = f"{why}, below λ-clip {clip:g}, which the loss uses instead"
            found[bound] = Inert("no effect" if most.high <= clip else "hardly any effect", below)
        elif reach.high - start < HARDLY * max(start, clip):
            found[bound] = Inert("hardly any effect", why)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Besides those of cloning: what cloning has reached, and the running violation of a ``pi`` controller."""
        found, count = super().tensors(), len(self.members)
        if self.from_average and "step_losses" in found:
            found["cloned_losses"] = found["step_losses"].clone()
        if self.config.behaviour_steps and not self.from_average:
            # sum and number of the values of C
            found["behaviour"] = torch.zeros(count, 2, device=self.device)
        if self.config.dual == "pi":
            found["smoothed"] = torch.zeros(count, device=self.device)
        return found

    def clone(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """See ``bc.Cloner``; also adds up C over the last steps of cloning."""
        count, end = pack.adams["actor"].count, -(-self.config.behaviour_steps // self.config.policy_freq)
        counts = ((count >= end - max(1, end // CLONED_PART)) & (count < end)).to(batch.rewards.dtype)
        metrics = super().clone(pack, batch, noise)
        if "behaviour" in pack.tensors:
            reached = metrics["constraint"]
            pack["behaviour"].add_(torch.stack([reached * counts, counts.expand_as(reached)], dim=1))
        return metrics

    def finish(self, stage: int, pack: Pack) -> None:
        """Cloning has ended: slack is measured from the policies that it leaves."""
        if self.from_average:
            pack["cloned"].copy_(pack["average"])
            if "cloned_losses" in pack.tensors:
                pack["cloned_losses"].copy_(pack["step_losses"])

    def bound(self, pack: Pack, reached: Tensor | None = None) -> Tensor:
        """κ, ``[K]``: the member's own, or set by what behaviour cloning has reached and the member's slack.

        ``reached`` is that, ``[K]``; by default the mean over the end of cloning.
        """
        if reached is None:
            if "behaviour" not in pack.tensors:
                return pack.values["target_kl"]
            reached = pack["behaviour"][:, 0] / pack["behaviour"][:, 1].clamp(min=1.0)
        slack = pack.values["slack"]
        relaxed = reached + slack if self.in_nats else reached * (1.0 + slack)
        return torch.where(slack.isnan(), pack.values["target_kl"], relaxed)

    def constraint_and_bound(
        self, pack: Pack, batch: Batch, noise: StepNoise, constraint: Tensor
    ) -> tuple[Tensor, Tensor]:
        """C and κ on this batch, constants, ``[K]``.

        Of the online policies: ``constraint`` and κ. Of the averaged ones: C is that of the average with the same noise, and
        where slack sets κ it is added to C of the cloned policies with that noise. An estimate of C in nats by one diffusion
        step an action scatters by some 20 nats (four corners, T = 30), the difference of two such policies by 2 to 6.
        """
        if self.config.constraint_policy == "online":
            return constraint.detach(), self.bound(pack)
        with torch.no_grad():
            reached = None
            if self.from_average:
                cloned = self.weights(pack.tensors, "cloned", "cloned_losses")
                reached = self.fit(cloned, batch, noise).rows.mean(dim=1)
            average = self.weights(pack.tensors, "average")
            return self.fit(average, batch, noise).rows.mean(dim=1), self.bound(pack, reached)

    def actor_loss(
        self, weights: Weights, critic: Layers, pack: Pack, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, Metrics, Fit]:
        """λ·C + q, with λ ``[K]`` a constant here: clamp(λ, λ_clip, λ_max) in the released dual.

        C is what κ bounds: the behaviour loss L = mean (ε − ε_θ)² over batch and action dimensions, or an estimate of the
        cross-entropy. q: see ``value_loss``.
        """
        fit = self.fit(weights, batch, noise)
        constraint = fit.rows.mean(dim=1)

        improvement, means, scale = self.value_loss(weights, critic, batch, noise)
        limited, bound = self.constraint_and_bound(pack, batch, noise, constraint)
        violation = limited - bound
        smoothed = pack.tensors.get("smoothed")
        weight = duals.weight(
            self.config.dual, pack.values, pack["multiplier"][:, 0], violation=violation, smoothed=smoothed
        )
        loss = weight * constraint + improvement
        metrics = {
            "actor_loss": loss,
            "behaviour_loss": fit.behaviour_loss,
            "q_loss": improvement,
            "policy_q": means.mean(dim=1),
            "q_scale": scale,
            "constraint": limited,
            "target_kl": bound,
            "violation": (violation > 0).to(constraint.dtype),
            "lambda": weight,
        }
        return fit.with_variance(loss), detached(metrics), fit

    def dual_loss(self, multiplier: Tensor, constraint: Tensor, bound: Tensor) -> Tensor:
        """(κ − C)·λ with C a constant: λ grows while the constraint is violated. All ``[K]``."""
        return (bound - constraint).detach() * duals.value(self.config.dual, multiplier)

    def improve_policy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of policy and λ, in place. Of its metrics ``lambda`` is what the policy's loss used in this step, and
        ``multiplier`` what the dual has moved to, which is not clipped in the released dual.
        """
        weights = self.learning_weights(pack)
        critic = self.critic.layers(pack["critic"])
        loss, metrics, fit = self.actor_loss(weights, critic, pack, batch=batch, noise=noise)
        multiplier = pack["multiplier"].detach().clone().requires_grad_()
        dual = self.dual_loss(multiplier[:, 0], metrics["constraint"], metrics["target_kl"])
        (slope,) = torch.autograd.grad(dual.sum(), multiplier)
        metrics["dual_loss"] = dual.detach()
        metrics["actor_grad_norm"] = self.improve(pack, weights, loss, fit)
        adam, smoothed = pack.adams["multiplier"], pack.tensors.get("smoothed")
        duals.step(self.config.dual, pack.values, pack["multiplier"], adam=adam, slope=slope, smoothed=smoothed)
        metrics["multiplier"] = duals.value(self.config.dual, pack["multiplier"][:, 0]).clone()
        return metrics
