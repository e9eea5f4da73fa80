"""From trials to the numbers of the table: one row a trial.

The last score and the best one never share a column: the best is chosen by looking at the evaluations, so it is an
oracle. A published number stands beside ours only where the data are the paper's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.data import library
from diffcps.report.diagnostics import Diagnosis, diagnose
from diffcps.report.published import Published, ablation, published
from diffcps.runs.frames import Sweep, Trial, worded

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
        """The data set in a few words."""
        provenance = self.trial.dataset.get("provenance")
        return library.source(self.trial.config.data.source).label(self.trial.task, provenance)


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


# Across tasks: which runs may be put together, and what they amount to.

FloatArray = NDArray[np.float64]
MOST = 30
"""Configurations of one domain that are compared across tasks; of more, a search for instance, none stands out by merit."""
_MOST_PAIRS = 6
"""Configurations of which every pair is compared; of more, each with the first."""


class Estimate(NamedTuple):
    """A number with its 95 % interval, nan where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Group:
    """Complete trials of one configuration on one or more tasks that may be put together."""

    domain: str
    """``Task.domain``."""
    data: str
    physics: str
    profile: str
    configuration: str
    """What tells it from other groups of the same tasks; empty where each task has one configuration only."""
    rows: tuple[Row, ...]
    """One a task."""

    @property
    def family(self) -> tuple[str, str, str]:
        """What groups must share to be compared."""
        return self.domain, self.data, self.physics

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(row.trial.task.name for row in self.rows)

    def scores(self, kind: str = "last", tasks: Sequence[str] | None = None) -> list[FloatArray]:
        """For each task, of all or of those named, one score a seed: ``last``, ``newest`` or ``best``."""
        found = {row.trial.task.name: row for row in self.rows}
        return [seed_scores(found[task].trial, kind) for task in tasks or found]

    def mean(self, kind: str = "last") -> Estimate:
        """Mean over tasks, every task counting the same."""
        return self._estimate("mean", kind)

    @cached_property
    def aggregates(self) -> dict[str, Estimate]:
        """IQM, median, mean and optimality gap of the last scores."""
        return {name: self._estimate(name, "last") for name in stats.AGGREGATES}

    @property
    def published(self) -> float:
        """Mean of the paper's numbers over the same tasks; nan unless each of them has one."""
        return float(np.mean([float(row.published.values.get("DiffCPS", "nan")) for row in self.rows]))

    def profile_curve(self, thresholds: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Performance profile of the last scores with its interval, each as ``thresholds``."""
        return stats.performance_profile(self.scores(), thresholds, np.random.default_rng(0))

    def _estimate(self, name: str, kind: str) -> Estimate:
        scores, statistic = self.scores(kind), stats.AGGREGATES[name]
        interval = stats.stratified_interval(scores, statistic, np.random.default_rng(0))
        return Estimate(float(statistic(scores)), *interval)


class Improvement(NamedTuple):
    """How likely a run of one group beats a run of another on the same task."""

    first: Group
    second: Group
    tasks: tuple[str, ...]
    probability: Estimate


class Budget(NamedTuple):
    """What tuning a task's configuration brings, by the number of policies tried online."""

    task: str
    data: str
    mean: FloatArray
    """Expected highest last score of k configurations picked at random, entry k − 1."""
    std: FloatArray


def groups(table: Sequence[Row]) -> list[Group]:
    """All groups of a table, in its order.

    Tasks without a domain are left out: scores of different environments are not averaged.
    """
    names = varying(table)
    found: dict[tuple[str, str, str, str, str], list[Row]] = defaultdict(list)
    for row in table:
        trial = row.trial
        if trial.state == "complete" and row.last is not None and trial.task.domain:
            found[trial.task.domain, row.data, trial.config.physics, trial.config.profile, said(trial, names)].append(
                row
            )
    # a task that has two trials alike in all of this differs in something that a table does not show
    return [
        Group(domain, data, physics, profile, configuration, tuple(rows))
        for (domain, data, physics, profile, configuration), rows in found.items()
        if len(by_task(rows)) == len(rows)
    ]


def families(found: Sequence[Group]) -> list[list[Group]]:
    """Groups that may be compared with one another: those of one domain, kind of data and physics."""
    by_family: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in found:
        by_family[group.family].append(group)
    return list(by_family.values())


def comparable(found: Sequence[Group]) -> list[list[Group]]:
    """The families in which there is something to put together or to compare, and not too much."""
    return [
        family for family in families(found) if len(family) <= MOST and (len(family) > 1 or len(family[0].rows) > 1)
    ]


def improvement(first: Group, second: Group) -> Improvement | None:
    """P(a run of ``first`` scores above one of ``second``), over the tasks that both have; ``None`` where they have none."""
    tasks = tuple(task for task in first.tasks if task in second.tasks)
    if not tasks:
        return None
    ours, theirs = first.scores(tasks=tasks), second.scores(tasks=tasks)
    value = stats.probability_of_improvement(ours, theirs)
    interval = stats.improvement_interval(ours, theirs, np.random.default_rng(0))
    return Improvement(first, second, tasks, Estimate(value, *interval))


def improvements(family: Sequence[Group]) -> list[Improvement]:
    """Every pair of a small family; of a larger one, each group against the first."""
    pairs = combinations(family, 2) if len(family) <= _MOST_PAIRS else ((other, family[0]) for other in family[1:])
    return [found for first, second in pairs if (found := improvement(first, second)) is not None]


def budgets(table: Sequence[Row]) -> list[Budget]:
    """Expected online performance of each task with several complete configurations on the same data."""
    found = []
    for task, rows in by_task(table).items():
        kinds: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            if row.trial.state == "complete" and row.last is not None:
                kinds[row.data, row.trial.config.physics].append(row)
        for (data, _), group in kinds.items():
            if len(group) > 1:
                scores = [row.last.mean for row in group if row.last is not None]
                found.append(Budget(task, data, *stats.expected_online_performance(scores)))
    return found


# How the score of one task depends on T and λ-clip: the grid, and the lines of a figure through it.


@dataclass(frozen=True)
class Grid:
    """Last score of one task over T (rows) and λ-clip (columns)."""

    task: str
    diffusion_steps: tuple[int, ...]
    lambda_clips: tuple[float, ...]
    cells: dict[tuple[int, float], Row]


@dataclass(frozen=True)
class Line:
    """A task's rows along one setting, all others being the same."""

    task: str
    label: str
    """Value of the other setting, where several lines are told apart by it."""
    points: tuple[tuple[float, Row], ...]
    """(value of the setting, row), in ascending order, evaluated rows only."""


@dataclass(frozen=True)
class Beside:
    """A task's best scores over λ-clip beside those of the paper's figures 4 and 5."""

    task: str
    points: tuple[tuple[float, Row, float], ...]
    """(λ-clip, row, the paper's number)."""


def grids(table: Sequence[Row]) -> list[Grid]:
    """A T × λ-clip grid for each task in which both vary and nothing else does."""
    found = []
    for task, group in by_task(table).items():
        if any(len(row.trial.shared("lambda_clip")) > 1 for row in group):
            continue
        cells = {(row.trial.config.value("diffusion_steps"), row.trial.shared("lambda_clip")[0]): row for row in group}
        steps, clips = sorted({point[0] for point in cells}), sorted({point[1] for point in cells})
        alone = len(cells) == len(group) and _only(group, "diffusion_steps", "lambda_clip")
        if alone and len(steps) > 1 and len(clips) > 1:
            found.append(Grid(task, tuple(steps), tuple(clips), cells))
    return found


def lines(table: Sequence[Row], along: str) -> list[Line]:
    """For each task a line of its rows along ``diffusion_steps`` or ``lambda_clip``, for each value of the other.

    Where anything else varies too, or members differ, there is no line: the difference between its points would have two causes.
    """
    other, symbol = ("lambda_clip", "λ-clip") if along == "diffusion_steps" else ("diffusion_steps", "T")
    found = []
    for task, group in by_task(table).items():
        if any(len(row.trial.settings[name]) > 1 for row in group for name in (along, other)):
            continue
        if not _only(group, along, other):
            continue
        values = sorted({row.trial.settings[other][0] for row in group})
        for value in values:
            points = [(r.trial.settings[along][0], r) for r in group if r.trial.settings[other][0] == value and r.last]
            points.sort(key=lambda point: point[0])
            if len(points) > 1 and len({point[0] for point in points}) == len(points):
                found.append(Line(task, f"{symbol}={value:g}" if len(values) > 1 else "", tuple(points)))
    return found


def _only(group: Sequence[Row], *names: str) -> bool:
    """Whether a task's rows differ in these settings alone."""
    frames = {(row.trial.config.profile, row.trial.config.physics, row.data) for row in group if row.trial.dataset}
    return len(frames) < 2 and set(varying(group)) <= set(names)


def beside_paper(table: Sequence[Row]) -> list[Beside]:
    """Where several λ-clips of the paper's ablation were run at T = 5 on its data: ours and the paper's, both best."""
    found = []
    for task, group in by_task(table).items():
        points = []
        for row in group:
            theirs, clips = ablation(row.trial), row.trial.shared("lambda_clip")
            if row.trial.config.value("diffusion_steps") == 5 and row.best and len(clips) == 1 and clips[0] in theirs:
                points.append((clips[0], row, theirs[clips[0]]))
        points.sort(key=lambda point: point[0])
        if len({point[0] for point in points}) == len(points) > 1:
            found.append(Beside(task, tuple(points)))
    return found
