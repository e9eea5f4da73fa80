"""Run folders in; a table, a page and figures out. Works on a half-finished sweep and needs neither MLflow nor Ray."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffcps.report.collect import Sweep, Trial, collect
from diffcps.report.files import save
from diffcps.report.table import Table
from diffcps.report.versus import Versus, versus

__all__ = ["FILES", "Report", "Sweep", "Table", "Trial", "Versus", "build", "collect", "versus"]

FILES = "table.md", "table.csv", "table.tex", "table.html", "figures"
"""What a report leaves in the sweep's folder."""


@dataclass(frozen=True, eq=False)
class Report:
    """The report on one sweep."""

    sweep: Sweep
    table: Table

    def write(self) -> list[Path]:
        """Write ``FILES`` into the sweep's folder; returns the paths of all files.

        Each file is replaced in one move. Raises ``UserError`` when the folder cannot be written.
        """
        files = {"table.md": self.table.markdown(), "table.csv": self.table.csv(), "table.tex": self.table.latex()}
        files["table.html"] = self.table.html()
        pictures = {f"figures/{name}": picture for name, picture in self.table.pictures().items()}
        return save(self.sweep.folder, {name: text.encode() for name, text in files.items()} | pictures)

    def print(self, console: Console) -> None:
        """Show the table on a console."""
        console.print(self.table.terminal(console.width))


def build(folder: Path) -> Report:
    """Report on a sweep's folder, or any folder of run folders. Raises ``UserError`` when it holds neither."""
    sweep = collect(folder)
    return Report(sweep, Table.of(sweep))
