"""What one trial does: in a Ray Train worker, or in this process."""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffcps import data, environment, training
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.evaluation import Evaluator
from diffcps.learner import Learner
from diffcps.runs import RunFolder
from diffcps.tasks import get_task
from diffcps.tracking import MlflowSink, Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a trial finds its data and leaves its results; absolute paths, for a worker's folder is Ray's own."""

    folder: Path
    """The sweep's folder."""
    data_directories: tuple[Path, ...] = ()
    """Folders with data sets, searched first."""
    tracking_uri: str | None = None
    """MLflow store; ``None`` for none."""
    sweep: str = ""
    """Name of the sweep."""

    def run_folder(self, config: RunConfig) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.folder / "runs" / config.key)


def run_trial(
    config: RunConfig,
    place: Place,
    device: torch.device,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train and judge one trial, from its newest checkpoint if it has one. Leaves the reason in its folder if it fails.

    A trial that is complete already is left as it is.

    Raises:
        UserError: the data set is missing or broken, or the folder belongs to another trial.
    """
    folder = place.run_folder(config)
    folder.create(config)
    if folder.complete:
        return
    try:
        task = get_task(config.task)
        dataset = data.load(task, config.data, place.data_directories)
        facts = environment.describe(dataset.info, device)
        folder.record_environment(facts)
        learner = Learner(config.algorithm, config.members, dataset, task.max_action, device)
        evaluator = Evaluator(task, config.physics, config.members, config.evaluation)
        sinks: Sequence[MlflowSink] = ()
        if place.tracking_uri is not None:
            sinks = (MlflowSink(Tracker(place.tracking_uri, place.sweep), config, facts),)
        try:
            training.run(config, learner, evaluator, folder, sinks, report, progress)
        finally:
            evaluator.close()
            for sink in sinks:
                sink.close()
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        details = "" if isinstance(error, UserError) else traceback.format_exc()
        record_failure(folder, reason, details)
        raise


def record_failure(folder: RunFolder, reason: str, details: str = "") -> None:
    """Say in a run folder's status that it failed and why; what it has learned stays."""
    folder.write_status(
        {**folder.status, "state": "failed", "error": reason, "details": details, "updated": time.time()}
    )


def train_worker(loop: dict[str, Any]) -> None:
    """The Ray Train worker's function. ``loop`` holds the trial and the place, as plain values."""
    import ray.train
    import ray.train.torch

    torch.set_num_threads(loop["threads"])
    config = RunConfig.from_dict(loop["config"])
    place: Place = loop["place"]

    def report(metrics: dict[str, float]) -> None:
        ray.train.report(dict(metrics))

    try:
        run_trial(config, place, ray.train.torch.get_device(), report)
    except UserError as error:
        # trying again would end the same way: the reason stands in the run folder, and Ray need not retry
        logger.error("%s: %s", config.key, error)
