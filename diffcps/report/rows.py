"""From trials to the numbers of the table: one row a trial.

The last score and the best one never share a column: the best is chosen by looking at the evaluations, so it is an
oracle. A published number stands beside ours only where the data are the paper's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.report.collect import Sweep, Trial, worded
from diffcps.report.diagnostics import Diagnosis, diagnose
from diffcps.report.published import Published, published

NEWEST = 10
"""Evaluations whose mean stands beside the last score."""
SETTINGS = {"diffusion_steps": "T", "lambda_clip": "λ-clip", "target_kl": "κ"}
"""What a sweep usually varies -> its symbol."""


class Score(NamedTuple):
    """A normalised score over the seeds of a trial."""

    mean: float
    std: float
    """Sample standard deviation over seeds; nan for one seed."""
    low: float
    """Lower end of the 95 % interval of the mean; nan for one seed."""
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "list[Score]":
        """Of several kinds of score at once, ``[K, kinds]``: one value a seed of each.

        Every row has the same resamples, so it does not depend on the rows around it.
        """
        nothing = np.full(values.shape[1], np.nan)
        low, high = stats.weighted_interval(values, _weights(len(values))) if len(values) > 1 else (nothing, nothing)
        return [
            cls(*stats.mean_std(kind), float(lower), float(upper))
            for kind, lower, upper in zip(values.T, low, high, strict=True)
        ]


@cache
def _weights(seeds: int) -> NDArray[np.float64]:
    return stats.draw_weights(seeds, np.random.default_rng(0), stats.RESAMPLES)


@dataclass(frozen=True, eq=False)
class Row:
    """One trial in the table."""

    trial: Trial

    @property
    def evaluations(self) -> int:
        """Evaluations so far, which the best score is the highest of."""
        return len(self.trial.scores)

    @property
    def first(self) -> float:
        """Mean over seeds of the first evaluation."""
        return float(self.trial.scores[0].mean()) if self.evaluations else float("nan")

    @property
    def last(self) -> Score | None:
        """The newest evaluation: the final checkpoint's when the trial is complete."""
        return self._scores[0]

    @property
    def newest(self) -> Score | None:
        """Each seed's mean over its newest evaluations, up to ``NEWEST``."""
        return self._scores[1]

    @property
    def best(self) -> Score | None:
        """Each seed's highest evaluation; one in which its policy gave no numbers does not count."""
        return self._scores[2]

    @cached_property
    def _scores(self) -> Sequence[Score | None]:
        """Last, newest, best."""
        if not self.evaluations:
            return None, None, None
        return Score.of(np.stack([seed_scores(self.trial, kind) for kind in ("last", "newest", "best")], axis=1))

    @cached_property
    def final_lambda(self) -> float:
        """λ in the last row that has one: the mean over the row's steps and over seeds."""
        return self.trial.newest("lambda")

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Whether the trial did what its equations say."""
        return diagnose(self.trial)

    @cached_property
    def published(self) -> Published:
        """The paper's numbers for the task, where they may stand beside this row."""
        return published(self.trial)

    @property
    def data(self) -> str:
        """What the data set is, in few words."""
        trial = self.trial
        if trial.task.definition is not None:
            return "Minari, not D4RL's data"
        if trial.config.data.source == "collected":
            return "collected, not D4RL's" if trial.task.d4rl_file else "collected"
        names = {"verified": "D4RL", "unverified": "unverified", "other": "not D4RL's own"}
        return names.get(str(trial.dataset.get("provenance")), "not loaded")


def seed_scores(trial: Trial, kind: str) -> NDArray[np.float64]:
    """One score a seed, ``[K]``, of an evaluated trial: its ``last``, the mean of its ``newest``, or its ``best``."""
    if kind == "last":
        return trial.scores[-1]
    return trial.scores[-NEWEST:].mean(axis=0) if kind == "newest" else np.fmax.reduce(trial.scores, axis=0)


def rows(sweep: Sweep) -> list[Row]:
    """A row for each trial. Those of a search stand by task, the highest last score first."""
    found = [Row(trial) for trial in sweep.trials]
    if sweep.is_search:
        tasks = list(dict.fromkeys(row.trial.task.name for row in found))
        found.sort(key=lambda row: (tasks.index(row.trial.task.name), -row.last.mean if row.last else np.inf))
    return found


def varying(table: Sequence[Row]) -> list[str]:
    """Which settings differ between trials of one and the same task: T, λ-clip and κ first."""
    seen: dict[str, dict[str, set[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(set))
    for row in table:
        for name, values in row.trial.settings.items():
            seen[name][row.trial.task.name].add(values)
    found = [name for name, tasks in seen.items() if any(len(values) > 1 for values in tasks.values())]
    return sorted(found, key=lambda name: list(SETTINGS).index(name) if name in SETTINGS else len(SETTINGS))


def setting(trial: Trial, name: str) -> str:
    """The value of a setting; several where the members of the pack differ."""
    return ", ".join(map(worded, trial.settings[name]))


def said(trial: Trial, names: Sequence[str]) -> str:
    """Settings of a trial in few words, ``T=5 λ-clip=0.1``; empty without names."""
    return " ".join(f"{SETTINGS.get(name, name)}={setting(trial, name)}" for name in names)


def by_task(table: Sequence[Row]) -> dict[str, list[Row]]:
    """Task -> its rows, in the order of the table."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        found[row.trial.task.name].append(row)
    return dict(found)
