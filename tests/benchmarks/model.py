"""A model of the time of a gradient step on an NVIDIA H200: its kernels, bytes and FLOP, counted on a CPU.

    python -m tests.benchmarks.model [--algorithms diffcps iql …] [--tasks hopper-medium-v2 …] [--members 5 15 30 75]

A step captured as a CUDA graph takes kernels · 2.05 µs + bytes / 4.4 TB/s + FLOP / F. Kernels are operations that compute; bytes
are what they read and write, if each reads its inputs and writes its outputs once; F is the rate of large products. The
predictions are .88 to 1.08 times the ten rates of RESULTS.md, counted with Mish as it was then. Compiled steps have fewer kernels
and bytes, which no count of operations knows: for them the model is a lower bound of the rate.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffcps import algorithms
from diffcps.algorithms.settings import Precision
from diffcps.config import RunConfig
from diffcps.runs import presets
from diffcps.runs.alike import alike
from diffcps.runs.planning import PAPER_TASKS
from diffcps.tasks.registry import get_task
from diffcps.training import cost
from diffcps.training.process import prepare_process

LAUNCH, BYTES = 2.05e-6, 4.4e12
"""Seconds of a kernel, however small; bytes a second."""
FLOPS = {"fp32": 51e12, "tf32": 350e12, "bf16": 698e12}
"""FLOP a second of products of 8192² matrices, measured; of tf32 assumed: .71 of what NVIDIA says, as of bf16."""


@dataclass(frozen=True)
class Work:
    """What a gradient step takes."""

    kernels: float
    bytes: float
    """Of one member."""
    flops: float
    """Of one member."""


class AsOnGpu(TorchFunctionMode):
    """Lets the program choose the operations that it has for a GPU, while tensors stay on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        return func(*args, **(kwargs or {}))


def counted(trial: RunConfig) -> cost.Counted:
    """``cost.counted`` of the operations of a GPU; not in its cache, where those of a CPU are."""
    return _counted(cost._one(trial))


@functools.cache
def _counted(trial: RunConfig) -> cost.Counted:
    with AsOnGpu():
        return cost._counted.__wrapped__(trial)


def works(trial: RunConfig) -> list[Work]:
    """A mean gradient step of each stage."""
    found = counted(trial)
    cycles = [[found.kinds[kind] for kind in stage.cycle] for stage in found.stages]
    return [
        Work(
            kernels=sum(step.kernels for step in cycle) / len(cycle),
            bytes=sum(step.moved_bytes for step in cycle) / len(cycle),
            flops=sum(step.flops for step in cycle) / len(cycle),
        )
        for cycle in cycles
    ]


def seconds(work: Work, members: int, precision: str) -> float:
    """Of a step of so many members, captured as a CUDA graph, on an H200."""
    return LAUNCH * work.kernels + members * (work.bytes / BYTES + work.flops / FLOPS[precision])


def rate(trial: RunConfig) -> float:
    """Member-steps per second in the last stage of a trial, of its members and precision."""
    members = len(trial.members)
    return members / seconds(works(trial)[-1], members, trial.value("precision"))


@dataclass(frozen=True)
class Options:
    """Count the operations of gradient steps, and say what they would take on an H200."""

    algorithms: tuple[str, ...] = ("diffcps",)
    """By name; `all` for every one."""
    tasks: tuple[str, ...] = ("hopper-medium-v2", "antmaze-medium-diverse-v0")
    """The smallest sizes, and the dearest (max-Q backup)."""
    members: tuple[int, ...] = (5, 15, 30, 75)
    """Pack sizes K."""
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
    """Arithmetic of the hidden layers."""


def trials(options: Options) -> Iterator[RunConfig]:
    """One member of each algorithm, task and precision, at published settings; averages move from the first step."""
    names: Sequence[str] = algorithms.names() if "all" in options.algorithms else options.algorithms
    for task in options.tasks:
        for name in names:
            trial = presets.official(get_task(task), name, seeds=1)
            if "ema_start" in trial.settings:
                trial = trial.with_settings(ema_start=0)
            for precision in options.precisions:
                yield trial.with_settings(precision=precision)


def operations(options: Options) -> Table:
    """Kernels, bytes and FLOP of every kind of step."""
    table = Table(
        "task", "algorithm", "precision", "step", title="Of a gradient step of one member", title_justify="left"
    )
    for column in ("operations", "kernels", "MB", "MFLOP"):
        table.add_column(column, justify="right")
    for trial in trials(options):
        if trial.value("precision") == "tf32":  # the same operations as in fp32
            continue
        for kind, step in counted(trial).kinds.items():
            table.add_row(
                trial.task, trial.algorithm, trial.value("precision"), kind, f"{step.operations:,}", f"{step.kernels:,}",
                f"{step.moved_bytes / 1e6:,.0f}", f"{step.flops / 1e6:,.0f}",
            )  # fmt: skip
    return table


def predictions(options: Options) -> Table:
    """Milliseconds of a mean step, and member-steps per second, of each stage and pack size."""
    table = Table(
        "task", "algorithm", "precision", title="Predicted on an H200, as a CUDA graph: ms of a step, member-steps/s",
        title_justify="left",
    )  # fmt: skip
    for members in options.members:
        table.add_column(f"K = {members}", justify="right")
    for trial in trials(options):
        precision, stages = trial.value("precision"), works(trial)
        for number, work in enumerate(stages, 1):
            times = [seconds(work, members, precision) for members in options.members]
            cells = [f"{1e3 * time:.2f}, {k / time:,.0f}" for k, time in zip(options.members, times, strict=True)]
            name = trial.algorithm if len(stages) == 1 else f"{trial.algorithm}, stage {number}"
            table.add_row(trial.task, name, precision, *cells)
    return table


def table1(options: Options) -> Table:
    """Hours of the paper's table on one GPU, each trial alone and in the packs of ``--pack-trials auto``, without evaluation."""
    table = Table(
        "precision", "packs: members, hours", title="Predicted on an H200: gradient steps of Table 1, five seeds",
        title_justify="left",
    )  # fmt: skip
    table.add_column("each trial alone, hours", justify="right")
    table.add_column("in packs, hours", justify="right")
    groups: dict[Hashable, list[str]] = {}
    for name in PAPER_TASKS:
        groups.setdefault(alike(presets.official(get_task(name))), []).append(name)
    for precision in options.precisions:
        alone, together = 0.0, []
        for tasks in groups.values():
            trial = presets.official(get_task(tasks[0])).with_settings(precision=precision, ema_start=0)
            work, seeds = works(trial)[-1], len(trial.members)
            alone += len(tasks) * trial.steps * seconds(work, seeds, precision) / 3600
            members = seeds * len(tasks)
            together.append((members, trial.steps * seconds(work, members, precision) / 3600))
        packs = "; ".join(f"{members}, {hours:.2f}" for members, hours in together)
        table.add_row(precision, packs, f"{alone:.1f}", f"{sum(hours for _, hours in together):.1f}")
    return table


def main(options: Options) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    prepare_process(1)
    console.print(operations(options))
    console.print(predictions(options))
    console.print(table1(options))


if __name__ == "__main__":
    main(tyro.cli(Options))
