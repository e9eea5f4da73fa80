"""Runs what is not complete of a sweep on Ray Tune, until it is, or a signal ends it between two of Tune's steps."""

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray import tune

from diffcps.runs.criteria import newest
from diffcps.runs.trial import read_trial
from diffcps.sweep import cluster as clusters
from diffcps.sweep.claim import run_folders
from diffcps.sweep.dashboard import Mirror
from diffcps.sweep.driver import Job, drive
from diffcps.sweep.resources import DRIVER_CPUS
from diffcps.sweep.search import AsManyAsFit, StudyPerTask, grid_searcher

if TYPE_CHECKING:
    from typing import Self

_SIGNALS = signal.SIGINT, signal.SIGTERM
MOST_DRIVERS = 1000
"""Driver deaths per trial that one launch tolerates: enough for weeks on unreliable machines."""


class Interrupts:
    """Turns both signals into ``KeyboardInterrupt``: at once, or at the next ``check`` inside ``deferred``."""

    def __init__(self) -> None:
        self._received, self._terminated = 0, False
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

    @property
    def from_terminal(self) -> bool:
        """Whether no SIGTERM has come: a person waits."""
        return not self._terminated

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has come."""
        if self._received:
            raise KeyboardInterrupt

    def _listen(self) -> dict[int, Any]:
        return {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        self._terminated |= number == signal.SIGTERM
        if not self._deferring or self._received > 1:
            raise KeyboardInterrupt


class StopBetweenSteps(tune.Callback):
    """Lets a signal end Tune's loop between two of its steps, after ``stopping``; a second signal ends that too.

    Tune itself would wait 15 seconds for its trials to shut down. Here a trial may be killed at any moment, because its
    run folder holds all that the next launch needs.
    """

    def __init__(self, interrupts: Interrupts, stopping: Callable[[], None]) -> None:
        self._interrupts, self._stopping = interrupts, stopping

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times a second."""
        try:
            self._interrupts.check()
        except KeyboardInterrupt:
            self._stopping()
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nothing reads; signal handlers cannot be pickled."""
        return {}


def execute(
    job: Job,
    interrupts: Interrupts,
    driver: Callable[..., None] = drive,
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Run what is not complete. Needs a connected cluster.

    Args:
        job: the sweep.
        interrupts: receives signals.
        driver: what runs a group of trials, with a suggested point and ``job=``; a benchmark of the scheduling runs less.
        stopping: called when a signal has come, before the trials are ended.

    Raises:
        KeyboardInterrupt: a signal ended it.
    """
    searcher, count = _searcher(job)
    if count == 0:
        return
    # the folder of a launch is Tune's scratch: nothing is read back from it
    job = replace(job, launch=f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    needs = {clusters.DRIVERS: 0.001} if clusters.present().for_drivers else {"CPU": DRIVER_CPUS}
    callbacks: list[tune.Callback] = [StopBetweenSteps(interrupts, stopping)]
    if job.plan.search is not None:
        callbacks.append(Mirror(job.location, job.plan))

    def slots() -> int:
        return job.resources.slots(clusters.present())

    tuner = tune.Tuner(
        tune.with_resources(functools.partial(driver, job=job), needs),
        # a driver's process takes seconds to start, so it is used again for the next trial
        tune_config=tune.TuneConfig(search_alg=AsManyAsFit(searcher, slots), num_samples=count, reuse_actors=True),
        run_config=tune.RunConfig(
            name=job.launch,
            storage_path=str(job.location.folder / "ray"),
            # ``Retries`` decide how often a trial is retried, because they know the progress
            failure_config=tune.FailureConfig(max_failures=MOST_DRIVERS),
            callbacks=callbacks,
            verbose=0,
        ),
    )
    with interrupts.deferred():
        tuner.fit()


def _searcher(job: Job) -> tuple[Any, int]:
    """The searcher over what has not ended, and how many groups of trials that is."""
    job.location.refresh("runs")
    folders = run_folders(job.location)
    if job.plan.search is None:
        ended = {folder.path.name for folder in folders if folder.done}
        followers = {key for keys in job.groups.values() for key in keys[1:]}  # they come with the first of their group
        firsts = [trial.key for trial in job.plan.trials if trial.key not in followers]
        keys = [key for key in firsts if not ended.issuperset(job.groups.get(key, (key,)))]
        return (grid_searcher(keys), len(keys)) if keys else (None, 0)
    configs = [(folder.config, folder) for folder in folders]
    finished = [
        (config, newest(read_trial(folder.path, config), job.plan.objective))
        for config, folder in configs
        if folder.done
    ]
    unfinished = [config for config, folder in configs if not folder.done]
    searcher = StudyPerTask(job.plan, finished, unfinished)
    return searcher, searcher.remaining
