"""Scores across tasks: which trials may be averaged together, and their aggregates.

Only complete trials count. Domains, kinds of data and physics are never mixed.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from diffcps import stats
from diffcps.report.analysis import Row, by_task, said, seed_scores, varying
from diffcps.stats import FloatArray
from diffcps.text import interval, number

MOST = 30
"""Most configurations of one domain that are compared across tasks; a search has more, and they are no fixed methods."""
_MOST_PAIRS = 6
"""Up to this many configurations every pair is compared; beyond it each one with the first."""


class Estimate(NamedTuple):
    """A number with its 95 % interval, nan if there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """``92.0 [90.8, 93.1]``."""
        return f"{number(self.value)} {interval(self.low, self.high)}".rstrip()

    @classmethod
    def over_tasks(cls, scores: stats.Strata, statistic: Callable[[stats.Strata], FloatArray]) -> "Estimate":
        """A statistic of the scores of several tasks with its stratified-bootstrap interval."""
        ends = stats.stratified_interval(scores, statistic, np.random.default_rng(0))
        return cls(float(statistic(scores)), *ends)

    @classmethod
    def of_improvement(cls, x: stats.Strata, y: stats.Strata) -> "Estimate":
        """P(X > Y) over the scores of several tasks with its stratified-bootstrap interval."""
        ends = stats.improvement_interval(x, y, np.random.default_rng(0))
        return cls(stats.probability_of_improvement(x, y), *ends)


@dataclass(frozen=True, eq=False)
class Group:
    """Complete trials of one configuration on one or more tasks that may be averaged."""

    domain: str
    """``Task.domain``."""
    data: str
    physics: str
    profile: str
    configuration: str
    """Settings that tell it from other groups of the same tasks; empty if each task has one configuration."""
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
        """One array a task, of all tasks or of those named, with a score for each seed: ``last``, ``newest`` or ``best``."""
        found = {row.trial.task.name: row for row in self.rows}
        return [seed_scores(found[task].trial, kind) for task in tasks or found]

    def mean(self, kind: str = "last") -> Estimate:
        """Mean over tasks, each with the same weight."""
        return Estimate.over_tasks(self.scores(kind), stats.mean_of_means)

    @cached_property
    def aggregates(self) -> dict[str, Estimate]:
        """IQM, median, mean and optimality gap of the last scores."""
        scores = self.scores()
        return {name: Estimate.over_tasks(scores, statistic) for name, statistic in stats.AGGREGATES.items()}

    @property
    def published(self) -> float:
        """Mean of the paper's numbers over the same tasks; nan unless every task has one."""
        return float(np.mean([float(row.published.values.get("DiffCPS", "nan")) for row in self.rows]))

    def profile_curve(self, thresholds: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Performance profile of the last scores with its interval, each as ``thresholds``."""
        return stats.performance_profile(self.scores(), thresholds, np.random.default_rng(0))


class Improvement(NamedTuple):
    """Probability that a run of one group beats a run of another on the same task."""

    first: Group
    second: Group
    tasks: tuple[str, ...]
    probability: Estimate


class Budget(NamedTuple):
    """Gain from tuning an algorithm's configuration for a task, by the number of policies tried online."""

    task: str
    """With the algorithm, if the table has several."""
    data: str
    mean: FloatArray
    """Expected highest last score of k configurations drawn at random, entry k − 1."""
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
            shared = trial.task.domain, row.data, trial.config.physics, trial.config.profile, said(trial, names)
            found[shared].append(row)
    # two trials of one task that agree in all of this differ in something that the table does not show
    return [Group(*shared, rows=tuple(rows)) for shared, rows in found.items() if len(by_task(rows)) == len(rows)]


def families(found: Sequence[Group]) -> list[list[Group]]:
    """Groups that may be compared with one another: same domain, kind of data and physics."""
    by_family: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in found:
        by_family[group.family].append(group)
    return list(by_family.values())


def comparable(found: Sequence[Group]) -> list[list[Group]]:
    """Families with several groups or several tasks, and no more than ``MOST`` groups."""
    return [
        family for family in families(found) if len(family) <= MOST and (len(family) > 1 or len(family[0].rows) > 1)
    ]


def improvement(first: Group, second: Group) -> Improvement | None:
    """P(score of a run of ``first`` > that of a run of ``second``) over the tasks that both have; ``None`` without one."""
    tasks = tuple(task for task in first.tasks if task in second.tasks)
    if not tasks:
        return None
    likely = Estimate.of_improvement(first.scores(tasks=tasks), second.scores(tasks=tasks))
    return Improvement(first, second, tasks, likely)


def improvements(family: Sequence[Group]) -> list[Improvement]:
    """Every pair of a small family; of a larger one, each group against the first."""
    pairs = combinations(family, 2) if len(family) <= _MOST_PAIRS else ((other, family[0]) for other in family[1:])
    return [found for first, second in pairs if (found := improvement(first, second)) is not None]


def budgets(table: Sequence[Row]) -> list[Budget]:
    """Expected online performance of each task and algorithm with several complete configurations on the same data.

    Not where trials were ended early: those that are left are better than configurations drawn at random.
    """
    found = []
    several = len({row.trial.config.algorithm for row in table}) > 1
    for task, rows in by_task(table).items():
        kinds: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        if any(row.trial.state == "pruned" for row in rows):
            continue
        for row in rows:
            if row.trial.state == "complete" and row.last is not None:
                kinds[row.data, row.trial.config.algorithm, row.trial.config.physics].append(row)
        for (data, algorithm, _), group in kinds.items():
            if len(group) > 1:
                scores = [row.last.mean for row in group if row.last is not None]
                name = f"{task}, {algorithm}" if several else task
                found.append(Budget(name, data, *stats.expected_online_performance(scores)))
    return found
