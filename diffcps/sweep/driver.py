"""The driver of one trial, a Tune trial: ask Ray Train for workers, wait for them, and report how it ended.

Neither torch nor MLflow is imported here. The driver and Train's controller are processes of their own, and each would
spend seconds and hundreds of megabytes on what only workers use.
"""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from diffcps.files import DiskFullError
from diffcps.runs.plan import OBJECTIVE, Plan
from diffcps.storage.location import Location
from diffcps.sweep.cluster import Resources

if TYPE_CHECKING:
    from typing import Self

    from diffcps.sweep.ray_train import RetryPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that a trial's driver needs, on any machine."""

    plan: Plan
    location: Location
    resources: Resources
    launch: str = ""
    """Which start of the sweep this is; in each of them a trial's retries count from zero."""


def work(loop: dict[str, Any]) -> None:
    """What each Ray Train worker runs: ``train_worker`` with these arguments."""
    from diffcps.sweep.worker import train_worker

    train_worker(**loop)


def drive(config: dict[str, Any], job: Job, work: Callable[[dict[str, Any]], None] = work) -> None:
    """A Tune trial: start Ray Train workers for the suggested point, which run ``work``, and wait for them."""
    from ray import tune

    from diffcps.sweep.ray_train import RetryPolicy

    trial = job.plan.trial(config)
    location = job.location.on_this_machine()
    location.refresh(f"runs/{trial.key}")
    folder = location.run_folder(trial.key)
    policy = RetryPolicy(location, trial.key, job.launch)
    try:
        begins = not folder.complete and policy.begin()
    except DiskFullError as error:
        # Tune would retry a failed trial at once, a thousand times; the end of the sweep reports the full disk
        logger.error("%s: %s", trial.key, error)
        return
    if begins:
        loop = {"config": trial.to_dict(), "location": job.location, "resources": job.resources}
        loop |= {"requested_at": config["requested_at"]}
        gave_up = _train(job, policy, loop=loop, work=work)
        location.refresh(f"runs/{trial.key}")
        if gave_up is not None and folder.status["state"] not in ("complete", "failed"):
            raise gave_up
    status = folder.status
    if status["state"] == "complete":
        tune.report({"step": trial.steps, OBJECTIVE: status["last"], "best": status["best"]})


def _train(
    job: Job, policy: "RetryPolicy", *, loop: dict[str, Any], work: Callable[[dict[str, Any]], None]
) -> Exception | None:
    """Run ``work(loop)`` in Ray Train workers and wait; returns the error with which Ray Train gave up, if it did."""
    import ray.train

    from diffcps.sweep.ray_train import PlacementGroups, trainer

    resources, location = job.resources, policy.location
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    groups = PlacementGroups(f"{job.launch}:{policy.key}")
    groups.release()
    training = trainer(policy, groups)(
        work,
        train_loop_config=loop,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(name=policy.key, **location.ray_storage("train")),
    )
    try:
        training.fit()
    except ray.train.TrainingFailedError as error:
        return error
    return None


# Ctrl-C, and the SIGTERM of cluster managers, end a sweep between two of Ray's steps.

_SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupts:
    """Turns both signals into ``KeyboardInterrupt``: at once, or at the next ``check`` inside ``deferred``."""

    def __init__(self) -> None:
        self._received = 0
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Self":
        self._before = self._listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal waits for the next ``check`` or for the end; a second one does not."""
        self._deferring = True
        try:
            yield
        except SystemExit as error:  # while Ray starts, its own handler of SIGTERM ends the process
            raise KeyboardInterrupt from error
        finally:
            self._deferring = False
            self._listen()
        self.check()

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has come."""
        if self._received:
            raise KeyboardInterrupt

    def _listen(self) -> dict[int, Any]:
        return {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if not self._deferring or self._received > 1:
            raise KeyboardInterrupt


class StopBetweenSteps(Callback):
    """Lets a signal end Tune's loop between two of its steps.

    Tune itself would wait 15 seconds for its trials to shut down. Here a trial may be killed at any moment, because its
    run folder holds all that the next launch needs.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times a second."""
        self._interrupts.check()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nothing reads; signal handlers cannot be pickled."""
        return {"_interrupts": Interrupts()}
