"""What the project's own data are: every collected set, and what the choice of physics does to its policies.

python -m tests.benchmarks.datasets                 # all sets at 50 000 rows, both tables
python -m tests.benchmarks.datasets --rows 1000000  # D4RL's own size
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import tyro

from diffcps.config import DataConfig, Physics
from diffcps.data.collecting import behaviour, training
from diffcps.data.collecting.collect import collect
from diffcps.data.transitions import Origin, from_episodes
from diffcps.tasks import Level
from diffcps.tasks.registry import TASKS, get_task


@dataclass(frozen=True)
class Options:
    """Collect every set and print the tables as Markdown."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; by default all that can be collected."""
    rows: int = 50_000
    """Rows of each set."""
    seed: int = 0
    """Seed of the collection."""
    episodes: int = 100
    """Episodes of each policy under each physics; 0 leaves that table out."""


def main(options: Options) -> None:
    """Print both tables."""
    names = options.tasks or tuple(name for name, task in TASKS.items() if "collected" in task.sources)
    _print(("set", "rows", "trajectories", "return", "normalised", "seconds", "rows/s"), _sets(names, options))
    if options.episodes:
        print()
        _print(("policy", "physics", "return", "length", "normalised"), _physics(options.episodes))


def _sets(names: Iterable[str], options: Options) -> Iterable[tuple[str, ...]]:
    for name in names:
        task = get_task(name)
        start = time.perf_counter()
        episodes = collect(task, DataConfig("collected", options.rows, options.seed))
        seconds = time.perf_counter() - start
        origin = Origin("collected", None, "", "other", "")
        info = from_episodes(task, episodes, origin).info
        mean, score = info.returns.mean(), task.normalised_score(info.returns).mean()
        spread = f"{mean:.4g} ± {info.returns.std():.3g}"
        yield (
            name, f"{info.rows}", f"{info.trajectories}", spread, f"{score:.1f}", f"{seconds:.1f}",
            f"{info.rows / seconds:.0f}",
        )  # fmt: skip


def _physics(episodes: int) -> Iterable[tuple[str, ...]]:
    for robot in ("hopper", "halfcheetah", "walker2d"):
        lineage = behaviour.load(robot)
        levels: tuple[Level, ...] = "medium", "expert"
        for level in levels:
            (policy,) = lineage.of(level)
            for physics in get_args(Physics):
                judge = training.practice(robot, physics, min(episodes, 50), 1)
                returns, lengths = training.rollouts(policy, judge, episodes, np.random.default_rng(2))
                score = get_task(f"{robot}-medium-v2").normalised_score(returns).mean()
                spread = f"{returns.mean():.0f} ± {returns.std():.0f}"
                yield f"{robot} {level}", physics, spread, f"{lengths.mean():.0f}", f"{score:.1f}"


def _print(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + "|".join(" :-- " if i == 0 else " --: " for i in range(len(columns))) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
