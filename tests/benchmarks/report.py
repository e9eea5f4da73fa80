"""What the report of a large sweep takes.

python -m tests.benchmarks.report                       # 1000 complete trials of five seeds
python -m tests.benchmarks.report --keep FOLDER         # and leave the sweep there, to look at its page
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))
import run_folders

from diffcps import report
from diffcps.config import EvaluationConfig
from diffcps.runs.folder import RunFolder

ROBOTS, DATA = ("hopper", "halfcheetah", "walker2d"), ("medium", "medium-replay", "medium-expert")
TASKS = (*(f"{robot}-{data}-v2" for robot in ROBOTS for data in DATA), "antmaze-umaze-v0")
STEPS = 5, 10, 15, 20
LENGTH, ROWS, EVALUATIONS, EPISODES = 10_000, 100, 20, 10


@dataclass(frozen=True)
class Options:
    """Write made-up run folders, and time the report on them."""

    trials: int = 1000
    """Trials, over ten tasks, four T and as many λ-clips as it takes."""
    seeds: int = 5
    """Of each trial."""
    keep: Path | None = None
    """Where to leave the sweep; by default in a temporary folder."""


def write(folder: Path, options: Options) -> None:
    """The run folders of a sweep whose trials are all complete: noisy curves that rise and level off."""
    clips = -(-options.trials // (len(TASKS) * len(STEPS)))
    grid = [(task, steps, clip / 100) for task in TASKS for steps in STEPS for clip in range(clips)]
    every = LENGTH // EVALUATIONS
    judged = EvaluationConfig(every=every, episodes=EPISODES)
    trials = [
        run_folders.config(
            task, seeds=options.seeds, diffusion_steps=steps, lambda_clip=clip, steps=LENGTH, log_every=LENGTH // ROWS,
            evaluation=judged,
        )
        for task, steps, clip in grid[: options.trials]
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for trial in track(trials, "writing run folders", console=Console(stderr=True), transient=True):
        run, size = RunFolder(folder / "runs" / trial.key), (options.seeds, EPISODES)
        run.create(trial)
        run.record_environment(run_folders.environment(trial))
        for step in range(trial.log_every, LENGTH + 1, trial.log_every):
            noise = {name: rng.lognormal(0.0, 0.1, options.seeds) for name in run_folders.COLUMNS}
            values = run_folders.row(trial, step)
            run.log(step, trial, {name: value * noise[name] for name, value in values.items()}, run_folders.COLUMNS)
            if step % every == 0:
                returns = rng.normal(2000.0 * step / (step + LENGTH / 5), 200.0, size)
                run.log_returns(step, trial, returns, np.full(size, 1000))
        seconds = {"learning": 900.0, "evaluation": 50.0, "checkpoint": 1.0}
        run.write_status({"state": "complete", "step": LENGTH, "steps": LENGTH, "notes": [], "seconds": seconds})
    run_folders.describe(folder, *trials)


@contextmanager
def timed(what: str, show: Callable[[str], None]) -> Iterator[None]:
    """Print the wall time and the processor time of what is done inside."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    show(f"{what:8} {time.perf_counter() - wall:6.1f} s, of it {time.process_time() - cpu:6.1f} s of the processor")


def main(options: Options) -> None:
    """Time building, writing and printing."""
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        write(folder, options)
        with timed("all", console.print):
            with timed("build", console.print):
                built = report.build(folder)
            with timed("write", console.print):
                files = built.write()
            with timed("print", console.print), Path("/dev/null").open("w", encoding="utf-8") as nowhere:
                built.print(Console(file=nowhere, width=150))
    console.print(f"{options.trials} trials of {options.seeds} seeds, {len(files)} files")


if __name__ == "__main__":
    main(tyro.cli(Options))
