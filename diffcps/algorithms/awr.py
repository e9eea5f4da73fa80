"""Advantage-weighted regression (Peng et al., 2019): imitate the data's actions, the better ones more.

The policy maximises E_{(s, a) ~ data} exp(A(s, a) / temperature) log μ(a|s), which for a diffusion policy is a weighted
behaviour loss. Values are learned as in DiffCPS; there is no constraint and no λ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms import bc, diffcps
from diffcps.algorithms.diffcps import CRITIC_METRICS, update_critic
from diffcps.algorithms.model import Batch, Draws, Metrics, Model, Part, sample_actions
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Explained
from diffcps.algorithms.settings import OFFICIAL, Changes, Improving, TaskFacts
from diffcps.config import RunConfig
from diffcps.config.plain import setting

__all__ = ["METRICS", "actor_loss", "sample_actions", "update"]


@dataclass(frozen=True)
class Settings(Improving):
    """The settings of a member. V is the mean over ``max_q_candidates`` actions of the policy."""

    temperature: float = setting(1.0, "a positive number")
    """Of the weights exp(A / temperature), with advantages A in units of the mean value's size."""


PROFILES = OFFICIAL


def of_task(task: TaskFacts) -> Changes:
    """The settings of the DiffCPS paper for a task, those that this algorithm has."""
    return {"settings": Settings.among(task.settings)}


def check(trial: RunConfig, settings: Settings) -> None:
    """Every length and evaluation fits."""


METRICS: Mapping[Part, tuple[str, ...]] = {
    "critic": CRITIC_METRICS,
    "behaviour": diffcps.METRICS["behaviour"],
    "policy": (
        *CRITIC_METRICS, "behaviour_loss", "actor_loss", "policy_q", "actor_grad_norm", "constraint", "q_scale"
    ),
}  # fmt: skip
"""What ``update`` gives in a step of each kind."""
LARGEST_WEIGHT = 100.0
"""A regression weight is cut off here: one lucky action must not be all that a batch says."""


def actor_loss(
    model: Model, actor: Layers, critic: Layers, pack: Pack, batch: Batch, draws: Draws
) -> tuple[Tensor, Metrics, Explained]:
    """Mean of w·C over the batch, C what explains an action and w = exp(A / temperature) divided by its mean.

    A = (min(Q1, Q2)(s, a) − V(s)) / mean|V|, V the mean of min(Q1, Q2) over several actions of the policy.
    """
    assert draws.step is not None
    assert draws.noise is not None
    assert draws.actions is not None
    explained = model.policy.explain(
        actor, batch.observations, batch.actions, draws.step, draws.noise, pack.step_losses
    )
    with torch.no_grad():
        own = model.actions(actor, batch.observations, draws.actions, pack.step_losses)
        values = model.critic(critic, batch.observations, own).amin(dim=1)
        values = values.unflatten(-1, (batch.observations.shape[1], -1)).mean(dim=-1)
        estimates = model.critic(critic, batch.observations, batch.actions).amin(dim=1)
        scale = values.abs().mean(dim=1)
        advantages = (estimates - values) / scale[:, None]
        weights = (advantages / pack.values["temperature"][:, None]).exp().clamp(max=LARGEST_WEIGHT)
        weights = weights / weights.mean(dim=1, keepdim=True)
    loss = (weights * explained.rows).mean(dim=1)
    metrics = {
        "actor_loss": loss,
        "behaviour_loss": explained.behaviour_loss,
        "policy_q": values.mean(dim=1),
        "q_scale": scale,
        "constraint": explained.rows.mean(dim=1),
    }
    if explained.fit is not None:
        loss = loss + explained.fit
    return loss, {name: value.detach() for name, value in metrics.items()}, explained


def update(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One gradient step of every member, in place: critic, in a policy step also the policy, then target critic."""
    metrics = update_critic(model, pack, batch, draws)
    if draws.actions is not None:
        actor = model.policy.layout.leaves(pack.actor)
        loss, more, explained = actor_loss(model, actor, model.critic.layers(pack.critic), pack, batch, draws)
        metrics["actor_grad_norm"] = pack.improve(model, actor, loss, explained, more["constraint"])
        metrics |= more
    elif draws.step is not None:
        metrics |= bc.update(model, pack, batch, draws)
    pack.target.lerp_(pack.critic, pack.values["target_rate"][:, None])
    return metrics
