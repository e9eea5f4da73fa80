"""The loop: learn, evaluate, record, checkpoint. It takes callables and knows no Ray and no MLflow."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms.diffcps import METRICS
from diffcps.config import RunConfig
from diffcps.evaluation import Rollouts
from diffcps.learner import Learner
from diffcps.policy import Policy
from diffcps.runs import RunFolder, scores_by_evaluation
from diffcps.tasks import get_task

STATUS_SECONDS = 2.0
"""How often ``status.json`` is renewed while learning goes on."""


class Sink(Protocol):
    """Where metrics are shown. The run folder is the record and is always written; a sink is a view."""

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Show values ``[K]`` of one step; a step may come a second time after a resume, with the same values."""


class _Clock:
    """Where the time of a trial goes, in seconds; survives a resume inside the checkpoint."""

    def __init__(self, spent: Mapping[str, float]) -> None:
        self.spent = {"learning": 0.0, "evaluation": 0.0, "checkpoint": 0.0} | dict(spent)
        self.mark = time.monotonic()

    def charge(self, purpose: str) -> float:
        """Book the time since the last call under ``purpose`` and return it."""
        now = time.monotonic()
        elapsed, self.mark = now - self.mark, now
        self.spent[purpose] += elapsed
        return elapsed


class _Status:
    """Keeps ``status.json`` and the caller's progress display up to date."""

    def __init__(
        self,
        learner: Learner,
        steps: int,
        folder: RunFolder,
        clock: _Clock,
        progress: Callable[[dict[str, Any]], None] | None,
        notes: Sequence[str],
    ) -> None:
        self.learner, self.folder, self.clock, self.progress = learner, folder, clock, progress
        self.values: dict[str, Any] = {"state": "running", "steps": steps, "notes": list(notes)}
        self.start_step, self.start_time, self.shown = learner.step, time.monotonic(), 0.0

    def tick(self) -> None:
        """Show the progress when the last time is some seconds ago."""
        if time.monotonic() - self.shown >= STATUS_SECONDS:
            self.show()

    def show(self, **changes: Any) -> None:
        """Show the progress now."""
        self.shown = time.monotonic()
        step, steps = self.learner.step, self.values["steps"]
        rate = (step - self.start_step) / max(self.shown - self.start_time, 1e-9)
        self.values.update(
            step=step,
            steps_per_second=rate,
            seconds_left=(steps - step) / rate if rate > 0 else None,
            seconds=self.clock.spent,
            updated=time.time(),
            **changes,
        )
        self.folder.write_status(self.values)
        if self.progress is not None:
            self.progress(self.values)


def run(
    config: RunConfig,
    learner: Learner,
    evaluate: Callable[[Policy, int], Rollouts],
    folder: RunFolder,
    sinks: Sequence[Sink] = (),
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Train a pack from its newest checkpoint, or from the start, to its end.

    Rows are written at fixed steps (multiples of ``log_every`` and of ``evaluation.every``, and the end), and
    checkpoints only together with a row, so an interrupted and resumed trial writes the very same rows.

    Args:
        config: the trial.
        learner: a fresh learner of ``config``; its state is replaced by the checkpoint's when there is one.
        evaluate: ``(policy, index of the evaluation) -> Rollouts``.
        folder: the run folder, already created for ``config``.
        sinks: further places where metrics are shown.
        report: called after each evaluation with ``step``, ``score`` (mean over members, last) and ``best``.
        progress: called about every two seconds and at every row with the status.

    Returns:
        ``step``, ``last`` and ``best``. A trial that is complete already is left as it is.
    """
    if folder.complete:
        return {name: folder.status[name] for name in ("step", "last", "best")}
    task = get_task(config.task)
    state, complaints = folder.load_checkpoint(learner.device)
    clock = _Clock(state["seconds"] if state else {})
    scores: list[list[float]] = state["scores"] if state else []
    if state:
        learner.load_state_dict(state["learner"])
    folder.rewind(learner.step)
    status = _Status(learner, config.steps, folder, clock, progress, complaints)
    status.show(**_summary(scores))
    while learner.step < config.steps:
        before, after = learner.step, _next_row(config, learner.step)
        clock.charge("checkpoint")
        metrics = {k: v.cpu().numpy() for k, v in learner.update(after - before, tick=status.tick).items()}
        seconds = clock.charge("learning")
        metrics["steps_per_second"] = np.full(learner.members, (after - before) / max(seconds, 1e-9))
        folder.log(after, config, metrics, (*METRICS, "steps_per_second"))
        shown = {f"training/{name}": value for name, value in metrics.items()}

        evaluated = after % config.evaluation.every == 0 or after == config.steps
        if evaluated:
            rollouts = evaluate(learner.policy(), len(scores))
            clock.charge("evaluation")
            folder.log_returns(after, config, rollouts.returns, rollouts.lengths)
            score = task.normalised_score(rollouts.returns).mean(axis=1)
            scores.append(score.tolist())
            shown["evaluation/score"] = score
            shown["evaluation/return"] = rollouts.returns.mean(axis=1)
            shown["evaluation/length"] = rollouts.lengths.mean(axis=1)
        for sink in sinks:
            sink.log(shown, after)
        if after == config.steps or after // config.checkpoint_every > before // config.checkpoint_every:
            content = {"learner": learner.state_dict(), "scores": scores, "seconds": clock.spent}
            folder.save_checkpoint(content, after)
        clock.charge("checkpoint")
        status.show(**_summary(scores))
        if evaluated and report is not None:
            summary = _summary(scores)
            report({"step": after, "score": summary["last"], "best": summary["best"]})
    status.show(state="complete")
    return {"step": learner.step, **_summary(scores)}


def _summary(scores: list[list[float]]) -> dict[str, float]:
    """Last and best score so far, mean over members; nothing before the first evaluation."""
    if not scores:
        return {}
    last, best = scores_by_evaluation(np.array(scores))
    return {"last": last, "best": best}


def _next_row(config: RunConfig, step: int) -> int:
    """The next step at which a row is written."""
    every = config.log_every, config.evaluation.every
    return min(config.steps, *(n * (step // n + 1) for n in every))
