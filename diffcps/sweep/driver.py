"""The driver of a group of trials, a Tune trial: ask Ray Train for workers, wait for them, and report how it ended.

A group trains as one pack in one worker; most groups are of one trial.

Neither torch nor, unless a trial fails, MLflow is imported here. A driver is a process of its own, and would spend seconds
and hundreds of megabytes on what only workers use.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffcps.config import RunConfig
from diffcps.files import DiskFullError
from diffcps.runs.criteria import SCORE
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import OBJECTIVE, Plan
from diffcps.storage.location import Location
from diffcps.sweep.resources import Resources
from diffcps.sweep.retries import Retries
from diffcps.text import first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that a driver needs, on any machine."""

    plan: Plan
    location: Location
    resources: Resources
    also: tuple[str, ...] = ()
    """Where metrics are shown besides MLflow."""
    launch: str = ""
    """Which start of the sweep this is; in each of them a trial's retries count from zero."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a grid, the key of the first trial of a group -> the keys of all; a trial that is in none is one by itself."""

    def trials(self, point: Mapping[str, Any]) -> list[RunConfig]:
        """The trials of the group that a point of the searcher names, or the trial that it describes."""
        first = self.plan.trial(point)
        if first.key not in self.groups:
            return [first]
        return [self.plan.trial({"key": key}) for key in self.groups[first.key]]


def work(arguments: dict[str, Any]) -> bool:
    """What each Ray Train worker runs: ``train_worker`` with these arguments."""
    from diffcps.sweep.worker import train_worker

    return train_worker(**arguments)


def drive(config: dict[str, Any], job: Job, work: Callable[[dict[str, Any]], bool] = work) -> None:
    """A Tune trial: start Ray Train workers for the suggested point, which run ``work``, and wait for them."""
    from ray import tune

    trials = {trial.key: trial for trial in job.trials(config)}
    location = job.location.on_this_machine()
    for key in trials:
        location.refresh(f"runs/{key}")
    retries = Retries(location, list(trials), job.launch)
    try:
        retries.begin()
    except DiskFullError as error:
        # Tune would retry a failed trial at once, a thousand times; the end of the sweep reports the full disk
        logger.error("%s: %s", retries.name, error)
        return
    gave_up: dict[str, Exception | None] = {}
    requested_at = config["requested_at"]
    for keys in retries.groups():
        arguments = {
            "configs": [trials[key].to_dict() for key in keys],
            "location": job.location,
            "resources": job.resources,
            "requested_at": requested_at,
            "prune": job.plan.prune,
            "objective": job.plan.objective,
            "also": job.also,
        }
        gave_up |= dict.fromkeys(keys, _train(job, retries, arguments=arguments, work=work))
        requested_at = time.time()
        for key in keys:
            location.refresh(f"runs/{key}")
    folders = {key: location.run_folder(key) for key in trials}
    show_failed(location, [folder for folder in folders.values() if folder.status["state"] == "failed"])
    for key, failure in gave_up.items():
        if failure is not None and not folders[key].done and folders[key].status["state"] != "failed":
            raise failure
    if (ended := next((folder for folder in folders.values() if folder.done), None)) is not None:
        # Tune wants the metric of every trial of its own; nothing is chosen by it where that is a group
        tune.report({"step": ended.status["step"], OBJECTIVE: _reached(ended, job.plan.objective)})


def show_failed(location: Location, folders: Sequence[RunFolder]) -> None:
    """Show in MLflow that these trials have failed for good. The end of the sweep shows it too, so an error is only logged."""
    if not folders or location.tracking_uri is None:
        return
    from diffcps.tracking import Tracker  # connecting imports MLflow, which other drivers need not pay

    try:
        tracker = Tracker(location.tracking_uri, location.sweep)
        for folder in folders:
            tracker.fail(folder)
    except Exception as error:  # any error of a store
        logger.warning("%s: MLflow does not show yet that it has failed: %s", folders[0].path.name, first_line(error))


def more_trials(job: Job) -> bool:
    """Whether the sweep has trials that nobody has begun, of which this driver may get the next."""
    runs = job.location.on_this_machine().folder / "runs"
    begun = sum(1 for entry in os.scandir(runs) if entry.is_dir()) if runs.is_dir() else 0
    return begun < job.plan.count


def _reached(folder: RunFolder, objective: str) -> float:
    """What a search is told of a trial that has ended."""
    if objective == SCORE:
        return float(folder.status.get("last", float("nan")))
    # reading a trial takes a second of imports, which other drivers need not pay
    from diffcps.runs.criteria import newest
    from diffcps.runs.trial import read_trial

    return newest(read_trial(folder.path), objective)


def _train(
    job: Job, retries: Retries, *, arguments: dict[str, Any], work: Callable[[dict[str, Any]], bool]
) -> Exception | None:
    """Run ``work(arguments)`` in Ray Train workers and wait; returns the error with which Ray Train gave up, if it did."""
    import ray.train

    from diffcps.sweep.ray_train import PlacementGroups, trainer

    resources, location = job.resources, retries.location
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    groups = PlacementGroups(f"{job.launch}:{retries.name}")
    training = trainer(retries, groups, another=lambda: more_trials(job))(
        work,
        train_loop_config=arguments,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(name=retries.name, **location.ray_storage()),
    )
    try:
        training.fit()
    except ray.train.TrainingFailedError as error:
        return error
    return None
