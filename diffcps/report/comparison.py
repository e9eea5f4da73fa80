"""Comparison of two sweeps, task by task and seed by seed.

Two trials form a pair if task, data and physics are the same. AntMaze v0 and v2 are two tasks. Trials without a partner are
listed with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffcps import stats
from diffcps.errors import UserError
from diffcps.report.across import Estimate
from diffcps.report.analysis import Row, Score, by_task, rows, said, seed_scores, varying
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial
from diffcps.stats import FloatArray
from diffcps.text import listed

_NAMED = 3
"""Most settings without a partner that are named."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One trial of each sweep on the same task and data."""

    first: Row
    second: Row
    seeds: tuple[int, ...]
    """Seeds that both have, in ascending order."""

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
        """Mean of the paired differences with its 95 % percentile-bootstrap interval; for one seed its ends are nan."""
        values = self.differences(kind)
        low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
        return Estimate(float(values.mean()), float(low), float(high))

    @property
    def changes(self) -> tuple[str, str]:
        """Settings of the first that the second does not have, and the other way round."""
        first, second = (_settings(row.trial) for row in (self.first, self.second))
        return ", ".join(c for c in first if c not in second), ", ".join(c for c in second if c not in first)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sweeps and their pairs."""

    first: Sweep
    second: Sweep
    pairs: tuple[Pair, ...]
    names: tuple[str, str]
    """Their names, or their folders if both have the same name."""
    left_out: tuple[str, ...]
    """A sentence for each trial or task without a partner."""

    @cached_property
    def domains(self) -> dict[str, list[Pair]]:
        """Pairs that may be averaged: by domain, kind of data and physics."""
        found: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            trial = pair.first.trial
            if trial.task.domain:
                found.setdefault(f"{trial.task.domain}, {pair.first.data}, {trial.config.physics} physics", []).append(
                    pair
                )
        return {name: pairs for name, pairs in found.items() if len(pairs) > 1}


def difference(pairs: Sequence[Pair]) -> Estimate:
    """Mean over pairs of their mean difference of last scores, second minus first, with the stratified-bootstrap interval."""
    return Estimate.over_tasks([pair.differences() for pair in pairs], stats.mean_of_means)


def improvement(pairs: Sequence[Pair]) -> Estimate:
    """P(last score of a run of the second sweep > that of a run of the first, on the same task), over all seeds of the pairs."""
    first = [seed_scores(pair.first.trial, "last") for pair in pairs]
    second = [seed_scores(pair.second.trial, "last") for pair in pairs]
    return Estimate.of_improvement(second, first)


def paired(first: Sweep, second: Sweep) -> Comparison:
    """Pair the complete trials of two sweeps.

    Trials are paired by task and, if a sweep has several configurations of a task, by the settings that vary.

    Raises ``UserError`` with all reasons if there is no pair.
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
        why = " ".join(left_out) or "Neither has a trial."
        raise UserError(f"no trial of {names[0]} can be paired with a trial of {names[1]}. {why}")
    return Comparison(first, second, pairs=tuple(pairs), names=names, left_out=left_out)


def _partners(
    ours: Sequence[Row], theirs: Sequence[Row], names: tuple[str, str], reasons: list[str]
) -> list[tuple[Row, Row]]:
    """Pairs of rows of one task; adds to ``reasons`` those without a partner."""
    if not theirs or (len(ours) == 1 and len(theirs) == 1):
        return list(zip(ours, theirs, strict=False))
    task, settings = ours[0].trial.task.name, varying([*ours, *theirs])
    lists = [{said(row.trial, settings): row for row in table} for table in (ours, theirs)]
    for i, table in enumerate((ours, theirs)):
        if len(lists[i]) < len(table):
            reasons.append(f"{task}: {names[i]} has several trials with the same settings; none of them is paired.")
            return []
        if alone := [label for label in lists[i] if label not in lists[1 - i]]:
            reasons.append(f"{task}: {listed(alone, _NAMED)} is in {names[i]} only, not in {names[1 - i]}.")
    return [(row, lists[1][label]) for label, row in lists[0].items() if label in lists[1]]


def _obstacle(first: Trial, second: Trial, *names: str) -> str | None:
    """Why two trials of one task cannot be paired; ``None`` if they can."""
    for trial, name in zip((first, second), names, strict=True):
        if trial.state != "complete" or not len(trial.scores):
            return f"{trial.state} in {name}; only complete trials are compared."
    checksums = [str(trial.dataset.get("checksum")) for trial in (first, second)]
    if checksums[0] != checksums[1]:
        return (
            f"different data (checksum {checksums[0][:12]}… in {names[0]}, {checksums[1][:12]}… in {names[1]}), so a "
            "difference of scores could come from the data."
        )
    if first.config.physics != second.config.physics:
        return f"evaluated under {first.config.physics} physics in {names[0]}, under {second.config.physics} in {names[1]}."
    if not _seeds(first) & _seeds(second):
        return "no seed in common."
    return None


def _absent(task: str, name: str, other: str, theirs: dict[str, list[Row]]) -> str:
    """A sentence on a task that only one sweep has; another version of it is no substitute."""
    stem = task.rpartition("-")[0]
    if twin := next((found for found in theirs if found.rpartition("-")[0] == stem), None):
        return f"{task} in {name} is not paired with {twin} in {other}: data and goals differ."
    return f"{task} is in {name} only."


def _seeds(trial: Trial) -> set[int]:
    """Seeds of a trial that only one of its members has."""
    seeds = [member.seed for member in trial.config.members]
    return {seed for seed in seeds if seeds.count(seed) == 1}


def _of_seeds(trial: Trial, seeds: Sequence[int], kind: str) -> FloatArray:
    order = [member.seed for member in trial.config.members]
    return seed_scores(trial, kind)[[order.index(seed) for seed in seeds]]


def _settings(trial: Trial) -> list[str]:
    """Everything but the code that can make two trials of one task differ."""
    plain = f"{trial.config.steps} steps", f"profile {trial.config.profile}", f"{trial.seeds} seeds"
    return [*plain, *trial.changes]
