"""The loop: learn, evaluate, record, checkpoint. It takes callables and knows no Ray and no MLflow."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms.model import METRICS
from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder, scores_by_evaluation
from diffcps.tasks.registry import task_of
from diffcps.training import cost
from diffcps.training.evaluation import Rollouts
from diffcps.training.measures.taking import Measured

STATUS_SECONDS = 2.0
"""How often ``status.json`` is renewed while learning goes on."""

Policies = TypeVar("Policies")
Policies_co = TypeVar("Policies_co", covariant=True)


class Trainee(Protocol[Policies_co]):
    """What is trained: a ``Learner``, or several that together are one."""

    @property
    def step(self) -> int:
        """Gradient steps that all of it has taken."""

    def update(self, steps: int, tick: Callable[[], None] | None = None) -> Mapping[str, Any]:
        """Take gradient steps; returns the mean of each metric over them, a tensor ``[members]`` on any device."""

    def policy(self) -> Policies_co:
        """A snapshot for acting."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""


class Sink(Protocol):
    """Where metrics are shown. The run folder is the record and is always written; a sink is a view."""

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Show values ``[K]`` of one step; a step may come a second time after a resume, with the same values."""

    def close(self) -> object:
        """Show what is still to be shown; called once, whether or not the trial has come to its end."""


class Company(Protocol):
    """The workers that train one trial together, each a share of its members, as one of them sees them.

    All of them call the same functions in the same order. When one has failed, the next call raises in all others.
    """

    @property
    def first(self) -> bool:
        """Whether this worker keeps the run folder and shows the trial. Exactly one does."""

    def agree(self, what: str, value: object) -> None:
        """Wait for all. Raises ``UserError`` when a value that must be the same for all is not."""

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every worker's arrays ``[its members, …]`` put together as ``[K, …]``, for every worker."""

    def decide(self, value: bool) -> bool:
        """What the first worker says, for every worker."""

    def join_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The learner's state of the whole pack from every worker's; what it is worth to others than the first is open."""

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """This worker's share of the learner's state of the whole pack."""


class Alone:
    """The company of a worker that trains all members itself."""

    first = True

    def agree(self, what: str, value: object) -> None:
        """There is nobody to disagree with."""

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same arrays."""
        return dict(arrays)

    def decide(self, value: bool) -> bool:
        """The same value."""
        return value

    def join_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The same state."""
        return state

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The same state."""
        return state


PURPOSES = "start", "learning", "waiting", "evaluation", "checkpoint", "tracking", "repeated"
"""What a trial's time goes to: coming to its first step (processes, imports, data), gradient steps, waiting for the
other workers of the trial, judging policies, writing the run folder, showing it elsewhere, and what a kill made it do
twice."""


class _Clock:
    """Where the time of a trial goes, in seconds; survives a resume inside the checkpoint.

    Args:
        spent: what the checkpoint says, empty without one.
        seen: what the newest status says: a kill may have come long after the checkpoint.
        asked: ``time.time()`` at which this attempt was asked for.
    """

    def __init__(self, spent: Mapping[str, float], seen: Mapping[str, float], asked: float) -> None:
        self.spent = dict.fromkeys(PURPOSES, 0.0) | dict(spent)
        lost = {name: max(0.0, seen.get(name, 0.0) - self.spent[name]) for name in PURPOSES}
        # coming to the first step is not done again: it is done once an attempt
        start = lost.pop("start")
        self.spent["repeated"] += sum(lost.values())
        self.spent["start"] += start + max(0.0, time.time() - asked)
        self.mark = time.monotonic()

    def charge(self, purpose: str) -> float:
        """Book the time since the last call under ``purpose`` and return it."""
        now = time.monotonic()
        elapsed, self.mark = now - self.mark, now
        self.spent[purpose] += elapsed
        return elapsed


class _Status:
    """Keeps ``status.json`` and the caller's progress display up to date; silent in all workers but the first."""

    def __init__(
        self,
        learner: Trainee[Any],
        config: RunConfig,
        folder: RunFolder,
        clock: _Clock,
        progress: Callable[[dict[str, Any]], None] | None,
        notes: Sequence[str],
        silent: bool,
    ) -> None:
        self.learner, self.folder, self.clock, self.progress, self.silent = learner, folder, clock, progress, silent
        self.config = config
        self.values: dict[str, Any] = {"state": "running", "steps": config.steps, "notes": list(notes)}
        self.start_step, self.start_time, self.shown = learner.step, time.monotonic(), 0.0
        self.rate = self.pace = 0.0

    def warn_of_long_row(self, minutes: float, interval: float) -> None:
        """Say, once, that checkpoints are further apart than was asked for."""
        said = "checkpoints come with rows, and here a row takes longer than"
        if minutes > interval and not any(note.startswith(said) for note in self.values["notes"]):
            self.values["notes"].append(f"{said} the {interval:g} min between checkpoints: {minutes:.1f} min.")

    def tick(self) -> None:
        """Show the progress when the last time is some seconds ago."""
        if time.monotonic() - self.shown >= STATUS_SECONDS:
            self.show()

    def show(self, **changes: Any) -> None:
        """Show the progress now."""
        self.shown = time.monotonic()
        step = self.learner.step
        self._measure(step)
        whole = cost.eager_seconds(self.config)
        self.values.update(
            step=step,
            steps_per_second=self.rate,
            seconds_left=self.pace * (whole - cost.eager_seconds(self.config, step)) if self.pace else None,
            seconds_whole=self.pace * whole if self.pace else None,
            seconds=self.clock.spent,
            updated=time.time(),
            **changes,
        )
        if self.silent:
            return
        self.folder.write_status(self.values)
        if self.progress is not None:
            self.progress(self.values)

    def _measure(self, step: int) -> None:
        """How fast it goes: steps a second, and seconds for a second of the estimate, in which steps of cloning count for less.

        Both since this attempt began or, after that, since cloning ended.
        """
        if step > self.start_step:
            passed = max(self.shown - self.start_time, 1e-9)
            done = cost.eager_seconds(self.config, step) - cost.eager_seconds(self.config, self.start_step)
            self.rate, self.pace = (step - self.start_step) / passed, passed / done
        if self.start_step < (self.config.value("behaviour_steps") or 0) <= step:
            self.start_step, self.start_time = step, self.shown


class _Saver:
    """Writes checkpoints, with the first row after so many minutes and at the end: all workers of a company together."""

    def __init__(self, config: RunConfig, folder: RunFolder, company: Company) -> None:
        self.config, self.folder, self.company = config, folder, company
        self.last = _minutes()

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs to the row of ``step``."""
        passed = _minutes() - self.last
        return step == self.config.steps or self.company.decide(passed >= self.config.checkpoint_minutes)

    def save(self, learner: Trainee[Any], state: Mapping[str, Any]) -> None:
        """Write one, of the learner and of ``state``."""
        whole = self.company.join_state(learner.state_dict())
        if self.company.first:
            self.folder.save_checkpoint({"learner": whole, **state}, learner.step)
        self.last = _minutes()


class _Judging(Generic[Policies]):
    """Evaluates and measures policies, and writes down what came out: all workers of a company together."""

    def __init__(
        self,
        config: RunConfig,
        evaluate: Callable[[Policies, int, int], Rollouts],
        measure: Callable[[Policies, int, bool], Measured] | None,
        folder: RunFolder,
        company: Company,
        clock: _Clock,
    ) -> None:
        self.config, self.evaluate, self.measure = config, evaluate, measure
        self.folder, self.company, self.clock = folder, company, clock

    def __call__(self, policies: Policies, index: int, step: int) -> dict[str, NDArray[Any]]:
        """Judge this worker's policies after ``step`` steps; returns what is shown of all members, ``[K]``."""
        config, company = self.config, self.company
        last = step == config.steps
        rollouts = self.evaluate(policies, index, config.evaluation.episodes_at(last))
        measured = None if self.measure is None else self.measure(policies, index, last)
        self.clock.charge("evaluation")
        rollouts = Rollouts(**company.join(vars(rollouts)))
        measured = measured and Measured(*map(company.join, measured))
        self.clock.charge("waiting")
        if company.first:
            self.folder.log_returns(step, config, rollouts.returns, rollouts.lengths)
        shown = _judged(config, rollouts)
        if measured is not None:
            if company.first:
                self.folder.log_measures(step, config, measured.values, measured.samples)
            shown |= {f"measures/{name}": value for name, value in measured.values.items()}
        return shown


def run(
    config: RunConfig,
    learner: Trainee[Policies],
    evaluate: Callable[[Policies, int, int], Rollouts],
    folder: RunFolder,
    sinks: Sequence[Sink] = (),
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    company: Company | None = None,
    asked: float | None = None,
    notes: Sequence[str] = (),
    measure: Callable[[Policies, int, bool], Measured] | None = None,
) -> dict[str, float]:
    """Train a pack from its newest checkpoint, or from the start, to its end.

    Rows are written at fixed steps (multiples of ``log_every`` and of ``evaluation.every``, and the end), and
    checkpoints only together with a row, so an interrupted and resumed trial writes the very same rows. A kill therefore
    costs at most ``checkpoint_minutes`` and one row with its evaluation. Where several workers share the members, they
    meet at rows only, and the run folder does not show how many they were.

    Args:
        config: the trial.
        learner: a fresh learner of this worker's members; its state is replaced by the checkpoint's when there is one.
        evaluate: ``(policy, index of the evaluation, episodes) -> Rollouts`` of this worker's members.
        folder: the run folder, already created for ``config``.
        sinks: further places where metrics are shown; closed at the end. Only the company's first may have any.
        report: called after each evaluation with ``step``, ``score`` (mean over members, last) and ``best``, in every
            worker.
        progress: called about every two seconds and at every row with the status.
        company: the workers that share the members; by default there is no other.
        asked: ``time.time()`` at which the trial was asked for, by default now; what has passed is its start.
        notes: sentences about this attempt that a person should read; they stand in the status.
        measure: ``(policy, index of the evaluation, whether it is the last) -> Measured`` of this worker's members, called
            at each evaluation; by default nothing is measured.

    Returns:
        ``step``, ``last`` and ``best``. A trial that is complete already is left as it is.
    """
    if folder.complete:
        return {name: folder.status[name] for name in ("step", "last", "best")}
    company = company or Alone()
    try:
        clock, scores, complaints = _begin(learner, folder, company, time.time() if asked is None else asked)
        status = _Status(learner, config, folder, clock, progress, [*notes, *complaints], not company.first)
        status.show(saved=learner.step, **_summary(scores))
        judging = _Judging(config, evaluate, measure, folder, company, clock)
        saver = _Saver(config, folder, company)
        while learner.step < config.steps:
            before, after = learner.step, _next_row(config, learner.step)
            clock.charge("checkpoint")
            own = {name: value.cpu().numpy() for name, value in learner.update(after - before, status.tick).items()}
            seconds = clock.charge("learning")
            status.warn_of_long_row(seconds / 60, config.checkpoint_minutes)
            metrics = company.join(own)
            clock.charge("waiting")
            metrics["steps_per_second"] = np.full(len(config.members), (after - before) / max(seconds, 1e-9))
            if company.first:
                folder.log(after, config, metrics, (*METRICS, "steps_per_second"))
            shown = {f"training/{name}": value for name, value in metrics.items()}

            evaluated = after % config.evaluation.every == 0 or after == config.steps
            if evaluated:
                clock.charge("checkpoint")
                shown |= judging(learner.policy(), len(scores), after)
                scores.append(shown["evaluation/score"].tolist())
                # of all evaluations: a diverged policy's gave no number, and fmax leaves it out
                shown["evaluation/best"] = np.fmax.reduce(np.array(scores))
            clock.charge("checkpoint")
            for sink in sinks:
                sink.log(shown, after)
            clock.charge("tracking")
            if saver.due(after):
                saver.save(learner, {"scores": scores, "seconds": clock.spent})
                status.values["saved"] = after
            clock.charge("checkpoint")
            status.show(**_summary(scores))
            if evaluated and report is not None:
                summary = _summary(scores)
                report({"step": after, "score": summary["last"], "best": summary["best"]})
                clock.charge("tracking")
    finally:
        for sink in sinks:
            sink.close()
    clock.charge("tracking")
    status.show(state="complete")
    # the others leave only now: were the end not written, they would have to know
    company.agree("the last step", learner.step)
    return {"step": learner.step, **_summary(scores)}


def _begin(
    learner: Trainee[Any], folder: RunFolder, company: Company, asked: float
) -> tuple[_Clock, list[list[float]], list[str]]:
    """Go to the newest checkpoint; returns the clock, the scores so far, and a sentence for each damaged checkpoint."""
    state, complaints = folder.load_checkpoint()
    before = folder.status
    # after a crash Ray starts the workers again by itself: what was asked for long ago begins at the last sign of life
    begun = max(asked, before.get("updated", 0.0))
    clock = _Clock(state["seconds"] if state else {}, before.get("seconds", {}), begun)
    if state:
        learner.load_state_dict(company.own_state(state["learner"]))
    company.agree("the step of the newest checkpoint", learner.step)
    if company.first:
        folder.rewind(learner.step)
    return clock, state["scores"] if state else [], complaints


def _judged(config: RunConfig, rollouts: Rollouts) -> dict[str, NDArray[Any]]:
    """What an evaluation shows of each member, ``[K]``: mean score, return and length over its episodes."""
    return {
        "evaluation/score": task_of(config).normalised_score(rollouts.returns).mean(axis=1),
        "evaluation/return": rollouts.returns.mean(axis=1),
        "evaluation/length": rollouts.lengths.mean(axis=1),
    }


def _summary(scores: list[list[float]]) -> dict[str, float]:
    """Last and best score so far, mean over members; nothing before the first evaluation."""
    if not scores:
        return {}
    last, best = scores_by_evaluation(np.array(scores))
    return {"last": last, "best": best}


def _minutes() -> float:
    """A clock for the time between checkpoints."""
    return time.monotonic() / 60


def _next_row(config: RunConfig, step: int) -> int:
    """The next step at which a row is written."""
    every = config.log_every, config.evaluation.every
    return min(config.steps, *(n * (step // n + 1) for n in every))
