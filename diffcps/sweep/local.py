"""Trials one after another in this process, without Ray and MLflow: for a notebook, where all of them take minutes."""

import functools
from collections.abc import Sequence
from pathlib import Path

from diffcps import data
from diffcps.config import RunConfig
from diffcps.runs.plan import Plan
from diffcps.runs.status import Progress
from diffcps.storage.location import Location
from diffcps.sweep import claim
from diffcps.tasks.registry import task_of
from diffcps.training import checks
from diffcps.training.process import Machine
from diffcps.training.trials import Assignment, run


def train(
    trials: Sequence[RunConfig],
    folder: Path | str,
    data_directories: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Path:
    """Train trials into a sweep's folder, which it returns; called again it continues, and skips what is complete.

    A trial that is interrupted says so in its status.

    Args:
        trials: what to train; collected data are collected first.
        folder: of the sweep, such as ``results/my-first``.
        data_directories: folders with data sets, searched first.
        progress: called with the running trial's status about every two seconds.

    Raises:
        UserError: the folder holds other trials or is claimed by another process, a data set is missing, or a trial does
            not fit.
    """
    for trial in trials:
        checks.check(trial)
    path = Path(folder).expanduser().resolve()
    directories = tuple(directory.expanduser().resolve() for directory in data_directories)
    location, plan = Location(path, directories), Plan(path.name, "local", tuple(trials))
    with claim.claimed(location, plan):
        claim.begin(location, plan)
        machine, interrupted = Machine.prepared(), True
        try:
            for trial in trials:
                load = functools.partial(data.load, task_of(trial), trial.data, directories)
                run([Assignment(trial, location.run_folder(trial.key), load, progress=progress)], machine)
            interrupted = False
        finally:
            claim.settle(location, plan, interrupted)
    return Path(folder).expanduser()
