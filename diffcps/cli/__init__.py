"""The command line: flags come from dataclasses, and a mistake prints one message instead of a traceback."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from rich.console import Console

from diffcps.cli.data import DataCommand
from diffcps.cli.distil import Distil
from diffcps.cli.latency import Latency
from diffcps.cli.measure import MeasureCommand
from diffcps.cli.policies import Evaluate, Export
from diffcps.cli.report import Report
from diffcps.cli.results import Results
from diffcps.cli.select import Select
from diffcps.cli.study import StudyCommand, Toy
from diffcps.cli.sweeps import Sweeps
from diffcps.cli.train import Settings, Train
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.text import READABLE

USER_MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
Options = TypeVar("Options")
_SPINS = "10000"
"""How often a thread of a matrix product looks for work before it sleeps. By default it looks for some milliseconds: threads on
busy cores then wait for each other most of the time."""
_STYLE = tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff


def run(
    options: type[Options],
    command: Callable[[Options], int | None],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Parse the command line into `options`, run `command` with it and exit with its status.

    A `UserError` prints its message and exits with 2, Ctrl-C exits with 130. Any other exception is a defect of this
    program and keeps its traceback.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is imported
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)  # a terminal without λ shows lambda
    console = Console(stderr=True)
    name = Path(sys.argv[0]).name.replace("__main__.py", "diffcps")
    try:
        parsed = tyro.cli(options, args=arguments, description=description, config=_STYLE, prog=name)
        sys.exit(command(parsed) or 0)
    except UserError as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]. Run the same command again to resume.")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; at its end Python would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


_Command = (
    Annotated[SweepOptions, tyro.conf.subcommand("sweep")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[StudyCommand, tyro.conf.subcommand("study")]
    | Annotated[Toy, tyro.conf.subcommand("toy")]
    | Annotated[Settings, tyro.conf.subcommand("settings")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Distil, tyro.conf.subcommand("distil")]
    | Annotated[Latency, tyro.conf.subcommand("latency")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Results, tyro.conf.subcommand("results")]
    | Annotated[MeasureCommand, tyro.conf.subcommand("measure")]
    | Annotated[Select, tyro.conf.subcommand("select")]
    | Annotated[Sweeps, tyro.conf.subcommand("sweeps"), tyro.conf.CascadeSubcommandArgs]
    | Annotated[
        DataCommand,
        tyro.conf.subcommand("data", description="List, download, generate and check data sets."),
    ]
)


def _call(command: Callable[[], int | None] | SweepOptions) -> int | None:
    if isinstance(command, SweepOptions):
        from diffcps.sweep.launch import launch  # imports Ray

        return launch(command)
    return command()


def main() -> None:
    """The `diffcps` command."""
    run(_Command, _call, description="DiffCPS: offline reinforcement learning experiments.")  # type: ignore[arg-type]
