"""`diffcps report`: the report of a sweep, or a comparison of two sweeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from diffcps.text import say

if TYPE_CHECKING:
    from diffcps.storage.location import Location


@dataclass(frozen=True)
class Report:
    """Print the report of a sweep, and write it with its figures into the sweep's folder.

    With two sweeps: compare the second with the first by task and seed, and write the comparison into the second's folder.
    """

    sweep: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of a sweep in the results folder, or the path of its folder."""
    other: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[OTHER]", help_behavior_hint="")] = None
    """A second sweep, to compare with the first. Default: no comparison."""
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Folder of the sweeps, or the URL of an object store."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps import report

        console, location = Console(), located(self.sweep, self.results)
        if self.other is None:
            built = report.build(location.folder)
            built.write()
            location.publish(*report.FILES)
            built.print(console)
            for line in built.answer:
                say(console, line)
            say(console, f"page: {location}/table.html")
            return
        second = located(self.other, self.results)
        compared = report.compare(location.folder, second.folder)
        compared.write()
        second.publish(*compared.files)
        compared.print(console)
        say(console, f"page: {second}/{compared.file}.html")


def located(sweep: str, place: str) -> "Location":
    """A sweep's location, after a refresh from the object store. Raises `UserError` when there is no such sweep."""
    from diffcps.runs.plan import no_sweep
    from diffcps.storage.location import Location, results_folder

    results, remote = results_folder(place)
    folder = Path(sweep) if (Path(sweep) / "runs").is_dir() else results / sweep
    location = Location(folder, remote=remote.below(sweep) if remote and folder == results / sweep else None)
    location.refresh()
    if not (folder / "runs").is_dir():
        raise no_sweep(sweep, place, (file.parent.name for file in results.glob("*/runs")))
    return location
