"""How much of a score is the choice of checkpoint, of candidates and of the policy that acts?"""

from typing import Any

import pandas as pd

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, interval, summary
from diffcps.studies.study import Page, Scale, Study
from diffcps.studies.trials import locomotion_trial

TASKS = "hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2"
ACTING = "score_online_1", "score_online_50", "score_average_1", "score_average_50"


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Both profiles on locomotion tasks, judged in every way at every evaluation, and at the end by equally many episodes."""
    names = scale.data or (TASKS[:1] if scale.quick else TASKS)
    small: dict[str, Any] = {"hidden_size": 64, "batch_size": 64, "ema_start": 100} if scale.quick else {}
    judged: dict[str, Any] = {"final_episodes": 100}
    if scale.quick:
        judged = {"episodes": 2, "candidates": 10, "final_episodes": None}
    found = []
    for name in names:
        for profile in ("official", "principled"):
            found.append(
                locomotion_trial(
                    name, scale, steps=(1000, 200_000), rows=10_000, seeds=(2, 5), measures=("acting",),
                    evaluations=2 if scale.quick else 5, profile=profile, evaluation=judged, **small,
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
    """Last against best, one candidate against fifty, online against averaged policy."""
    cloned = results.frame[results.frame["algorithm"] == "bc"]
    frame = results.frame[results.frame["algorithm"] != "bc"].copy()
    floors, said = _floors(cloned)
    frame["gain of choosing"] = frame["best"] - frame["last"]
    by = ["task", "profile"]
    table = summary(frame, by, ["last", "best", "gain of choosing", *ACTING])
    long = frame.melt([*by, "seed"], [name for name in ACTING if name in frame], "acting", "score")
    if frame.empty:
        return Page(
            tuple(said) or ("No trial of a policy has come to its end yet.",), {"L_BC beside the paper's κ": floors}
        )
    names = list(frame["task"].unique())
    figure, axes = drawing.panels(2 * len(names), columns=2)
    for i, name in enumerate(names):
        for j, profile in enumerate(("official", "principled")):
            own = long[(long["task"] == name) & (long["profile"] == profile)]
            drawing.points(axes[2 * i + j], own, "acting", "score", ACTING)
            axes[2 * i + j].set_title(f"{name}, {profile}", fontsize=8)
    findings = []
    for (name, profile), group in frame.groupby(by, sort=False):
        findings.append(
            f"{name}, {profile}: the last checkpoint scores {interval(group['last'])}, choosing the best of its evaluations adds "
            f"{interval(group['gain of choosing'])}; single actions of the online policy score {interval(group[ACTING[0]])}, the "
            f"best of 50 {interval(group[ACTING[1]])}; of the averaged policy {interval(group[ACTING[2]])} and "
            f"{interval(group[ACTING[3]])}."
        )
    tables = {"Means over seeds, at the last evaluation": table, "L_BC beside the paper's κ": floors}
    return Page((*findings, *said), tables, {"acting": figure})


def _floors(cloned: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What behaviour cloning reaches on each data set beside the κ that the paper gives the task, and what that predicts."""
    if cloned.empty:
        return pd.DataFrame(), []
    table = summary(cloned, ["task", "target_kl"], ["mean_behaviour_loss"])
    table["κ / L_BC"] = table["target_kl"] / table["mean_behaviour_loss"]
    said = []
    for row in table.itertuples():
        ratio, loss = row[-1], row.mean_behaviour_loss
        fate = "never held, so λ would rise to its cap" if ratio < 1 else "slack, so λ would fall to its floor"
        if 1 <= ratio <= 1.5:
            fate = "near what can be reached, so λ would hold it"
        said.append(f"{row.task}: L_BC = {loss:.3g} on these data, and the paper's κ = {row.target_kl:g} is {fate}.")
    return table, said


STUDY = Study(
    "selection",
    "Checkpoint, candidates, and who acts",
    "Published scores are the best of many evaluations of a policy that chooses among 50 candidates. What is each choice worth?",
    trials,
    page,
)
