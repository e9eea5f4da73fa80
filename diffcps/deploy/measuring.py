"""Measures of policies after their training."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from diffcps.config import Member, RunConfig
from diffcps.data.hold_out import parted
from diffcps.data.transitions import Transitions
from diffcps.deploy.trained import members, steps_of
from diffcps.errors import UserError
from diffcps.runs.folder import IDENTITY, RunFolder
from diffcps.runs.rows import read_rows
from diffcps.runs.trial import Trial
from diffcps.tasks.registry import task_of
from diffcps.training import measures
from diffcps.training.measures.offline import TOGETHER
from diffcps.training.measures.subject import Subject, taken

FILES = "measures.csv", "afterwards.csv"


def missing(trial: Trial, names: Sequence[str]) -> dict[str, list[int]]:
    """Measure -> the steps at which kept policies lack it. A policy that was measured and has diverged lacks nothing.

    Measures that do not fit the trial are left out. Raises ``UserError`` for one that is none, and where none fits.
    """
    names = _fitting(trial, names)
    frames = [read_rows(trial.folder / name) for name in FILES]
    found = {}
    for name in names:
        columns = measures.MEASURES[name].columns(trial.config, trial.task)
        there = {
            pair
            for frame in frames
            if set(columns) <= set(frame)
            for pair in zip(frame["step"], frame["member"], strict=True)
        }
        found[name] = [
            step for step in trial.config.kept_steps if any((step, k) not in there for k in range(trial.seeds))
        ]
    return {name: steps for name, steps in found.items() if steps}


def measure(
    trial: Trial,
    lacking: Mapping[str, list[int]],
    dataset: Transitions,
    progress: Callable[[int, Member], None] = lambda step, member: None,
) -> list[int]:
    """Measure the kept policies of a complete trial that lack these measures, and write the numbers into its run folder.

    They are those that ``--measures`` would have given in training on this processor, but for ``latency``, which is of today. A
    trial of a GPU would have drawn other random numbers, and ``fqe`` may differ by its rounding. Numbers are written
    after each ``TOGETHER`` policies, or after each step that has more.

    Args:
        trial: it has ended.
        lacking: what ``missing`` has found.
        dataset: what the trial was trained on.
        progress: called while a policy is measured.

    Returns:
        The steps of the policies that were measured.

    Raises:
        UserError: the data are others, or a checkpoint is damaged.
    """
    folder = RunFolder(trial.folder)
    folder.check_data(dataset.info.checksum)
    parts: tuple[Transitions, Transitions | None] = dataset, None
    if trial.config.data.hold_out:
        parts = parted(dataset, trial.config.data.hold_out, trial.config.data.seed, trial.task.terminals_end)
    steps = sorted({step for own in lacking.values() for step in own} & steps_of(folder))
    for config, some in _groups(trial, lacking, steps):
        subjects = {
            (step, number): Subject(
                task=task_of(config),
                config=config,
                member=member,
                policy=policy.policy,
                dataset=parts[0],
                index=-(-step // config.evaluation.every) - 1,
                held_out=parts[1],
                heartbeat=partial(progress, step, member),
            )
            for step in some
            for number, (member, policy) in enumerate(zip(config.members, members(folder, step=step), strict=True))
        }
        with torch.no_grad():
            measured = taken(list(subjects.values()))
        rows = [
            {"step": step, "member": number, "seed": config.members[number].seed, **row}
            for (step, number), row in zip(subjects, measured, strict=True)
        ]
        folder.record_afterwards(_joined(trial, pd.DataFrame(rows)))
    return steps


def _groups(
    trial: Trial, lacking: Mapping[str, list[int]], steps: Sequence[int]
) -> Iterator[tuple[RunConfig, list[int]]]:
    """The trial as if it had these measures alone, and the steps that lack them: at most ``TOGETHER`` policies at a time."""
    by_names: dict[tuple[str, ...], list[int]] = {}
    for step in steps:
        by_names.setdefault(tuple(name for name, own in lacking.items() if step in own), []).append(step)
    for names, own in by_names.items():
        at_once = max(1, TOGETHER // trial.seeds)
        for first in range(0, len(own), at_once):
            yield _asked(trial.config, names), own[first : first + at_once]


def _fitting(trial: Trial, names: Sequence[str]) -> list[str]:
    """Those of the measures that fit a trial; see ``missing``."""
    known = [name for name in names if name in measures.MEASURES]
    if pictures := [name for name in known if measures.MEASURES[name].only_picture]:
        raise UserError(
            f"measure {pictures[0]!r} is a picture, which is only made in training (--measures {pictures[0]})."
        )
    found = [name for name in known if not measures.MEASURES[name].misfit(trial.config, trial.task)]
    if len(known) < len(names) or not found:
        _asked(trial.config, names)  # says why
    return found


def _asked(config: RunConfig, names: Sequence[str]) -> RunConfig:
    """The trial as if it had these measures alone. Raises ``UserError`` where they do not fit it."""
    asked = config.replaced(measures=tuple(names), acting=())
    measures.check(asked)
    return asked


def _joined(trial: Trial, fresh: pd.DataFrame) -> str:
    """The content of ``afterwards.csv``: what it had, and these rows."""
    file = trial.folder / FILES[1]
    # as text: reading and writing a number again could move its last digit
    old = pd.read_csv(file, dtype=str, keep_default_na=False) if file.exists() else pd.DataFrame(columns=[*IDENTITY])
    old = old.astype(dict.fromkeys(IDENTITY, np.int64)).set_index([*IDENTITY])
    whole = fresh.set_index([*IDENTITY]).astype(object).combine_first(old).reset_index()
    out = io.StringIO()
    whole.to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()
