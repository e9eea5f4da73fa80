"""Packs against one policy jitted by JAX, in turns on the same core: ``python -m tests.benchmarks.against_jax [TASK ...]``.

Needs ``pip install jax``. It prints member-steps per second of each, their ratio to JAX's, seconds until the first twenty steps,
and the machine's own rate of matrix products in the same run.
"""

import os
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console

from diffcps import algorithms
from diffcps.tasks.registry import Task, get_task
from diffcps.text import Column, terminal_table

from .measure import Contender, Routes, Variant, alternate, build_learner, learner_steps, made_up_data, matrix_rate
from .measure import settings as settings_of

TASKS = "hopper-medium-v2", "antmaze-medium-diverse-v0"
PACKS = (1, "fp32", "eager"), (5, "fp32", "eager"), (5, "fp32", "compiled"), (5, "bf16", "compiled")
SECONDS, ROUNDS = 3.0, 5


def jax_steps(task: Task) -> Contender:
    """Gradient steps of the JAX program on one thread."""
    from . import jax_reference

    (own,) = algorithms.settings(settings_of(task))
    agent = jax_reference.Agent(own, vars(made_up_data(task)), task.max_action)

    def take(steps: int) -> int:
        agent.update(steps)
        return steps

    return Contender(take, lambda: None)


def ready(make: Callable[[], Contender]) -> tuple[Contender, float, float]:
    """A contender, and the seconds of wall clock and of processor time until it has taken twenty steps."""
    begun, used = time.perf_counter(), os.times()
    contender = make()
    contender.take(20)
    spent = os.times()
    names = "user", "system", "children_user", "children_system"
    return contender, time.perf_counter() - begun, sum(getattr(spent, name) - getattr(used, name) for name in names)


def main(tasks: list[str]) -> None:
    """Measure and print."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    console, routes = Console(), Routes(1, torch.device("cpu"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in tasks or TASKS:
        task = get_task(name)
        rows = [("JAX, one policy", *ready(lambda task=task: jax_steps(task)))]  # type: ignore[misc]
        for members, precision, engine in PACKS:
            variant = Variant(name, members, precision, engine)  # type: ignore[arg-type]

            def pack(variant: Variant = variant, task: Task = task) -> Contender:
                routes.prepared()
                return learner_steps(build_learner(variant, made_up_data(task), torch.device("cpu")), routes)

            rows.append((f"{engine} {precision}, K = {members}", *ready(pack)))
        rates = alternate([row[1] for row in rows], SECONDS, ROUNDS, torch.device("cpu"), least=4)
        columns = [
            Column("program", [row[0] for row in rows], right=False),
            Column("member-steps/s, median", [f"{rate.median:.1f}" for rate in rates]),
            Column("best", [f"{rate.best:.1f}" for rate in rates]),
            Column("median to JAX's", [f"{rate.median / rates[0].median:.2f}" for rate in rates]),
            Column("twenty steps after, s", [f"{row[2]:.0f}" for row in rows]),
            Column("processor, s", [f"{row[3]:.0f}" for row in rows]),
        ]
        console.print(terminal_table(columns, name))
    routes.prepared()
    for precision in (torch.float32, torch.bfloat16):
        rate = matrix_rate(torch.device("cpu"), precision, 5, 256, 2.0)
        console.print(f"products of 5 x 256 x 256, {precision}: {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main(sys.argv[1:])
