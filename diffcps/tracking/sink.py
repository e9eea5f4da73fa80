"""Shows a trial in MLflow while it is trained, without making it wait."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.text import first_line, redacted
from diffcps.tracking.labels import Row, named
from diffcps.tracking.store import busy
from diffcps.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)
THREAD = "mlflow"
"""Name of the thread that sends rows, which may outlive the trial when the server is slow."""


class Pace(NamedTuple):
    """Seconds that a sink waits."""

    send: float = 2.0
    """Between two requests; rows that arrive faster are sent together."""
    retry: float = 20.0
    """After the store has failed."""
    busy: float = 5.0
    """After the store was locked: the mean of a random pause, so that workers that collided do not collide again."""
    close: float = 30.0
    """At the end of a trial, for rows that are still to be sent."""
    system: float = 60.0
    """Between two samples of the machine's CPU, memory, disk, network and, with nvidia-ml-py installed, GPU."""


PACE = Pace()


class MlflowSink:
    """A ``training.course.Sink``. ``log`` only puts a row into a queue.

    A thread finds or makes the runs and sends the rows. If the store fails, it warns once and keeps trying.

    Args:
        tracker: the sweep's; a sink must have one to itself.
        config: the trial.
        environment: the content of its ``environment.json``.
        folder: its run folder; at the end of the trial a model of each member is made from its last checkpoint. Without
            it no models are made.
        pace: how long it waits.
    """

    def __init__(
        self,
        tracker: Tracker,
        config: RunConfig,
        environment: Mapping[str, Any],
        folder: RunFolder | None = None,
        pace: Pace = PACE,
    ) -> None:
        self.tracker = tracker
        self.config = config
        self.environment = environment
        self.folder = folder
        self.pace = pace
        self._queue: deque[tuple[int, int, dict[str, NDArray[Any]]]] = deque()
        self._runs: list[str] = []
        self._monitor: SystemMetricsMonitor | None = None
        self._last = -1
        self._pruned = ""
        self._warned = self._finished = False
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Queue values ``[K]`` of one step. A step that the store already has is not sent again."""
        self._queue.append((step, int(time.time() * 1000), {name: np.array(v) for name, v in metrics.items()}))

    def close(self, pruned: str = "") -> int:
        """Send the remaining rows and, if the trial has ended, set its status; make models of a complete one.

        Returns the number of rows that were not sent.
        """
        self._pruned = pruned
        self._closing.set()
        self._thread.join(self.pace.close)
        self._given_up.set()
        unsent = len(self._queue)
        if unsent:
            logger.warning(
                "%s: %d row(s) were not sent to MLflow at %s. They are in the run folder; the end of the sweep sends them.",
                self.config.key, unsent, redacted(self.tracker.uri),
            )  # fmt: skip
        return unsent

    def _work(self) -> None:
        while True:
            closing, crowded, pause = self._closing.is_set(), False, self.pace.send
            try:
                self._send()
                if closing:
                    self._make_models()
            except Exception as error:  # no error of a store may stop a trial; the rows are kept
                crowded = busy(error)
                pause = random.uniform(0.5, 1.5) * self.pace.busy if crowded else self.pace.retry
                if not self._warned and not crowded:
                    logger.warning(
                        "%s: MLflow at %s does not accept metrics or models (%s). Training continues; they are sent again later.",
                        self.config.key, redacted(self.tracker.uri), first_line(error),
                    )  # fmt: skip
                self._warned = self._warned or not crowded
            if closing and (not crowded or self._given_up.wait(pause)):
                if self._monitor is not None:
                    self._monitor.finish()
                return
            self._closing.wait(0.0 if closing else pause)

    def _send(self) -> None:
        """Send the rows in the queue. A row leaves it only when all runs of the trial have it."""
        if not self._runs:
            self._runs = self._open()
            self._watch()
        count, last = len(self._queue), self._last
        rows = []
        for step, timestamp, metrics in (self._queue[i] for i in range(count)):
            if step > last:
                rows.append(Row(step, timestamp, named(metrics)))
                last = step
        self.tracker.send(self._runs, rows)
        self._last = last
        for _ in range(count):
            self._queue.popleft()
        if last >= self.config.steps and not self._finished:
            for run in self._runs:
                self.tracker.set_status(run, "FINISHED")
            self._finished = True
        if self._pruned:
            for run in self._runs:
                self.tracker.set_status(run, "KILLED")

    def _make_models(self) -> None:
        """Make a model of each member once all rows are sent. The last checkpoint is written before the sink is closed."""
        if self.folder is not None and self._finished:
            self.tracker.log_models(self._runs, self.folder)

    def _open(self) -> list[str]:
        """Find or make the runs, and read the newest step of an earlier attempt.

        A kill may leave the runs at different steps. Only steps that none of them has are sent from here; ``reconcile``
        fills in what single runs lack.
        """
        runs = self.tracker.trial_runs(self.config, self.environment)
        for run in runs:
            self.tracker.set_status(run, "RUNNING")
        self._last = max(self.tracker.progress(run) for run in runs)
        return runs

    def _watch(self) -> None:
        """Start MLflow's monitor of the machine, if it works here."""
        try:
            self._monitor = self.tracker.monitor(self._runs[0], self.pace.system)
        except Exception as error:  # whatever psutil or the store raises
            logger.info("%s: MLflow does not watch this machine: %s", self.config.key, first_line(error))
