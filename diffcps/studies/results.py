"""The trials of a study, and their run folders as data frames for its page."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcps import algorithms, stats
from diffcps.config import Member, RunConfig, Values
from diffcps.runs.folder import IDENTITY
from diffcps.runs.presets import made
from diffcps.runs.read import collect
from diffcps.runs.trial import Trial
from diffcps.studies.study import Scale
from diffcps.tasks.bandits import bandit
from diffcps.tasks.registry import get_task
from diffcps.text import counted

FINAL_PART = 0.2
"""Share of the steps, at the end, over which λ, losses and violations are averaged."""


@dataclass(frozen=True, eq=False)
class Results:
    """The complete trials of a study, and the number of others."""

    trials: tuple[Trial, ...]
    missing: int
    """Number of trials that are not complete."""

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read a sweep's folder. Raises ``UserError`` when it contains no sweep."""
        trials = collect(folder).trials
        complete = tuple(trial for trial in trials if trial.state == "complete")
        return cls(complete, len(trials) - len(complete))

    @property
    def remark(self) -> str:
        """The number of trials and policies, and a warning when some trials are missing."""
        text = f"{counted(len(self.trials), 'trial')}, {len(self.frame)} policies."
        if self.missing:
            text += f" **{counted(self.missing, 'trial')} not complete, left out.**"
        return text

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each policy: settings, scores, the measures of the last evaluation, and means of the last metrics."""
        return pd.DataFrame([row for trial in self.trials for row in _rows(trial)])

    @cached_property
    def measured(self) -> pd.DataFrame:
        """One row for each policy and evaluation: settings, step and measures."""
        return self._along([trial.measures for trial in self.trials])

    @cached_property
    def trained(self) -> pd.DataFrame:
        """One row for each policy and row of ``metrics.csv``: settings, step and metrics."""
        return self._along([trial.metrics for trial in self.trials])

    def _along(self, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The rows of all trials with their settings; a setting with the name of a column gets the suffix ``_set``."""
        parts = []
        for trial, rows in zip(self.trials, frames, strict=True):
            if not rows.empty:
                settings = pd.DataFrame([_settings(trial, k) for k in range(trial.seeds)])
                parts.append(rows.merge(settings, left_on="member", right_index=True, suffixes=("", "_set")))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _settings(trial: Trial, k: int) -> dict[str, Any]:
    config = trial.config
    return {
        "key": trial.key,
        "task": config.task,
        "profile": config.profile,
        "rows": trial.dataset.get("rows"),
        "steps": config.steps,
        "algorithm": config.algorithm,
        **{name: config.value(name, k) for name in config.settings},
    }


def _rows(trial: Trial) -> list[dict[str, Any]]:
    measures = trial.measures
    metrics = trial.metrics
    late = metrics[metrics["step"] > (1.0 - FINAL_PART) * trial.config.steps] if not metrics.empty else metrics
    found = []
    for k, member in enumerate(trial.config.members):
        row = _settings(trial, k) | {"seed": member.seed, "member": k}
        if len(trial.scores):
            row |= {"last": trial.scores[-1][k], "best": float(np.fmax.reduce(trial.scores[:, k]))}
        own = late[late["member"] == k].drop(columns=[*IDENTITY]) if not late.empty else late
        row |= {f"mean_{name}": value for name, value in own.mean().items()} if not own.empty else {}
        if not measures.empty:
            row |= measures[measures["member"] == k].iloc[-1].drop([*IDENTITY]).to_dict()
        found.append(row)
    return found


def summary(frame: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Mean of ``columns`` over the policies of each group, in the groups' order of appearance, with the number of seeds.

    A column that a group does not have is NaN.
    """
    present = [name for name in columns if name in frame]
    grouped = frame.groupby(by, sort=False, dropna=False)
    table = grouped[present].mean()
    table.insert(0, "seeds", grouped.size())
    return table.reset_index()


def interval(values: Any) -> str:
    """Mean and 95 % bootstrap interval over seeds, as text; for one seed the mean only."""
    array = np.asarray(values, dtype=np.float64)
    low, high = stats.bootstrap_interval(array, np.random.default_rng(0))
    text = f"{array.mean():.3g}"
    return text if np.isnan(low) else f"{text} [{float(low):.3g}, {float(high):.3g}]"


# Functions that make the trials of studies ----------------------------------------------------------------------------


def bandit_trial(
    name: str,
    scale: Scale,
    *,
    steps: tuple[int, int],
    seeds: tuple[int, int] = (2, 5),
    measures: tuple[str, ...] = ("density",),
    evaluations: int = 1,
    algorithm: str = "diffcps",
    profile: str = "official",
    members: Sequence[dict[str, Any]] = ({},),
    evaluation: dict[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """One pack on a bandit.

    Args:
        name: of the bandit, with or without ``bandit-``.
        scale: size of the study.
        steps: gradient steps: with ``--quick``, without.
        seeds: number of seeds: with ``--quick``, without.
        measures: computed at each evaluation.
        evaluations: number of evaluations.
        algorithm: name of the algorithm.
        profile: profile that the settings below change.
        members: settings in which members differ; each is trained with every seed.
        evaluation: changes of the evaluation's settings.
        settings: changes of the pack's settings.
    """
    name, length = name.removeprefix("bandit-"), scale.steps or steps[not scale.quick]
    # a quarter of the paper's width learns a bandit as well, in a quarter of the time
    usual = {
        "discount": 0.0, "policy_freq": 1, "hidden_size": 64, "batch_size": 128, "data.rows": bandit(name).rows,
        "learning_rate": 1e-3, "critic_learning_rate": 1e-3, "lambda_init": 1.0, "lambda_clip": 0.0, "grad_norm": 9.0,
        "evaluation.episodes": 500, "evaluation.candidates": 1,
    }  # fmt: skip
    changes = {"algorithm": algorithm, "profile": profile, "seeds": 1, "measures": list(measures), **settings}
    changes |= _evaluated(length, evaluations, {"final_episodes": None} | (evaluation or {}))
    trial = made(get_task(f"bandit-{name}"), changes, lambda task, trial: usual)
    pack = [own for _ in range(scale.seeds or seeds[not scale.quick]) for own in members]
    return algorithms.complete(
        trial.replaced(members=tuple(Member(seed, Values(own)) for seed, own in enumerate(pack)))
    )


def bandit_grid(
    name: str,
    scale: Scale,
    diffusion_steps: Sequence[int],
    lambda_clips: Sequence[float],
    member: dict[str, Any] | None = None,
    **settings: Any,
) -> list[RunConfig]:
    """``bandit_trial`` for every T and λ-clip, for notebooks; ``settings`` are the other arguments."""
    return [
        bandit_trial(name, scale, diffusion_steps=count, members=({**(member or {}), "lambda_clip": clip},), **settings)
        for count, clip in itertools.product(diffusion_steps, lambda_clips)
    ]


def locomotion_trial(
    name: str,
    scale: Scale,
    *,
    steps: tuple[int, int],
    rows: int,
    seeds: tuple[int, int] = (2, 5),
    measures: tuple[str, ...] = (),
    evaluations: int = 5,
    algorithm: str = "diffcps",
    profile: str = "official",
    evaluation: dict[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """One pack on a locomotion task. Collected data have ``rows`` rows with ``--quick``, else as many as D4RL's."""
    length = scale.steps or steps[not scale.quick]
    changes = {
        "algorithm": algorithm, "profile": profile, "seeds": scale.seeds or seeds[not scale.quick], "measures": list(measures),
        "data": scale.data, "physics": scale.physics, "hidden_size": scale.hidden_size, "batch_size": scale.batch_size,
        "rows": rows if scale.quick else None,
    }  # fmt: skip
    given = {name: value for name, value in changes.items() if value is not None} | settings
    return made(get_task(name), given | _evaluated(length, evaluations, evaluation or {}))


def _evaluated(steps: int, evaluations: int, changes: dict[str, Any]) -> dict[str, Any]:
    """The length of a trial, and how it is evaluated and logged along it."""
    usual = {"steps": steps, "evaluation.every": max(1, steps // evaluations), "log_every": max(1, steps // 50)}
    return usual | {f"evaluation.{name}": value for name, value in changes.items()}
