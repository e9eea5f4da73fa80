"""``diffcps report``: the table of a sweep."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from diffcps.errors import UserError


@dataclass(frozen=True)
class Report:
    """Print the table of a sweep and write it, with its figures, into the sweep's folder."""

    sweep: tyro.conf.Positional[str]
    """Name of a sweep in the results folder, or the path of its folder."""
    results: Path = Path("results")
    """Folder that holds the sweeps."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps import report

        folder = Path(self.sweep) if (Path(self.sweep) / "runs").is_dir() else self.results / self.sweep
        if not (folder / "runs").is_dir():
            known = ", ".join(sorted(file.parent.name for file in self.results.glob("*/runs"))) or "none"
            raise UserError(f"no sweep is called {self.sweep!r} in {self.results}, which holds: {known}.")
        built = report.build(folder)
        built.write()
        built.print(Console())
