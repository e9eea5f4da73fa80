"""Runs a whole sweep: trials to Ray, run folders as the truth, MLflow as the view, a table at the end.

Tune is a disposable scheduler here. Every launch looks at the run folders, hands Tune the trials that are not complete,
and each of those goes on from its own newest checkpoint; so starting a sweep again is resuming it.
"""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diffcps.distributed import cluster as clusters
from diffcps.distributed.folder import run_folders
from diffcps.distributed.interrupts import Interrupts, StopBetweenSteps
from diffcps.distributed.resources import DRIVER_CPUS
from diffcps.distributed.search import AsManyAsFit, StudyPerTask, grid_searcher
from diffcps.distributed.trial import Job, drive

MOST_DRIVERS = 1000
"""How often a trial's driver may die in one launch, getting on or not: weeks on machines that come and go."""


def execute(job: Job, interrupts: Interrupts, trial: Callable[..., None] = drive) -> None:
    """Run what is not complete. Needs a connected cluster.

    Args:
        job: the sweep.
        interrupts: where signals come in.
        trial: what a trial's driver runs, with a suggested point and ``job=``; a benchmark of the scheduling runs less.

    Raises:
        KeyboardInterrupt: a signal has cut it short.
    """
    from ray import tune

    searcher, count = _searcher(job)
    if count == 0:
        return
    # the folder of a launch is Tune's scratch: nothing is read back from it
    job = replace(job, launch=f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    driver = {clusters.DRIVERS: 0.001} if clusters.present().for_drivers else {"CPU": DRIVER_CPUS}

    def room() -> int:
        return job.resources.room(clusters.present())

    tuner = tune.Tuner(
        tune.with_resources(functools.partial(trial, job=job), driver),
        # a driver's process, which takes seconds to start, goes on with the next trial
        tune_config=tune.TuneConfig(search_alg=AsManyAsFit(searcher, room), num_samples=count, reuse_actors=True),
        run_config=tune.RunConfig(
            name=job.launch,
            storage_path=str(job.place.folder / "ray"),
            # how often a trial is tried is decided where its progress is known: see ``attempts``
            failure_config=tune.FailureConfig(max_failures=MOST_DRIVERS),
            callbacks=[StopBetweenSteps(interrupts)],
            verbose=0,
        ),
    )
    with interrupts.deferred():
        tuner.fit()


def _searcher(job: Job) -> tuple[Any, int]:
    """The searcher over what is not complete, and how many trials that is."""
    job.place.refresh("runs")
    folders = run_folders(job.place)
    if job.plan.search is None:
        complete = {folder.path.name for folder in folders if folder.complete}
        keys = [trial.key for trial in job.plan.trials if trial.key not in complete]
        return (grid_searcher(keys), len(keys)) if keys else (None, 0)
    configs = [(folder.config, folder) for folder in folders]
    finished = [(config, float(folder.status["last"])) for config, folder in configs if folder.complete]
    unfinished = [config for config, folder in configs if not folder.complete]
    searcher = StudyPerTask(job.plan.trials, job.plan.search, finished, unfinished)
    return searcher, searcher.remaining
