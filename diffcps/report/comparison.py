"""Two sweeps held against each other, task by task and seed by seed.

A trial is only ever paired with one on the same task, the same data and under the same physics. AntMaze v0 and v2 are
two tasks. What cannot be paired is said, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffcps import stats
from diffcps.errors import UserError
from diffcps.report.analysis import Estimate, Row, Score, by_task, rows, said, seed_scores, varying
from diffcps.runs.frames import Sweep, Trial

FloatArray = NDArray[np.float64]
_NAMED = 3
"""Settings that are named of many that have no partner."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One trial of each sweep on the same task and data."""

    first: Row
    second: Row
    seeds: tuple[int, ...]
    """Seeds that both trained, in ascending order."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.first.trial.task.name

    def scores(self) -> tuple[Score, Score]:
        """Last scores of the first and of the second, over the seeds that both have."""
        values = [_of_seeds(row.trial, self.seeds, "last") for row in (self.first, self.second)]
        first, second = Score.of(np.stack(values, axis=1))
        return first, second

    def differences(self, kind: str = "last") -> FloatArray:
        """Second minus first, seed by seed, of ``last``, ``newest`` or ``best`` scores."""
        return _of_seeds(self.second.trial, self.seeds, kind) - _of_seeds(self.first.trial, self.seeds, kind)

    def difference(self, kind: str = "last") -> Estimate:
        """Mean of the paired differences with the 95 % percentile-bootstrap interval; nan ends with one seed."""
        values = self.differences(kind)
        low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
        return Estimate(float(values.mean()), float(low), float(high))

    @property
    def changes(self) -> tuple[str, str]:
        """Of each trial, first and second, the settings that the other has not."""
        first, second = (_settings(row.trial) for row in (self.first, self.second))
        return ", ".join(c for c in first if c not in second), ", ".join(c for c in second if c not in first)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sweeps and what could be paired of them."""

    first: Sweep
    second: Sweep
    pairs: tuple[Pair, ...]
    names: tuple[str, str]
    """What they are called here: their names, or their folders where these are the same."""
    left_out: tuple[str, ...]
    """One sentence for whatever could not be paired."""

    @cached_property
    def domains(self) -> dict[str, list[Pair]]:
        """Pairs that may be put together, by domain, kind of data and physics."""
        found: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            trial = pair.first.trial
            if trial.task.domain:
                found.setdefault(f"{trial.task.domain}, {pair.first.data}, {trial.config.physics} physics", []).append(
                    pair
                )
        return {name: pairs for name, pairs in found.items() if len(pairs) > 1}


def difference(pairs: Sequence[Pair], kind: str = "last") -> Estimate:
    """Mean over pairs of their mean difference, second minus first, with the stratified-bootstrap interval."""
    found = [pair.differences(kind) for pair in pairs]
    interval = stats.stratified_interval(found, stats.mean_of_means, np.random.default_rng(0))
    return Estimate(float(stats.mean_of_means(found)), *interval)


def improvement(pairs: Sequence[Pair]) -> Estimate:
    """P(a run of the second sweep ends above one of the first on the same task), over these pairs, all their seeds."""
    first = [seed_scores(pair.first.trial, "last") for pair in pairs]
    second = [seed_scores(pair.second.trial, "last") for pair in pairs]
    value = stats.probability_of_improvement(second, first)
    return Estimate(value, *stats.improvement_interval(second, first, np.random.default_rng(0)))


def compare(first: Sweep, second: Sweep) -> Comparison:
    """Pair the complete trials of two sweeps.

    By task; where either sweep has several configurations of a task, by T, λ-clip and κ as well.

    Raises ``UserError`` with all reasons when not one pair is left.
    """
    names = (first.name, second.name) if first.name != second.name else (str(first.folder), str(second.folder))
    tables = by_task(rows(first)), by_task(rows(second))
    pairs: list[Pair] = []
    reasons: list[str] = []
    for task, ours in tables[0].items():
        theirs = tables[1].get(task, [])
        if not theirs:
            reasons.append(_absent(task, *names, tables[1]))
        for row, partner in _partners(ours, theirs, names, reasons):
            if (reason := _obstacle(row.trial, partner.trial, *names)) is not None:
                reasons.append(f"{task}: {reason}")
                continue
            seeds = sorted(_seeds(row.trial) & _seeds(partner.trial))
            pairs.append(Pair(row, partner, tuple(seeds)))
    reasons += [_absent(task, *names[::-1], tables[0]) for task in tables[1] if task not in tables[0]]
    left_out = tuple(dict.fromkeys(reasons))
    if not pairs:
        why = " ".join(left_out) or "Neither has any trial."
        raise UserError(f"nothing in {names[0]} can be paired with anything in {names[1]}. {why}")
    return Comparison(first, second, tuple(pairs), names, left_out)


def _partners(
    ours: Sequence[Row], theirs: Sequence[Row], names: tuple[str, str], reasons: list[str]
) -> list[tuple[Row, Row]]:
    """Rows of one task that belong together; says in ``reasons`` which have no partner."""
    if not theirs or (len(ours) == 1 and len(theirs) == 1):
        return list(zip(ours, theirs, strict=False))
    task, settings = ours[0].trial.task.name, varying([*ours, *theirs])
    lists = [{said(row.trial, settings): row for row in table} for table in (ours, theirs)]
    for mine, other, name, table, otherwise in zip(lists, lists[::-1], names, (ours, theirs), names[::-1], strict=True):
        if len(mine) < len(table):
            reasons.append(f"{task}: {name} has trials that T, λ-clip and κ do not tell apart; none of them is paired.")
            return []
        if alone := [label for label in mine if label not in other]:
            reasons.append(f"{task}: {name} has {_listed(alone)}, which {otherwise} has not.")
    return [(row, lists[1][label]) for label, row in lists[0].items() if label in lists[1]]


def _obstacle(first: Trial, second: Trial, *names: str) -> str | None:
    """Why two trials of one task cannot be paired."""
    for trial, name in zip((first, second), names, strict=True):
        if trial.state != "complete" or not len(trial.scores):
            return f"{trial.state} in {name}; only complete trials are compared."
    checksums = [str(trial.dataset.get("checksum")) for trial in (first, second)]
    if checksums[0] != checksums[1]:
        return (
            f"different data (checksum {checksums[0][:12]}… in {names[0]}, {checksums[1][:12]}… in {names[1]}): a difference "
            "would be of the data."
        )
    if first.config.physics != second.config.physics:
        return (
            f"judged under {first.config.physics} physics in {names[0]}, under {second.config.physics} in {names[1]}."
        )
    if not _seeds(first) & _seeds(second):
        return "no seed in common, so nothing to pair."
    return None


def _absent(task: str, name: str, other: str, theirs: dict[str, list[Row]]) -> str:
    """That a task of one sweep is not in the other, and that another version of it is no substitute."""
    stem = task.rpartition("-")[0]
    if twin := next((found for found in theirs if found.rpartition("-")[0] == stem), None):
        return f"{task} in {name} is never paired with {twin} in {other}: other data, other goals."
    return f"{task} is in {name} only."


def _listed(labels: Sequence[str]) -> str:
    """Some of many, and how many more there are."""
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return ", ".join(labels[:_NAMED]) + more


def _seeds(trial: Trial) -> set[int]:
    """Seeds of a trial; without those that several of its members have, which then differ in something else."""
    seeds = [member.seed for member in trial.config.members]
    return {seed for seed in seeds if seeds.count(seed) == 1}


def _of_seeds(trial: Trial, seeds: Sequence[int], kind: str) -> FloatArray:
    order = [member.seed for member in trial.config.members]
    return seed_scores(trial, kind)[[order.index(seed) for seed in seeds]]


def _settings(trial: Trial) -> list[str]:
    """Everything that can make two trials of one task differ, apart from their code."""
    plain = f"{trial.config.steps} steps", f"profile {trial.config.profile}", f"{trial.seeds} seeds"
    return [*plain, *trial.changes]
