"""Run folders in; a table and figures out. Works on a half-finished sweep and needs neither MLflow nor Ray."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffcps.errors import UserError
from diffcps.report import figures
from diffcps.report.collect import Sweep, Trial, collect
from diffcps.report.table import Table
from diffcps.runs import write_atomically

__all__ = ["Report", "Sweep", "Table", "Trial", "build", "collect"]


@dataclass(frozen=True, eq=False)
class Report:
    """The report on one sweep."""

    sweep: Sweep
    table: Table

    def write(self) -> list[Path]:
        """Write ``table.md``, ``table.csv`` and ``figures/*.png`` into the sweep's folder; returns their paths.

        Each file is replaced in one move. Raises ``UserError`` when the folder cannot be written.
        """
        files = {"table.md": self.table.markdown().encode(), "table.csv": self.table.csv().encode()}
        files |= {f"figures/{name}": picture for name, picture in figures.draw(self.table.rows).items()}
        paths = []
        for name, content in files.items():
            path = self.sweep.folder / name
            try:
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, content)
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror}.") from error
            paths.append(path)
        return paths

    def print(self, console: Console) -> None:
        """Show the table on a console."""
        console.print(self.table.terminal(console.width))


def build(folder: Path) -> Report:
    """Report on a sweep's folder, or any folder of run folders. Raises ``UserError`` when it holds neither."""
    sweep = collect(folder)
    return Report(sweep, Table.of(sweep))
