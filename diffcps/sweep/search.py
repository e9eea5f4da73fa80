"""Optuna under Ray Tune: every point of a grid once, or a search in which each task has its own study.

Nothing is restored from a file: the studies are rebuilt from the run folders at each launch, which a kill cannot break.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from diffcps.config import RunConfig
from diffcps.runs.plan import OBJECTIVE, Axis, Plan

_ROOM_SECONDS = 10.0
_ATTEMPTS = 20
"""Suggestions in a row that may repeat a known point before any new one is taken."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Grid(OptunaSearch):
    """Every point once, each with the time at which it was asked for: a trial starts when there is room for it."""

    def suggest(self, trial_id: str) -> Any:
        """The next point."""
        point = super().suggest(trial_id)
        return {**point, "requested_at": time.time()} if isinstance(point, dict) else point


def grid_searcher(keys: Sequence[str]) -> OptunaSearch:
    """Runs every trial of ``keys`` exactly once, in that order."""
    space: dict[str, BaseDistribution] = {"key": CategoricalDistribution(list(keys))}
    points = [{"key": key} for key in keys]
    return _Grid(space, metric=OBJECTIVE, mode="max", points_to_evaluate=points)


class StudyPerTask(Searcher):
    """A search over several tasks at once, each task with an Optuna study of its own.

    One study over all tasks would spend its trials on the easiest task. Tasks take turns.

    Args:
        plan: for each task the trial that is varied, and what is chosen.
        finished: configurations and scores that are known already (NaN for a failed one).
        unfinished: configurations to be continued first.
    """

    def __init__(
        self,
        plan: Plan,
        finished: Sequence[tuple[RunConfig, float]] = (),
        unfinished: Sequence[RunConfig] = (),
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.studies: dict[str, OptunaSearch] = {}
        self.left: dict[str, int] = {}
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.owner: dict[str, tuple[str, str]] = {}
        self.instead: dict[str, dict[str, Any]] = {}
        self.plan = plan
        for base in plan.trials:
            done = [(point_of(trial, plan.axes), score) for trial, score in finished if trial.task == base.task]
            waiting = [point_of(trial, plan.axes) for trial in unfinished if trial.task == base.task]
            # the seed moves on with what is known, or a new launch would suggest its first points again
            known = len(done) + len(waiting)
            study = OptunaSearch(
                distributions(plan.axes), metric=OBJECTIVE, mode="max", points_to_evaluate=waiting, seed=1 + known
            )
            for point, score in done:
                failed = math.isnan(score)
                study.add_evaluated_point(point, 0.0 if failed else score, error=failed)
            self.studies[base.task] = study
            self.seen[base.task] = [point for point, _ in done]
            self.left[base.task] = max(0, (plan.search or 0) - len(done))

    @property
    def remaining(self) -> int:
        """Trials still to be suggested."""
        return sum(self.left.values())

    def suggest(self, trial_id: str) -> Any:
        """The next new point of the task with most trials left; ``Searcher.FINISHED`` when there is none.

        A point that was tried before would only give the same numbers again.
        """
        while any(self.left.values()):
            task = max(self.left, key=lambda name: self.left[name])
            point = self._new_point(task, trial_id)
            if point is not None:
                self.seen[task].append(point)
                self.left[task] -= 1
                return {"task": task, **point, "requested_at": time.time()}
            self.left[task] = 0
        return Searcher.FINISHED

    def _new_point(self, task: str, trial_id: str) -> dict[str, Any] | None:
        """What Optuna suggests, if that is new within some attempts, else any point that is; ``None`` if none is."""
        for attempt in range(_ATTEMPTS):
            name = f"{trial_id}-{attempt}"
            self.owner[trial_id] = task, name
            point = self.studies[task].suggest(name)
            assert point is not None
            if point not in self.seen[task]:
                return point
            self.studies[task].on_trial_complete(name, None, error=True)
        # in a small space of given values Optuna soon repeats its favourite
        fresh = [point for point in self.plan.combinations() if point not in self.seen[task]]
        if not fresh:
            return None
        self.instead[trial_id] = random.Random(len(fresh)).choice(fresh)
        return self.instead[trial_id]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the trial's study how it ended; a score that is no number counts as a failure."""
        value = (result or {}).get(OBJECTIVE)
        score = math.nan if error or value is None else float(value)
        failed = math.isnan(score)
        task, name = self.owner[trial_id]
        study = self.studies[task]
        if trial_id in self.instead:
            study.add_evaluated_point(self.instead[trial_id], 0.0 if failed else score, error=failed)
        else:
            study.on_trial_complete(name, None if failed else result, error=failed)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a launch rebuilds the studies from the run folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see ``save``."""


class AsManyAsFit(ConcurrencyLimiter):
    """Hands out points while the cluster has free slots.

    The number is checked every ten seconds, because a cluster can grow or shrink.

    Args:
        searcher: where the points come from.
        room: how many trials may run at once now.
    """

    def __init__(self, searcher: Searcher, room: Callable[[], int]) -> None:
        self._room, self._asked, self._known = room, -math.inf, 1
        super().__init__(searcher, 1)

    @property
    def max_concurrent(self) -> int:
        """The room, looked up every ten seconds."""
        if time.monotonic() - self._asked > _ROOM_SECONDS:
            self._asked, self._known = time.monotonic(), self._room()
        return self._known

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        """What the base class sets is not what counts."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of its searcher in a file that nothing reads."""
        return {}


def distributions(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """What Optuna draws from."""
    return {axis.name: _distribution(axis) for axis in axes}


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.low is None or axis.high is None:
        return CategoricalDistribution(list(axis.choices))
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return IntDistribution(axis.low, axis.high, log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def point_of(trial: RunConfig, axes: Sequence[Axis]) -> dict[str, Any]:
    """The trial as a point of the search space."""
    return {axis.name: trial.value(axis.name, 0) for axis in axes}
