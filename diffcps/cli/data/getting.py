"""`diffcps data download`, `collect` and `train-policy`, and their progress on a terminal or in a log."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import tyro
from rich.console import Console
from rich.filesize import decimal

from diffcps.errors import UserError
from diffcps.runs.flags import Maybe, Several
from diffcps.tasks import Robot
from diffcps.tasks.registry import TASKS, Task, get_task
from diffcps.text import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import TaskID

    from diffcps.data.download import Outcome


_SOME_FAILED = 1


@dataclass(frozen=True)
class _Tasks:
    """Which tasks."""

    tasks: Annotated[tyro.conf.Positional[Several[str]], tyro.conf.arg(metavar="TASK ...")] = ()
    """Names of tasks. Give names or --all."""
    all: bool = False
    """All 15 tasks in the paper."""

    def chosen(self) -> list[Task]:
        """The tasks that are named. Raises `UserError` when none is, or some and all."""
        if self.all == bool(self.tasks):
            wrong = "both --all and names of tasks are given" if self.all else "no task is named"
            raise UserError(f"{wrong}. Name tasks, or use --all for the tasks in the paper.")
        if self.all:
            return [task for task in TASKS.values() if task.in_paper]
        return [get_task(name) for name in dict.fromkeys(self.tasks)]


@dataclass(frozen=True)
class DownloadData(_Tasks):
    """Download D4RL's files. Run it again after an interruption: it resumes.

    Exit status: 1 when a download failed, 2 for a mistake in the command.
    """

    to: Maybe[Path] = None
    """Folder for the files. Default: ~/.diffcps/datasets."""
    mirror: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PLACE")] = ()
    """Folder or URL (http, https, file, s3, gs, az) to try first. Then those in $DIFFCPS_MIRRORS, then D4RL's server."""
    jobs: int = 3
    """How many files to download at a time."""

    def __call__(self) -> int:
        """Run it."""
        from diffcps.data import d4rl
        from diffcps.data.download import download
        from diffcps.data.mirrors import mirrors

        if self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: it must be at least 1.")
        tasks, places = self.chosen(), mirrors(self.mirror)
        folder = self.to or d4rl.datasets_root()
        # without --to, a copy in any folder that a training run searches is enough
        elsewhere = () if self.to else d4rl.SOURCE.places(())
        with ProgressDisplay(Console(stderr=True)) as display:
            outcomes = download(tasks, folder, places, display, jobs=self.jobs, elsewhere=elsewhere)
        console = Console()
        for line in _summary(outcomes):
            say(console, line)
        return _SOME_FAILED if any(outcome.state == "failed" for outcome in outcomes) else 0


def _summary(outcomes: "Sequence[Outcome]") -> Iterator[str]:
    """The result of each file, and what to do about those that failed."""
    from diffcps.data import provenance

    width = max(len(outcome.task) for outcome in outcomes)
    for outcome in outcomes:
        name = f"{outcome.task:{width}}"
        if outcome.state == "failed":
            yield f"{name}  FAILED"
            yield from (f"    {outcome.reason}",) if outcome.reason else ()
            yield from (f"    {url}: {reason}" for url, reason in outcome.tried)
        else:
            check = provenance.MEANINGS[provenance.checksum_state(outcome.path)]
            yield f"{name}  {outcome.state:12}  {decimal(outcome.path.stat().st_size):>9}  {check}"
            yield f"    {outcome.path}"
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    if failed:
        yield (
            f"\n{failed} of {len(outcomes)} downloads failed. Run the same command again to resume, try another mirror "
            f"with\n--mirror URL_OR_FOLDER, or use --data collected to generate data locally."
        )


class ProgressDisplay:
    """Shows several downloads: bars on a terminal, else a line every `log_seconds`. A `download.Watcher`."""

    def __init__(self, console: Console, log_seconds: float = 10.0) -> None:
        from rich import progress

        self.console, self.log_seconds = console, log_seconds
        self._lock = threading.Lock()
        self._logs: dict[str, tuple[float, int, float]] = {}
        self._bars: dict[str, TaskID] = {}
        columns = (
            progress.TextColumn("{task.description}"), progress.BarColumn(bar_width=None), progress.DownloadColumn(),
            progress.TransferSpeedColumn(), progress.TimeRemainingColumn(compact=True),
        )  # fmt: skip
        self.live = progress.Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def progress(self, task: str, have: int, total: int | None) -> None:
        """`have` bytes of the task's file are on the disk."""
        with self._lock:
            if self.live is None:
                self._log(task, have, total)
            elif task not in self._bars:
                self._bars[task] = self.live.add_task(task, completed=have, total=total)
            else:
                self.live.update(self._bars[task], completed=have, total=total)

    def say(self, task: str, text: str) -> None:
        """Print one line, above the bars."""
        say(self.console, f"{task}: {text}")

    def ended(self, task: str, outcome: "Outcome") -> None:
        """Remove the bar and print the outcome."""
        with self._lock:
            if self.live is not None and task in self._bars:
                self.live.remove_task(self._bars.pop(task))
        self.say(task, outcome.state)

    def _log(self, task: str, have: int, total: int | None) -> None:
        now = time.monotonic()
        first, before, last = self._logs.setdefault(task, (now, have, now))
        if now - last < self.log_seconds or now == first:
            return
        self._logs[task] = first, before, now
        speed = max((have - before) / (now - first), 0.0)
        done, left = decimal(have), ""
        if total:
            done = f"{have / total:.0%} of {decimal(total)}"
            left = f", {(total - have) / speed:.0f} s left" if speed > 0 else ""
        self.say(task, f"{done}, {decimal(int(speed))}/s{left}")


# `diffcps data collect`, and `diffcps data train-policy`, which trains the policies that it uses ------------------


@dataclass(frozen=True)
class CollectData(_Tasks):
    """Generate data sets with the behaviour policies that come with the project. Sweeps do this automatically."""

    rows: Maybe[int] = None
    """Number of transitions for each task. Default: those of the task; D4RL's tasks have the size of D4RL's file."""
    seed: int = 0
    """Random seed. The same seed gives bit-identical data."""

    def __call__(self) -> None:
        """Run it."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from diffcps import data
        from diffcps.config import DataConfig
        from diffcps.data import collected

        tasks = self.chosen()
        rows = [task.rows if self.rows is None else self.rows for task in tasks]
        wanted = [(task, DataConfig("collected", n, self.seed)) for task, n in zip(tasks, rows, strict=True)]
        if reason := data.missing(wanted, ()):
            raise UserError(reason)
        console = Console()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bars:
            for task, config in wanted:
                bar = bars.add_task(task.name, total=config.rows)
                start = time.monotonic()
                found = collected.SOURCE.find(task, config, ()) is not None

                def show(done: int, rows: int, bar: "TaskID" = bar) -> None:
                    bars.update(bar, completed=done, total=rows)

                info = data.load(task, config, (), show).info
                bars.remove_task(bar)
                took = "already here" if found else f"{time.monotonic() - start:.0f} s"
                say(
                    console,
                    f"{task.name}: {info.rows:,} rows, {info.trajectories:,} trajectories, "
                    f"{_returns(info.returns, task)} ({took})\n  {info.path}",
                )


def _returns(returns: "NDArray[np.float64]", task: "Task") -> str:
    if len(returns) == 0:
        return "no complete episode"
    score = task.normalised_score(returns).mean()
    return f"return {returns.mean():.4g} ± {returns.std():.3g}, normalised {score:.1f}"


@dataclass(frozen=True)
class TrainPolicy:
    """Train behaviour policies like those that come with the project (needs `pip install 'diffcps[behaviour]'`)."""

    robot: tyro.conf.Positional[Robot]
    """The robot to train for."""
    output: Path
    """Folder for the weights (.npz) and their description (.json)."""
    steps: Maybe[int] = None
    """Number of environment steps. Default: as for the policies that come with the project."""
    seed: int = 0
    """Random seed."""
    target_score: Maybe[float] = None
    """Normalised score at which a policy counts as medium. Default: the score of D4RL's medium data."""
    threads: int = 1
    """Threads for the simulation."""

    def __call__(self) -> None:
        """Run it."""
        import torch

        from diffcps.data.collecting import training

        torch.set_num_threads(1)  # the networks are small: more threads only wait for each other
        facts = training.train(
            self.robot,
            self.output,
            steps=self.steps,
            seed=self.seed,
            target_score=self.target_score,
            threads=self.threads,
        )
        for number, snapshot in enumerate(facts.snapshots):
            names = [name for name in ("medium", "expert") if getattr(facts, name) == number]
            print(f"{training.words(snapshot)}{' (' + ', '.join(names) + ')' if names else ''}")
        print(f"written: {self.output / self.robot}.npz and .json")
