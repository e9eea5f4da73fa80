"""Across tasks: which runs may be put together, and what they amount to.

Only complete trials count. Domains, kinds of data, physics, and AntMaze's v0 and v2 are never mixed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.report.published import version
from diffcps.report.rows import Row, by_task, said, seed_scores, varying

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
    """Domain, with AntMaze's version."""
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

    Tasks made from Minari data sets are no domain: their environments have nothing in common, nor need their scores.
    """
    names = varying(table)
    found: dict[tuple[str, str, str, str, str], list[Row]] = defaultdict(list)
    for row in table:
        trial = row.trial
        if trial.state == "complete" and row.last is not None and trial.task.definition is None:
            domain = f"{trial.task.domain} {version(trial)}".strip()
            found[domain, row.data, trial.config.physics, trial.config.profile, said(trial, names)].append(row)
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
