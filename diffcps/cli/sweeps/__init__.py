"""``diffcps sweeps``: what a results folder holds, and how to go on with it."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from diffcps.cli.sweeps import listing, showing
from diffcps.cli.sweeps.printing import wide_console
from diffcps.distributed import catalogue


@dataclass(frozen=True)
class ListSweeps:
    """Every sweep with its state, its trials and the time it still takes."""


@dataclass(frozen=True)
class ShowSweep:
    """One sweep: its plan, each of its trials, what failed and why, and how to go on."""

    name: tyro.conf.Positional[str]
    """Name of the sweep, or the path of its folder."""


@dataclass(frozen=True)
class Sweeps:
    """List the sweeps in a results folder, or show one of them. Only reads; a running sweep may be looked at."""

    what: Annotated[ListSweeps, tyro.conf.subcommand("list")] | Annotated[ShowSweep, tyro.conf.subcommand("show")] = (
        ListSweeps()
    )
    """What to look at."""
    results: Annotated[str, tyro.conf.arg(aliases=["--storage"], metavar="PLACE")] = "results"
    """Where the sweeps are: a folder, or a URL such as ``s3://bucket/prefix``."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print plain values for scripts: times in seconds, moments in seconds since 1970, ``null`` for what is not known."""

    def __call__(self) -> None:
        """Run it."""
        console = wide_console()
        with catalogue.opened(self.results) as results:
            if isinstance(self.what, ShowSweep):
                sweep = results.find(self.what.name)
                if self.json:
                    _print(showing.record(sweep), console)
                else:
                    showing.show(sweep, console)
            else:
                sweeps = results.sweeps()
                if self.json:
                    _print([listing.record(sweep) for sweep in sweeps], console)
                else:
                    listing.show(sweeps, results.name, console)


def _print(values: Any, console: Console) -> None:
    console.out(json.dumps(values, indent=2, allow_nan=False), highlight=False)
