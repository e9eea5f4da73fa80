"""All numbers of a sweep, computed once, and what they are written as."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import RenderableType

from diffcps.report import drawing
from diffcps.report.collect import Sweep
from diffcps.report.contents import contents
from diffcps.report.document import Document, Figure
from diffcps.report.groups import Budget, Group, budgets, groups
from diffcps.report.html import html
from diffcps.report.latex import latex
from diffcps.report.markdown import markdown
from diffcps.report.records import table_csv
from diffcps.report.rows import Row, rows
from diffcps.report.screen import screen
from diffcps.report.sensitivity import Grid, grids


@dataclass(frozen=True, eq=False)
class Table:
    """Everything that a report says in words, numbers and figures."""

    sweep: Sweep
    rows: list[Row]
    groups: list[Group]
    """Complete trials that may be put together."""
    grids: list[Grid]
    budgets: list[Budget]

    @classmethod
    def of(cls, sweep: Sweep) -> "Table":
        """Find what there is to tell of a sweep."""
        table = rows(sweep)
        return cls(sweep, table, groups(table), grids(table), budgets(table))

    @property
    def averages(self) -> list[Group]:
        """The groups over several tasks; a search has none, for its trials have no configuration in common."""
        return [] if self.sweep.is_search else [group for group in self.groups if len(group.rows) > 1]

    @cached_property
    def document(self) -> Document:
        """The whole report, for a file."""
        return self._contents(narrow=False)

    @property
    def figures(self) -> Sequence[Figure]:
        """Every figure of the report."""
        return self.document.figures

    def markdown(self) -> str:
        """The whole report as Markdown."""
        return markdown(self.document)

    def html(self) -> str:
        """The whole report as a page that needs nothing beside it."""
        return html(self.document, self.drawn)

    def latex(self) -> str:
        """The tables for a paper."""
        return latex(self.document)

    def csv(self) -> str:
        """One row a trial with plain numbers."""
        return table_csv(self.rows)

    def terminal(self, width: int = 120) -> RenderableType:
        """The report for a console ``width`` columns wide."""
        return screen(self._contents(narrow=True), width)

    def pictures(self) -> dict[str, bytes]:
        """File name -> PNG of each figure."""
        return {f"{name}.png": drawn.png for name, drawn in self.drawn.items()}

    @cached_property
    def drawn(self) -> dict[str, drawing.Drawn]:
        """Every figure by its name, drawn once for the page and for the folder."""
        return drawing.drawn(self.figures)

    def _contents(self, narrow: bool) -> Document:
        return contents(self.sweep, self.rows, self.groups, self.averages, self.grids, self.budgets, narrow)
