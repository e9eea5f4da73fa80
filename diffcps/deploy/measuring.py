"""Measures of policies whose training has ended."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from diffcps.config import Member, RunConfig
from diffcps.data.holding import parted
from diffcps.data.transitions import Transitions
from diffcps.deploy.trained import members
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.runs.rows import IDENTITY
from diffcps.runs.trials import Trial
from diffcps.tasks.registry import task_of
from diffcps.training import measures
from diffcps.training.measures.subject import Subject, taken


def missing(trial: Trial, names: Sequence[str]) -> list[int]:
    """Steps of the kept policies that lack a number of these measures. Raises ``UserError`` for a measure that does not fit."""
    config = _asked(trial.config, names)
    for name in names:
        if not measures.MEASURES[name].columns(config, trial.task):
            raise UserError(f"measure {name!r} is a picture, which is only made in training (--measures {name}).")
    known, wanted = trial.measures, list(measures.columns(config))
    if known.empty or not set(wanted) <= set(known):
        return list(trial.config.kept_steps)
    there = known.dropna(subset=wanted, how="all").groupby("step").size()
    return [step for step in trial.config.kept_steps if there.get(step, 0) < trial.seeds]


def measure(
    trial: Trial,
    names: Sequence[str],
    dataset: Transitions,
    progress: Callable[[int, Member], None] = lambda step, member: None,
) -> list[int]:
    """Measure the kept policies of a complete trial that lack these measures, and write the numbers into its run folder.

    The numbers are those that ``--measures`` would have given in training, to the bit on the same machine.

    Args:
        trial: it has ended.
        names: of ``training.measures.MEASURES``.
        dataset: what the trial was trained on.
        progress: called before each policy.

    Returns:
        The steps whose policies were measured.

    Raises:
        UserError: a measure does not fit, the data are others, or a checkpoint is damaged.
    """
    folder, config = RunFolder(trial.folder), _asked(trial.config, names)
    steps = missing(trial, names)
    if not steps:
        return []
    folder.check_data(dataset.info.checksum)
    kept, held_out = dataset, None
    if config.data.hold_out:
        kept, held_out = parted(dataset, config.data.hold_out, config.data.seed, trial.task.terminals_end)
    rows = []
    for step in steps:
        for number, policy in enumerate(members(folder, step=step)):
            member = config.members[number]
            progress(step, member)
            subject = Subject(
                task=task_of(config),
                config=config,
                member=member,
                policy=policy.policy,
                dataset=kept,
                index=-(-step // config.evaluation.every) - 1,
                held_out=held_out,
            )
            with torch.no_grad():
                rows.append({"step": step, "member": number, "seed": member.seed, **taken(subject)})
    folder.record_afterwards(_joined(trial, pd.DataFrame(rows)))
    return steps


def _asked(config: RunConfig, names: Sequence[str]) -> RunConfig:
    """The trial as if it had these measures alone."""
    asked = config.replaced(measures=tuple(names), acting=())
    measures.check(asked)
    return asked


def _joined(trial: Trial, fresh: pd.DataFrame) -> str:
    """The content of ``afterwards.csv``: what it had, and these rows."""
    file = trial.folder / "afterwards.csv"
    old = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*IDENTITY])
    whole = fresh.set_index([*IDENTITY]).combine_first(old.set_index([*IDENTITY])).reset_index()
    out = io.StringIO()
    whole.astype({name: np.int64 for name in IDENTITY}).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()
