"""Runs a whole sweep: trials to Ray, run folders as the truth, MLflow as the view, a table at the end.

Tune is a disposable scheduler here. Every launch looks at the run folders, hands Tune the trials that are not complete,
and each of those goes on from its own newest checkpoint; so starting a sweep again is resuming it.
"""

import fcntl
import functools
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from diffcps.distributed.cluster import Cluster
from diffcps.distributed.plan import Plan, load
from diffcps.distributed.search import OBJECTIVE, StudyPerTask, grid_searcher, trial_of
from diffcps.distributed.worker import Place, record_failure, train_worker
from diffcps.errors import UserError
from diffcps.runs import RunFolder, write_json


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
        for name, wanted, there in (("CPUs", share + 0.01, cluster.cpus), ("GPUs", part, cluster.gpus)):
            if wanted > there:
                raise UserError(
                    f"a trial asks for {wanted:g} {name} and the cluster has {there:g}: it would wait for ever. "
                    f"Lower --{name.lower()}-per-trial."
                )
        if share <= 0 or part < 0:
            raise UserError("--cpus-per-trial must be positive and --gpus-per-trial at least zero.")
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


def refuse_another(place: Place, plan: Plan) -> None:
    """Raise ``UserError`` when the folder holds another sweep, or something that is no sweep at all."""
    folder = place.folder
    if (folder / "sweep.json").exists():
        if load(folder) != plan:
            raise UserError(
                f"{folder} holds another sweep of that name. Continue that one with --resume {plan.name}, or give "
                "this one another --name or --results."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is no sweep's folder. Choose another --name or --results.")


def check_writable(results: Path) -> None:
    """Raise ``UserError`` when nothing can be written into the results folder."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise UserError(
            f"{results} cannot be written: {error.strerror}. Choose another folder with --results."
        ) from error


def prepare(place: Place, plan: Plan) -> None:
    """Make the sweep's folder if it is not there."""
    folder = place.folder
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if not (folder / "sweep.json").exists():
        details = {
            "command": sys.argv,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "tracking_uri": place.tracking_uri,
            "data_directories": [str(directory) for directory in place.data_directories],
        }
        write_json(folder / "sweep.json", plan.to_dict() | details)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep's folder alone; a second process on it is refused with a ``UserError``."""
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{folder} is in use by {holder}. Wait for it, or stop it, and start again.") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def run_folders(place: Place) -> list[RunFolder]:
    """The run folders that exist."""
    return [RunFolder(file.parent) for file in sorted((place.folder / "runs").glob("*/config.json"))]


def unfinished(place: Place, plan: Plan) -> int:
    """Trials that should be complete and are not. A search has only those that it has started."""
    folders = run_folders(place)
    complete = sum(folder.complete for folder in folders)
    return (len(folders) if plan.search else plan.count) - complete


def execute(job: Job) -> bool:
    """Run what is not complete; returns whether an interrupt cut it short. Needs a connected cluster."""
    from ray import tune

    searcher, count = _searcher(job)
    if count == 0:
        return False
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
            verbose=0,
        ),
    )
    with _interruptible() as interrupted:
        tuner.fit()
    return bool(interrupted)


def settle(place: Place, interrupted: bool) -> None:
    """Give every trial that is not complete its true state: stopped by the interrupt, or failed."""
    for folder in run_folders(place):
        state = folder.status["state"]
        if state in ("complete", "failed"):
            continue
        if interrupted:
            folder.write_status({**folder.status, "state": "stopped", "updated": time.time()})
        elif state == "running":
            record_failure(folder, "its worker process died again and again; see Ray's logs for the reason")


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


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collects the signals that ask the sweep to stop; a list that is not empty at the end means: stopped, not finished.

    Tune ends its trials and returns as if all were well when it gets SIGUSR1, so SIGINT (Ctrl-C) and SIGTERM (what
    cluster managers send) are passed on as that. A second one does not wait for Tune.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGUSR1)

    def too_early(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # Tune has not installed its own handler yet

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: too_early}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    except KeyboardInterrupt:
        received.append(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
