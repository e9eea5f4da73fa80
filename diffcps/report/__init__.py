"""Run folders in; a table, a page and figures out. Works on a half-finished sweep and needs neither MLflow nor Ray."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffcps.files import save
from diffcps.report.contents import Table
from diffcps.report.document import Picture, Text, part
from diffcps.report.versus import Versus, versus
from diffcps.report.writers import section
from diffcps.runs.frames import Sweep, Trial, collect

__all__ = ["FILES", "Picture", "Report", "Sweep", "Table", "Text", "Trial", "Versus", "build", "collect", "versus"]

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

    def text(self, title: str = "") -> Text:
        """One section for a notebook, without its figures; by default the main table and what stands above it.

        Raises ``UserError`` naming the sections that there are when it is none of them.
        """
        found = part({one.title: one for one in self.table.document.sections}, title, "the report", "section")
        return Text("\n\n".join(section(found)))

    def picture(self, name: str) -> Picture:
        """One figure for a notebook by the name of its file, such as ``learning_curves``.

        Raises ``UserError`` naming the figures that there are when it is none of them.
        """
        return Picture(name, part(self.table.drawn, name, "the report", "figure").png)


def build(folder: Path) -> Report:
    """Report on a sweep's folder, or any folder of run folders. Raises ``UserError`` when it holds neither."""
    sweep = collect(folder)
    return Report(sweep, Table.of(sweep))
