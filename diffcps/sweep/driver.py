"""The driver of one trial, a Tune trial: ask Ray Train for workers, wait for them, and report how it ended.

Neither torch nor MLflow is imported here. A driver is a process of its own, and would spend seconds and hundreds of
megabytes on what only workers use.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffcps.files import DiskFullError
from diffcps.runs.criteria import SCORE
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import OBJECTIVE, Plan
from diffcps.storage.location import Location
from diffcps.sweep.resources import Resources

if TYPE_CHECKING:
    from diffcps.sweep.ray_train import RetryPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that a trial's driver needs, on any machine."""

    plan: Plan
    location: Location
    resources: Resources
    also: tuple[str, ...] = ()
    """Where metrics are shown besides MLflow."""
    launch: str = ""
    """Which start of the sweep this is; in each of them a trial's retries count from zero."""


def work(arguments: dict[str, Any]) -> bool:
    """What each Ray Train worker runs: ``train_worker`` with these arguments."""
    from diffcps.sweep.worker import train_worker

    return train_worker(**arguments)


def drive(config: dict[str, Any], job: Job, work: Callable[[dict[str, Any]], bool] = work) -> None:
    """A Tune trial: start Ray Train workers for the suggested point, which run ``work``, and wait for them."""
    from ray import tune

    from diffcps.sweep.ray_train import RetryPolicy

    trial = job.plan.trial(config)
    location = job.location.on_this_machine()
    location.refresh(f"runs/{trial.key}")
    folder = location.run_folder(trial.key)
    retries = RetryPolicy(location, trial.key, job.launch)
    try:
        begins = not folder.ended and retries.begin()
    except DiskFullError as error:
        # Tune would retry a failed trial at once, a thousand times; the end of the sweep reports the full disk
        logger.error("%s: %s", trial.key, error)
        return
    if begins:
        arguments = {
            "config": trial.to_dict(),
            "location": job.location,
            "resources": job.resources,
            "requested_at": config["requested_at"],
            "prune": job.plan.prune,
            "objective": job.plan.objective,
            "also": job.also,
        }
        gave_up = _train(job, retries, arguments=arguments, work=work)
        location.refresh(f"runs/{trial.key}")
        if gave_up is not None and not folder.ended and folder.status["state"] != "failed":
            raise gave_up
    if folder.ended:
        # Tune wants the metric of every trial; nothing is chosen by it where there is none
        tune.report({"step": folder.status["step"], OBJECTIVE: _reached(folder, job.plan.objective)})


def more_trials(job: Job) -> bool:
    """Whether the sweep has trials that nobody has begun, of which this driver may get the next."""
    runs = job.location.on_this_machine().folder / "runs"
    begun = sum(1 for entry in os.scandir(runs) if entry.is_dir()) if runs.is_dir() else 0
    return begun < job.plan.count


def _reached(folder: RunFolder, objective: str) -> float:
    """What a search is told of a trial that has ended."""
    if objective == SCORE:
        return float(folder.status.get("last", float("nan")))
    from diffcps.runs.criteria import (
        newest,  # reading a trial takes a second of imports, which other drivers need not pay
    )
    from diffcps.runs.trials import read_trial

    return newest(read_trial(folder.path), objective)


def _train(
    job: Job, retries: "RetryPolicy", *, arguments: dict[str, Any], work: Callable[[dict[str, Any]], bool]
) -> Exception | None:
    """Run ``work(arguments)`` in Ray Train workers and wait; returns the error with which Ray Train gave up, if it did."""
    import ray.train

    from diffcps.sweep.ray_train import PlacementGroups, trainer

    resources, location = job.resources, retries.location
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    groups = PlacementGroups(f"{job.launch}:{retries.key}")
    training = trainer(retries, groups, another=lambda: more_trials(job))(
        work,
        train_loop_config=arguments,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(name=retries.key, **location.ray_storage("train")),
    )
    try:
        training.fit()
    except ray.train.TrainingFailedError as error:
        return error
    return None
