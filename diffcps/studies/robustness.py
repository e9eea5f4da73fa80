"""Which of the field's remedies keep DiffCPS with its data, and what do they bring?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffcps import stats, text
from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, interval, locomotion_trial, summary
from diffcps.studies.study import Page, Scale, Study

TASKS = "halfcheetah-medium-v2", "walker2d-medium-replay-v2", "pointmaze-umaze"
"""A narrow data set, a mixed one, and a maze."""


class Factor(NamedTuple):
    """Something that a learner may have or lack."""

    name: str
    without: Mapping[str, Any]
    """Settings of a trial that lacks it."""
    having: Mapping[str, Any]
    """Settings of a trial that has it."""

    def settings(self, has: bool) -> Mapping[str, Any]:
        """Those of a trial that has it or lacks it."""
        return self.having if has else self.without

    def found(self, frame: pd.DataFrame) -> "pd.Series[bool]":
        """Which rows of a study have it."""
        return pd.concat([frame[name] == value for name, value in self.having.items()], axis=1).all(axis=1)


FACTORS = (
    Factor("layer norms in the critic", {"critic_norm": False}, {"critic_norm": True}),
    Factor("normalised observations", {"normalise": False}, {"normalise": True}),
    Factor("learning rates fall along a cosine", {"cosine_decay": False}, {"cosine_decay": True}),
    Factor("a slack of .02 instead of .1", {"slack": 0.1}, {"slack": 0.02}),
    Factor("λ at least 1", {"lambda_clip": 0.0}, {"lambda_clip": 1.0}),
    Factor(
        "variance β̃ and a silent last step",
        {"covariance": "calibrated", "last_step_noise": True},
        {"covariance": "posterior", "last_step_noise": False},
    ),
)
"""The first three are varied freely; each of the others goes with a pair of them (a 2^(6−3) design)."""
DESIGN = tuple((a, b, c, a == b, a == c, b == c) for a in (False, True) for b in (False, True) for c in (False, True))
"""Which factors each of the eight arms has. Every pair of factors occurs in all four combinations equally often, so the effect
of each is a difference of two means of four arms. An effect cannot be told from some interactions of two others."""
CRITICS = {"critic_learning_rate": 1e-3, "target_rate": 0.02}
FASTER = {"learning_rate": 1e-3, "policy_freq": 1} | CRITICS
"""Of every trial: three to eight times the published rates, so that a critic looks as far ahead in a fraction of the steps."""
CLONED = 4
"""An arm clones for this part of its steps."""
REFERENCE, OVER = "official profile at these rates", "all data"
ALONE, AVERAGED = "score_candidates_1", "score_actor_average"


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """The eight arms on each task, from the principled profile, beside the official one and cloning."""
    names = scale.tasks or (TASKS[1:2] if scale.quick else TASKS)
    arms = [
        {"profile": "principled"}
        | {
            name: value
            for factor, has in zip(FACTORS, own, strict=True)
            for name, value in factor.settings(has).items()
        }
        for own in DESIGN
    ]
    return tuple(_trial(name, scale, arm) for name in names for arm in (*arms, {}, {"algorithm": "bc"}))


def _trial(name: str, scale: Scale, arm: dict[str, Any]) -> RunConfig:
    length = scale.steps or (600 if scale.quick else 50_000)
    settings = FASTER | ({"hidden_size": 32, "batch_size": 32, "ema_start": 100} if scale.quick else {}) | arm
    if arm.get("algorithm") == "bc":
        settings = {own: value for own, value in settings.items() if own not in CRITICS}
    else:
        settings["acting"] = ["candidates=1", "actor=average"]
    if arm.get("profile"):
        settings["behaviour_steps"] = max(4, length // CLONED)
    evaluation = {
        "episodes": 2 if scale.quick else 10,
        "final_episodes": None if scale.quick else 20,
        "candidates": 1 if arm.get("algorithm") == "bc" else 10 if scale.quick else 50,
    }
    return locomotion_trial(
        name, scale, steps=(length, length), rows=5_000, seeds=(2, 3), evaluations=2 if scale.quick else 4, evaluation=evaluation,
        **settings,
    )  # fmt: skip


def page(results: Results) -> Page:
    """What each factor brings, the arms and their references, and why: λ, losses, values and ways to act."""
    frame = results.frame.copy()
    scores = [name for name in ("last", "best", ALONE, AVERAGED) if name in frame]
    diverged = int(frame["last"].isna().sum())
    # a policy that has diverged scores as a random one: left out, it would flatter what made it diverge
    frame["last"] = frame["last"].fillna(0.0)
    arms = frame[(frame["algorithm"] == "diffcps") & (frame["profile"] == "principled")].copy()
    if arms.empty:
        return Page(("No arm is complete yet.",))
    arms[scores] = arms[scores].fillna(0.0)
    has = pd.DataFrame({factor.name: factor.found(arms) for factor in FACTORS}, index=arms.index)
    arms["arm"] = [" ".join(str(i + 1) for i, yes in enumerate(row) if yes) or "none" for row in has.to_numpy()]
    effects, alone = (_effects(arms, has, column) for column in ("last", ALONE))
    findings = [_finding(effects[effects["factor"] == factor.name]) for factor in FACTORS if len(effects)]
    findings += [_winner(effects, arms)] if len(effects) else ["No data set has all eight arms yet."]
    findings += [f"{diverged} policies have diverged and count as 0."] if diverged else []
    for task, own in arms.groupby("task", sort=False):
        findings += _references(str(task), own, frame[frame["task"] == task])
    others = frame.drop(arms.index)
    others["arm"] = ["cloning" if name == "bc" else REFERENCE for name in others["algorithm"]]
    columns = [*scores, "mean_lambda", "mean_behaviour_loss", "mean_target_kl", "mean_policy_q"]
    table = summary(pd.concat([arms, others]), ["task", "arm"], columns)
    numbered = "; ".join(f"{i + 1}: {factor.name}" for i, factor in enumerate(FACTORS))
    tables = {
        "What a factor brings to the last score: the mean of the arms that have it less that of the others": effects,
        "The same with a single action (N = 1)": alone,
        f"Each arm, by the factors that it has ({numbered})": table,
    }
    return Page(tuple(findings), tables, {"effects": _figure(effects)} if len(effects) else {})


def _effects(arms: pd.DataFrame, has: pd.DataFrame, column: str) -> pd.DataFrame:
    """What each factor brings to a score, on each task that has all arms and on average over them; intervals over seeds."""
    counts = arms.groupby("task")["arm"].nunique()
    tasks = [str(task) for task in arms["task"].unique() if counts[task] == len(DESIGN)]
    found = []
    for factor in FACTORS:
        gains = {}
        for task in tasks:
            own = arms[arms["task"] == task]
            sides = own.groupby([own["seed"], has.loc[own.index, factor.name]])[column].mean().unstack()
            gains[task] = sides[True] - sides[False]
        if len(gains) > 1:
            gains[OVER] = pd.DataFrame(gains).mean(axis=1, skipna=False)
        for task, each in gains.items():
            low, high = stats.bootstrap_interval(each.to_numpy(np.float64), np.random.default_rng(0))
            found.append({"factor": factor.name, "task": task, "gain": each.mean(), "low": low, "high": high})
    return pd.DataFrame(found, columns=["factor", "task", "gain", "low", "high"])


def _finding(effect: pd.DataFrame) -> str:
    """Where a factor helps and where it hurts."""
    parts = [f"{row.task} {row.gain:+.3g} {text.interval(row.low, row.high)}".rstrip() for row in effect.itertuples()]
    return f"{effect['factor'].iloc[0]}: {'; '.join(parts)} points."


def _winner(effects: pd.DataFrame, arms: pd.DataFrame) -> str:
    """The factors that bring something over all tasks, as the settings of the arm that has just these."""
    where = OVER if OVER in set(effects["task"]) else str(effects["task"].iloc[0])
    over = effects[effects["task"] == where].set_index("factor")
    good = [factor.name for factor in FACTORS if over.loc[factor.name, "low"] > 0]
    settings = {**FASTER, "behaviour_steps": int(arms["behaviour_steps"].iloc[0])}
    settings |= {name: value for factor in FACTORS for name, value in factor.settings(factor.name in good).items()}
    flags = " ".join(f"--set {name}={str(value).lower()}" for name, value in settings.items())
    return f"Clearly above 0 on {where}: {', '.join(good) or 'none'}. Just these: `--profile principled {flags}`."


def _references(task: str, arms: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """The arm with the highest mean beside the official profile and cloning."""
    best = max((own for _, own in arms.groupby("key")), key=lambda own: float(own["last"].mean()))
    parts = [f"the best of {arms['key'].nunique()} arms {interval(best['last'])}"]
    official = frame[(frame["algorithm"] == "diffcps") & (frame["profile"] == "official")]
    cloned = frame[frame["algorithm"] == "bc"]
    parts += [
        f"{name} {interval(own['last'])}" for name, own in ((REFERENCE, official), ("cloning", cloned)) if len(own)
    ]
    return [
        f"{task}, last score: {', '.join(parts)}. The best of several arms is chosen by its score, and so flattered."
    ]


def _figure(effects: pd.DataFrame) -> Any:
    """The gain of every factor with its interval, a panel for each task and one for all."""
    names = list(effects["task"].unique())
    figure, axes = drawing.panels(len(names), columns=4, size=(3.4, 2.6))
    for one, name in zip(axes, names, strict=True):
        own = effects[effects["task"] == name]
        error = np.abs(own[["low", "high"]].to_numpy().T - own["gain"].to_numpy()).astype(float)
        one.errorbar(own["gain"], range(len(own)), xerr=error, fmt="o", ms=4)
        one.axvline(0.0, color="0.6", lw=0.8)
        shown = own["factor"] if name == names[0] else [""] * len(own)
        one.set_yticks(range(len(own)), shown, fontsize=6)
        one.set_title(name, fontsize=8)
        one.set_xlabel("points of the last score")
    return figure


STUDY = Study(
    name="robustness",
    title="What keeps the policy with its data",
    question=(
        "The principled profile loses on narrow data what cloning gains. Which of the field's remedies help it: layer norms in "
        "the critic, normalised observations, falling learning rates, a smaller slack, a floor for λ, another variance?"
    ),
    trials=trials,
    page=page,
)
