"""From trials to the numbers of the table: one row a trial.

The last score and the best one never share a column: the best is chosen by looking at the evaluations, so it is an
oracle. A published number is shown only if the data are the paper's.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.algorithms import other_ways, ways
from diffcps.report.diagnostics import Diagnosis, diagnose
from diffcps.report.paper import Published, ablation, published
from diffcps.runs.joined import joined
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial, ascending, symbols
from diffcps.runs.trial import varying as varying_settings
from diffcps.text import is_number, worded
from diffcps.training.measures import MEASURES

NEWEST = 10
"""Newest evaluations that are averaged for the column beside the last score."""


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
        """Several kinds of score at once, ``[K, kinds]``, one value for each seed and kind.

        All rows use the same resamples, so an interval does not depend on the other rows of a table.
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
        """Number of evaluations so far."""
        return len(self.trial.scores)

    @property
    def first(self) -> float:
        """Mean over seeds of the first evaluation."""
        return float(self.trial.scores[0].mean()) if self.evaluations else float("nan")

    @property
    def last(self) -> Score | None:
        """The newest evaluation; of a complete trial, that of the final checkpoint."""
        return self._scores[0]

    @property
    def newest(self) -> Score | None:
        """Each seed's mean over its newest evaluations, up to ``NEWEST``."""
        return self._scores[1]

    @property
    def best(self) -> Score | None:
        """Each seed's highest evaluation; evaluations without a number (a diverged policy) do not count."""
        return self._scores[2]

    @cached_property
    def _scores(self) -> Sequence[Score | None]:
        """Last, newest, best."""
        if not self.evaluations:
            return None, None, None
        return Score.of(np.stack([seed_scores(self.trial, kind) for kind in ("last", "newest", "best")], axis=1))

    @cached_property
    def measured(self) -> dict[str, Score]:
        """Each column of ``measures.csv`` at the newest evaluation that has it: of a complete trial, at the last one."""
        newest = {}
        for name in self.trial.measured:
            values = self.trial.measure(name)[1]
            if self.trial.state != "complete":  # other ways to act have no numbers before the last evaluation
                values = values[~np.isnan(values).all(axis=1)]
            if len(values):
                newest[name] = values[-1]
        return dict(zip(newest, Score.of(np.stack([*newest.values()], axis=1)), strict=True)) if newest else {}

    @cached_property
    def ways(self) -> dict[ways.Way, Score]:
        """Last score by each other way to act, once it is measured."""
        return {w: self.measured[w.column] for w in other_ways(self.trial.config) if w.column in self.measured}

    @property
    def one(self) -> Score | None:
        """The last score with a single candidate, as the trial's own rule has or as measured; ``None`` without either."""
        own = self.trial.values("evaluation.candidates") == (1,)
        return self.last if own else next((s for way, s in self.ways.items() if str(way) == ways.ONE), None)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Whether the trial did what its equations say."""
        return diagnose(self.trial)

    @cached_property
    def published(self) -> Published:
        """The paper's numbers for the task, if they are comparable."""
        return published(self.trial)

    @property
    def data(self) -> str:
        """The data set in a few words."""
        return str(self.trial.dataset.get("label", "not loaded"))


def seed_scores(trial: Trial, kind: str) -> NDArray[np.float64]:
    """One score for each seed, ``[K]``: ``last``, the mean of the ``newest`` evaluations, or ``best``. Needs an evaluation."""
    if kind == "last":
        return trial.scores[-1]
    return trial.scores[-NEWEST:].mean(axis=0) if kind == "newest" else np.fmax.reduce(trial.scores, axis=0)


def rows(sweep: Sweep) -> list[Row]:
    """A row for each known trial; see ``joined``. Rows of a search are ordered by task, then by last score."""
    found = [Row(trial) for trial in joined(sweep.trials)]
    if sweep.is_search:
        tasks = list(dict.fromkeys(row.trial.task.name for row in found))
        found.sort(key=lambda row: (tasks.index(row.trial.task.name), -row.last.mean if row.last else np.inf))
    return found


def varying(table: Sequence[Row]) -> list[str]:
    """Names of the settings that differ between trials of the same task; see ``runs.trial.varying``."""
    return varying_settings([row.trial for row in table])


def compares(table: Sequence[Row]) -> bool:
    """Whether the table compares several methods with one trial per task, so that published scores can be shown beside them."""
    shared = [(row.trial.task.name, row.data, row.trial.config.physics) for row in table]
    names = [row.trial.config.method for row in table]
    return len(set(names)) > 1 and len(set(zip(shared, names, strict=True))) == len(table)


def setting(trial: Trial, name: str) -> str:
    """The value of a setting, or all values if members of the pack differ; a dash if the algorithm does not have it."""
    return ", ".join(map(worded, trial.values(name))) or "–"


def said(trial: Trial, names: Sequence[str]) -> str:
    """Settings of a trial, ``T=5 λ-clip=0.1``, an algorithm by its name alone; empty without names."""
    known = trial.config.symbols
    words = {name: f"{known.get(name, name)}={setting(trial, name)}" for name in names if trial.values(name)}
    return " ".join((words | {"algorithm": trial.config.algorithm} if "algorithm" in words else words).values())


def symbol(name: str, table: Sequence[Row]) -> str:
    """What the rows call a setting in tables and figures."""
    return symbols([row.trial for row in table]).get(name, name)


def quantities(table: Sequence[Row]) -> dict[str, list[str]]:
    """Measure -> those of its columns that a report shows. Columns of no known measure are listed as ``other``."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in (row.trial for row in table if row.trial.measured):
        # those of training, and those that may have been taken afterwards
        known = {name: item for name, item in MEASURES.items() if not item.misfit(trial.config, trial.task)}
        owner = {column: name for name, item in known.items() for column in item.columns(trial.config, trial.task)}
        acting = {way.column for way in other_ways(trial.config)}
        for column in trial.measured:
            if column in acting:  # they have a table of their own
                continue
            name = owner.get(column, "other")
            if name == "other" or not re.fullmatch(known[name].details, column):
                found[name][column] = None
    return {name: list(columns) for name, columns in found.items()}


def by_task(table: Sequence[Row]) -> dict[str, list[Row]]:
    """Task -> its rows, in the order of the table."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        found[row.trial.task.name].append(row)
    return dict(found)


# How the score of a task depends on its settings: a grid over two of them, and a line along each.


@dataclass(frozen=True)
class Grid:
    """Last score of one task over two settings, where nothing else varies."""

    task: str
    names: tuple[str, str]
    """Setting of the rows, setting of the columns."""
    values: tuple[tuple[Any, ...], tuple[Any, ...]]
    """Values of each, in ascending order."""
    cells: dict[tuple[Any, Any], Row]


@dataclass(frozen=True)
class Line:
    """Rows of a task that differ in one setting only."""

    task: str
    label: str
    """What the other settings are, where a task has several lines."""
    points: tuple[tuple[float, Row], ...]
    """(value of the setting, row), in ascending order, evaluated rows only."""


@dataclass(frozen=True)
class Beside:
    """A task's best scores over λ-clip beside those of the paper's figures 4 and 5."""

    task: str
    points: tuple[tuple[float, Row, float], ...]
    """(λ-clip, row, the paper's number)."""


def grids(table: Sequence[Row]) -> list[Grid]:
    """A grid for each task in which two settings vary, nothing else does, and every combination has its trial."""
    found = []
    for task, group in by_task(table).items():
        names = varying(group)
        if len(names) != 2 or not _single(group, names) or not _one_frame(group):
            continue
        first, second = names
        cells = {(_value(row, first), _value(row, second)): row for row in group}
        values = [sorted({point[i] for point in cells}, key=ascending) for i in (0, 1)]
        once = len(cells) == len(group)
        if once and len(cells) == len(values[0]) * len(values[1]):
            found.append(Grid(task, (first, second), (tuple(values[0]), tuple(values[1])), cells))
    return found


def along(table: Sequence[Row]) -> dict[str, list[Line]]:
    """Setting -> its lines, for each setting that is a number and varies."""
    found = {name: lines(table, name) for name in varying(table)}
    return {name: some for name, some in found.items() if some}


def lines(table: Sequence[Row], name: str) -> list[Line]:
    """The lines of each task along one setting. The rows of a line agree in all other settings."""
    found = []
    for task, group in by_task(table).items():
        names = varying(group)
        if name not in names or not _one_frame(group) or not _numbers(group, name):
            continue
        others = [other for other in names if other != name]
        together: dict[str, list[tuple[float, Row]]] = defaultdict(list)
        for row in group:
            if row.last and _single([row], names):
                together[said(row.trial, others)].append((_value(row, name), row))
        for label, points in together.items():
            points.sort(key=lambda point: point[0])
            if len(points) > 1 and len({value for value, _ in points}) == len(points):
                found.append(Line(task, label, tuple(points)))
    return found


def _value(row: Row, name: str) -> Any:
    return row.trial.values(name)[0]


def _single(group: Sequence[Row], names: Sequence[str]) -> bool:
    """Whether the members of each trial agree in these settings."""
    return all(len(row.trial.values(name)) == 1 for row in group for name in names)


def _numbers(group: Sequence[Row], name: str) -> bool:
    return all(is_number(value) for row in group for value in row.trial.values(name))


def _one_frame(group: Sequence[Row]) -> bool:
    """Whether rows share profile, physics and data."""
    return (
        len({(row.trial.config.profile, row.trial.config.physics, row.data) for row in group if row.trial.dataset}) < 2
    )


def beside_paper(table: Sequence[Row]) -> list[Beside]:
    """For tasks with several λ-clips of the paper's ablation, T = 5 and the paper's data: our best score and the paper's."""
    found = []
    for task, group in by_task(table).items():
        points = []
        for row in group:
            theirs, clips = ablation(row.trial), row.trial.values("lambda_clip")
            if row.trial.values("diffusion_steps") == (5,) and row.best and len(clips) == 1 and clips[0] in theirs:
                points.append((clips[0], row, theirs[clips[0]]))
        points.sort(key=lambda point: point[0])
        if len(points) > 1 and len({clip for clip, *_ in points}) == len(points):
            found.append(Beside(task, tuple(points)))
    return found
