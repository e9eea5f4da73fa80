"""A table, a page and figures, made from run folders alone. Works on unfinished sweeps; needs neither MLflow nor Ray."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.report.document import Picture, Text

# matplotlib and pandas take seconds to import, which commands without a report need not spend
if TYPE_CHECKING:
    from diffcps.report.contents import Report
    from diffcps.report.versus import Versus

__all__ = ["FILES", "Picture", "Text", "build", "compare"]

FILES = "table.md", "table.csv", "table.tex", "table.html", "figures"
"""Files of a report in the sweep's folder."""


def build(folder: Path) -> "Report":
    """Report on a sweep's folder, or any folder of run folders. Raises ``UserError`` if it holds neither."""
    from diffcps.report.contents import Report
    from diffcps.runs.read import collect

    return Report.of(collect(folder))


def compare(first: Path, second: Path) -> "Versus":
    """Compare the sweeps in two folders. Raises ``UserError`` if no trials can be paired."""
    from diffcps.report.comparison import paired
    from diffcps.report.versus import Versus
    from diffcps.runs.read import collect

    return Versus(paired(collect(first), collect(second)))
