"""Trials one after another in this process, without Ray and MLflow: for a notebook, where all of them take minutes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diffcps.config import RunConfig
from diffcps.runs.plan import Plan
from diffcps.storage.place import Place
from diffcps.sweep import folder as folders
from diffcps.sweep.worker import run_trial
from diffcps.training import cost, measures


def train(
    trials: Sequence[RunConfig],
    folder: Path | str,
    data_directories: Sequence[Path] = (),
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train trials into a sweep's folder, which it returns; called again it goes on, and skips what is complete.

    A trial that is interrupted says so in its status.

    Args:
        trials: what to train; collected data are collected first.
        folder: of the sweep, such as ``results/my-first``.
        data_directories: folders with data sets, searched first.
        progress: called with the running trial's status about every two seconds.

    Raises:
        UserError: the folder holds other trials or another process's, a data set is missing, or a trial does not fit.
    """
    for trial in trials:
        measures.check(trial)
    path = Path(folder).expanduser().resolve()
    place = Place(path, tuple(directory.expanduser().resolve() for directory in data_directories))
    plan = Plan(path.name, "here", tuple(trials))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    with folders.held(place, plan):
        folders.begin(place, plan)
        cost.prepare(threads, device)
        interrupted = True
        try:
            for trial in trials:
                run_trial(trial, place, device, progress=progress, threads=threads)
            interrupted = False
        finally:
            folders.settle(place, plan, interrupted)
    return Path(folder).expanduser()
