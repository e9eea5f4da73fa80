"""Policies out of run folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from diffcps.algorithms.pack import ACTING
from diffcps.deploy.saved import Card, SavedPolicy
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of

_TOLD = "source", "checksum", "provenance", "provenance_note", "rows"


def members(folder: RunFolder, which: int | None = None, device: torch.device | str = "cpu") -> list[SavedPolicy]:
    """Policies of a trial as its newest checkpoint has them: the last ones, once the trial is complete.

    Args:
        folder: the run folder.
        which: a member's place in the pack; by default all of them.
        device: where they compute.

    Raises:
        UserError: there is no whole checkpoint, its newest file is damaged, or there is no such member.
    """
    config, task = folder.config, task_of(folder.config)
    count = len(config.members)
    if which is not None and not 0 <= which < count:
        raise UserError(f"member {which}: {folder.path} has {count}, counted from 0.")
    state, complaints = folder.load_checkpoint()
    if complaints:
        mend = (
            f"delete {folder.path} and start again" if folder.complete else "start the trial again, and it mends that"
        )
        raise UserError(f"{' '.join(complaints)} An older one is not what the trial ended with: {mend}.")
    if state is None:
        raise UserError(f"{folder.path} has no checkpoint yet: its trial has not come to one. Wait, or go on with it.")
    try:
        pack, step = state["learner"]["pack"], int(state["learner"]["step"])
        networks = {name: pack[name] for name in ACTING if name in pack}
    except (KeyError, TypeError) as error:
        raise UserError(f"the checkpoint in {folder.path} is not one of this project's ({error!r}).") from error
    judged = config.evaluation.every
    scores = state.get("scores") if step % judged == 0 or step == config.steps else None
    environment = folder.environment
    return [
        SavedPolicy(
            Card(
                run=config.replaced(members=(config.members[number],)),
                key=config.key,
                member=number,
                step=step,
                observation_size=task.observation_size,
                action_size=task.action_size,
                max_action=task.max_action,
                score=_score(scores[-1][number]) if scores else None,
                dataset=_facts(environment),
                versions=environment.get("versions", {}),
                git_commit=environment.get("git_commit", "unknown"),
            ),
            {name: value[number : number + 1] for name, value in networks.items()},
            device,
        )
        for number in (range(count) if which is None else [which])
    ]


def _score(value: float) -> float | None:
    """A diverged policy has no score; JSON has no word for what is not a number."""
    return float(value) if np.isfinite(value) else None


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    dataset = environment.get("dataset", {})
    return {name: dataset[name] for name in _TOLD if name in dataset}
