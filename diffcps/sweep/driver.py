"""A Tune trial as seen from its driver: ask Ray Train for workers, wait for them, say how it ended.

Neither torch nor MLflow is imported here: the driver and Train's controller are processes of their own, and each would
take seconds and hundreds of megabytes for what only workers use.
"""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from diffcps.files import NoRoomError
from diffcps.runs.plan import OBJECTIVE, Plan
from diffcps.storage.place import Place
from diffcps.sweep.cluster import Resources
from diffcps.sweep.plan import trial_of
from diffcps.sweep.ray_train import _trainer

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger(__name__)


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
    from diffcps.sweep.worker import train_worker

    train_worker(**loop)


def drive(config: dict[str, Any], job: Job, work: Callable[[dict[str, Any]], None] = work) -> None:
    """A Tune trial: start Ray Train workers for the suggested point, which run ``work``, and wait for them."""
    import ray.train
    from ray import tune

    from diffcps.sweep.ray_train import Attempts, Reservations

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


# Ctrl-C, and SIGTERM that cluster managers send, end a sweep, at a moment when Ray can bear it.

_SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupts:
    """Turns both signals into ``KeyboardInterrupt`` while it is entered: at once, or where ``deferred`` lets them."""

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
        """A stretch that the first signal does not break: it ends one at the next ``check``, or after the stretch."""
        self._deferring = True
        try:
            yield
        except SystemExit as error:  # Ray takes SIGTERM for itself while it starts, and ends the process with it
            raise KeyboardInterrupt from error
        finally:
            self._deferring = False
            self._listen()
        self.check()

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` when a signal has come."""
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

    Tune itself would first wait 15 seconds for its trials to end in good order; here a trial may end at any moment,
    for its run folder holds all that the next launch needs.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times a second."""
        self._interrupts.check()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nothing reads; a handler of signals stays with its process."""
        return {"_interrupts": Interrupts()}
