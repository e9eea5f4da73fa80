"""The loop of one trial: learn, evaluate, record, save. It knows no Ray, no MLflow, and not which trials it shares a pack with.

Rows are written at fixed steps (multiples of ``log_every`` and of ``evaluation.every``, and the end), and checkpoints
together with a row. So an interrupted and resumed trial writes the very same rows, and a kill costs at most
``checkpoint_minutes`` and one row with its evaluation, and those of the trials in the same pack. Whoever is about to end the
trial can ask for a checkpoint. It comes within seconds, in the middle of a row; where several workers or packs share the
members, it comes with the next row. Workers that share the members meet at rows only; how many there are changes nothing but
the rounding of arithmetic.

The loop asks for its gradient steps (``Row``), and for leave to go on when a row is written: whoever calls it,
``training.together``, takes the steps, for the trials of one pack at once.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder, scores_by_evaluation
from diffcps.tasks.registry import task_of
from diffcps.training import cost
from diffcps.training.evaluation import Rollouts
from diffcps.training.keeping import Kept
from diffcps.training.measures.subject import Measured
from diffcps.training.packs import Share
from diffcps.training.workers import Workers

STATUS_SECONDS = 2.0
"""Seconds between two updates of ``status.json`` while learning."""


class Sink(Protocol):
    """Shows metrics somewhere else. The run folder is the record and is always written; a sink is a view."""

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Show values ``[K]`` of one step; after a resume a step may come again, with the same values."""

    def close(self, pruned: str = "") -> object:
        """Show what is still waiting, and why the trial was ended early; called once, also when the trial has failed."""


Prune = Callable[[int, Mapping[str, NDArray[Any]]], str]
"""Given a step and the metrics shown at it (``[K]``): why the trial ends here; empty to continue."""
PURPOSES = "start", "learning", "waiting", "evaluation", "checkpoint", "tracking", "repeated"
"""How a trial spends its time: until its first step (processes, imports, data), gradient steps, waiting for the trial's
other workers or for those that share its pack, evaluation, writing the run folder, sinks, and work repeated after kills."""


FILLING = "drawing actions"
"""What a trial does while its learner fills the columns of a stage."""


class _Clock:
    """Seconds that a trial has spent, by purpose; survives a resume inside the checkpoint.

    Args:
        spent: what the checkpoint says, empty without one.
        seen: what the newest status says; a kill may have come long after the checkpoint.
        requested_at: ``time.time()`` at which this attempt was requested.
    """

    def __init__(self, spent: Mapping[str, float], seen: Mapping[str, float], requested_at: float) -> None:
        self.spent = dict.fromkeys(PURPOSES, 0.0) | dict(spent)
        lost = {name: max(0.0, seen.get(name, 0.0) - self.spent[name]) for name in PURPOSES}
        # the start is not repeated work: every attempt has one
        start = lost.pop("start")
        self.spent["repeated"] += sum(lost.values())
        self.spent["start"] += start + max(0.0, time.time() - requested_at)
        self.mark = time.monotonic()

    def charge(self, purpose: str) -> float:
        """Add the time since the last call to ``purpose`` and return it, in seconds."""
        now = time.monotonic()
        elapsed, self.mark = now - self.mark, now
        self.spent[purpose] += elapsed
        return elapsed


@dataclass(frozen=True)
class _Course:
    """What every part of the loop works on: the way of a trial to its end, in this process."""

    config: RunConfig
    share: Share
    folder: RunFolder
    workers: Workers
    clock: _Clock
    scores: list[list[float]]
    """Of every evaluation so far, ``[evaluations, K]``."""
    kept: Kept
    pruned: str = ""
    """Why an earlier attempt pruned the trial; empty if it did not."""

    @property
    def next_row(self) -> int:
        """The next step at which a row is written."""
        every = self.config.log_every, self.config.evaluation.every
        return min(self.config.steps, *(n * (self.share.step // n + 1) for n in every))

    @property
    def evaluation_due(self) -> bool:
        """Whether the row of this step has an evaluation."""
        step = self.share.step
        return step % self.config.evaluation.every == 0 or step == self.config.steps

    @property
    def summary(self) -> dict[str, float]:
        """``last`` and ``best`` score so far, mean over members; empty before the first evaluation."""
        if not self.scores:
            return {}
        last, best = scores_by_evaluation(np.array(self.scores))
        return {"last": last, "best": best}


class _Status:
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
        course: _Course,
        *,
        notes: list[str] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        seconds: float = STATUS_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.course, self.progress, self.seconds, self.now = course, progress, seconds, now
        self.values: dict[str, Any] = {
            "state": "running",
            "steps": course.config.steps,
            "notes": [] if notes is None else notes,
        }
        self.start_step, self.start_time, self.written_at = course.share.step, now(), -seconds
        self.rate = self.pace = 0.0
        # of this attempt's first status: what the trial had taken before, without starting and without what is repeated
        self.begun_at = self.start_time
        self.before = sum(value for name, value in course.clock.spent.items() if name not in ("start", "repeated"))

    def warn_of_long_row(self, minutes: float) -> None:
        """Note, once, that a row takes longer than the time asked for between checkpoints."""
        interval = self.course.config.checkpoint_minutes
        beginning = "checkpoints come with rows, and here a row takes longer than"
        if minutes > interval and not any(note.startswith(beginning) for note in self.values["notes"]):
            self.values["notes"].append(f"{beginning} the {interval:g} min between checkpoints: {minutes:.1f} min.")

    @property
    def due(self) -> bool:
        """Whether the newest status is some seconds old."""
        return self.now() - self.written_at >= self.seconds

    def write(self, **changes: Any) -> None:
        """Write the status now."""
        self.written_at = self.now()
        step, config = self.course.share.step, self.course.config
        self._measure(step)
        left = self.pace * (cost.eager_seconds(config) - cost.eager_seconds(config, step)) if self.pace else None
        self.values.update(
            step=step,
            steps_per_second=self.rate,
            seconds_left=None if self._tell_filling() else left,
            seconds_whole=None if left is None else self.before + self.written_at - self.begun_at + left,
            seconds=self.course.clock.spent,
            updated=time.time(),
            **changes,
        )
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


class Row:
    """What a trial asks for: gradient steps up to its next row, and to be told when they begin, go on and end."""

    def __init__(self, course: _Course, status: _Status) -> None:
        self._course, self._status = course, status
        self.steps = course.next_row - course.share.step
        self.seconds = 0.0
        """Of these steps, so far."""

    def begin(self) -> None:
        """The steps begin: what was before was waiting."""
        self._course.clock.charge("waiting")

    @property
    def due(self) -> bool:
        """Whether the status is some seconds old."""
        return self._status.due

    def show(self) -> None:
        """Write the status."""
        self.seconds += self._course.clock.charge("learning")
        self._status.write()

    @property
    def asked_to_save(self) -> bool:
        """Whether a checkpoint is asked for, which can be written in the middle of a row: workers talk at rows only."""
        return self._course.workers.count == 1 and self._course.folder.asked_to_save

    def save(self) -> None:
        """Write a checkpoint in the middle of the row."""
        _save(self._course, self._status)
        self._course.clock.charge("checkpoint")
        self._status.write()

    def end(self) -> None:
        """All steps are done."""
        self.seconds += self._course.clock.charge("learning")


Turns = Generator[Row | None, Any, None]
"""The loop as its caller sees it. It is sent, after a ``Row``, the mean of each metric over its steps, by name, ``[members]``;
after ``None``, which says that the row is written, whether a checkpoint is due."""


def turns(
    config: RunConfig,
    share: Share,
    folder: RunFolder,
    state: Mapping[str, Any] | None,
    *,
    workers: Workers | None = None,
    sinks: Sequence[Sink] = (),
    prune: Prune | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    notes: list[str] | None = None,
    requested_at: float | None = None,
    status_seconds: float = STATUS_SECONDS,
) -> Turns:
    """Train a trial to its end.

    Args:
        config: the trial.
        share: this worker's members, fresh.
        folder: the run folder, already created for ``config``; of a trial that has not ended.
        state: the newest checkpoint, if there is one; it is loaded into the members.
        workers: the workers that share the members; by default this one trains all.
        sinks: closed at the end; only the first worker may have any.
        prune: asked in the first worker after each evaluation but the last; the trial ends where it gives a reason.
        report: called in every worker after each evaluation with ``step``, ``score`` (the last) and ``best``.
        progress: called in the first worker with every status that is written.
        notes: sentences about this attempt, for the status; more may come.
        requested_at: ``time.time()`` at which the trial was requested, by default now.
        status_seconds: between two statuses while learning.
    """
    pruned = ""
    try:
        course = _begin(config, share, folder, state, workers=workers or Workers(), requested_at=requested_at)
        status = _Status(course, notes=notes, progress=progress, seconds=status_seconds)
        status.write(saved=share.step, **course.summary)
        pruned = course.pruned
        while share.step < config.steps and not pruned:
            row = Row(course, status)
            shown = _learned(course, status, row=row, own=(yield row))
            if course.evaluation_due:
                shown |= _evaluate(course)
            for sink in sinks:
                sink.log(shown, share.step)
            course.clock.charge("tracking")
            pruned = _pruned(course, prune, shown)
            due = yield None
            course.clock.charge("waiting")
            if share.step == config.steps or pruned or course.workers.decide(due):
                _save(course, status, pruned)
            course.clock.charge("checkpoint")
            status.write(**course.summary)
            if course.evaluation_due and course.summary and report is not None:
                report({"step": share.step, "score": course.summary["last"], "best": course.summary["best"]})
                course.clock.charge("tracking")
    finally:
        for sink in sinks:
            sink.close(pruned)
    _end(course, status, pruned)


def _begin(
    config: RunConfig,
    share: Share,
    folder: RunFolder,
    state: Mapping[str, Any] | None,
    *,
    workers: Workers,
    requested_at: float | None,
) -> _Course:
    """Go to the newest whole checkpoint, and drop the rows that came after it."""
    before = folder.status
    # after a crash Ray restarts the workers by itself: this attempt begins at the last sign of life of the one before
    begun = max(time.time() if requested_at is None else requested_at, before.get("updated", 0.0))
    clock = _Clock(state["seconds"] if state else {}, before.get("seconds", {}), begun)
    if state:
        share.load_state_dict(workers.own_state(state["learner"]))
    workers.agree("the step of the newest checkpoint", share.step)
    if workers.first:
        folder.rewind(share.step)
    return _Course(
        config,
        share,
        folder,
        workers=workers,
        clock=clock,
        scores=state["scores"] if state else [],
        kept=Kept(config, state or {}),
        pruned=state.get("pruned", "") if state else "",
    )


def _learned(course: _Course, status: _Status, *, row: Row, own: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Write a row, of which this worker's members have the metrics ``own``; returns what sinks show of all members, ``[K]``."""
    course.clock.charge("waiting")  # for the evaluations of trials in the same pack
    status.warn_of_long_row(row.seconds / 60)
    metrics = course.workers.join(own)
    course.clock.charge("waiting")
    metrics["steps_per_second"] = np.full(len(course.config.members), row.steps / max(row.seconds, 1e-9))
    if course.workers.first:
        course.folder.log(course.share.step, course.config, metrics, (*course.share.metrics, "steps_per_second"))
    course.clock.charge("checkpoint")
    return {f"training/{name}": value for name, value in metrics.items()}


def _evaluate(course: _Course) -> dict[str, NDArray[Any]]:
    """Evaluate and measure this worker's policies, and write the results; returns what sinks show of all members, ``[K]``."""
    config, share, folder = course.config, course.share, course.folder
    workers, clock = course.workers, course.clock
    step, policies = share.step, share.policy()
    last = step == config.steps
    episodes = config.evaluation.episodes_at(last)
    index = len(course.scores) if episodes else (step - 1) // config.evaluation.every
    rollouts = share.evaluate(policies, index, episodes) if episodes else None
    measured = share.measure(policies, index, last) if config.measures or config.acting else Measured({}, {})
    clock.charge("evaluation")
    if rollouts is not None:
        rollouts = Rollouts(**workers.join(vars(rollouts)))
    measured = Measured(*map(workers.join, measured))
    clock.charge("waiting")
    if workers.first:
        if rollouts is not None:
            folder.log_returns(step, config, rollouts.returns, rollouts.lengths)
        folder.log_measures(step, config, measured.values, measured.samples)
    shown = {} if rollouts is None else _scored(course, rollouts)
    course.kept.update(step, course.scores[-1] if rollouts is not None else None, lambda: _tensors(course))
    shown |= {f"measures/{name}": value for name, value in measured.values.items()}
    clock.charge("checkpoint")
    return shown


def _scored(course: _Course, rollouts: Rollouts) -> dict[str, NDArray[Any]]:
    """Add the scores of an evaluation to the trial's; returns what sinks show of it, ``[K]``."""
    scores = task_of(course.config).normalised_score(rollouts.returns).mean(axis=1)
    course.scores.append(scores.tolist())
    return {
        "evaluation/score": scores,
        "evaluation/return": rollouts.returns.mean(axis=1),
        "evaluation/length": rollouts.lengths.mean(axis=1),
        # fmax ignores evaluations of a diverged policy, whose score is NaN
        "evaluation/best": np.fmax.reduce(np.array(course.scores)),
    }


def _save(course: _Course, status: _Status, pruned: str = "") -> None:
    """Write a checkpoint; all workers take part. A trial that is ended early says so there: a kill may come before its status."""
    whole = course.workers.join_state(course.share.state_dict())
    if course.workers.first:
        state = {"learner": whole, "scores": course.scores, "seconds": course.clock.spent} | course.kept.state
        state |= {"pruned": pruned} if pruned else {}
        course.folder.save_checkpoint(state, course.share.step)
    status.values["saved"] = course.share.step


def _tensors(course: _Course) -> Mapping[str, Any]:
    """The tensors of the whole pack in the first worker, none in the others; all workers take part."""
    whole = course.workers.join_state(course.share.state_dict())
    return dict(whole["pack"]) if course.workers.first else {}


def _pruned(course: _Course, prune: Prune | None, shown: Mapping[str, NDArray[Any]]) -> str:
    """Why the trial ends here, the same in all workers; empty if it continues."""
    if not course.evaluation_due or course.share.step == course.config.steps:
        return ""
    why = prune(course.share.step, shown) if prune is not None else ""
    ends = course.workers.decide(bool(why))
    return (why or "the first worker says why") if ends else ""


def _end(course: _Course, status: _Status, pruned: str) -> None:
    """Say in the status that the trial is complete, or why it has been ended early."""
    course.clock.charge("tracking")
    status.write(**({"state": "pruned", "pruned": pruned} if pruned else {"state": "complete"}))
    # the other workers leave only now: if the status cannot be written, they must learn of it
    course.workers.agree("the last step", course.share.step)
