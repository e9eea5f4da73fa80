"""Published scores of the algorithms in a sweep, each with its protocol, version of the data and source.

A score is shown beside runs on D4RL's data only, and in the column of a reading (last, mean of the newest, best) only if it
was read in the same way. The others are in a table with their protocols.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffcps.report.analysis import Row
from diffcps.report.document import Prose, Section, Sheet
from diffcps.report.paper import mark, obstacle
from diffcps.report.tables import score
from diffcps.runs.trial import Trial
from diffcps.tasks import paper
from diffcps.text import Column

READINGS = "last", "one", "newest", "best"
"""Ways to read a score off a run that published columns are compared under."""
_NOT_TRAINED = ""
"""The algorithm of columns of planners of trajectories, which are not trained here."""


@dataclass(frozen=True, eq=False)
class PublishedColumn:
    """A column of scores in the literature."""

    name: str
    """What was run, and by whom if not by its authors."""
    reading: str
    """How a score is read off a run: ``last``, ``one`` (last, a single candidate), ``newest``, ``best``, or ``other``."""
    protocol: str
    version: str
    """Of D4RL's data."""
    source: str
    scores: Mapping[str, tuple[str, str]]
    """Task -> score and its spread as printed; the spread is empty where there is none."""

    @property
    def origin(self) -> str:
        """Protocol, version and source, for people."""
        return f"{self.protocol}; {self.version} ({self.source})"


@functools.cache
def columns(algorithm: str) -> tuple[PublishedColumn, ...]:
    """Published columns of an algorithm; the first with a given reading is shown beside its runs."""
    names = "name", "reading", "protocol", "version", "source"
    return tuple(
        PublishedColumn(**{name: line[name] for name in names}, scores=_scores(line["column"]))
        for line in paper.rows("published_columns")
        if line["algorithm"] == algorithm
    )


def _scores(column: str) -> dict[str, tuple[str, str]]:
    """Task -> score and spread of a column; ``table1:X`` is the column X of the DiffCPS paper's Table 1."""
    table, _, quoted = column.partition(":")
    if quoted:
        return {row["task"]: (row[quoted], "") for row in paper.rows(table) if row[quoted]}
    return {
        row["task"]: (row["score"], row["std"]) for row in paper.rows("published_scores") if row["column"] == column
    }


def comparable(trial: Trial) -> bool:
    """Whether its data and its environment are those that scores were published for."""
    return trial.task.d4rl_file is not None and bool(trial.dataset) and obstacle(trial) is None


def beside(row: Row, reading: str) -> PublishedColumn | None:
    """The published column of a row's algorithm with this reading that has its task; ``None`` if it cannot be compared."""
    if not comparable(row.trial):
        return None
    known = columns(row.trial.config.algorithm)
    if reading == "one" and row.trial.config.evaluation.candidates == 1:
        reading = "last"
    return next((c for c in known if c.reading == reading and row.trial.task.name in c.scores), None)


def cell(row: Row, reading: str) -> str:
    """The published score in parentheses, with the mark of unverified data; empty if there is none."""
    found = beside(row, reading)
    return f"({float(found.scores[row.trial.task.name][0]):.1f}{mark(row.trial)})" if found else ""


def record(row: Row) -> dict[str, str]:
    """The same for a CSV: score, spread, and where they are from, for each reading that has one."""
    record: dict[str, str] = {}
    for reading in READINGS:
        if (found := beside(row, reading)) is not None:
            mean, spread = found.scores[row.trial.task.name]
            named = {"": mean, "_std": spread, "_protocol": found.protocol, "_version": found.version}
            named["_source"] = f"{found.name}: {found.source}"
            record |= {f"published_{reading}{part}": value for part, value in named.items()}
    return record


def legend(table: Sequence[Row], readings: Mapping[str, str]) -> list[str]:
    """What the scores in parentheses are, a line for each reading, then warnings on misleading columns.

    ``readings`` are those shown -> their titles.
    """
    lines = []
    for reading, title in readings.items():
        found = dict.fromkeys(column for row in table if (column := beside(row, reading)) is not None)
        names: dict[str, list[str]] = {}
        for column in found:
            names.setdefault(column.origin, []).append(column.name)
        if names:
            said = " · ".join(f"{', '.join(own)}: {origin}" for origin, own in names.items())
            lines.append(f"{title}, in parentheses what is published under the same reading. {said}.")
    return [*lines, *_warnings([row for row in table if comparable(row.trial)]), *_left_out(table)]


def _warnings(shown: Sequence[Row]) -> list[str]:
    """Warnings on misleading columns of these algorithms on these domains."""
    pairs = {(row.trial.config.algorithm, row.trial.task.benchmark) for row in shown}
    return [
        line["warning"]
        for line in paper.rows("published_warnings")
        if any(name in line["algorithms"].split("|") and line["domain"] in ("", domain) for name, domain in pairs)
    ]


def _left_out(table: Sequence[Row]) -> Iterator[str]:
    """Why published scores of tasks outside the paper are left out; the notes of the table say it for the paper's tasks."""
    reasons: dict[str, dict[str, None]] = {}
    for row in table:
        trial = row.trial
        if trial.task.d4rl_file and not trial.task.in_paper and trial.dataset and (why := obstacle(trial)):
            reasons.setdefault(why, {})[trial.task.name] = None
    for why, tasks in reasons.items():
        yield f"Published numbers left out for {', '.join(tasks)}: {why}"


# Every published column, with ours above it


def section(table: Sequence[Row]) -> list[Section]:
    """All published columns of the algorithms in a table, each with protocol and version; nothing if none is comparable."""
    rows = [row for row in table if comparable(row.trial)]
    domains = dict.fromkeys(row.trial.task.domain for row in rows)
    sheets = [_sheet(domain, [row for row in rows if row.trial.task.domain == domain]) for domain in domains]
    if not sheets:
        return []
    said = (
        "Scores as printed; protocols differ, so a difference from ours may be one of protocol. Where the version differs from "
        "that of the task in the column, the data do, too. Decision Diffuser and Diffuser are planners of trajectories, which "
        "are not trained here: they have published columns only."
    )
    return [Section("Published scores with their protocols", (Prose((said,)), *sheets), aside=True)]


def _sheet(domain: str, rows: Sequence[Row]) -> Sheet:
    """Rows: of each algorithm our last score, then its published columns; columns: tasks."""
    tasks = list(dict.fromkeys(row.trial.task.name for row in rows))
    lines: list[tuple[str, str, str, list[str]]] = []
    for algorithm in dict.fromkeys(row.trial.config.algorithm for row in rows):
        own = {row.trial.task.name: row for row in rows if row.trial.config.algorithm == algorithm}
        lines.append((algorithm, "this sweep: last", "", [score(own[t].last) if t in own else "–" for t in tasks]))
        lines += [(algorithm, *_line(column, tasks)) for column in columns(algorithm) if _has(column, tasks)]
    lines += [("–", *_line(column, tasks)) for column in columns(_NOT_TRAINED) if _has(column, tasks)]
    parts = [
        Column("algorithm", [line[0] for line in lines], right=False),
        Column("run and protocol", [line[1] for line in lines], right=False),
        Column("version", [line[2] for line in lines], right=False),
    ]
    parts += [Column(task, [line[3][i] for line in lines]) for i, task in enumerate(tasks)]
    return Sheet(tuple(parts), title=domain)


def _line(column: PublishedColumn, tasks: Sequence[str]) -> tuple[str, str, list[str]]:
    found = [_of_stem(column, task) for task in tasks]
    cells = [f"{mean} ± {spread}" if spread else mean or "–" for mean, spread in found]
    return f"{column.name}: {column.protocol}", column.version, cells


def _has(column: PublishedColumn, tasks: Sequence[str]) -> bool:
    return any(_of_stem(column, task)[0] for task in tasks)


def _of_stem(column: PublishedColumn, task: str) -> tuple[str, str]:
    """Score and spread of a task, or of the same task with another version of its data; empty without one."""
    stem = task.rpartition("-")[0]
    other = next((score for name, score in column.scores.items() if name.rpartition("-")[0] == stem), ("", ""))
    return column.scores.get(task, other)
