"""What evaluating beside learning saves, and that it changes nothing: the same trials in turn and beside.

    python -m tests.benchmarks.beside                               # on a GPU, the second thing to run there: two minutes
    python -m tests.benchmarks.beside --device cpu --steps 400 --every 100

Trials of one pack, on made-up data, with real simulators. Both ways run in this process, one after the other, after a run that
is not counted. Exits with 1 if they leave different results.
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console

from diffcps.config import RunConfig
from diffcps.data.transitions import DatasetInfo, Transitions
from diffcps.runs.folder import RunFolder
from diffcps.runs.presets import official
from diffcps.tasks.registry import Task, get_task
from diffcps.text import Column, terminal_table
from diffcps.training.attempt import Assignment
from diffcps.training.process import Machine, prepare_process
from diffcps.training.trials import run

from . import measure, tables

WAYS = {"in turn": False, "beside": True}
ROWS = 20_000


@dataclass(frozen=True)
class Options:
    """What is trained."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Where policies learn and act; simulators are stepped by the processor."""
    task: str = "halfcheetah-medium-v2"
    """Its episodes all have 1000 steps: no policy falls."""
    trials: int = 2
    """In one pack."""
    seeds: int = 5
    """Of each trial."""
    steps: int = 8000
    """Gradient steps."""
    every: int = 2000
    """Gradient steps between two evaluations."""
    episodes: int = 10
    """Of each seed in an evaluation."""
    candidates: int = 50
    """Of which an action is chosen."""
    threads: int = 1
    """That step the simulators; on a CPU also those of gradient steps."""


def made_up(task: Task) -> Transitions:
    """A data set of the task's sizes."""
    columns = vars(measure.made_up_data(task, ROWS))
    info = DatasetInfo("collected", None, "made-up", "other", "made up", ROWS, 20, np.zeros(20))
    return Transitions(**columns, info=info)


def trials(options: Options) -> list[RunConfig]:
    """Those of a pack; their seeds differ."""
    config = official(get_task(options.task), seeds=options.seeds * options.trials)
    evaluation = config.evaluation.replaced(
        every=options.every, episodes=options.episodes, final_episodes=options.episodes, candidates=options.candidates
    )
    config = config.replaced(steps=options.steps, log_every=options.every // 2, evaluation=evaluation)
    return [
        config.replaced(members=config.members[first : first + options.seeds])
        for first in range(0, len(config.members), options.seeds)
    ]


def trained(configs: Sequence[RunConfig], place: Path, machine: Machine, data: Transitions) -> float:
    """Train them into folders below ``place``; returns the seconds it took."""
    begin = time.perf_counter()
    run(
        [Assignment(config, RunFolder(place / config.key), functools.partial(lambda: data)) for config in configs],
        machine,
    )
    return time.perf_counter() - begin


def row(name: str, wall: float, folders: Sequence[RunFolder]) -> list[str]:
    """What a way took; the trials of a pack see the same seconds of learning, and each its own of evaluation."""
    spent = [folder.status["seconds"] for folder in folders]
    learning = max(seconds["learning"] for seconds in spent)
    return [name, f"{wall:.1f}", f"{learning:.1f}", f"{sum(seconds['evaluation'] for seconds in spent):.1f}"]


def left_behind(folder: RunFolder) -> list[str]:
    """Returns, metrics without the speed, and what was learned, to the bit."""
    metrics = (folder.path / "metrics.csv").read_text().splitlines()
    state, _ = folder.load_checkpoint()
    assert state is not None
    networks = [str(value.numpy().tobytes()) for value in state["learner"]["pack"].values()]
    return [(folder.path / "returns.csv").read_text(), *(line.rpartition(",")[0] for line in metrics), *networks]


def main(options: Options) -> None:
    """Train, compare and print."""
    console = Console()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here. --device cpu shows that the command works.")
    device, configs = torch.device(options.device), trials(options)
    prepare_process(options.threads, device)
    data = made_up(get_task(options.task))
    console.print(tables.header(tables.machine(options.threads)))
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        short = [config.replaced(steps=2, log_every=1) for config in configs]
        trained(short, Path(folder) / "first", Machine(device, options.threads), data)
        for name, beside in WAYS.items():
            place = Path(folder) / name
            wall = trained(configs, place, Machine(device, options.threads, beside=beside), data)
            folders = [RunFolder(place / config.key) for config in configs]
            rows.append(row(name, wall, folders))
            found[name] = [left_behind(each) for each in folders]
    heads = "evaluations", "whole, s", "learning, s", "waiting, s"
    cells = zip(heads, zip(*rows, strict=True), strict=True)
    columns = [Column(head, list(values), right=head != heads[0]) for head, values in cells]
    console.print(
        terminal_table(columns, f"{options.trials} × {options.seeds} seeds, {options.task}, {options.device}")
    )
    console.print("waiting: of gradient steps for evaluations.")
    first, second = found.values()
    if first != second:
        raise SystemExit(
            "The returns of episodes differ: evaluations beside learning do not give the same results here."
        )
    console.print("The returns of all episodes are the same.")


if __name__ == "__main__":
    main(tyro.cli(Options))
