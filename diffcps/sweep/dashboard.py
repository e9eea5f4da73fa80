"""A search as Optuna sees it: a storage file for optuna-dashboard, and how much each axis matters, for the report.

The storage file is rewritten from the run folders whenever a trial ends; never read back, so losing it loses nothing.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial
from ray import tune

from diffcps.errors import UserError
from diffcps.files import write_json
from diffcps.runs import criteria, read
from diffcps.runs.criteria import newest
from diffcps.runs.plan import Plan
from diffcps.runs.read import IMPORTANCES
from diffcps.runs.trial import Trial
from diffcps.storage.location import Location
from diffcps.sweep.search import distributions, point_of

FILE = "optuna.journal"
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
"""State of a trial -> that of Optuna; others are left out, for they will be continued."""
LEAST = 4
"""Complete trials of a task from which importances can be estimated."""


def write(location: Location, plan: Plan, curves: bool = False) -> Path:
    """Write the studies of a search, one for each task; returns the file.

    Args:
        location: of the search.
        plan: of the search.
        curves: whether each trial also has the objective at every evaluation, for which pandas is imported.
    """
    file = location.folder / FILE
    ended = [trial for trial in read.trials(location.folder, plan) if trial.stored and trial.state in _STATES]
    with _replacing(file) as fresh:
        storage = JournalStorage(JournalFileBackend(str(fresh), lock_obj=JournalFileOpenLock(str(fresh))))
        for base in plan.trials:
            study = optuna.create_study(storage=storage, study_name=base.task, direction="maximize")
            study.add_trials([_trial(own, plan, curves) for own in ended if own.config.task == base.task])
    location.publish(FILE)
    return file


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to, which takes its place at the end."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield fresh
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _trial(trial: Trial, plan: Plan, curves: bool) -> Any:
    """A trial as Optuna has it. One that ended without a number of the objective counts as failed."""
    reached = newest(trial, plan.objective)
    state = _STATES[trial.state] if math.isfinite(reached) else TrialState.FAIL
    along = {}
    if curves:
        steps, values = criteria.along(trial, plan.objective)
        along = {int(step): float(value) for step, value in zip(steps, values.mean(axis=1), strict=True)}
    return create_trial(
        state=state,
        value=None if state is TrialState.FAIL else reached,
        params=point_of(trial.config, plan.axes),
        distributions=distributions(plan.axes),
        intermediate_values=along,
        user_attrs={"key": trial.key, "seeds": trial.seeds, "steps": trial.config.steps, "trouble": trial.trouble},
    )


def write_importances(location: Location, plan: Plan) -> None:
    """Write how much each axis of a search matters for each task, from which the report is made."""
    complete = [trial for trial in read.trials(location.folder, plan) if trial.state == "complete" and trial.stored]
    found = {
        base.task: importances([trial for trial in complete if trial.config.task == base.task], plan)
        for base in plan.trials
    }
    write_json(location.folder / IMPORTANCES, {task: shares for task, shares in found.items() if shares})
    location.publish(IMPORTANCES)


def importances(trials: Sequence[Trial], plan: Plan) -> dict[str, float]:
    """Axis -> its share of the importance, 1 in all, by PED-ANOVA (Watanabe et al., 2023); empty with too few trials.

    It is how much the best tenth of the complete trials (at least two) differs from all of them along the axis.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # takes a second to import

    scored = [trial for trial in trials if math.isfinite(newest(trial, plan.objective))]
    if len(scored) < LEAST or len({newest(trial, plan.objective) for trial in scored}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials([_trial(trial, plan, curves=False) for trial in scored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is new
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 2 / len(scored)))
        shares = get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in shares.items() if math.isfinite(share)}


class Mirror(tune.Callback):
    """Rewrites the storage file of a search when a trial has ended."""

    def __init__(self, location: Location, plan: Plan) -> None:
        self._location, self._plan = location, plan

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        # a view that cannot be written does not end a sweep; its end tries again
        with contextlib.suppress(OSError, UserError, ValueError):
            write(self._location, self._plan)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nothing reads."""
        return {}
