"""`diffcps train`: one trial in this process. `diffcps settings`: what may be set of a trial."""

import functools
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from diffcps.algorithms import names
from diffcps.config import ALGORITHM, RunConfig
from diffcps.errors import UserError
from diffcps.files import is_url, local_path
from diffcps.runs.flags import PlaceFlags, RunFlags
from diffcps.runs.trial import speed_of
from diffcps.text import say, worded

if TYPE_CHECKING:
    from diffcps.runs.folder import RunFolder
    from diffcps.runs.status import Progress, StatusFile


@dataclass(frozen=True)
class Train(PlaceFlags, RunFlags):
    """Train one task in this process, without Ray or MLflow. The same command again continues where it stopped.

    The run folder is `single/runs/KEY` in the results folder.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")] = tyro.MISSING
    """Name of the task; `diffcps data list` shows all of them."""
    preset: Literal["paper", "demo"] = "paper"
    """`paper`: full length and published hyper-parameters; `demo`: minutes."""

    def __call__(self) -> None:
        """Run it."""
        if is_url(self.results) or self.results.startswith("s3:"):
            raise UserError(
                "--results: a single trial keeps its folder on this machine. For an object store run a sweep."
            )
        from diffcps import data
        from diffcps.runs.folder import RunFolder
        from diffcps.runs.presets import PRESETS, made
        from diffcps.tasks.registry import get_task
        from diffcps.training.checks import check
        from diffcps.training.facts import unused_gpu
        from diffcps.training.process import Machine
        from diffcps.training.trials import Assignment, run
        from diffcps.training.views import check as check_views
        from diffcps.training.views import views

        task, console = get_task(self.task), Console()
        config = made(task, self.changes(), PRESETS[self.preset])
        check(config)
        check_views(self.also)
        if reason := data.missing([(task, config.data)], self.directories):
            raise UserError(reason)
        folder = RunFolder(local_path(self.results) / "single" / "runs" / config.key)
        folder.check_data(_read(config, self.directories, console))
        if folder.done:
            say(console, "this trial is complete already")
        elif reason := unused_gpu():
            say(console, reason, style="yellow")
        with console.status(f"starting {config.key}") as status, _Interrupt(folder, console) as interrupt:
            trial = Assignment(
                config,
                folder,
                functools.partial(data.load, task, config.data, self.directories),
                sinks=lambda _: views(self.also, config, folder.path),
                report=functools.partial(_report, console),
                progress=interrupt.following(functools.partial(_show, status, config.task)),
            )
            run([trial], Machine.prepared())
        say(console, f"run folder: {folder.path}")


class _Interrupt:
    """Lets the first Ctrl-C end a trial with a checkpoint, within seconds, and the second at once."""

    def __init__(self, folder: "RunFolder", console: Console) -> None:
        self.folder, self.console, self.begun = folder, console, time.time()
        self.saved: int | None = None
        """The newest checkpoint when the signal came."""
        self.said = False

    def __enter__(self) -> "_Interrupt":
        self.before = signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        signal.signal(signal.SIGINT, self.before)
        if kind is KeyboardInterrupt and self._running():
            self.folder.change_state("stopped")

    def following(self, progress: "Progress") -> "Progress":
        """``progress``, and then the end of the trial if a checkpoint was written since the signal."""

        def followed(status: "StatusFile") -> None:
            progress(status)
            if self.saved is None:
                return
            if not self.said:
                say(
                    self.console,
                    "interrupted: the trial writes a checkpoint after its next step, and ends; Ctrl-C again ends it at once",
                )
                self.said = True
            if self.saved < status["saved"] < status["steps"]:
                raise KeyboardInterrupt

        return followed

    def _running(self) -> bool:
        """Whether the trial has taken its first steps in this process."""
        status = self.folder.status
        return bool(status["state"] == "running" and status["updated"] >= self.begun)

    def _came(self, number: int, frame: FrameType | None) -> None:
        # nothing is printed here: the signal may have come in the middle of a print
        if self.saved is not None or not self._running() or not self.folder.ask_to_save():
            raise KeyboardInterrupt
        self.saved = self.folder.status["saved"]


def _show(status: Status, task: str, values: "StatusFile") -> None:
    """Show how far the trial is."""
    scores = f" · last {values['last']:.1f}, best {values['best']:.1f}" if "last" in values else ""
    speed = speed_of(values)
    steps = f"{values['step']:,}/{values['steps']:,} steps{f', {speed:.1f}/s' if speed else ''}"
    status.update(f"{task}: {steps}{scores}")


def _report(console: Console, scores: dict[str, float]) -> None:
    """Print the scores of an evaluation."""
    best = f"mean of each seed's best so far {scores['best']:.1f}"
    console.print(f"step {scores['step']:,}: score {scores['score']:.1f}, {best}")


def _read(config: RunConfig, directories: tuple[Path, ...], console: Console) -> str:
    """Read, or collect, the data and print what they are; returns their checksum."""
    from diffcps import data
    from diffcps.tasks.registry import task_of

    with console.status("reading the data") as status:

        def show(done: int, rows: int) -> None:
            status.update(f"collecting data: {done:,} of {rows:,} rows, {100 * done // rows} %")

        if data.library.source(config.data.source).makes:
            say(console, f"data: collected here, {config.data.rows:,} rows")
        info = data.load(task_of(config), config.data, directories, show).info
    say(console, f"data: {info.rows:,} rows from {info.path}")
    say(console, info.provenance_note)
    return info.checksum


# `diffcps settings`: every setting that `--set`, `--vary` and `--search` reach --------------------------------


@dataclass(frozen=True)
class Settings:
    """List the settings of an algorithm with their published values for a task, and what they mean."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="|".join(names()))] = ALGORITHM
    """Name of the algorithm."""
    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")] = "hopper-medium-v2"
    """Name of the task; see `diffcps data list`."""

    def __call__(self) -> None:
        """Print them."""
        from diffcps.runs.presets import official
        from diffcps.runs.settings import settings
        from diffcps.tasks.registry import get_task

        config = official(get_task(self.task), self.algorithm)
        table = Table("setting", "value", "meaning and values", box=None, title=f"{self.algorithm} on {self.task}")
        for setting in settings(self.algorithm).values():
            if setting.name == "algorithm":
                continue
            value = config.value(setting.name)
            shown = ", ".join(map(worded, value)) if isinstance(value, tuple) else worded(value)
            search = f"; searched: {setting.search}" if setting.search else ""
            name = setting.name + " *" * setting.of_member + " †" * setting.of_acting
            table.add_row(name, shown, escape(f"{setting.help} ({setting.values}{search})"))
        console = Console(highlight=False)
        console.print(table)
        marks = "\n* may differ between the seeds of a trial; † read by acting alone: --acting NAME=V1,V2 varies it"
        console.print(f"{marks}; searched: by --preset search", markup=False)
