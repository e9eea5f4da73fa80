"""`diffcps sweeps`: the sweeps in a results folder, their trials, and how to continue them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from diffcps.cli.one_sweep import show
from diffcps.cli.sweep_facts import advice, counts, details, record
from diffcps.cli.tables import how_long_ago, print_table
from diffcps.runs.read import Sweep
from diffcps.text import STYLES, Column, duration, if_known, say

_PIPED_WIDTH = 200


@dataclass(frozen=True)
class ListSweeps:
    """Every sweep with its state, its trials and its time left."""


@dataclass(frozen=True)
class ShowSweep:
    """One sweep: its plan, its trials, why trials failed, and the command that continues it."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of the sweep, or the path of its folder."""


@dataclass(frozen=True)
class Sweeps:
    """List the sweeps in a results folder, or show one of them. Reads only; safe while a sweep runs."""

    what: Annotated[ListSweeps, tyro.conf.subcommand("list")] | Annotated[ShowSweep, tyro.conf.subcommand("show")] = (
        ListSweeps()
    )
    """What to show."""
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Where the sweeps are: a folder, or a URL such as `s3://bucket/prefix`."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON for scripts: durations in seconds, times in seconds since 1970, `null` for unknown values."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.storage.location import opened

        console = _console()
        with opened(self.results) as results:
            if isinstance(self.what, ShowSweep):
                sweep = results.find(self.what.name)
                if self.json:
                    _print_json(details(sweep), console)
                else:
                    show(sweep, console)
            else:
                sweeps = results.sweeps()
                if self.json:
                    _print_json([record(sweep) for sweep in sweeps], console)
                else:
                    _list(sweeps, results.name, console)


def _list(sweeps: Sequence[Sweep], results: str, console: Console) -> None:
    """One line a sweep, what is wrong with any, and how to continue the newest unfinished one."""
    if not sweeps:
        say(console, f"There is no sweep in {results}. Start one with diffcps sweep.")
        return
    by_state = [counts(sweep) for sweep in sweeps]
    number = {name: [str(count[name] or "") for count in by_state] for name in by_state[0]}
    done = [f"{n['complete']}/{sweep.total}" if sweep.plan else "" for n, sweep in zip(by_state, sweeps, strict=True)]
    columns = [
        Column("sweep", [sweep.name for sweep in sweeps], right=False),
        Column("state", [sweep.state for sweep in sweeps], right=False),
        Column("preset", [sweep.plan.preset if sweep.plan else "" for sweep in sweeps], right=False, drop=1),
        Column("done", done),
        Column("running", number["running"], drop=5),
        Column("failed", number["failed"], drop=6),
        Column("pruned", number["pruned"], drop=6),
        Column("to go", number["to_go"], drop=4),
        Column("last", [if_known(sweep.mean("last")) for sweep in sweeps], drop=3),
        Column("best (oracle)", [if_known(sweep.mean("best")) for sweep in sweeps], drop=2),
        Column("time left", [if_known(sweep.seconds_left(), duration) for sweep in sweeps]),
        Column("touched", [how_long_ago(sweep.touched) for sweep in sweeps]),
    ]
    print_table(console, columns, [STYLES[sweep.state] for sweep in sweeps])
    if any(sweep.mean("last") is not None for sweep in sweeps):
        say(console, "last, best: mean over the evaluated trials, where their tasks are of one domain.", "dim")
    for sweep in sweeps:
        if sweep.trouble:
            say(console, f"{sweep.name}: {sweep.trouble}", "red")
    for next_step in [found for sweep in sweeps if (found := advice(sweep))][:1]:
        say(console, next_step)
    say(console, f"Each trial: diffcps sweeps show {sweeps[0].name} --results {results}", "dim")


def _console() -> Console:
    """The terminal; wide enough for every column if the output is a pipe or a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _PIPED_WIDTH))


def _print_json(values: Any, console: Console) -> None:
    console.out(json.dumps(values, indent=2, allow_nan=False), highlight=False)
