"""The report that compares two sweeps, and its files."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from rich.console import Console

from diffcps.files import save
from diffcps.report import tables
from diffcps.report.analysis import said, varying
from diffcps.report.comparison import Comparison, Pair, difference, improvement
from diffcps.report.document import Bullets, Document, Figure, Panel, Prose, Section, Sheet
from diffcps.report.drawing import colours, drawn
from diffcps.report.figures import band
from diffcps.report.records import as_csv
from diffcps.report.writers import html, latex, markdown, screen
from diffcps.text import Column, interval, number, signed


@dataclass(frozen=True, eq=False)
class Versus:
    """The report on two sweeps, A and B."""

    comparison: Comparison

    @property
    def file(self) -> str:
        """Name of its files, without an ending."""
        return "compared-with-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", self.comparison.first.name)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files, in the folder of B."""
        return tuple(f"{self.file}.{ending}" for ending in ("md", "csv", "tex", "html"))

    def write(self) -> list[Path]:
        """Write ``files`` into the folder of B; returns their paths. Raises ``UserError`` if it cannot be written."""
        found = self.document()
        texts = markdown(found), self.csv(), latex(found), html(found, drawn(found.figures))
        contents = {name: text.encode() for name, text in zip(self.files, texts, strict=True)}
        return save(self.comparison.second.folder, contents)

    def print(self, console: Console) -> None:
        """Show it on a console."""
        console.print(screen(self.document(), console.width))

    def document(self) -> Document:
        """The whole report."""
        found = self.comparison
        first, second = found.names
        said = (
            f"A is {first}, B is {second}. Complete trials are paired by task, data and physics. B − A: difference of last "
            "scores, seed by seed; its mean is over the seeds that both have, with the 95 % percentile-bootstrap interval "
            "(too narrow for fewer than about 5 seeds). P(B > A): probability that a run of B has a higher last score than a "
            "run of A; a tie counts one half."
        )
        sections = [Section("", (Prose((said,)), _sheet(found))), *_across(found)]
        if found.left_out:
            sections.append(Section("Not compared", (Bullets(found.left_out, trouble=True),)))
        changes = tuple(line for pair in found.pairs if (line := _changes(pair)))
        if changes:
            sections.append(Section("Differences in settings", (Bullets(tuple(dict.fromkeys(changes))),)))
        curves = Figure(
            name="curves",
            title="Learning curves",
            caption="Mean over seeds with its 95 % interval.",
            x_label="gradient steps",
            y_label="normalised score",
            panels=tuple(Panel(title, partial(_curves, pair=pair)) for title, pair in _titled(found)),
        )
        sections.append(Section(curves.title, (curves,)))
        return Document(f"{second} compared with {first}", tuple(sections), self.file)

    def csv(self) -> str:
        """One row a pair, plain numbers."""
        records = []
        for pair in self.comparison.pairs:
            likely = improvement([pair])
            record: dict[str, object] = {
                "task": pair.task,
                "key_a": pair.first.trial.key,
                "key_b": pair.second.trial.key,
                "seeds": "|".join(map(str, pair.seeds)),
            }
            for kind in ("last", "newest", "best"):
                name = f"{kind}_oracle" if kind == "best" else kind
                value, low, high = pair.difference(kind)
                record |= {f"{name}_difference": value, f"{name}_low": low, f"{name}_high": high}
            record |= {"probability_of_improvement": likely.value, "p_low": likely.low, "p_high": likely.high}
            records.append(record)
        return as_csv(records, "task")


def _sheet(found: Comparison) -> Sheet:
    pairs = found.pairs
    last, newest, best = ([pair.difference(kind) for pair in pairs] for kind in ("last", "newest", "best"))
    likely = [improvement([pair]) for pair in pairs]
    scores = [pair.scores() for pair in pairs]
    labels = _labels(found)
    columns = [
        Column("task", [pair.task for pair in pairs], right=False),
        *([Column("setting", labels, right=False)] if any(labels) else []),
        Column("seeds", [str(len(pair.seeds)) for pair in pairs], liftable=True),
        Column("A: last", [tables.score(first) for first, _ in scores], drop=5),
        Column("B: last", [tables.score(second) for _, second in scores], drop=5),
        Column("B − A", [signed(item.value) for item in last]),
        Column("95 % interval", [interval(item.low, item.high) for item in last]),
        Column("P(B > A)", [number(item.value, 2) for item in likely]),
        Column("its interval", [interval(item.low, item.high, 2) for item in likely], drop=3),
        Column("B − A of the mean of the last evaluations", [signed(item.value) for item in newest], drop=2),
        Column("B − A of best (oracle)", [signed(item.value) for item in best], drop=1),
    ]
    return Sheet(tuple(columns), tuple("complete" for _ in pairs))


def _across(found: Comparison) -> list[Section]:
    if not found.domains:
        return []
    groups = found.domains
    differences, likely = [difference(pairs) for pairs in groups.values()], [improvement(p) for p in groups.values()]
    columns = (
        Column("domain, data, physics", list(groups), right=False),
        Column("pairs", [str(len(pairs)) for pairs in groups.values()]),
        Column("B − A", [signed(item.value) for item in differences]),
        Column("95 % interval", [interval(item.low, item.high) for item in differences]),
        Column("P(B > A)", [number(item.value, 2) for item in likely]),
        Column("its interval", [interval(item.low, item.high, 2) for item in likely], drop=1),
    )
    said = "Each pair has the same weight. Intervals: bootstrap, stratified by pair."
    return [Section("Across tasks", (Prose((said,)), Sheet(columns)))]


def _labels(found: Comparison) -> list[str]:
    """Settings that tell pairs of one task apart; empty if each task has one pair."""
    names = varying([pair.first for pair in found.pairs])
    return [said(pair.first.trial, names) for pair in found.pairs]


def _titled(found: Comparison) -> list[tuple[str, Pair]]:
    return [(f"{pair.task} {label}".rstrip(), pair) for pair, label in zip(found.pairs, _labels(found), strict=True)]


def _changes(pair: Pair) -> str:
    first, second = pair.changes
    parts = [f"{name}: {what}" for name, what in (("A", first), ("B", second)) if what]
    return f"{pair.task}, {'; '.join(parts)}" if parts else ""


def _curves(axes: Axes, pair: Pair) -> None:
    for row, colour, label in zip((pair.first, pair.second), colours(2), ("A", "B"), strict=True):
        band(axes, row.trial.evaluations.steps, row.trial.scores, colour=colour, label=label)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
