"""What a person sees: the machine, and a table for each section of the benchmark."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from diffcps.training.facts import git_commit, versions
from diffcps.training.process import product_route

Rows = Sequence[dict[str, Any]]


def cpu_name() -> str:
    """The processor's name as Linux tells it, elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": threads,
        "gpu": gpu.name if gpu else None,
        "gpu_bytes": gpu.total_memory if gpu else None,
        "cuda": torch.version.cuda,
        "fp32_route": product_route(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def header(facts: dict[str, Any]) -> str:
    version = facts["versions"]
    gpu = f"{facts['gpu']}, CUDA {facts['cuda']}" if facts["gpu"] else "none"
    return (
        f"CPU: {facts['cpu']} ({facts['cpu_capability']}), {facts['cores']} cores, {facts['threads']} thread(s) used. "
        f"GPU: {gpu}.\nPython {version['python']}, torch {version['torch']}, numpy {version['numpy']}, "
        f"MuJoCo {version['mujoco']}, commit {facts['git_commit']}. "
        f"fp32 products of the pack on the CPU: {facts['fp32_route']} (the yardstick's are torch's default)."
    )


def _table(title: str, *columns: str, left: int, caption: str = "") -> Table:
    """An empty table whose first ``left`` columns hold text."""
    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right")
    return table


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _device(rows: Rows) -> str:
    return {"cpu": "CPU", "cuda": "GPU"}[rows[0]["device"]] if rows else ""


def matrix_rates(rows: Rows) -> Table:
    table = _table(f"{_device(rows)}: matrix products, GFLOP/s", "precision", "route", "shape", "GFLOP/s", left=3)
    for row in rows:
        shape = f"{row['batch']} × " * (row["batch"] > 1) + f"{row['size']}²"
        table.add_row(row["precision"], row["route"], shape, _rate(row["gflops"]))
    return table


def steps(rows: Rows) -> Table:
    table = _table(
        f"{_device(rows)}: gradient steps, member-steps per second (best turn)",
        "task", "engine", "precision", "K", "yardstick", "pack", "median", "ratio", "GFLOP/s", "of matrix rate", "built, s",
        left=3,
        caption="K members in a pack; the yardstick trains one policy, eagerly, in fp32, and was measured in turns with "
        "each pack. 'Of matrix rate': against the fastest product above of that precision. 'Built': with the first step.",
    )  # fmt: skip
    for row in rows:
        engine = row["engine"] if row["engine"] == row["ran_as"] else f"{row['ran_as']} (not {row['engine']})"
        table.add_row(
            row["task"], engine, row["precision"], str(row["members"]), _rate(row["reference_rate"]), _rate(row["rate"]),
            _rate(row["median"]), f"{row['ratio']:.2f}", _rate(row["gflops"]), f"{row['of_matrix_rate']:.0%}",
            f"{row['build_seconds']:.1f}",
        )  # fmt: skip
    return table


def evaluation(rows: Rows) -> Table:
    table = _table(
        f"{_device(rows)}: evaluation, environment steps per second (best turn)",
        "task", "precision", "K", "threads", "yardstick", "pack", "median", "ratio", "GFLOP/s",
        left=2,
        caption="50 candidates a state; 'threads' step the pack's environments. "
        "Untrained policies, 10 episodes a member: Hopper's end after some twenty steps, "
        "HalfCheetah's were cut off together at "
        f"{' or '.join(sorted({str(r['episode_limit']) for r in rows if 'halfcheetah' in r['task']}))}.",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["task"], row["precision"], str(row["members"]), str(row["threads"]), _rate(row["reference_rate"]),
            _rate(row["rate"]), _rate(row["median"]), f"{row['ratio']:.1f}", _rate(row["gflops"]),
        )  # fmt: skip
    return table


def memory(rows: Rows) -> Table:
    title = f"{_device(rows)}: memory of a pack while it learns, data set included, at its highest"
    table = _table(title, "task", "engine", "precision", "K", "MiB", left=3)
    for row in rows:
        table.add_row(row["task"], row["ran_as"], row["precision"], str(row["members"]), f"{row['bytes'] / 2**20:,.0f}")
    return table


def startup(rows: Rows) -> Table:
    table = _table(
        f"{_device(rows)}: start-up of a new process, seconds",
        "task", "engine", "precision", "K", "compiled before", "imports", "learner built", "first step", "20 steps",
        left=3,
        caption="The last three count from the end of the imports and the making of the data.",
    )  # fmt: skip
    for row in rows:
        before = {"cold": "nothing", "warm": "the same", "": ""}[row["cache"]]
        times = (
            f"{row[name]:.1f}" if name in row else "" for name in ("imports", "built", "first_step", "twenty_steps")
        )
        table.add_row(row["task"], row["engine"], row["precision"], str(row["members"]), before, *times)
    return table


def projection(rows: Rows) -> Table:
    table = _table(
        f"{_device(rows)}: training of the paper's Table 1 (15 tasks, 5 seeds), hours",
        "program", "precision", "K", "hours", "sizes measured",
        left=2,
        caption="Steps of all runs over the rates above, one pack after another with the fastest engine measured; "
        "evaluation is not in it. Sizes that were not measured are scaled by their operations.",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["program"], row["precision"], str(row["members"]), f"{row['hours']:,.1f}", f"{row['measured']} of 5"
        )
    return table
