"""Algorithms side by side: one column each, always under one protocol, and a paragraph on who is ahead where."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diffcps.report import literature
from diffcps.report.across import Estimate, Group, families
from diffcps.report.analysis import Row, Score
from diffcps.report.document import Block, Bullets, Prose, Section, Sheet
from diffcps.report.tables import best_title, newest_title, score, score_interval
from diffcps.text import Column, counted, listed, number, stacked

ENOUGH_SEEDS = 5
"""Fewer give intervals that are too narrow."""
_NAMED = 3
"""Most algorithms that a sentence names."""
_ABREAST = 6
"""Algorithms side by side on a terminal; more are in a table below."""
_PROTOCOL = (
    "Mean over seeds ± their standard deviation, with its 95 % interval. All have the same data, physics, seeds and number of "
    "evaluations and episodes. Each acts by its own rule, except with one candidate (N = 1), where the policy's own action is "
    "taken; an algorithm that does not choose among candidates always acts so."
)


class Reading(NamedTuple):
    """A way to read a score off a run."""

    title: str
    of: Callable[[Row], Score | None]


def readings(table: Sequence[Row]) -> dict[str, Reading]:
    """Those of a table, by the names that published columns have; one candidate only where it was measured."""
    newest, best = newest_title(table), best_title(table)
    found = {"last": Reading("Last checkpoint", lambda row: row.last)}
    if any(row.ways and row.one for row in table):
        found["one"] = Reading("Last checkpoint, one candidate (N = 1)", lambda row: row.one)
    return found | {
        "newest": Reading(newest[0].upper() + newest[1:] + " evaluations", lambda row: row.newest),
        "best": Reading(best[0].upper() + best[1:], lambda row: row.best),
    }


class Standing(NamedTuple):
    """An algorithm's score with its 95 % interval."""

    name: str
    score: Estimate

    def __str__(self) -> str:
        return f"{self.name} {self.score}"


def verdict(found: Sequence[Standing], seeds: int) -> str:
    """Who is ahead of at least two; clearly so where its interval is above another's.

    Of few seeds an interval is too narrow to say so.
    """
    top, *others = sorted(found, key=lambda one: -one.score.value)
    if others[-1].score.value == top.score.value:
        return f"all are at {number(top.score.value)}"
    if seeds < ENOUGH_SEEDS:
        return f"{top} is highest; too few seeds to say more ({seeds})"
    near = [other for other in others if not top.score.low > other.score.high]
    if not near:
        return f"{top}, clear of all others; next {others[0]}"
    behind = len(others) - len(near)
    clear = f"; clear of {counted(behind, 'other')}" if behind else ""
    return f"{top} is highest, not clear of {listed([str(one) for one in near], _NAMED)}{clear}"


def clear(found: Sequence[Standing], seeds: int) -> str | None:
    """The algorithm with an interval above all others; ``None`` if there is none."""
    top, *others = sorted(found, key=lambda one: -one.score.value)
    ahead = seeds >= ENOUGH_SEEDS and all(top.score.low > other.score.high for other in others)
    return top.name if ahead else None


@dataclass(frozen=True, eq=False)
class SideBySide:
    """One task with one trial of each algorithm, on the same data under the same physics."""

    task: str
    data: str
    rows: Mapping[str, Row]
    """Method, an algorithm and its profile if that is not the usual one -> its trial."""

    @property
    def scores(self) -> dict[str, Score]:
        """Algorithm -> last score, of complete trials, the highest first."""
        known = {n: row.last for n, row in self.rows.items() if row.last is not None and row.trial.state == "complete"}
        return dict(sorted(known.items(), key=lambda item: -item[1].mean))

    @property
    def standings(self) -> list[Standing]:
        """The same with intervals."""
        return [Standing(name, Estimate(found.mean, found.low, found.high)) for name, found in self.scores.items()]

    @property
    def seeds(self) -> int:
        """Of the complete trial that has fewest."""
        return min((self.rows[name].trial.seeds for name in self.scores), default=0)

    @property
    def verdict(self) -> str:
        """Who is ahead. Empty with fewer than two."""
        return f"{self.task}: {verdict(self.standings, self.seeds)}" if len(self.scores) > 1 else ""


def side_by_side(table: Sequence[Row]) -> list[SideBySide]:
    """The tasks with several methods and one trial of each. With several trials of a method it is not clear which to show."""
    found: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    loaded: dict[str, set[str]] = defaultdict(set)
    for row in table:
        loaded[row.trial.task.name] |= {row.data} if row.trial.dataset else set()
    for row in table:
        task, data = row.trial.task.name, row.data
        # a trial that has not started will have the data of the others
        if not row.trial.dataset and len(loaded[task]) == 1:
            (data,) = loaded[task]
        key = task, data, row.trial.config.physics
        found.setdefault(key, {}).setdefault(row.trial.config.method, []).append(row)
    return [
        SideBySide(task, data, {name: rows[0] for name, rows in own.items()})
        for (task, data, _), own in found.items()
        if len(own) > 1 and all(len(rows) == 1 for rows in own.values())
    ]


def sections(table: Sequence[Row], groups: Sequence[Group], narrow: bool) -> list[Section]:
    """A column an algorithm, a line a task, a table a reading; nothing where no task has several algorithms.

    ``narrow`` is for a terminal: last scores only, a few algorithms abreast. The main table has the other readings.
    """
    found = side_by_side(table)
    if not found:
        return []
    rows = [row for item in found for row in item.rows.values()]
    known = readings(rows)
    shown = {name: known[name] for name in known if not narrow or name in ("last", "one")}
    names = list(dict.fromkeys(name for item in found for name in item.rows))
    abreast = _ABREAST if narrow else len(names)
    blocks: list[Block] = [Prose((_PROTOCOL,))]
    for reading, (title, _) in shown.items():
        for first in range(0, len(names), abreast):
            part = names[first : first + abreast]
            more = f" ({first // abreast + 1} of {-(-len(names) // abreast)})" if abreast < len(names) else ""
            blocks.append(Sheet(_columns(found, part, (reading, shown[reading]), narrow), title=title + more))
    titles = {reading: title for reading, (title, _) in shown.items()}
    made = [
        Section("Algorithms side by side", tuple(blocks)),
        Section("Published scores beside them", (Bullets(tuple(literature.legend(rows, titles))),)),
        Section("Who is ahead, by 95 % intervals of the last score", _ahead(found, groups)),
    ]
    return [*made, *([] if narrow else literature.section(rows))]


def _columns(
    found: Sequence[SideBySide], names: Sequence[str], reading: tuple[str, Reading], narrow: bool
) -> tuple[Column, ...]:
    columns = [
        Column("task", [item.task for item in found], right=False),
        Column("data", [item.data for item in found], right=False, liftable=True, drop=3),
        Column("behaviour", [_behaviour(item) for item in found], drop=2),
    ]
    for name in names:
        columns.append(Column(name, [_cell(item.rows.get(name), reading, narrow) for item in found]))
    return tuple(columns)


def _behaviour(item: SideBySide) -> str:
    """The score of the data's own behaviour, the same for all."""
    return number(next((row.trial.behaviour_score for row in item.rows.values() if row.trial.dataset), math.nan))


def _cell(row: Row | None, reading: tuple[str, Reading], narrow: bool) -> str:
    name, (_, read) = reading
    if row is None:
        return "–"
    if row.last is None or row.trial.state != "complete":
        return row.trial.state
    value = read(row)
    return stacked(score(value), "" if narrow else score_interval(value), literature.cell(row, name))


def _ahead(found: Sequence[SideBySide], groups: Sequence[Group]) -> tuple[Block, ...]:
    """A paragraph on all tasks and on each domain by its IQM, then a line on each task."""
    shown = [item for item in found if item.verdict]
    said = [*([_over_tasks(shown)] if len(shown) > 1 else []), *_by_domain(groups)]
    return (Prose((" ".join(said),) if said else ()), Bullets(tuple(item.verdict for item in shown)))


def _over_tasks(found: Sequence[SideBySide]) -> str:
    """On how many tasks each algorithm is clear of all others."""
    wins: dict[str, list[str]] = {}
    for item in found:
        if (name := clear(item.standings, item.seeds)) is not None:
            wins.setdefault(name, []).append(item.task)
    if not wins:
        return f"On none of {len(found)} tasks is an algorithm clear of all others."
    each = [
        f"{name} on {len(on)} ({listed(on, _NAMED)})" for name, on in sorted(wins.items(), key=lambda won: -len(won[1]))
    ]
    none = len(found) - sum(map(len, wins.values()))
    return f"Of {len(found)} tasks, clear of all others: {'; '.join(each)}{f'; nobody on {none}' if none else ''}."


def _by_domain(groups: Sequence[Group]) -> list[str]:
    """Who is ahead over the tasks that all algorithms of a domain have completed, if there are several."""
    lines = []
    for family in families(groups):
        whole = max((len(group.rows) for group in family), default=0)
        full = [group for group in family if len(group.rows) == whole]
        if whole > 1 and len(full) > 1:
            standings = [Standing(group.rows[0].trial.config.method, group.aggregates["IQM"]) for group in full]
            seeds = min(row.trial.seeds for group in full for row in group.rows)
            domain = " · ".join(family[0].family[:2])
            lines.append(f"Over the {whole} tasks of {domain}, by IQM: {verdict(standings, seeds)}.")
    return lines
