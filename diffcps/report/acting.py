"""Last scores by other ways to act, beside those by the algorithms' own."""

from collections.abc import Sequence

from diffcps.algorithms import ways
from diffcps.report import figures
from diffcps.report.algorithms import side_by_side
from diffcps.report.analysis import Row, Score, said, varying
from diffcps.report.document import Block, Prose, Section, Sheet
from diffcps.report.figures import Points
from diffcps.report.tables import score, score_interval, trial_columns
from diffcps.text import Column, stacked, worded

_LEAST = 3
"""Points of a line along a choice; fewer are a table."""
_SAID = (
    "The final policies, trained once, in the same episodes: first by the trial's own way to act, then with one choice of it "
    "changed. Mean over seeds ± their standard deviation, with its 95 % interval. A value chosen by these scores is an oracle."
)


def sections(table: Sequence[Row]) -> list[Section]:
    """A column a way, and a figure along each choice that has several numbers.

    Nothing where a single candidate is all there is and has its place among the algorithms side by side.
    """
    rows = [row for row in table if row.ways]
    found = list(dict.fromkeys(way for row in rows for way in row.ways))
    if not found or ([*map(str, found)] == [ways.ONE] and side_by_side(table)):
        return []
    columns = [
        *trial_columns(rows, varying(table)),
        Column("own way", [_own(row) for row in rows], right=False, liftable=True),
        Column("last, own way", [_cell(row.last) for row in rows]),
        *(Column(way.title, [_cell(_of(row, way)) for row in rows]) for way in found),
    ]
    sheet = Sheet(tuple(columns), tuple(row.trial.state for row in rows))
    blocks: list[Block] = [Prose((_SAID,)), sheet]
    for name in dict.fromkeys(way.name for way in found):
        along = ((row.trial, line(row, name)) for row in rows)
        lines = [(trial.task.name, said(trial, varying(table)), points) for trial, points in along if points]
        if lines:
            blocks.append(figures.along_acting(name, lines))
    return [Section("Other ways to act", tuple(blocks))]


def _cell(found: Score | None) -> str:
    return stacked(score(found), score_interval(found))


def _of(row: Row, way: ways.Way) -> Score | None:
    return row.last if way.is_own(row.trial.config) else row.ways.get(way)


def _own(row: Row) -> str:
    """The trial's own values of what its other ways change."""
    settings = dict.fromkeys((way.name, way.setting) for way in row.ways)
    return ", ".join(f"{name}={'|'.join(map(worded, row.trial.values(setting)))}" for name, setting in settings)


def line(row: Row, name: str) -> Points:
    """(value, score) along a choice in ascending order, the own value among them; empty where there are few numbers."""
    found = {way.value: value for way, value in row.ways.items() if way.name == name}
    setting = next((way.setting for way in row.ways if way.name == name), name)
    if row.last is not None and len(own := row.trial.values(setting)) == 1:
        found[own[0]] = row.last
    numbers = [(float(value), at) for value, at in found.items() if not isinstance(value, str)]
    return sorted(numbers) if len(numbers) >= _LEAST else []
