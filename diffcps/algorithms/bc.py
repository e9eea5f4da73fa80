"""Behaviour cloning: the policy that explains the data best, without values, constraint or λ."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from diffcps.algorithms.model import Batch, Draws, Metrics, Model, Part, sample_actions
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Explained
from diffcps.algorithms.settings import OFFICIAL, Changes, Cloning, TaskFacts
from diffcps.config import RunConfig
from diffcps.errors import UserError

__all__ = ["METRICS", "actor_loss", "sample_actions", "update"]


@dataclass(frozen=True)
class Settings(Cloning):
    """The settings of a member."""


PROFILES = OFFICIAL


def of_task(task: TaskFacts) -> Changes:
    """The settings of the DiffCPS paper for a task, those that this algorithm has."""
    return {"settings": Settings.among(task.settings), "evaluation": {"candidates": 1}}


def check(trial: RunConfig, settings: Settings) -> None:
    """Raise ``UserError`` where a trial would choose among candidates."""
    if trial.evaluation.candidates > 1:
        raise UserError("behaviour cloning learns no values to choose among candidates with: candidates must be 1.")


METRICS: Mapping[Part, tuple[str, ...]] = {
    "critic": (),
    "behaviour": ("behaviour_loss", "actor_loss", "actor_grad_norm", "constraint"),
}
"""What ``update`` gives in a step of each kind; steps between policy steps do nothing."""


def actor_loss(
    model: Model, actor: Layers, pack: Pack, batch: Batch, draws: Draws
) -> tuple[Tensor, Metrics, Explained]:
    """C alone: the behaviour loss, or the estimate of the cross-entropy that the settings name."""
    assert draws.step is not None
    assert draws.noise is not None
    explained = model.policy.explain(
        actor, batch.observations, batch.actions, draws.step, draws.noise, pack.step_losses
    )
    constraint = explained.rows.mean(dim=1)
    loss = constraint if explained.fit is None else constraint + explained.fit
    metrics = {"actor_loss": loss, "behaviour_loss": explained.behaviour_loss, "constraint": constraint}
    return loss, {name: value.detach() for name, value in metrics.items()}, explained


def update(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One gradient step of every member's policy, in place, when it is a policy step."""
    if draws.step is None:
        return {}
    actor = model.policy.layout.leaves(pack.actor)
    loss, metrics, explained = actor_loss(model, actor, pack, batch, draws)
    metrics["actor_grad_norm"] = pack.improve(model, actor, loss, explained, metrics["constraint"])
    return metrics
