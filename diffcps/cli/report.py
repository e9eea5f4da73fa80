"""``diffcps report``: the table of a sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from diffcps.errors import UserError


@dataclass(frozen=True)
class Report:
    """Print the table of a sweep and write it, with its figures, into the sweep's folder."""

    sweep: tyro.conf.Positional[str]
    """Name of a sweep in the results folder, or the path of its folder."""
    results: Annotated[str, tyro.conf.arg(aliases=["--storage"])] = "results"
    """Folder that holds the sweeps, or the URL of an object store."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps import report
        from diffcps.distributed.place import Place, results_folder

        results, remote = results_folder(self.results)
        folder = Path(self.sweep) if (Path(self.sweep) / "runs").is_dir() else results / self.sweep
        place = Place(folder, remote=remote.below(self.sweep) if remote and folder == results / self.sweep else None)
        place.refresh()
        if not (folder / "runs").is_dir():
            known = ", ".join(sorted(file.parent.name for file in results.glob("*/runs"))) or "none"
            raise UserError(f"no sweep is called {self.sweep!r} in {self.results}, which holds: {known}.")
        built = report.build(folder)
        built.write()
        place.publish("table.md", "table.csv", "figures")
        built.print(Console())
