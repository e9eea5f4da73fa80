"""The report on one sweep: its numbers, computed once, and its sections in the order in which they are read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from diffcps.files import save
from diffcps.report import acting, actions, algorithms, drawing, figures, notes, paths, search, tables
from diffcps.report.across import MOST, Budget, Group, budgets, comparable, families, groups
from diffcps.report.analysis import Grid, Row, along, beside_paper, grids, quantities, rows, symbol
from diffcps.report.document import Block, Bullets, Document, Figure, Picture, Prose, Section, Sheet, Text, part
from diffcps.report.records import table_csv
from diffcps.report.tables import main_columns
from diffcps.report.writers import html, latex, markdown, screen, section
from diffcps.runs.criteria import SCORE
from diffcps.runs.read import Sweep
from diffcps.training.measures import MEASURES

EVERY_TRIAL = "Every trial"
"""Heading of the main table where it is not the first."""


@dataclass(frozen=True, eq=False)
class Report:
    """The report on one sweep: rows, groups, grids and budgets, from which every format is made."""

    sweep: Sweep
    rows: list[Row]
    groups: list[Group]
    """Complete trials that may be averaged."""
    grids: list[Grid]
    budgets: list[Budget]

    @classmethod
    def of(cls, sweep: Sweep) -> "Report":
        """Compute the numbers of a sweep."""
        table = rows(sweep)
        # a search by another objective would not choose the highest score
        by_score = sweep.plan is None or sweep.plan.objective == SCORE
        return cls(sweep, table, groups=groups(table), grids=grids(table), budgets=budgets(table) if by_score else [])

    @property
    def averages(self) -> list[Group]:
        """Groups of several tasks. A search has none: its trials share no configuration."""
        return [] if self.sweep.is_search else [group for group in self.groups if len(group.rows) > 1]

    @property
    def answer(self) -> list[str]:
        """Of a search: the best configuration of each task, and the command that runs it at full length, a line each."""
        return [line for words, command in search.answer(self.sweep, self.rows) for line in (words, f"  {command}")]

    @cached_property
    def document(self) -> Document:
        """The whole report, for files."""
        return contents(self)

    @cached_property
    def drawn(self) -> dict[str, drawing.Drawn]:
        """Every figure by its name, drawn once for the page and for the folder."""
        return drawing.drawn(self.document.figures)

    def markdown(self) -> str:
        """The whole report as Markdown."""
        return markdown(self.document)

    def html(self) -> str:
        """The whole report as a self-contained page."""
        return html(self.document, self.drawn)

    def latex(self) -> str:
        """The tables for a paper."""
        return latex(self.document)

    def csv(self) -> str:
        """One row a trial, plain numbers."""
        return table_csv(self.rows)

    def write(self) -> list[Path]:
        """Write ``report.FILES`` into the sweep's folder; returns the paths of all files.

        Files are written atomically. Raises ``UserError`` if the folder cannot be written.
        """
        texts = {"md": self.markdown(), "csv": self.csv(), "tex": self.latex(), "html": self.html()}
        files = {f"table.{ending}": text.encode() for ending, text in texts.items()}
        return save(self.sweep.folder, files | {f"figures/{name}.png": one.png for name, one in self.drawn.items()})

    def print(self, console: Console) -> None:
        """Print the report on a console, as wide as it is."""
        console.print(screen(contents(self, narrow=True), console.width))

    def text(self, title: str = "") -> Text:
        """One section for a notebook, without its figures; by default the main table.

        Raises ``UserError`` listing the available sections if ``title`` is unknown.
        """
        known = {one.title: one for one in self.document.sections}
        main = EVERY_TRIAL if EVERY_TRIAL in known else ""
        found = part(known, title or main, "the report", "section")
        return Text("\n\n".join(section(found)))

    def picture(self, name: str) -> Picture:
        """One figure for a notebook by the name of its file, such as ``learning_curves``.

        Raises ``UserError`` listing the available figures if ``name`` is unknown.
        """
        return Picture(name, part(self.drawn, name, "the report", "figure").png)


def contents(report: Report, narrow: bool = False) -> Document:
    """The whole report on a sweep. ``narrow`` is for a terminal: intervals are under their scores, details are left out."""
    curves = figures.over_time(report.rows)
    sections = [
        *_summary(report, narrow),
        *search.sections(report.sweep, report.rows),
        *acting.sections(report.rows),
        *_measures(report.rows),
        *_sections(curves[:1]),
        *_sections([drawn for drawn in (actions.picture(report.rows), paths.picture(report.rows)) if drawn]),
        *_configurations(report),
        *_budget(report.budgets),
        *_sections(curves[1:]),
        *_circumstances(report.sweep),
        *([] if narrow else _details(report.rows)),
    ]
    return Document(report.sweep.name, tuple(section for section in sections if _said(section)))


def _sections(figures: Sequence[Figure]) -> list[Section]:
    return [Section(figure.title, (figure,)) for figure in figures]


def _summary(report: Report, narrow: bool) -> Iterator[Section]:
    """The main table, averages, failures and notes; before them algorithms side by side, if there are several."""
    sides = [] if report.sweep.is_search else algorithms.sections(report.rows, report.groups, narrow)
    progress = Prose((notes.progress(report.sweep),))
    if sides:
        yield Section("", (progress,))
        yield from sides
        yield Section(EVERY_TRIAL, tuple(_main(report.rows, narrow)))
    else:
        yield Section("", (progress, *_main(report.rows, narrow)))
    if report.averages:
        yield Section("Averages over complete tasks", (tables.averages(report.averages),))
    yield Section("What went wrong", (Bullets(tuple(notes.troubles(report.sweep)), trouble=True),))
    yield Section("Notes", (Prose(tuple(notes.footnotes(report.rows))),))


def _configurations(report: Report) -> Iterator[Section]:
    """Comparisons between configurations; the trials of a search have only their grids."""
    if not report.sweep.is_search:
        yield from _across(report.groups)
    for item in report.grids:
        names = " and ".join(symbol(name, report.rows) for name in item.names)
        yield Section(f"{item.task}: last score over {names}", (tables.grid(item),))
    if not report.sweep.is_search:
        yield from _sensitivity(report.rows)


def _budget(found: Sequence[Budget]) -> Iterator[Section]:
    if found:
        said = (
            "The expected highest last score when k configurations of a task, drawn uniformly at random with "
            "replacement, are tried online (EOP; Kurenkov & Kolesnikov, 2022), ± its standard deviation. The score of a "
            "configuration is its mean over seeds."
        )
        blocks = _present(Prose((said,)), tables.budget(found), figures.budget(found))
        yield Section("Expected online performance", blocks)


def _circumstances(sweep: Sweep) -> Iterator[Section]:
    """Remarks of trials, departures from the paper, and how the sweep was run."""
    yield Section("Remarks", (Bullets(tuple(notes.remarks(sweep))),))
    if made := notes.provenance(sweep):
        yield Section("Departures from the paper", (Bullets(tuple(notes.deviations(sweep))),))
        yield Section("Made with", (Bullets(tuple(made)),))


def _main(table: Sequence[Row], narrow: bool) -> list[Block]:
    """The main table; D4RL's second versions of tasks get a table of their own."""
    second = [row for row in table if row.trial.task.second_version]
    first = [row for row in table if not row.trial.task.second_version]
    other = "AntMaze v2: data and goals differ from v0, scores are not comparable" if first else ""
    found: list[Block] = []
    for own, title in (first, ""), (second, other):
        if own:
            states = tuple(row.trial.state for row in own)
            found.append(Sheet(tuple(main_columns(own, narrow)), states, title))
    return found


def _across(groups: Sequence[Group]) -> list[Section]:
    """Aggregates, comparisons and profiles over the tasks of each domain."""
    found = comparable(groups)
    sections = []
    # of a single task the aggregates are the table's own numbers
    shown = [group for family in found for group in family if any(len(other.rows) > 1 for other in family)]
    if shown:
        blocks: list[Block] = [
            Prose(
                (
                    "Over the last scores of complete trials, all seeds and tasks of a domain, with 95 % intervals of the "
                    "stratified bootstrap (Agarwal et al., 2021). Optimality gap: mean distance of scores below 100.",
                )
            ),
            tables.aggregates(shown),
        ]
        if any(len({group.tasks for group in family}) > 1 for family in found):
            blocks.append(Prose(("Not all trials are complete, so configurations are averaged over different tasks.",)))
        sections.append(Section("Across tasks", tuple(blocks)))
    if found:
        profiles = figures.profiles(found)
        sections.append(Section(profiles.title, (profiles,)))
        if (pairs := tables.improvement(found)) is not None:
            said = "Probability that a run of X has a higher last score than a run of Y on the same task; a tie counts one half."
            sections.append(Section("Probability of improvement", (Prose((said,)), pairs)))
    if any(len(family) > MOST for family in families(groups)):
        said = f"A domain with more than {MOST} configurations is not compared across tasks; the main table lists them all."
        sections.append(Section("", (Prose((said,)),)))
    return sections


def _measures(table: Sequence[Row]) -> list[Section]:
    """What policies were measured for besides their scores: a table a measure, a figure a quantity."""
    found = quantities(table)
    if not found:
        return []
    said = (
        "At the newest evaluation of each trial: mean over seeds with its 95 % percentile-bootstrap interval. Every "
        "evaluation is in runs/*/measures.csv; what was measured after training is in afterwards.csv."
    )
    blocks: list[Block] = [Prose((said, *(f"{name}: {MEASURES[name].says}" for name in found if name in MEASURES)))]
    for name, columns in found.items():
        drawn = name not in MEASURES or MEASURES[name].along
        blocks += [tables.measures(table, name, columns), *(figures.measures(table, columns) if drawn else [])]
    return [Section("Measures", tuple(blocks))]


def _sensitivity(table: Sequence[Row]) -> list[Section]:
    drawn = [figures.sensitivity(name, found) for name, found in along(table).items()]
    sections = [Section(figure.title, (figure,)) for figure in drawn]
    if found := beside_paper(table):
        said = "The paper's figures 4 and 5 (T = 5) beside ours. Both are the best of a run's evaluations."
        sections.append(Section("λ-clip beside the paper's ablation", (Prose((said,)), tables.beside(found))))
    return sections


def _details(table: Sequence[Row]) -> list[Section]:
    """Sections that are folded in the page and left out on a terminal."""
    found = []
    logged = [row for row in table if any(math.isfinite(value) for value in row.diagnosis)]
    if logged:
        sheet = tables.constraint(logged)
        said = ["Means over seeds, of the newest row of metrics and of the newest evaluation."]
        titles = [column.title for column in sheet.columns]
        said += [f"{title}: {words}" for title, words in tables.CONSTRAINT_WORDS.items() if title in titles]
        found.append(Section("Constraint and critic", (Prose((" ".join(said),)), sheet), aside=True))
    evaluated = [row for row in table if row.evaluations]
    if evaluated:
        found.append(Section("Cost of each trial", (tables.costs(evaluated),), aside=True))
    found.append(Section("Data", _present(tables.data(table)), aside=True))
    return found


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _said(section: Section) -> bool:
    """Whether a section has any content."""
    return any(map(_filled, section.blocks))


def _filled(block: Block) -> bool:
    if isinstance(block, Bullets):
        return bool(block.lines)
    return bool(block.paragraphs if isinstance(block, Prose) else not isinstance(block, Sheet) or block.columns)
