"""DiffCPS for a pack of K members: the highest value subject to a bound κ on the behaviour's cross-entropy, held by λ.

With the settings of the ``official`` profile it computes what the paper's released program does. Losses are pure functions
of parameters, a batch and random draws; they return ``(loss [K], metrics)`` and never step an optimiser. ``update`` puts
them together into one gradient step. Shapes: K members, B transitions, T diffusion steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms import bc, duals
from diffcps.algorithms.model import Batch, Draws, Metrics, Model, Part, sample_actions
from diffcps.algorithms.nn import Layers, clip_by_norm, gradient
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Explained
from diffcps.algorithms.settings import OFFICIAL, Changes, Dual, Improving, TaskFacts
from diffcps.config import Actor, RunConfig
from diffcps.config.plain import require, setting

# What λ holds, and at what: the constraint C of a policy and its bound κ, all ``[K]``.


def held(model: Model, pack: Pack, batch: Batch, draws: Draws, constraint: Tensor) -> tuple[Tensor, Tensor]:
    """C and κ on this batch, constants.

    Of the online policies: ``constraint`` and κ. Of the averaged ones: C is what they explain by the same draws, and where a
    slack sets κ it is added to what the cloned policies explain by them. An estimate of C in nats by one diffusion step an
    action scatters by some 20 nats (four corners, T = 30), the difference of two such policies on the same draws by 2 to 6.
    """
    if model.config.constraint_policy == "online":
        return constraint.detach(), pack.bound(model)

    def explained(parameters: Tensor, step_losses: Tensor | None) -> Tensor:
        assert draws.step is not None
        assert draws.noise is not None
        layers: Layers = model.policy.layout.layers(parameters)
        rows = model.policy.explain(
            layers, batch.observations, batch.actions, draws.step, draws.noise, step_losses
        ).rows
        return rows.mean(dim=1)

    with torch.no_grad():
        reached = None if pack.cloned is None else explained(pack.cloned, pack.cloned_losses)
        return explained(pack.average, pack.step_losses), pack.bound(model, reached)


__all__ = ["METRICS", "actor_loss", "critic_loss", "dual_loss", "sample_actions", "update"]

SLACK = 0.1
"""δ of the principled profile: the behaviour loss may be a tenth above what behaviour cloning reaches, on every task."""
CLONING = 100_000
"""Gradient steps of behaviour cloning before κ is read, in the principled profile: a tenth of the trial where that is more,
half of it where even that is less. On 60 000 rows of Hopper its loss fell by a tenth over the last 11 000 of 30 000."""
FINAL_EPISODES = 100
"""Least number of episodes by which the principled profile evaluates the last checkpoint."""


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
    slack nats above it for the cross-entropies; ``None`` keeps ``target_kl``."""
    constraint_policy: Actor = "online"
    """Which policy the constraint applies to: ``online`` (as released) or its EMA ``average`` (less noisy). With
    ``average``, ``slack`` is relative to the EMA policy at the end of behaviour cloning."""


def of_task(task: TaskFacts) -> Changes:
    """What the paper's program sets for a task."""
    return {"settings": Settings.among(task.settings)}


def principled(trial: RunConfig) -> Changes:
    """What the paper's equations ask for.

    * The covariance of a chain is calibrated and its last step noisy, so the policy that acts is the one whose
      likelihood is bounded.
    * Behaviour cloning for max(steps/10, min(``CLONING``, steps/2)) steps, then κ = (1 + ``SLACK``)·L_BC.
    * λ starts at 1, has learning rate 3e-3 and is projected on [0, λ_max].
    * The last checkpoint is evaluated by at least ``FINAL_EPISODES`` episodes.
    """
    settings: dict[str, Any] = {
        "dual": "projected", "lambda_learning_rate": 3e-3, "slack": SLACK, "lambda_init": 1.0, "lambda_clip": 0.0,
        # an L_BC that is read too early is far above what can be reached, and κ would bound nothing
        "behaviour_steps": max(4 * trial.value("policy_freq"), trial.steps // 10, min(CLONING, trial.steps // 2)),
    }  # fmt: skip
    if trial.value("policy") == "diffusion":
        settings |= {"covariance": "calibrated", "last_step_noise": True}
    return {"settings": settings, "evaluation": {"final_episodes": max(FINAL_EPISODES, trial.evaluation.episodes)}}


PROFILES = OFFICIAL | {"principled": principled}
"""Name -> what a profile changes of a trial with the settings of its task."""


def check(trial: RunConfig, settings: Settings) -> None:
    """Raise ``UserError`` where slack cannot set κ from behaviour cloning in this trial."""
    if settings.slack is None:
        return
    steps, least = settings.behaviour_steps, 4 * settings.policy_freq
    require(steps >= least, "behaviour_steps", steps, f"at least {least}, from which slack can set κ")
    require(
        steps < trial.steps, "behaviour_steps", steps, f"fewer than the {trial.steps} steps, or κ would bound nothing"
    )
    if settings.constraint_policy == "average":
        rule = f"at least {settings.average_settles:.0f}: five times the memory of the EMA policy after ema_start"
        require(steps >= settings.average_settles, "behaviour_steps", steps, rule)


CRITIC_METRICS = "critic_loss", "q_value", "critic_grad_norm"
METRICS: Mapping[Part, tuple[str, ...]] = {
    "critic": CRITIC_METRICS,
    "behaviour": (*CRITIC_METRICS, *bc.METRICS["behaviour"]),
    "policy": (
        *CRITIC_METRICS, "behaviour_loss", "lambda", "actor_loss", "q_loss", "policy_q", "dual_loss", "actor_grad_norm",
        "constraint", "target_kl", "violation", "q_scale",
    ),
}  # fmt: skip
"""What ``update`` gives in a step of each kind."""


def critic_loss(
    model: Model, critic: Layers, target: Layers, pack: Pack, batch: Batch, draws: Draws
) -> tuple[Tensor, Metrics]:
    """MSE(Q1) + MSE(Q2) to y = r + γ (1 − terminal) min(Q1', Q2') at an action of the averaged policy.

    With max-Q backup, 10 actions are drawn per next state; each target head keeps its largest value before the minimum.
    """
    goal = batch.rewards
    if model.next_candidates:
        with torch.no_grad():
            average = model.policy.layout.layers(pack.average)
            actions = model.actions(average, batch.next_observations, draws.next_actions, pack.step_losses)
            values = model.critic(target, batch.next_observations, actions)
            values = values.unflatten(-1, (-1, model.next_candidates)).amax(dim=-1)
            discount = pack.values["discount"][:, None]
            goal = batch.rewards + discount * (1.0 - batch.terminals) * values.amin(dim=1)
    estimates = model.critic(critic, batch.observations, batch.actions)
    loss = (estimates - goal[:, None]).square().mean(dim=-1).sum(dim=-1)
    return loss, {"critic_loss": loss.detach(), "q_value": estimates.detach().mean(dim=(1, 2))}


def actor_loss(
    model: Model, actor: Layers, critic: Layers, pack: Pack, batch: Batch, draws: Draws
) -> tuple[Tensor, Metrics, Explained]:
    """λ·C + q, with λ ``[K]`` a constant here: clamp(λ, λ_clip, λ_max) in the released dual.

    C is what κ bounds: the behaviour loss L = mean (ε − ε_θ)² over batch and action dimensions, or an estimate of the
    cross-entropy. q = −mean Q1(s, â)/mean|Q2(s, â)|, the divisor a constant, or with the heads swapped; gradients flow
    through all T steps of the chain that makes â.
    """
    assert draws.step is not None
    assert draws.noise is not None
    assert draws.actions is not None
    assert draws.swap is not None
    explained = model.policy.explain(
        actor, batch.observations, batch.actions, draws.step, draws.noise, pack.step_losses
    )
    constraint = explained.rows.mean(dim=1)

    actions, weights = model.policy.proposals(actor, batch.observations, draws.actions, pack.step_losses)
    values = model.critic(critic, batch.observations, actions)
    sizes = values.detach().abs()
    if weights is None:
        means, scales = values.mean(dim=-1), sizes.mean(dim=-1)
    else:
        share = weights[:, None] / batch.observations.shape[1]
        means, scales = (values * share).sum(dim=-1), (sizes * share.detach()).sum(dim=-1)
    swap = draws.swap
    scale = torch.where(swap, scales[:, 0], scales[:, 1])
    improvement = -torch.where(swap, means[:, 1], means[:, 0]) / scale

    limited, bound = held(model, pack, batch, draws, constraint)
    violation = limited - bound
    weight = duals.weight(model.config.dual, pack.values, pack.multiplier[:, 0], violation, pack.smoothed)
    loss = weight * constraint + improvement
    metrics = {
        "actor_loss": loss,
        "behaviour_loss": explained.behaviour_loss,
        "q_loss": improvement,
        "policy_q": means.mean(dim=1),
        "q_scale": scale,
        "constraint": limited,
        "target_kl": bound,
        "violation": (violation > 0).to(constraint.dtype),
        "lambda": weight,
    }
    if explained.fit is not None:
        loss = loss + explained.fit
    return loss, {name: value.detach() for name, value in metrics.items()}, explained


def dual_loss(model: Model, multiplier: Tensor, constraint: Tensor, bound: Tensor) -> tuple[Tensor, Metrics]:
    """(κ − C)·λ with C a constant: λ grows while the constraint is violated. All ``[K]``."""
    loss = (bound - constraint).detach() * duals.value(model.config.dual, multiplier)
    return loss, {"dual_loss": loss.detach()}


def update(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One gradient step of every member, in place: critic, in a policy step also policy and λ, then target critic.

    What it moves is what ``draws`` are for; in a step of behaviour cloning ``bc`` moves the policy. Every metric is ``[K]``
    and detached. Nothing here waits for the host or draws a number, so it may be compiled or captured.
    """
    metrics = update_critic(model, pack, batch, draws)
    if draws.actions is not None:
        actor = model.policy.layout.leaves(pack.actor)
        loss, more, explained = actor_loss(model, actor, model.critic.layers(pack.critic), pack, batch, draws)
        multiplier = pack.multiplier.detach().clone().requires_grad_()
        dual, dual_metrics = dual_loss(model, multiplier[:, 0], more["constraint"], more["target_kl"])
        (slope,) = torch.autograd.grad(dual.sum(), multiplier)
        metrics["actor_grad_norm"] = pack.improve(model, actor, loss, explained, more["constraint"])
        duals.step(model.config.dual, pack.values, pack.multiplier, pack.multiplier_adam, slope, pack.smoothed)
        metrics |= more | dual_metrics
        if model.config.dual == "released":
            metrics["lambda"] = pack.multiplier[:, 0].clone()
    elif draws.step is not None:
        metrics |= bc.update(model, pack, batch, draws)
    pack.target.lerp_(pack.critic, pack.values["target_rate"][:, None])
    return metrics


def update_critic(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One step of every member's critic, in place; the target critic stays."""
    critic = model.critic.leaves(pack.critic)
    loss, metrics = critic_loss(model, critic, model.critic.layers(pack.target), pack, batch, draws)
    # the heads of a member stand in two rows of the stack and are clipped as one gradient
    slope = gradient(loss, critic).view_as(pack.critic)
    slope, metrics["critic_grad_norm"] = clip_by_norm(slope, pack.values["grad_norm"])
    pack.critic_adam.step(pack.critic, slope)
    return metrics
