"""`diffcps results`: one page of several sweeps, that later sweeps add to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from diffcps.cli.report import located
from diffcps.errors import UserError
from diffcps.text import counted, say

POLICIES = "policies"


@dataclass(frozen=True)
class Results:
    """Make a page of results from several sweeps: scores, averages over data sets, curves, lengths, checksums, commands.

    Only complete trials count. The page keeps its numbers in CSV files beside it. Running the command with other sweeps adds
    them; a trial given again replaces its old numbers. Without sweeps the page is rebuilt.
    """

    sweeps: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[SWEEP ...]", help_behavior_hint="")
    ] = ()
    """Names of sweeps in the results folder, or paths of their folders."""
    into: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("docs/results")
    """Where the page is written."""
    policies: bool = False
    """Also save the first seed's policy of every trial of these sweeps there, for `diffcps.load_policy`."""
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Where the sweeps are read from: their folder, or the URL of an object store."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.report.results_record import PAGE, ResultsRecord, whole
        from diffcps.runs.joined import joined
        from diffcps.runs.read import collect

        if self.policies and "://" in self.results:
            raise UserError("--policies: checkpoints are read from folders on this machine only. Copy the sweeps here.")
        console = Console()
        sweeps = [collect(located(name, self.results).folder) for name in self.sweeps]
        trials = [trial for sweep in sweeps for trial in whole(sweep)]
        found = ResultsRecord.read(self.into).with_newer(ResultsRecord.of(trials))
        if found.scores.empty:
            raise UserError(
                "no sweep with a complete trial was named, and the page's folder has no numbers. Name a sweep."
            )
        found.write(self.into)
        if self.policies:
            from diffcps.deploy import load_policy  # imports torch

            for trial in trials:
                load_policy(trial.folder, 0).save(self.into / POLICIES / trial.key)
            say(console, f"policies of the first seeds: {self.into / POLICIES}")
        if left := sum(len(joined(sweep.trials)) for sweep in sweeps) - len(trials):
            say(console, f"{counted(left, 'trial')} left out: not complete, or without a score or facts on the data")
        say(console, f"page: {self.into / PAGE}, {counted(found.scores['key'].nunique(), 'trial')}")
