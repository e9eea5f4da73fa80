"""``diffcps data collect``, and ``diffcps data train-policy``, which trains the policies that it uses."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from diffcps.errors import UserError
from diffcps.tasks.registry import Robot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress, TaskID

    from diffcps.tasks.registry import Task


@dataclass(frozen=True)
class CollectData:
    """Generate data sets with the behaviour policies that come with the project. Sweeps do this automatically."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of tasks."""
    all: bool = False
    """Generate data for all 15 tasks in the paper."""
    rows: int | None = None
    """Number of transitions for each task. Default: as many as in D4RL's data set."""
    seed: int = 0
    """Random seed. The same seed gives bit-identical data."""

    def __call__(self) -> None:
        """Run it."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from diffcps.config import DataConfig
        from diffcps.data import collected, library
        from diffcps.tasks.registry import TASKS, get_task

        names = [name for name, task in TASKS.items() if task.in_paper] if self.all else list(self.tasks)
        if not names:
            raise UserError("no task is named. Name tasks, or use --all for the tasks in the paper.")
        tasks = [get_task(name) for name in dict.fromkeys(names)]
        rows = [task.rows if self.rows is None else self.rows for task in tasks]
        wanted = [(task, DataConfig("collected", n, self.seed)) for task, n in zip(tasks, rows, strict=True)]
        if reason := "\n".join(text for pair in wanted if (text := library.not_offered(*pair))):
            raise UserError(reason)
        console = Console()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bars:
            for task, data in wanted:
                bar = bars.add_task(task.name, total=data.rows)
                start = time.monotonic()
                found = collected.SOURCE.find(task, data, ()) is not None
                info = library.load(task, data, (), partial(_show, bars, bar)).info
                bars.remove_task(bar)
                took = "already here" if found else f"{time.monotonic() - start:.0f} s"
                console.print(
                    f"{task.name}: {info.rows:,} rows, {info.trajectories:,} trajectories, "
                    f"{_returns(info.returns, task)} ({took})\n  {info.path}",
                    highlight=False,
                    soft_wrap=True,
                )


def _show(bars: "Progress", bar: "TaskID", done: int, rows: int) -> None:
    bars.update(bar, completed=done, total=rows)


def _returns(returns: "NDArray[np.float64]", task: "Task") -> str:
    if len(returns) == 0:
        return "no complete episode"
    score = task.normalised_score(returns).mean()
    return f"return {returns.mean():.4g} ± {returns.std():.3g}, normalised {score:.1f}"


@dataclass(frozen=True)
class TrainPolicy:
    """Train behaviour policies like those that come with the project (needs ``pip install 'diffcps[behaviour]'``)."""

    robot: tyro.conf.Positional[Robot]
    """The robot to train for."""
    output: Path
    """Folder for the weights (.npz) and their description (.json)."""
    steps: int | None = None
    """Number of environment steps. Default: as for the policies that come with the project."""
    seed: int = 0
    """Random seed."""
    target_score: float | None = None
    """Normalised score at which a policy counts as medium. Default: the score of D4RL's medium data."""
    threads: int = 1
    """Threads for the simulation."""

    def __call__(self) -> None:
        """Run it."""
        import torch

        from diffcps.data.collecting.behaviour import training

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
