"""Reads policies from run folders."""

from collections.abc import Mapping
from typing import Any

import torch

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.deploy.saved import Card, SavedPolicy
from diffcps.errors import UserError
from diffcps.files import finite
from diffcps.runs.checkpoint import Checkpoint
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of

_DATA_FACTS = "source", "checksum", "provenance", "provenance_note", "rows"


def members(
    folder: RunFolder,
    which: int | None = None,
    device: torch.device | str = "cpu",
    *,
    best: bool = False,
    step: int | None = None,
) -> list[SavedPolicy]:
    """The policies in a trial's newest checkpoint or, if ``best``, each of its best evaluation, or those of a kept evaluation.

    Args:
        folder: the run folder.
        which: number of a member in the pack; ``None``: all.
        device: the device that computes actions.
        best: for trials that keep them. They are chosen by their score, so a score of theirs is one of an oracle.
        step: of an evaluation that keeps its policies.

    Raises:
        UserError: there is no checkpoint, the newest one is damaged, there is no such member, or the best are not kept.
    """
    config, task = folder.config, task_of(folder.config)
    count = len(config.members)
    if which is not None and not 0 <= which < count:
        raise UserError(f"member {which}: {folder.path} has {count} members, numbered from 0.")
    numbers = range(count) if which is None else [which]
    state = _newest(folder)
    newest = int(state["learner"]["step"])
    if best and step is not None:
        raise UserError(f"--best and --step {step}: choose one of them.")
    if best:
        found = [_best(folder, state, number) for number in numbers]
    else:
        at = newest if step is None else step
        scores = _scores(config, state, at)
        found = [(at, scores[number] if scores else float("nan")) for number in numbers]
    networks = _networks(folder, state, best=best, step=None if step == newest else step)
    environment = folder.environment
    return [
        SavedPolicy(
            Card(
                run=config.replaced(members=(config.members[number],)),
                key=config.key,
                member=number,
                step=own,
                observation_size=task.observation_size,
                action_size=task.action_size,
                max_action=task.max_action,
                score=finite(score),
                dataset=_facts(environment),
                versions=environment.get("versions", {}),
                git_commit=environment.get("git_commit", "unknown"),
            ),
            {name: value[number : number + 1] for name, value in networks.items()},
            device,
        )
        for number, (own, score) in zip(numbers, found, strict=True)
    ]


def steps_of(folder: RunFolder) -> set[int]:
    """The steps of which a run folder has policies. Raises ``UserError`` as ``members`` does."""
    state = _newest(folder)
    return {*state.get("policies", {}), int(state["learner"]["step"])}


def _newest(folder: RunFolder) -> Checkpoint:
    """The newest checkpoint; an older one is not taken in the place of a damaged one."""
    state, complaints = folder.load_checkpoint()
    if complaints:
        remedy = f"Delete {folder.path} and run the trial again" if folder.done else "Resume the trial to repair it"
        raise UserError(f"{' '.join(complaints)} An older checkpoint is not used instead. {remedy}.")
    if state is None:
        raise UserError(f"{folder.path} has no checkpoint yet. Wait for one, or resume the trial.")
    return state


def _scores(config: RunConfig, state: Checkpoint, step: int) -> list[float] | None:
    """Scores ``[K]`` of the evaluation at a step, ``None`` where there was none."""
    every, known = config.evaluation.every, state.get("scores") or []
    if step % every and step != config.steps:
        return None
    index = -(-step // every) - 1
    return list(known[index]) if index < len(known) else None


def _networks(folder: RunFolder, state: Checkpoint, *, best: bool, step: int | None) -> dict[str, torch.Tensor]:
    """The networks ``[K, …]`` that act; ``step`` is that of an earlier evaluation."""
    if step is not None and step not in state.get("policies", {}):
        known = ", ".join(f"{at:,}" for at in sorted(steps_of(folder)))
        raise UserError(
            f"{folder.path} has no policy of step {step:,}. It has those of: {known}. --keep-checkpoints N keeps those of the "
            "newest N evaluations."
        )
    try:
        pack = (
            state["best"]["networks"] if best else state["learner"]["pack"] if step is None else state["policies"][step]
        )
        return {name: pack[name] for name in algorithms.get(folder.config.algorithm).acting if name in pack}
    except (KeyError, TypeError) as error:
        raise UserError(f"the checkpoint in {folder.path} was not written by this project ({error!r}).") from error


def _best(folder: RunFolder, state: Checkpoint, number: int) -> tuple[int, float]:
    """Step and score of a member's best evaluation."""
    if not (kept := state.get("best")):
        remedy = "delete it and train again" if folder.done else "continue the trial"
        raise UserError(
            f"{folder.path} keeps no policy of its best evaluation, for it was trained without --keep-best. To have one, "
            f"{remedy} with that flag."
        )
    if not kept["step"][number]:
        raise UserError(f"{folder.path}: no evaluation of member {number} has a score; its networks have diverged.")
    return int(kept["step"][number]), float(kept["score"][number])


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    dataset = environment.get("dataset", {})
    return {name: dataset[name] for name in _DATA_FACTS if name in dataset}
