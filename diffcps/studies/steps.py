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
"""κ is so much above what behaviour cloning reaches: a number that means the same for every T."""
NEAR = 0.05
"""A student keeps what its chain has when mode recall and mass off the support differ by no more than this."""
SHOWN = {"value": "sample_value", "recall": "sample_recall", "off_support": "sample_off_support", "microseconds": ""}
"""Column of the page -> the chain's measure; the student's has another first word."""


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
    """Value, modes, mass off the support and time of an action, of each chain and of its student."""
    frame = results.frame
    both = pd.concat([_acting(frame, "chain"), _acting(frame, "student")])
    by = ["task", "diffusion_steps", "acting"]
    table = summary(both, by, [*SHOWN, "kl"]).sort_values(by[:2], kind="stable")
    findings, near = [], []
    for (task, count), rows in frame.groupby(["task", "diffusion_steps"], sort=False):
        apart = {name: _of(rows, name, "student") - _of(rows, name, "chain") for name in ("recall", "off_support")}
        near.append(
            all(np.isnan(value) or value * sign <= NEAR for value, sign in zip(apart.values(), (-1, 1), strict=True))
        )
        findings.append(
            f"{task}, T = {count}: the student's mode recall is {_pair(rows, 'recall')}, its mass off the support "
            f"{_pair(rows, 'off_support')}, its value {_pair(rows, 'value')}; an action takes it "
            f"{_of(rows, 'microseconds', 'student'):.0f} µs, the chain {_of(rows, 'microseconds', 'chain'):.0f}."
        )
    kept = f"In {sum(near)} of {len(near)} cases the student loses at most {NEAR} of mode recall and adds at most {NEAR} of mass "
    return Page((f"{kept}off the support.", *findings), {"At the end": table}, {"steps": _figure(both)})


def _acting(frame: pd.DataFrame, who: str) -> pd.DataFrame:
    """The rows of the chains or of their students, with the columns of the page."""
    found = frame[["task", "diffusion_steps", "seed"]].assign(acting=who)
    for name in SHOWN:
        found[name] = frame.get(_measure(name, who), np.nan)
    return found.assign(kl=frame.get("kl", np.nan) if who == "chain" else np.nan)


def _measure(name: str, who: str) -> str:
    if name == "microseconds":
        return "us_online_1" if who == "chain" else "us_student_1"
    return SHOWN[name] if who == "chain" else SHOWN[name].replace("sample", "student")


def _of(rows: pd.DataFrame, name: str, who: str) -> float:
    column = _measure(name, who)
    return float(rows[column].mean()) if column in rows else float("nan")


def _pair(rows: pd.DataFrame, name: str) -> str:
    own, other = (_of(rows, name, who) for who in ("student", "chain"))
    return "–" if np.isnan(own) else f"{own:.3g} (chain {other:.3g})"


def _figure(both: pd.DataFrame) -> Any:
    """Mass off the support and value along T."""
    names = list(both["task"].unique())
    figure, axes = drawing.panels(2 * len(names), columns=2)
    for i, name in enumerate(names):
        for j, y in enumerate(("off_support", "value")):
            one = axes[2 * i + j]
            for k, (who, rows) in enumerate(both[both["task"] == name].groupby("acting", sort=False)):
                means = rows.groupby("diffusion_steps")[y].mean()
                one.plot(means.index, means, "o-", color=drawing.COLOURS[k], label=str(who), ms=4)
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
