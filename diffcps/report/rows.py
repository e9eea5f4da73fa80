"""From trials to the numbers of the table: one row a trial, one average a domain, one grid a task.

Two rules run through this file. The last score and the best one never share a column: the best is chosen by looking at
the evaluations, so it is an oracle. A published number stands beside ours only where the data are the paper's.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps import paper, stats
from diffcps.data.provenance import ROW_TOLERANCE, d4rl_rows
from diffcps.report.collect import Sweep, Trial

PUBLISHED = "DiffCPS", "Diffusion-QL", "QGPO", "IQL"
"""Columns of the paper's Table 1 that are shown."""
UNVERIFIED = "†"
"""Marks a published number beside a data set that nobody can check against D4RL's."""


class Score(NamedTuple):
    """A normalised score over the seeds of a trial."""

    mean: float
    std: float
    """Sample standard deviation over seeds; nan for one seed."""
    low: float
    """Lower end of the 95 % interval of the mean; nan for one seed."""
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Score":
        """Of one value a seed; a generator of its own makes a row independent of the rows around it."""
        low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
        return cls(*stats.mean_std(values), float(low), float(high))


class Published(NamedTuple):
    """What stands in the paper's columns of a row."""

    values: dict[str, str]
    """Column of Table 1 -> the number as printed; empty where the row is not comparable."""
    mark: str = ""
    left_out: str = ""
    """Why the paper's numbers are left out although the task is one of the paper's."""


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

    @cached_property
    def last(self) -> Score | None:
        """The newest evaluation: the final checkpoint's when the trial is complete."""
        return Score.of(self.trial.scores[-1]) if self.evaluations else None

    @cached_property
    def best(self) -> Score | None:
        """Each seed's highest evaluation; one in which its policy gave no numbers does not count."""
        return Score.of(np.fmax.reduce(self.trial.scores, axis=0)) if self.evaluations else None

    @cached_property
    def final_lambda(self) -> float:
        """λ in the last row that has one: the mean over the row's steps and over seeds."""
        _, values = self.trial.metric("lambda")
        values = values[~np.isnan(values).any(axis=1)]
        return float(values[-1].mean()) if len(values) else float("nan")

    @cached_property
    def published(self) -> Published:
        """The paper's numbers for the task, where they may stand beside this row."""
        trial = self.trial
        if not trial.task.in_paper or not trial.dataset:
            return Published({})
        note = str(trial.dataset.get("provenance_note", ""))
        provenance = trial.dataset.get("provenance")
        rows = d4rl_rows(trial.task)
        if trial.config.physics != trial.task.physics:
            reason = f"evaluated under {trial.config.physics} physics, the paper under {trial.task.physics}."
            return Published({}, left_out=reason)
        file = trial.config.data.source in ("d4rl", "minari")  # an imported file is the same data
        if file and provenance == "verified":
            return Published(_table1(trial.task.name))
        complete = abs(int(trial.dataset.get("rows", 0)) - rows) <= ROW_TOLERANCE * rows
        if file and provenance == "unverified" and complete:
            return Published(_table1(trial.task.name), UNVERIFIED)
        return Published({}, left_out=note or "nothing tells where the data come from.")

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


@dataclass(frozen=True)
class Average:
    """Complete tasks of one domain on one kind of data, each task counting the same."""

    domain: str
    data: str
    tasks: int
    last: float
    low: float
    high: float
    iqm: float
    iqm_low: float
    iqm_high: float
    best: float
    published: float
    """Mean of the paper's numbers over the same tasks; nan unless each of them has one."""


@dataclass(frozen=True)
class Grid:
    """Last score of one task over T (rows) and λ-clip (columns)."""

    task: str
    diffusion_steps: tuple[int, ...]
    lambda_clips: tuple[float, ...]
    cells: dict[tuple[int, float], Row]


def rows(sweep: Sweep) -> list[Row]:
    """A row for each trial. Those of a search stand by task, the highest last score first."""
    found = [Row(trial) for trial in sweep.trials]
    if sweep.is_search:
        tasks = list(dict.fromkeys(row.trial.task.name for row in found))
        found.sort(key=lambda row: (tasks.index(row.trial.task.name), -row.last.mean if row.last else np.inf))
    return found


def varying(table: Sequence[Row]) -> list[str]:
    """Which of T, λ-clip and κ differ between trials of one and the same task."""
    names = []
    for name in ("diffusion_steps", "lambda_clip", "target_kl"):
        seen: dict[str, set[tuple[float, ...]]] = defaultdict(set)
        for row in table:
            seen[row.trial.task.name].add(setting(row.trial, name))
        if any(len(values) > 1 for values in seen.values()):
            names.append(name)
    return names


def setting(trial: Trial, name: str) -> tuple[float, ...]:
    """The value of T, λ-clip or κ; several where the members of the pack differ."""
    return (trial.config.algorithm.diffusion_steps,) if name == "diffusion_steps" else trial.shared(name)


def averages(table: Sequence[Row]) -> list[Average]:
    """Averages over the complete tasks of a domain, where there are several and each has one configuration.

    Tasks made from Minari data sets are no domain: their environments have nothing in common, nor need their scores.
    """
    tasks = [row.trial.task.name for row in table]
    if len(set(tasks)) < len(tasks):
        return []
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in table:
        if row.trial.state == "complete" and row.last is not None and row.trial.task.definition is None:
            groups[row.trial.task.domain, row.data, row.trial.config.physics].append(row)
    return [_average(domain, data, group) for (domain, data, _), group in groups.items() if len(group) > 1]


def grids(table: Sequence[Row]) -> list[Grid]:
    """A T × λ-clip grid for each task in which both vary and nothing else does."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        by_task[row.trial.task.name].append(row)
    found = []
    for task, group in by_task.items():
        if any(len(row.trial.shared("lambda_clip")) > 1 for row in group):
            continue
        cells = {(row.trial.config.algorithm.diffusion_steps, row.trial.shared("lambda_clip")[0]): row for row in group}
        steps, clips = sorted({point[0] for point in cells}), sorted({point[1] for point in cells})
        alone = len(cells) == len(group) and len({row.trial.shared("target_kl") for row in group}) == 1
        if alone and len(steps) > 1 and len(clips) > 1:
            found.append(Grid(task, tuple(steps), tuple(clips), cells))
    return found


def _average(domain: str, data: str, group: Sequence[Row]) -> Average:
    last = [row.trial.scores[-1] for row in group]
    low, high = stats.stratified_interval(last, stats.mean_of_means, np.random.default_rng(0))
    iqm_low, iqm_high = stats.stratified_interval(last, _pooled_iqm, np.random.default_rng(0))
    published = [float(row.published.values.get("DiffCPS", "nan")) for row in group]
    return Average(
        domain=domain,
        data=data,
        tasks=len(group),
        last=stats.mean_of_means(last),
        low=low,
        high=high,
        iqm=_pooled_iqm(last),
        iqm_low=iqm_low,
        iqm_high=iqm_high,
        best=float(np.mean([row.best.mean for row in group if row.best])),
        published=float(np.mean(published)),
    )


def _pooled_iqm(scores: Iterable[NDArray[np.float64]]) -> float:
    return stats.iqm(np.concatenate(list(scores)))


def _table1(task: str) -> dict[str, str]:
    row = next(row for row in paper.rows("table1") if row["task"] == task)
    values = {name: row[name] for name in PUBLISHED if row[name]}
    return values | {"DiffCPS_std": row["DiffCPS_std"]}
