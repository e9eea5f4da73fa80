"""How many steps does an action need: a chain of T, or one step of its student?"""

from typing import Any

import numpy as np
import pandas as pd

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

BANDITS = "ring", "corners", "swissroll", "8gaussians", "moons", "rings", "checkerboard", "2spirals"
LENGTHS = 1, 2, 5, 15, 50
SLACK = 0.1
"""How far κ is above the loss of behaviour cloning, as a share of it: this means the same for every T."""
NEAR = 0.05
"""A student keeps what its teacher, the averaged chain, has when it loses no more than this of mode recall and adds no more of
mass off the support."""
ACTING = {"chain": "sample", "averaged chain": "average", "student": "student"}
"""Who acts -> first word of the measures of it."""
SHOWN = "value", "recall", "off_support"
"""What is measured of them."""
TIMED = {"chain": "us_online_1", "student": "us_student_1"}
"""Who acts -> microseconds of an action; the averaged chain takes as long as the chain."""


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Chains of T steps with κ a tenth above what cloning reaches with that T, each with a student."""
    names = scale.tasks or (BANDITS[1:2] if scale.quick else BANDITS)
    lengths = scale.diffusion_steps or (LENGTHS[1:3] if scale.quick else LENGTHS)
    length = scale.steps or (1500 if scale.quick else 10_000)
    return tuple(
        bandit_trial(
            name, scale, steps=(1500, 10_000), seeds=(2, 3), measures=("density", "samples", "latency"), diffusion_steps=count,
            student="one-step", ema_start=200, learning_rate=3e-3, dual="projected", lambda_learning_rate=3e-3, slack=SLACK,
            behaviour_steps=length // 3, evaluation={"final_episodes": None},
        )
        for name in names
        for count in lengths
    )  # fmt: skip


def page(results: Results) -> Page:
    """Value, modes, mass off the support and time of an action, of each chain, of its average and of its student."""
    frame = results.frame
    both = pd.concat([_acting(frame, who) for who in ACTING])
    by = ["task", "diffusion_steps", "acting"]
    table = summary(both, by, [*SHOWN, "microseconds", "kl"]).sort_values(by[:2], kind="stable")
    findings, near = [], []
    for (task, count), rows in frame.groupby(["task", "diffusion_steps"], sort=False):
        near.append(_is_near(rows))
        findings.append(
            f"{task}, T = {count}: mode recall, mass off the support and value are {_several(rows, 'chain')} of the chain, "
            f"{_several(rows, 'averaged chain')} of its average and {_several(rows, 'student')} of the student; an action takes "
            f"the student {_mean(rows, TIMED['student']):.0f} µs, the chain {_mean(rows, TIMED['chain']):.0f}."
        )
    kept = (
        f"In {sum(near)} of {len(near)} cases the student loses at most {NEAR} of the mode recall of its teacher, the averaged "
        f"chain, and adds at most {NEAR} of mass off the support."
    )
    return Page((kept, *findings), {"At the end": table}, {"steps": _figure(both)})


def _acting(frame: pd.DataFrame, who: str) -> pd.DataFrame:
    """The rows of chains, of their averages or of their students, with the columns of the page."""
    found = frame[["task", "diffusion_steps", "seed"]].assign(acting=who)
    for name in SHOWN:
        found[name] = frame.get(f"{ACTING[who]}_{name}", np.nan)
    found["microseconds"] = frame.get(TIMED[who], np.nan) if who in TIMED else np.nan
    return found.assign(kl=frame.get("kl" if who == "chain" else f"{ACTING[who]}_kl", np.nan))


def _is_near(rows: pd.DataFrame) -> bool:
    """Whether the student keeps what its teacher has. A bandit may have no modes; a student that has diverged is not near."""
    lost = _mean(rows, "average_recall") - _mean(rows, "student_recall")
    added = _mean(rows, "student_off_support") - _mean(rows, "average_off_support")
    return added <= NEAR and (lost <= NEAR or "student_recall" not in rows or bool(rows["student_recall"].isna().all()))


def _mean(rows: pd.DataFrame, column: str) -> float:
    """NaN where it was not measured of every seed."""
    return float(rows[column].mean(skipna=False)) if column in rows else float("nan")


def _several(rows: pd.DataFrame, who: str) -> str:
    values = (_mean(rows, f"{ACTING[who]}_{name}") for name in ("recall", "off_support", "value"))
    return ", ".join("–" if np.isnan(value) else f"{value:.3g}" for value in values)


def _figure(both: pd.DataFrame) -> Any:
    """Mass off the support and value along T."""
    names = list(both["task"].unique())
    figure, axes = drawing.panels(2 * len(names), columns=2)
    for i, name in enumerate(names):
        for j, y in enumerate(("off_support", "value")):
            one = axes[2 * i + j]
            for who, rows in both[both["task"] == name].groupby("acting", sort=False):
                means = rows.groupby("diffusion_steps")[y].mean()
                one.plot(means.index, means, "o-", label=str(who), ms=4)
            one.set(xscale="log", xlabel="T of the chain", ylabel=y.replace("_", " "), title=name)
    axes[0].legend(fontsize=7)
    return figure


STUDY = Study(
    name="steps",
    title="Steps of an action",
    question=(
        "A chain draws an action in T steps, its student in one. What do value, modes and mass off the support lose with "
        "fewer steps, and how much time does an action take?"
    ),
    trials=trials,
    page=page,
)
