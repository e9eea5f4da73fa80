"""Algorithms side by side: one column each, always under one protocol, and a paragraph on who is ahead where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffcps.report.analysis import Row, Score
from diffcps.report.document import Bullets, Prose, Section, Sheet
from diffcps.report.tables import score, score_interval
from diffcps.text import Column, counted

ENOUGH_SEEDS = 5
"""Fewer give intervals that are too narrow."""
_PROTOCOL = (
    "The last score of each algorithm, by its own rule of acting: mean over seeds ± their standard deviation, with its 95 % "
    "interval. All have the same data, physics, seeds and number of episodes."
)


@dataclass(frozen=True, eq=False)
class SideBySide:
    """One task with one trial of each algorithm, on the same data under the same physics."""

    task: str
    data: str
    rows: Mapping[str, Row]
    """Algorithm -> its trial."""

    @property
    def scores(self) -> dict[str, Score]:
        """Algorithm -> last score, of complete trials, the highest first."""
        known = {n: row.last for n, row in self.rows.items() if row.last is not None and row.trial.state == "complete"}
        return dict(sorted(known.items(), key=lambda item: -item[1].mean))

    @property
    def verdict(self) -> str:
        """Who is ahead; an algorithm is clearly so when its interval lies above another's. Empty with fewer than two.

        Of few seeds an interval is too narrow to say so.
        """
        found = list(self.scores.items())
        if len(found) < 2:
            return ""
        (first, top), *others = found
        seeds = min(self.rows[name].trial.seeds for name, _ in found)
        if seeds < ENOUGH_SEEDS:
            return f"{self.task}: {first} is highest; {counted(seeds, 'seed')} say no more"
        near = [name for name, other in others if not top.low > other.high]
        if not near:
            return f"{self.task}: {first}, clear of all others"
        behind = len(others) - len(near)
        return f"{self.task}: {first} is highest, not clear of {', '.join(near)}" + (
            f"; clear of {counted(behind, 'other')}" if behind else ""
        )


def side_by_side(table: Sequence[Row]) -> list[SideBySide]:
    """The tasks with several algorithms and one trial of each. Several trials of one would have to be chosen between."""
    found: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in table:
        key = row.trial.task.name, row.data, row.trial.config.physics
        found.setdefault(key, {}).setdefault(row.trial.config.algorithm, []).append(row)
    return [
        SideBySide(task, data, {name: rows[0] for name, rows in own.items()})
        for (task, data, _), own in found.items()
        if len(own) > 1 and all(len(rows) == 1 for rows in own.values())
    ]


def sections(table: Sequence[Row], narrow: bool) -> list[Section]:
    """A column an algorithm, a line a task; nothing where no task has several."""
    found = side_by_side(table)
    if not found:
        return []
    names = list(dict.fromkeys(name for item in found for name in item.rows))
    columns = [
        Column("task", [item.task for item in found], right=False),
        Column("data", [item.data for item in found], right=False, liftable=True, drop=3),
        Column("behaviour", [_behaviour(item) for item in found], drop=2),
    ]
    for name in names:
        cells = [_cell(item.rows.get(name), narrow) for item in found]
        columns.append(Column(name, cells))
    said = Bullets(tuple(verdict for item in found if (verdict := item.verdict)))
    return [
        Section("Algorithms side by side", (Prose((_PROTOCOL,)), Sheet(tuple(columns)))),
        Section("Who is ahead, by 95 % intervals of the last score", (said,)),
    ]


def _behaviour(item: SideBySide) -> str:
    """The score of the data's own behaviour, the same for all."""
    return f"{next(iter(item.rows.values())).trial.behaviour_score:.1f}"


def _cell(row: Row | None, narrow: bool) -> str:
    if row is None:
        return "–"
    if row.last is None or row.trial.state != "complete":
        return row.trial.state
    return score(row.last) if narrow else f"{score(row.last)} {score_interval(row.last)}".rstrip()
