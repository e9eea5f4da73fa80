"""How long the trials of a sweep still take, estimated from the speed of those that have started."""

import heapq
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from diffcps.config import RunConfig

if TYPE_CHECKING:
    from diffcps.runs.plan import Plan
    from diffcps.runs.trial import Trial


def seconds_left(plan: "Plan", trials: Sequence["Trial"], since: float) -> float | None:
    """Seconds until the last trial ends, with as many trials at once as now; ``None`` if no trial runs or no speed is known.

    Args:
        plan: of the sweep.
        trials: those that it has so far.
        since: ``time.time()`` at which this launch began; trials that failed before are tried again.
    """
    paces = _Paces(trials)
    running = [trial for trial in trials if trial.state == "running" and trial.stored]
    if not running or not paces.known:
        return None
    now = [trial.seconds_left or (trial.steps - trial.step) * paces.of(trial.config) for trial in running]
    return until_the_end(now, (steps * paces.of(config) for config, steps in _to_come(plan, trials, since)))


def seconds_per_step(speed: float | None, whole: float | None, steps: int) -> float | None:
    """Seconds for a gradient step, averaged over the whole trial; ``None`` before its first step.

    Steps of behaviour cloning take less time than the others, so the current speed is not that of the whole trial.

    Args:
        speed: ``steps_per_second``, the current speed.
        whole: ``seconds_whole``, what the whole trial takes, with its evaluations; ``None`` if it is not known.
        steps: of the whole trial.
    """
    if not speed:
        return None
    return whole / steps if whole and steps else 1.0 / speed


def until_the_end(running: Iterable[float], to_come: Iterable[float]) -> float:
    """Seconds until the last trial ends, if each of ``to_come`` starts when the next running one ends.

    Both are seconds that a trial still takes; at least one must run.
    """
    ends = list(running)
    heapq.heapify(ends)
    for seconds in to_come:
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)


def _to_come(plan: "Plan", trials: Sequence["Trial"], since: float) -> Iterator[tuple[RunConfig, int]]:
    """(configuration, remaining gradient steps) of each trial that this launch has still to start."""
    for trial in trials:
        again = trial.state == "failed" and (trial.updated or 0.0) < since
        if trial.stored and (again or trial.state in ("pending", "stopped", "interrupted")):
            yield trial.config, trial.steps - trial.step
    if plan.search:
        chosen = Counter(trial.config.task for trial in trials if trial.stored)
        for base in plan.trials:
            yield from [(base, base.steps)] * (plan.search - chosen[base.task])


class _Paces:
    """Seconds for a gradient step: of trials with the same settings, else of the same algorithm on the same task, else of the
    same algorithm, else of the same task, else of any trial."""

    def __init__(self, trials: Sequence["Trial"]) -> None:
        self.known: dict[object, list[float]] = defaultdict(list)
        for trial in trials:
            pace = seconds_per_step(trial.number("steps_per_second"), trial.number("seconds_whole"), trial.steps)
            if trial.stored and pace:
                for kind in self._kinds(trial.config):
                    self.known[kind].append(pace)

    @staticmethod
    def _kinds(config: RunConfig) -> tuple[object, ...]:
        task, algorithm = config.task, config.algorithm
        return (
            (task, algorithm, config.settings, len(config.members)),
            (task, algorithm),
            ("any task", algorithm),
            (task, "any algorithm"),
            None,
        )

    def of(self, config: RunConfig) -> float:
        """Seconds; at least one trial must have a speed."""
        return statistics.fmean(next(self.known[kind] for kind in self._kinds(config) if kind in self.known))
