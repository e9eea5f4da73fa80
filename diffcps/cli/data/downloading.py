"""``diffcps data download``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.data.download import Outcome
    from diffcps.tasks import Task

SOME_FAILED = 1


@dataclass(frozen=True)
class DownloadData:
    """Fetch D4RL's files from mirrors or the public home; interrupted downloads go on where they stopped.

    The exit status is 1 when some file could not be had, 2 for a mistake in the command.
    """

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of tasks."""
    all: bool = False
    """Every task of the paper."""
    to: Path | None = None
    """Folder for the files; without it ~/.diffcps/datasets."""
    mirror: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An http, https or file address, or a folder, tried before D4RL's public home; may be repeated. Those in the variable
    DIFFCPS_MIRRORS, separated by spaces, come after. Files lie right in it, or in the public home's sub-folders."""
    jobs: int = 3
    """Files at a time."""

    def __call__(self) -> int:
        """Run it."""
        from diffcps.cli.data.bars import Bars
        from diffcps.data import download, mirrors, store

        if self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: at least one file at a time.")
        tasks, homes = self._chosen(), mirrors.homes(self.mirror)
        folder = self.to or store.datasets_root()
        # Where no folder is named, a copy that a run would find is as good as one in the standard folder.
        elsewhere = () if self.to else store.search_path(())
        console = Console(stderr=True)
        with Bars(console) as bars:
            outcomes = download.download(tasks, folder, homes, bars, jobs=self.jobs, elsewhere=elsewhere)
        _print(outcomes)
        return SOME_FAILED if any(outcome.state == "failed" for outcome in outcomes) else 0

    def _chosen(self) -> "list[Task]":
        from diffcps.tasks import TASKS, get_task

        if self.all == bool(self.tasks):
            wrong = "--all and names of tasks: give one or the other" if self.all else "no task is named"
            raise UserError(f"{wrong}: diffcps data download TASK…, or --all for every task of the paper.")
        if self.all:
            return [task for task in TASKS.values() if task.in_paper]
        return [get_task(name) for name in dict.fromkeys(self.tasks)]


def _print(outcomes: "Sequence[Outcome]") -> None:
    """What became of each file, and what to do about those that did not come."""
    from diffcps.cli.data.bars import size
    from diffcps.data import checksums

    console = Console()

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    checks = {
        "verified": "sha256 as published",
        "differs": "sha256 is NOT the published one",
        "none published": "no sha256 published",
        "not computed": "sha256 not computed",
    }
    width = max(len(", ".join(outcome.tasks)) for outcome in outcomes)
    for outcome in outcomes:
        name = f"{', '.join(outcome.tasks):{width}}"
        if outcome.state == "failed":
            line(f"{name}  FAILED")
            for reason in filter(None, [outcome.reason, *(f"{address}: {why}" for address, why in outcome.tried)]):
                line(f"    {reason}")
        else:
            check = checks[checksums.state(outcome.path)]
            line(f"{name}  {outcome.state:12}  {size(outcome.path.stat().st_size):>8}  {check}")
            line(f"    {outcome.path}")
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    if failed:
        line(
            f"\n{failed} of {len(outcomes)} files could not be had. Start the same command again to go on (what has come "
            f"is kept),\nname another home with --mirror ADDRESS or FOLDER, or use --data collected: data made on the "
            f"spot."
        )
