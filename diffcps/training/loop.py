"""The loop of one trial: learn, evaluate, record, save. It knows no Ray, no MLflow, and not which trials it shares a pack with.

Rows are written at fixed steps (multiples of ``log_every`` and of ``evaluation.every``, and the end), and checkpoints
together with a row. So an interrupted and resumed trial writes the very same rows. A kill costs at most
``checkpoint_minutes``, one row, its evaluation and the one under way, and those of the trials in the same pack.

Whoever is about to end the trial can ask for a checkpoint. It comes within seconds, in the middle of a row; where several
workers or packs share the members, it comes with the next row. Workers that share the members meet at rows only; how many
there are changes nothing but the rounding of arithmetic.

The loop does not take its gradient steps (``Row``): its caller, ``training.together``, does, for the trials of one pack at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffcps.config import RunConfig
from diffcps.runs.checkpoint import Checkpoint
from diffcps.runs.folder import RunFolder
from diffcps.runs.status import Progress
from diffcps.tasks.registry import task_of
from diffcps.training.beside import at_once
from diffcps.training.course import Clock, Course, Evaluation, Results, Shown, Sink, Start
from diffcps.training.evaluation import Rollouts
from diffcps.training.keeping import Kept
from diffcps.training.measures.subject import Measured
from diffcps.training.packs import Share
from diffcps.training.policy import Policy
from diffcps.training.status import STATUS_SECONDS, Status
from diffcps.training.workers import Workers, joined_state

Prune = Callable[[int, Shown], str]
"""Given a step and the metrics shown at it (``[K]``): why the trial ends here; empty to continue."""


class Row:
    """What a trial asks for: gradient steps up to its next row, and to be told when they begin, go on and end."""

    def __init__(self, course: Course, status: Status) -> None:
        self._course, self._status = course, status
        self.steps = course.next_row - course.share.step
        self.seconds = 0.0
        """Of these steps, so far."""

    def begin(self) -> None:
        """The steps begin: what was before was waiting."""
        self._course.clock.charge("waiting")

    @property
    def status_due(self) -> bool:
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
        self._course.clock.charge("waiting")  # for the checkpoints of other trials in the same pack
        _save(self._course, self._status)
        self._course.clock.charge("checkpoint")
        self._status.write()

    def end(self) -> None:
        """All steps are done."""
        self.seconds += self._course.clock.charge("learning")


class Loop:
    """The way of a trial to its end, in steps that its caller takes: it waits for gradient steps, writes, goes on.

    While ``row`` is there, take its steps and call ``write``; then call ``go_on``. Where ``row`` is then ``None``, the trial is
    complete or pruned. ``close`` it after an error.

    Args:
        config: the trial.
        share: this worker's members, fresh.
        folder: the run folder, already created for ``config``; of a trial that has not ended.
        state: the newest checkpoint, if there is one; it is loaded into the members.
        workers: the workers that share the members; by default this one trains all.
        begin_evaluation: begins one, which has ended when this returns or, if a single worker trains all members, later.
        sinks: closed at the end; only the first worker may have any.
        prune: asked in the first worker after each evaluation but the last; the trial ends where it gives a reason.
        diverged: given the metrics of a row with an evaluation: why the trial has diverged, for a note; empty if it has not.
        report: called in every worker after each evaluation with ``step``, ``score`` (the last) and ``best``.
        progress: called in the first worker with every status that is written.
        notes: sentences about this attempt, for the status; more may come.
        requested_at: ``time.time()`` at which the trial was requested, by default now.
        status_seconds: between two statuses while learning.
    """

    row: Row | None
    """The gradient steps that it waits for."""

    def __init__(
        self,
        config: RunConfig,
        share: Share,
        folder: RunFolder,
        state: Checkpoint | None,
        *,
        workers: Workers | None = None,
        begin_evaluation: Start = at_once,
        sinks: Sequence[Sink] = (),
        prune: Prune | None = None,
        diverged: Callable[[Shown], str] = lambda metrics: "",
        report: Callable[[dict[str, float]], None] | None = None,
        progress: Progress | None = None,
        notes: list[str] | None = None,
        requested_at: float | None = None,
        status_seconds: float = STATUS_SECONDS,
    ) -> None:
        self._prune, self._report = prune, report
        self._sinks, self._pruned = sinks, ""
        try:
            helped: dict[str, Any] = {"begin_evaluation": begin_evaluation, "sinks": sinks, "diverged": diverged}
            self._course = _begin(
                config, share, folder, state, workers=workers or Workers(), requested_at=requested_at, **helped
            )
            self._status = Status(self._course, notes=notes, progress=progress, seconds=status_seconds)
            self._status.write({**self._course.summary, "saved": share.step})
            _evaluate_again(self._course, state)
            self._pruned = self._course.pruned
            self._wait()
        except Exception:
            self.close()
            raise

    def write(self, own: Mapping[str, NDArray[Any]]) -> None:
        """Write the row whose steps are done, and evaluate if that is due.

        ``own``: the mean of each metric over its steps, by name, ``[members]``.
        """
        course, row = self._course, self.row
        assert row is not None
        self.row = None
        shown = _write_row(course, self._status, row=row, own=own)
        _evaluate(course, shown, waits=self._prune is not None or course.share.step == course.config.steps)
        self._pruned = _pruned(course, self._prune, shown)

    def go_on(self, checkpoint_due: bool) -> None:
        """After a row: write a checkpoint if one is due or the trial ends here; then wait for the next row, or end."""
        course = self._course
        course.clock.charge("waiting")
        if course.share.step == course.config.steps or self._pruned or course.workers.decide(checkpoint_due):
            _save(course, self._status, self._pruned)
        course.clock.charge("checkpoint")
        self._status.write(course.summary)
        if self._report is not None:
            _report(course, self._report)
        self._wait()

    def _wait(self) -> None:
        """For the next row, if there is one; else the trial has ended, and the status says so when the sinks have all."""
        course = self._course
        if course.share.step < course.config.steps and not self._pruned:
            self.row = Row(course, self._status)
            return
        self.row = None
        self.close()
        _end(course, self._status, self._pruned)

    def close(self) -> None:
        """Close the sinks, once."""
        sinks, self._sinks = self._sinks, ()
        for sink in sinks:
            sink.close(self._pruned)


def _begin(
    config: RunConfig,
    share: Share,
    folder: RunFolder,
    state: Checkpoint | None,
    *,
    workers: Workers,
    begin_evaluation: Start,
    sinks: Sequence[Sink],
    diverged: Callable[[Shown], str],
    requested_at: float | None,
) -> Course:
    """Go to the newest whole checkpoint, and drop the rows that came after it."""
    before = folder.status
    # after a crash Ray restarts the workers by itself: this attempt begins at the last sign of life of the one before
    begun = max(time.time() if requested_at is None else requested_at, before.get("updated", 0.0))
    clock = Clock(state["seconds"] if state else {}, before.get("seconds", {}), begun)
    if state:
        share.load_state_dict(workers.own_state(state["learner"]))
    workers.agree("the step of the newest checkpoint", share.step)
    if workers.first:
        evaluation = state.get("evaluation") if state else None
        folder.rewind(share.step, evaluation["step"] - 1 if evaluation else None)
    return Course(
        config,
        share,
        folder,
        workers=workers,
        begin_evaluation=begin_evaluation,
        sinks=sinks,
        diverged=diverged,
        clock=clock,
        scores=state["scores"] if state else [],
        kept=Kept(config, state or {}),
        pruned=state.get("pruned", "") if state else "",
    )


def _write_row(course: Course, status: Status, *, row: Row, own: Mapping[str, NDArray[Any]]) -> Shown:
    """Write a row, of which this worker's members have the metrics ``own``; returns what sinks show of all members, ``[K]``."""
    course.clock.charge("waiting")  # for the evaluations of trials in the same pack
    status.warn_of_long_row(row.seconds / 60)
    metrics = course.workers.join(own)
    course.clock.charge("waiting")
    metrics["steps_per_second"] = np.full(len(course.config.members), row.steps / max(row.seconds, 1e-9))
    if course.workers.first:
        course.folder.log(course.share.step, course.config, metrics, (*course.share.metrics, "steps_per_second"))
    course.clock.charge("checkpoint")
    shown = {f"training/{name}": value for name, value in metrics.items()}
    if course.evaluation_due:
        status.warn_of_divergence(course.diverged(shown))
    return shown


def _evaluate(course: Course, shown: Shown, *, waits: bool) -> None:
    """Begin the evaluation of this row if one is due, and settle the one under way if it has ended or the caller ``waits``."""
    if course.evaluation_due:
        _settle(course)
        course.evaluation = _begin_evaluation(course, course.share.step, course.share.policies())
    course.unshown.append((course.share.step, shown))
    if course.evaluation is None or course.evaluation.results.done() or waits:
        _settle(course)


def _evaluate_again(course: Course, state: Checkpoint | None) -> None:
    """Begin the evaluation that was under way when the checkpoint was written, if any."""
    if state is None or "evaluation" not in state:
        return
    begun = state["evaluation"]
    course.unshown = [
        (step, {name: np.array(values) for name, values in shown.items()}) for step, shown in begun["rows"]
    ]
    policies = course.share.policies(course.workers.own_state(begun["networks"]))
    course.evaluation = _begin_evaluation(course, begun["step"], policies)


def _begin_evaluation(course: Course, step: int, policies: Sequence[Policy]) -> Evaluation:
    """Begin to evaluate and measure this worker's policies of a step."""
    config, share = course.config, course.share
    last = step == config.steps
    episodes = config.evaluation.episodes_at(last)
    index = (step - 1) // config.evaluation.every

    def work() -> Results:
        rollouts = share.evaluate(policies, index, episodes) if episodes else None
        return rollouts, share.measure(policies, index, last) if config.measures or config.acting else Measured({}, {})

    wanted = bool(episodes or config.measures or config.acting)
    begun = Evaluation(step, policies, (course.begin_evaluation if wanted else at_once)(work))
    course.clock.charge("evaluation")
    return begun


def _settle(course: Course) -> None:
    """Wait for the evaluation that has begun, write its results, and show sinks the rows since then."""
    if course.evaluation is not None:
        found = _write_results(course, course.evaluation)
        course.unshown[0][1].update(found)  # the first is the row that it is of
        if summary := course.summary:
            course.news.append({"step": course.evaluation.step, "score": summary["last"], "best": summary["best"]})
        course.evaluation = None
    for step, shown in course.unshown:
        for sink in course.sinks:
            sink.log(shown, step)
    course.unshown.clear()
    course.clock.charge("tracking")


def _report(course: Course, report: Callable[[dict[str, float]], None]) -> None:
    """Report the evaluations that have been settled since the last call."""
    for news in course.news:
        report(news)
    course.news.clear()
    course.clock.charge("tracking")


def _write_results(course: Course, evaluation: Evaluation) -> Shown:
    """Write the results of an evaluation; returns what sinks show of all members, ``[K]``."""
    config, folder, workers, clock = course.config, course.folder, course.workers, course.clock
    step = evaluation.step
    rollouts, measured = evaluation.results.result()
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
    scores = course.scores[-1] if rollouts is not None else None
    course.kept.update(step, scores, lambda: _networks(course, evaluation.policies))
    shown |= {f"measures/{name}": value for name, value in measured.values.items()}
    clock.charge("checkpoint")
    return shown


def _scored(course: Course, rollouts: Rollouts) -> Shown:
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


def _save(course: Course, status: Status, pruned: str = "") -> None:
    """Write a checkpoint; all workers take part. A trial that is ended early says so there: a kill may come before its status.

    An evaluation under way is written as what it evaluates, to be done again.
    """
    whole = course.workers.join_state(course.share.state_dict())
    begun = course.evaluation
    networks = _networks(course, begun.policies) if begun is not None else {}
    if course.workers.first:
        state: Checkpoint = {"learner": whole, "scores": course.scores, "seconds": course.clock.spent}
        state |= course.kept.state
        if pruned:
            state["pruned"] = pruned
        if begun is not None:
            rows = [(step, {name: values.tolist() for name, values in shown.items()}) for step, shown in course.unshown]
            state["evaluation"] = {"step": begun.step, "networks": networks, "rows": rows}
        course.folder.save_checkpoint(state, course.share.step)
    status.values["saved"] = course.share.step


def _networks(course: Course, policies: Sequence[Policy]) -> dict[str, Tensor]:
    """The networks by which all members act, in the first worker, none in the others; all workers take part."""
    whole = course.workers.join_state(joined_state([policy.networks for policy in policies]))
    return whole if course.workers.first else {}


def _pruned(course: Course, prune: Prune | None, shown: Shown) -> str:
    """Why the trial ends here, the same in all workers; empty if it continues."""
    if not course.evaluation_due or course.share.step == course.config.steps:
        return ""
    why = prune(course.share.step, shown) if prune is not None else ""
    ends = course.workers.decide(bool(why))
    return (why or "the first worker says why") if ends else ""


def _end(course: Course, status: Status, pruned: str) -> None:
    """Say in the status that the trial is complete, or why it has been ended early."""
    course.clock.charge("tracking")
    status.write({"state": "pruned", "pruned": pruned} if pruned else {"state": "complete"})
    # the other workers leave only now: if the status cannot be written, they must learn of it
    course.workers.agree("the last step", course.share.step)
