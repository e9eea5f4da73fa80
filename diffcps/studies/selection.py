"""How much of a score comes from the choice of checkpoint, of candidates and of the policy that acts?"""

from typing import Any, cast

import pandas as pd

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, interval, locomotion_trial, summary
from diffcps.studies.study import Page, Scale, Study
from diffcps.tasks.registry import get_task

TASKS = "hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2"
ACTING = "score_online_1", "score_online_50", "score_average_1", "score_average_50"


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Both profiles on locomotion tasks, with all ways of acting at every evaluation and equally many final episodes."""
    names = scale.tasks or (TASKS[:1] if scale.quick else TASKS)
    small: dict[str, Any] = {"hidden_size": 64, "batch_size": 64, "ema_start": 100} if scale.quick else {}
    settings: dict[str, Any] = {"final_episodes": 100}
    if scale.quick:
        settings = {"episodes": 2, "candidates": 10, "final_episodes": None}
    found = []
    for name in names:
        for profile in ("official", "principled"):
            found.append(
                locomotion_trial(
                    name, scale, steps=(1000, 200_000), rows=10_000, seeds=(2, 5), measures=("acting",),
                    evaluations=2 if scale.quick else 5, profile=profile, evaluation=settings, **small,
                )
            )  # fmt: skip
        found.append(
            locomotion_trial(
                name, scale, steps=(600, 100_000), rows=10_000, seeds=(2, 3), evaluations=1, algorithm="bc", **small,
                evaluation={"candidates": 1, "episodes": 1 if scale.quick else 10},
            )
        )  # fmt: skip
    return tuple(found)


def page(results: Results) -> Page:
    """Comparisons: last and best score, one candidate and fifty, online and averaged policy."""
    cloned = results.frame[results.frame["algorithm"] == "bc"]
    frame = results.frame[results.frame["algorithm"] != "bc"].copy()
    floors, predictions = _floors(cloned)
    frame["gain of choosing"] = frame["best"] - frame["last"]
    by = ["task", "profile"]
    table = summary(frame, by, ["last", "best", "gain of choosing", *ACTING])
    long = frame.melt([*by, "seed"], [name for name in ACTING if name in frame], "acting", "score")
    if frame.empty:
        return Page(tuple(predictions) or ("No trial is complete yet.",), {"L_BC and the paper's κ": floors})
    names = list(frame["task"].unique())
    figure, axes = drawing.panels(2 * len(names), columns=2)
    for i, name in enumerate(names):
        for j, profile in enumerate(("official", "principled")):
            own = long[(long["task"] == name) & (long["profile"] == profile)]
            drawing.points(axes[2 * i + j], own, category="acting", y="score", order=ACTING)
            axes[2 * i + j].set_title(f"{name}, {profile}", fontsize=8)
    findings = []
    for (task, profile), group in frame.groupby(by, sort=False):
        online_1, online_50, average_1, average_50 = (interval(group[name]) for name in ACTING)
        findings.append(
            f"{task}, {profile}: the last checkpoint scores {interval(group['last'])}, and choosing the best evaluation adds "
            f"{interval(group['gain of choosing'])}. The online policy scores {online_1} with single actions and {online_50} "
            f"with the best of 50, the averaged policy {average_1} and {average_50}."
        )
    tables = {"Means over seeds, at the last evaluation": table, "L_BC and the paper's κ": floors}
    return Page((*findings, *predictions), tables, {"acting": figure})


def _floors(cloned: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The loss that behaviour cloning reaches on each data set, the paper's κ, and a prediction for λ from both."""
    if cloned.empty:
        return pd.DataFrame(), []
    table = summary(cloned, ["task"], ["mean_behaviour_loss"])
    table["target_kl"] = [cast(float, get_task(task).settings["target_kl"]) for task in table["task"]]
    table["κ / L_BC"] = table["target_kl"] / table["mean_behaviour_loss"]
    predictions = []
    for row in table.itertuples():
        ratio, loss = row[-1], row.mean_behaviour_loss
        if ratio < 1:
            prediction = "cannot be reached, so λ should rise to its upper limit"
        elif ratio <= 1.5:
            prediction = "is near the reachable loss, so the bound should be active"
        else:
            prediction = "is much larger, so λ should fall to its lower limit"
        predictions.append(
            f"{row.task}: L_BC = {loss:.3g} on these data; the paper's κ = {row.target_kl:g} {prediction}."
        )
    return table, predictions


STUDY = Study(
    name="selection",
    title="Checkpoint, candidates, and the acting policy",
    question=(
        "Published scores are the best of many evaluations of a policy that chooses among 50 candidates. How much "
        "does each choice add?"
    ),
    trials=trials,
    page=page,
)
