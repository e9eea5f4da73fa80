"""Shows a trial in MLflow while it is trained, without ever making it wait."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.text import first_line, shown
from diffcps.tracking.rows import Row, named
from diffcps.tracking.store import busy
from diffcps.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

SEND_SECONDS = 2.0
"""Least time between two sendings; rows that come faster travel together."""
RETRY_SECONDS = 20.0
"""Pause after a store has refused."""
BUSY_SECONDS = 5.0
"""Mean pause after a store had too much to do; drawn anew each time, or those that met would meet again."""
CLOSE_SECONDS = 30.0
"""How long the end of a trial waits for what is still to be sent."""
SYSTEM_SECONDS = 60.0
"""How often MLflow looks at the machine's CPU, memory, disk, network and, with nvidia-ml-py installed, GPU."""


class MlflowSink:
    """A ``training.Sink``. ``log`` only puts a row into a queue.

    A thread finds or makes the runs and sends the rows. While the store fails it says so once and keeps trying.

    Args:
        tracker: the sweep's; a sink must have one to itself.
        config: the trial.
        environment: the content of its ``environment.json``.
        folder: its run folder, of whose last checkpoint models are made when the trial has come to its end; without it
            none are made here.
    """

    def __init__(
        self, tracker: Tracker, config: RunConfig, environment: Mapping[str, Any], folder: RunFolder | None = None
    ) -> None:
        self.tracker = tracker
        self.config = config
        self.environment = environment
        self.folder = folder
        self._queue: deque[tuple[int, int, dict[str, NDArray[Any]]]] = deque()
        self._runs: list[str] = []
        self._monitor: SystemMetricsMonitor | None = None
        self._last = -1
        self._warned = self._finished = self._watched = False
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Queue values ``[K]`` of one step; a step that the store has already is dropped when its turn comes."""
        self._queue.append((step, int(time.time() * 1000), {name: np.array(v) for name, v in metrics.items()}))

    def close(self) -> int:
        """Send what is left and, when the trial has come to its end, say so and make its models.

        Returns the number of rows not sent.
        """
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._given_up.set()
        unsent = len(self._queue)
        if unsent:
            logger.warning(
                "%s: not sent to MLflow at %s: %d row(s). They are in the run folder; the end of the sweep sends them.",
                self.config.key, shown(self.tracker.uri), unsent,
            )  # fmt: skip
        return unsent

    def _work(self) -> None:
        while True:
            closing, crowded, pause = self._closing.is_set(), False, SEND_SECONDS
            try:
                self._send()
                if closing:
                    self._make_models()
            except Exception as error:  # a view must not stop a trial, whatever its store raises; the rows are kept
                crowded = busy(error)
                pause = random.uniform(0.5, 1.5) * BUSY_SECONDS if crowded else RETRY_SECONDS
                if not self._warned and not crowded:
                    logger.warning(
                        "%s: MLflow at %s does not take its metrics or models (%s). Training goes on; they are sent again later.",
                        self.config.key, shown(self.tracker.uri), first_line(error),
                    )  # fmt: skip
                self._warned = self._warned or not crowded
            if closing and (not crowded or self._given_up.wait(pause)):
                if self._monitor is not None:
                    self._monitor.finish()
                return
            self._closing.wait(0.0 if closing else pause)

    def _send(self) -> None:
        """Send what is in the queue; a row leaves it only when all of the trial's runs have it."""
        if not self._runs:
            self._runs = self._open()
        if not self._watched:
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

    def _make_models(self) -> None:
        """A model of each member, when everything has been sent: the last checkpoint was written before the sink is closed."""
        if self.folder is not None and self._finished:
            self.tracker.log_models(self._runs, self.folder)

    def _open(self) -> list[str]:
        """Find or make the runs, and learn how far an earlier attempt at this trial came.

        A kill may have left the runs at different steps. Only steps that none of them has are sent from here; what one
        of them lacks is filled in when the sweep's folder is reconciled, which looks at each run for itself.
        """
        runs = self.tracker.trial_runs(self.config, self.environment)
        for run in runs:
            self.tracker.set_status(run, "RUNNING")
        self._last = max(self.tracker.progress(run) for run in runs)
        return runs

    def _watch(self) -> None:
        """Have MLflow watch the machine. No row waits for it, and where it cannot be read there is nothing to see."""
        self._watched = True
        try:
            self._monitor = self.tracker.monitor(self._runs[0], SYSTEM_SECONDS)
        except Exception as error:  # whatever psutil or the store raises
            logger.info("%s: MLflow does not watch this machine: %s", self.config.key, first_line(error))
