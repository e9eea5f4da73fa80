"""How much each axis of a search matters, by Optuna, in a file of the sweep from which the report is made."""

import math
import warnings

from optuna import create_study
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from diffcps.files import write_json
from diffcps.runs import read
from diffcps.runs.criteria import newest
from diffcps.runs.plan import Plan
from diffcps.runs.read import IMPORTANCES
from diffcps.runs.trials import Trial
from diffcps.storage.location import Location
from diffcps.sweep.search import distributions, point_of

LEAST = 4
"""Complete trials of a task from which importances can be estimated."""


def write(location: Location, plan: Plan) -> None:
    """Write the importances of a search; nothing for other sweeps."""
    if plan.search is None:
        return
    complete = [trial for trial in read.trials(location.folder, plan) if trial.state == "complete" and trial.stored]
    found = {
        base.task: of([trial for trial in complete if trial.config.task == base.task], plan) for base in plan.trials
    }
    write_json(location.folder / IMPORTANCES, {task: shares for task, shares in found.items() if shares})
    location.publish(IMPORTANCES)


def of(trials: list[Trial], plan: Plan) -> dict[str, float]:
    """Axis -> its share of the importance, 1 in all, by PED-ANOVA (Watanabe et al., 2023); empty with too few trials.

    It is how much the best tenth of the trials (at least two) differs from all of them along the axis.
    """
    scored = [(trial, value) for trial in trials if math.isfinite(value := newest(trial, plan.objective))]
    if len(scored) < LEAST or len({score for _, score in scored}) == 1:
        return {}
    study, space = create_study(direction="maximize"), distributions(plan.axes)
    for trial, score in scored:
        study.add_trial(create_trial(params=point_of(trial.config, plan.axes), distributions=space, value=score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is new
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 2 / len(scored)))
        shares = get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in shares.items() if math.isfinite(share)}
