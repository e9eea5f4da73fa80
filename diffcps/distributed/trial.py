"""A Tune trial as seen from its driver: ask Ray Train for workers, wait for them, say how it ended.

Neither torch nor MLflow is imported here: the driver and Train's controller are processes of their own, and each would
take seconds and hundreds of megabytes for what only workers use.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffcps.distributed.place import Place
from diffcps.distributed.plan import OBJECTIVE, Plan, trial_of
from diffcps.distributed.resources import Resources
from diffcps.runs import NoRoomError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from diffcps.distributed.attempts import Attempts
    from diffcps.distributed.reservations import Reservations


@dataclass(frozen=True)
class Job:
    """Everything that a trial's driver needs, on whichever machine it runs."""

    plan: Plan
    place: Place
    resources: Resources
    launch: str = ""
    """Which start of the sweep this is; in each of them a trial has fresh attempts."""


def work(loop: dict[str, Any]) -> None:
    """What each Ray Train worker runs: ``train_worker`` with these arguments."""
    from diffcps.distributed.worker import train_worker

    train_worker(**loop)


def drive(config: dict[str, Any], job: Job, work: Callable[[dict[str, Any]], None] = work) -> None:
    """A Tune trial: start Ray Train workers for the suggested point, which run ``work``, and wait for them."""
    import ray.train
    from ray import tune

    from diffcps.distributed.attempts import Attempts
    from diffcps.distributed.reservations import Reservations

    trial = trial_of(job.plan, config)
    place = job.place.here()
    place.refresh(f"runs/{trial.key}")
    folder = place.run_folder(trial)
    attempts = Attempts(place, trial.key, job.launch)
    try:
        begins = not folder.complete and attempts.begin()
    except NoRoomError as error:
        # Tune would try a trial that fails again at once, a thousand times; the sweep's end tells of the full disk
        logger.error("%s: %s", trial.key, error)
        return
    if begins:
        resources = job.resources
        per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        loop = {"config": trial.to_dict(), "place": job.place, "resources": resources, "asked": config["asked"]}
        reservations = Reservations(f"{job.launch}:{trial.key}")
        reservations.release()
        trainer = _trainer(attempts, reservations)(
            work,
            train_loop_config=loop,
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
            ),
            run_config=ray.train.RunConfig(name=trial.key, **place.ray_storage("train")),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError:
            place.refresh(f"runs/{trial.key}")
            if folder.status["state"] not in ("complete", "failed"):
                raise
        place.refresh(f"runs/{trial.key}")
    status = folder.status
    if status["state"] == "complete":
        tune.report({"step": trial.steps, OBJECTIVE: status["last"], "best": status["best"]})


def _trainer(attempts: "Attempts", reservations: "Reservations") -> type[Any]:
    """Ray Train's plainest trainer, which tries again as ``attempts`` says, without what no trial here uses.

    Not ``TorchTrainer``, which imports torch here and in the controller; the workers find each other by themselves. And
    without the callbacks that start a process for the shards of Ray data sets, and one for what ``reservations`` does:
    each process costs a core a second and the machine 100 MB, at the very time when the worker starts.
    """
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = DatasetsCallback, PlacementGroupCleanerCallback
            callbacks = super()._create_default_callbacks()
            return [*(each for each in callbacks if not isinstance(each, unused)), reservations]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            return super()._initialize_and_run_controller(**arguments | {"failure_policy": attempts})

    return Trainer
