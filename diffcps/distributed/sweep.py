"""Runs a whole sweep: trials to Ray, run folders as the truth, MLflow as the view, a table at the end.

Tune is a disposable scheduler here. Every launch looks at the run folders, hands Tune the trials that are not complete,
and each of those goes on from its own newest checkpoint; so starting a sweep again is resuming it.
"""

import functools
import math
import os
import time
from dataclasses import dataclass
from typing import Any

from diffcps.distributed.cluster import Cluster
from diffcps.distributed.folder import run_folders
from diffcps.distributed.interrupts import Interrupts, StopBetweenSteps
from diffcps.distributed.plan import Plan
from diffcps.distributed.search import OBJECTIVE, StudyPerTask, grid_searcher, trial_of
from diffcps.distributed.worker import Place, train_worker
from diffcps.errors import UserError


@dataclass(frozen=True)
class Resources:
    """What one trial takes, and how many run at once."""

    cpus: float
    gpus: float
    concurrent: int

    @property
    def threads(self) -> int:
        """Threads of a worker; together they never exceed the cores that Ray counts."""
        return max(1, math.floor(self.cpus + 0.5))

    @classmethod
    def fitting(cls, cluster: Cluster, cpus: float | None, gpus: float | None, concurrent: int | None) -> "Resources":
        """What was asked for, or what suits the cluster. Raises ``UserError`` when not even one trial fits."""
        # a trial's driver and Train's controller need a sliver of CPU beside the worker's
        share = cpus if cpus is not None else (0.9 if cluster.cpus <= 4 else 1.0)
        part = gpus if gpus is not None else (1.0 if cluster.gpus >= 1 else 0.0)
        if not (share > 0 and part >= 0):
            raise UserError("--cpus-per-trial must be positive and --gpus-per-trial at least zero.")
        if part > 1 and part != int(part):
            raise UserError(f"--gpus-per-trial {part:g}: Ray gives out fractions of one GPU, or whole GPUs.")
        for name, wanted, there in (("CPUs", share + 0.01, cluster.cpus), ("GPUs", part, cluster.gpus)):
            if wanted > there:
                flag = f"--{name.lower()}-per-trial"
                raise UserError(
                    f"a trial takes {wanted:g} {name} and the cluster has {there:g}: it would wait for ever. Lower {flag}."
                )
        fits = math.floor(cluster.cpus / (share + 0.01))
        if part > 0:
            fits = min(fits, math.floor(cluster.gpus / part + 1e-9))
        if concurrent is not None and concurrent < 1:
            raise UserError(f"--concurrent {concurrent}: at least one trial must be allowed to run.")
        return cls(share, part, min(fits, concurrent) if concurrent else fits)


@dataclass(frozen=True)
class Job:
    """Everything that a trial's driver needs, on whichever machine it runs."""

    plan: Plan
    place: Place
    resources: Resources


def execute(job: Job, interrupts: Interrupts) -> None:
    """Run what is not complete. Needs a connected cluster.

    Raises:
        KeyboardInterrupt: a signal has cut it short.
    """
    from ray import tune

    searcher, count = _searcher(job)
    if count == 0:
        return
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(drive, job=job), {"CPU": 0.01}),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=count, max_concurrent_trials=job.resources.concurrent
        ),
        run_config=tune.RunConfig(
            # the folder of a launch is Tune's scratch: nothing is read back from it
            name=f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(job.place.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[StopBetweenSteps(interrupts)],
            verbose=0,
        ),
    )
    with interrupts.deferred():
        tuner.fit()


def _searcher(job: Job) -> tuple[Any, int]:
    """The searcher over what is not complete, and how many trials that is."""
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


def drive(config: dict[str, Any], job: Job) -> None:
    """A Tune trial: start a Ray Train worker for the suggested point and wait for it."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = trial_of(job.plan, config)
    folder = job.place.run_folder(trial)
    if not folder.complete:
        resources = job.resources
        per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": trial.to_dict(), "place": job.place, "threads": resources.threads},
            scaling_config=ray.train.ScalingConfig(
                num_workers=1, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
            ),
            run_config=ray.train.RunConfig(
                name=trial.key,
                storage_path=str(job.place.folder / "ray" / "train"),
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
                failure_config=ray.train.FailureConfig(max_failures=2),
            ),
        )
        trainer.fit()
    status = folder.status
    if status["state"] == "complete":
        tune.report({"step": trial.steps, OBJECTIVE: status["last"], "best": status["best"]})
