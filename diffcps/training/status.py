"""What a trial says of itself while it runs: ``status.json``, and the caller's progress display."""

import time
from collections.abc import Callable

from diffcps.runs.status import Progress, StatusFile
from diffcps.training import cost
from diffcps.training.course import Course

STATUS_SECONDS = 2.0
"""Seconds between two updates of ``status.json`` while learning."""
FILLING = "drawing actions"
"""What a trial does while its learner fills the columns of a stage."""


class Status:
    """Keeps ``status.json`` and the caller's progress display up to date; silent in all workers but the first.

    Args:
        course: what is reported.
        notes: sentences about this attempt; more may come.
        progress: called with every status that is written.
        seconds: between two updates while learning.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        course: Course,
        *,
        notes: list[str] | None = None,
        progress: Progress | None = None,
        seconds: float = STATUS_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.course, self.progress, self.seconds, self.now = course, progress, seconds, now
        self.values: StatusFile = {
            "state": "running",
            "steps": course.config.steps,
            "notes": [] if notes is None else notes,
        }
        self.start_step, self.start_time, self.written_at = course.share.step, now(), -seconds
        self.rate = self.pace = 0.0
        # what earlier attempts took, without starting and without what is repeated: with `begun_at` it gives `seconds_whole`
        self.begun_at = self.start_time
        self.before = sum(value for name, value in course.clock.spent.items() if name not in ("start", "repeated"))

    def warn_of_long_row(self, minutes: float) -> None:
        """Note, once, that a row takes longer than the time asked for between checkpoints."""
        interval = self.course.config.checkpoint_minutes
        beginning = "checkpoints come with rows, and here a row takes longer than"
        if minutes > interval and not any(note.startswith(beginning) for note in self.values["notes"]):
            self.values["notes"].append(f"{beginning} the {interval:g} min between checkpoints: {minutes:.1f} min.")

    def warn_of_divergence(self, why: str) -> None:
        """Note, once, why the trial probably cannot recover; nothing if ``why`` is empty."""
        beginning = "this trial probably cannot recover: "
        if why and not any(note.startswith(beginning) for note in self.values["notes"]):
            self.values["notes"].append(f"{beginning}{why} (step {self.course.share.step:,}).")

    @property
    def due(self) -> bool:
        """Whether the newest status is some seconds old."""
        return self.now() - self.written_at >= self.seconds

    def write(self, changes: StatusFile | None = None) -> None:
        """Write the status now, with these changes."""
        self.written_at = self.now()
        step, config = self.course.share.step, self.course.config
        self._measure(step)
        left = self.pace * (cost.eager_seconds(config) - cost.eager_seconds(config, step)) if self.pace else None
        self.values |= {
            "step": step,
            "steps_per_second": self.rate,
            "seconds_left": None if self._tell_filling() else left,
            "seconds_whole": None if left is None else self.before + self.written_at - self.begun_at + left,
            "seconds": self.course.clock.spent,
            "updated": time.time(),
        }
        self.values |= changes or {}
        if self.course.workers.first:
            self.course.folder.write_status(self.values)
            if self.progress is not None:
                self.progress(self.values)

    def _tell_filling(self) -> bool:
        """Whether the learner fills the columns of a stage; says so."""
        filling = self.course.share.filling
        if not filling:
            self.values.pop("doing", None)
            self.values.pop("doing_since", None)
        elif "doing" not in self.values:
            self.values |= {"doing": FILLING, "doing_since": time.time()}
        return filling

    def _measure(self, step: int) -> None:
        """Update ``rate``, steps per second, and ``pace``, seconds per second of the estimate.

        A step of cloning costs less than others, which the estimate knows. Both are measured since this attempt began
        or, later, since cloning ended.
        """
        config = self.course.config
        if step > self.start_step:
            passed = max(self.written_at - self.start_time, 1e-9)
            done = cost.eager_seconds(config, step) - cost.eager_seconds(config, self.start_step)
            self.rate, self.pace = (step - self.start_step) / passed, passed / done
        else:  # what comes before the first of these steps is none of their time: compiling, or drawing actions for a stage
            self.start_time = self.written_at
        if any(stage.until and self.start_step < stage.until <= step for stage in cost.counted(config).stages):
            self.start_step, self.start_time = step, self.written_at
