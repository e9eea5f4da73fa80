"""DiffCPS for a pack of K members: the highest value subject to a bound κ on the behaviour's cross-entropy, held by λ.

With the settings of the ``official`` profile it computes what the paper's released program does. Losses are pure functions
of parameters, a batch and random draws; they return ``(loss [K], metrics)`` and never step an optimiser. ``update`` puts
them together into one gradient step. Shapes: K members, B transitions, T diffusion steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffcps.algorithms import bc, duals
from diffcps.algorithms.model import Batch, Draws, Metrics, Model, Part, sample_actions
from diffcps.algorithms.nn import Layers, clip_by_norm, gradient
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Explained

# What λ holds, and at what: the constraint C of a policy and its bound κ, all ``[K]``.


def held(model: Model, pack: Pack, batch: Batch, draws: Draws, constraint: Tensor) -> tuple[Tensor, Tensor]:
    """C and κ on this batch, constants.

    Of the online policies: ``constraint`` and κ. Of the averaged ones: C is what they explain by the same draws, and where a
    slack sets κ it is added to what the cloned policies explain by them. An estimate of C in nats by one diffusion step an
    action scatters by some 20 nats (four corners, T = 30), the difference of two such policies on the same draws by 2 to 6.
    """
    if model.config.held_policy == "online":
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
    config = model.config
    goal = batch.rewards
    if model.next_candidates:
        with torch.no_grad():
            average = model.policy.layout.layers(pack.average)
            actions = model.actions(average, batch.next_observations, draws.next_actions, pack.step_losses)
            values = model.critic(target, batch.next_observations, actions)
            values = values.unflatten(-1, (-1, model.next_candidates)).amax(dim=-1)
            goal = batch.rewards + config.discount * (1.0 - batch.terminals) * values.amin(dim=1)
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
    weight = duals.weight(model.config, pack.multiplier[:, 0], pack.lambda_clip, violation, pack.smoothed)
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
    loss = (bound - constraint).detach() * duals.value(model.config, multiplier)
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
        duals.step(
            model.config, pack.multiplier, pack.multiplier_adam, slope, pack.lambda_clip, pack.grad_norm, pack.smoothed
        )
        metrics |= more | dual_metrics
        if model.config.dual == "released":
            metrics["lambda"] = pack.multiplier[:, 0].clone()
    elif draws.step is not None:
        metrics |= bc.update(model, pack, batch, draws)
    pack.target.lerp_(pack.critic, model.config.target_rate)
    return metrics


def update_critic(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One step of every member's critic, in place; the target critic stays."""
    critic = model.critic.leaves(pack.critic)
    loss, metrics = critic_loss(model, critic, model.critic.layers(pack.target), pack, batch, draws)
    # the heads of a member stand in two rows of the stack and are clipped as one gradient
    slope = gradient(loss, critic).view_as(pack.critic)
    slope, metrics["critic_grad_norm"] = clip_by_norm(slope, pack.grad_norm)
    pack.critic_adam.step(pack.critic, slope)
    return metrics
