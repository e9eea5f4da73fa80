"""Reads policies from run folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from diffcps import algorithms
from diffcps.deploy.saved import Card, SavedPolicy
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of

_DATA_FACTS = "source", "checksum", "provenance", "provenance_note", "rows"


def members(
    folder: RunFolder, which: int | None = None, device: torch.device | str = "cpu", best: bool = False
) -> list[SavedPolicy]:
    """The policies in a trial's newest checkpoint or, if ``best``, each of its best evaluation.

    Args:
        folder: the run folder.
        which: number of a member in the pack; ``None``: all.
        device: the device that computes actions.
        best: for trials that keep them. They are chosen by their score, so a score of theirs is one of an oracle.

    Raises:
        UserError: there is no checkpoint, the newest one is damaged, there is no such member, or the best are not kept.
    """
    config, task = folder.config, task_of(folder.config)
    count = len(config.members)
    if which is not None and not 0 <= which < count:
        raise UserError(f"member {which}: {folder.path} has {count} members, numbered from 0.")
    numbers = range(count) if which is None else [which]
    if best:
        if (kept := folder.best) is None:
            raise UserError(f"{folder.path} keeps no policy of its best evaluation. Train with --keep-best.")
        found = [(kept["networks"], kept["step"][number], kept["score"][number]) for number in numbers]
    else:
        networks, step, scores = _newest(folder)
        found = [(networks, step, scores[number] if scores else None) for number in numbers]
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
                score=None if score is None else _score(score),
                dataset=_facts(environment),
                versions=environment.get("versions", {}),
                git_commit=environment.get("git_commit", "unknown"),
            ),
            {name: value[number : number + 1] for name, value in networks.items()},
            device,
        )
        for number, (networks, step, score) in zip(numbers, found, strict=True)
    ]


def _newest(folder: RunFolder) -> tuple[dict[str, torch.Tensor], int, list[float] | None]:
    """Networks ``[K, …]``, step and, if it was evaluated, scores ``[K]`` of the newest checkpoint."""
    config = folder.config
    state, complaints = folder.load_checkpoint()
    if complaints:
        remedy = f"Delete {folder.path} and run the trial again" if folder.complete else "Resume the trial to repair it"
        raise UserError(f"{' '.join(complaints)} An older checkpoint is not used instead. {remedy}.")
    if state is None:
        raise UserError(f"{folder.path} has no checkpoint yet. Wait for one, or resume the trial.")
    try:
        pack, step = state["learner"]["pack"], int(state["learner"]["step"])
        networks = {name: pack[name] for name in algorithms.get(config.algorithm).acting if name in pack}
    except (KeyError, TypeError) as error:
        raise UserError(f"the checkpoint in {folder.path} was not written by this project ({error!r}).") from error
    evaluated = step % config.evaluation.every == 0 or step == config.steps
    scores = state.get("scores") if evaluated else None
    return networks, step, scores[-1] if scores else None


def _score(value: float) -> float | None:
    """The score, or ``None`` for a diverged policy, because JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    dataset = environment.get("dataset", {})
    return {name: dataset[name] for name in _DATA_FACTS if name in dataset}
