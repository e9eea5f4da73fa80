"""A table, a page and figures, made from run folders alone. Works on unfinished sweeps; needs neither MLflow nor Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.files import save
from diffcps.report.document import Picture, Text, part

# matplotlib and pandas take seconds to import, which commands without a report need not spend
if TYPE_CHECKING:
    from rich.console import Console

    from diffcps.report.contents import Table
    from diffcps.report.versus import Versus
    from diffcps.runs.read import Sweep

__all__ = ["FILES", "Picture", "Report", "Text", "build", "compare"]

FILES = "table.md", "table.csv", "table.tex", "table.html", "figures"
"""Files of a report in the sweep's folder."""


@dataclass(frozen=True, eq=False)
class Report:
    """The report on one sweep."""

    sweep: "Sweep"
    table: "Table"

    def write(self) -> list[Path]:
        """Write ``FILES`` into the sweep's folder; returns the paths of all files.

        Files are written atomically. Raises ``UserError`` if the folder cannot be written.
        """
        files = {"table.md": self.table.markdown(), "table.csv": self.table.csv(), "table.tex": self.table.latex()}
        files["table.html"] = self.table.html()
        pictures = {f"figures/{name}": picture for name, picture in self.table.pictures().items()}
        return save(self.sweep.folder, {name: text.encode() for name, text in files.items()} | pictures)

    def print(self, console: "Console") -> None:
        """Print the table on a console."""
        console.print(self.table.terminal(console.width))

    @property
    def answer(self) -> list[str]:
        """Of a search: the best configuration of each task, and the command that runs it at full length, a line each."""
        from diffcps.report.search import answer

        return answer(self.sweep, self.table.rows) if self.sweep.is_search else []

    def text(self, title: str = "") -> Text:
        """One section for a notebook, without its figures; by default the main table.

        Raises ``UserError`` listing the available sections if ``title`` is unknown.
        """
        from diffcps.report.writers import section

        found = part({one.title: one for one in self.table.document.sections}, title, "the report", "section")
        return Text("\n\n".join(section(found)))

    def picture(self, name: str) -> Picture:
        """One figure for a notebook by the name of its file, such as ``learning_curves``.

        Raises ``UserError`` listing the available figures if ``name`` is unknown.
        """
        return Picture(name, part(self.table.drawn, name, "the report", "figure").png)


def build(folder: Path) -> Report:
    """Report on a sweep's folder, or any folder of run folders. Raises ``UserError`` if it holds neither."""
    from diffcps.report.contents import Table
    from diffcps.runs.read import collect

    sweep = collect(folder)
    return Report(sweep, Table.of(sweep))


def compare(first: Path, second: Path) -> "Versus":
    """Compare the sweeps in two folders. Raises ``UserError`` if no trials can be paired."""
    from diffcps.report.comparison import paired
    from diffcps.report.versus import Versus
    from diffcps.runs.read import collect

    return Versus(paired(collect(first), collect(second)))
