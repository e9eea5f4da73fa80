"""The benchmark: rates of the pack beside those of the yardstick, taken in turns, in one run.

    python -m tests.benchmarks.bench [--quick] [--projection] [--device cpu|cuda] [--json FILE]

Sections: gradient steps, evaluation, memory as the pack grows, start-up, and what they mean for the paper's Table 1.
Without a GPU only the CPU's columns are filled. Everything printed is in the JSON file too, which is rewritten after
every measurement, so that a run cut short leaves what it has found.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from diffcps.algorithms.settings import Precision
from diffcps.tasks.registry import get_task
from diffcps.training.engine import EngineKind

from . import flops, measure, tables
from .measure import Variant
from .projection import distinct_sizes, project

Section = Literal["steps", "evaluation", "memory", "startup"]
TASKS = "hopper-medium-v2", "halfcheetah-medium-v2", "antmaze-medium-diverse-v0"
"""The smallest sizes, the commonest, and the dearest (max-Q backup)."""

OTHER_SECTIONS, COMPILING = 75.0, 60.0
"""Seconds to keep for what follows the gradient steps, and those that compiling takes where none was measured yet."""


@dataclass(frozen=True)
class Options:
    """What to measure. Empty lists stand for a choice by device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the CPU, and the GPU too where there is one."""
    tasks: tuple[str, ...] = ()
    """The first is measured in full, the others with the engine that was the fastest there, at K = 5 and the largest."""
    members: tuple[int, ...] = ()
    """Pack sizes K. CPU: 1 5; GPU: 1 5 25 75."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Arithmetic of the pack's hidden layers; the yardstick's is fp32."""
    engines: tuple[EngineKind, ...] = ()
    """CPU: eager compiled; GPU: eager graph compiled."""
    sections: tuple[Section, ...] = ("steps", "evaluation", "memory", "startup")
    """What to measure; with gradient steps comes what they mean for Table 1."""
    seconds: float = 0.5
    """Length of one turn."""
    rounds: int = 4
    """Turns of each program; the best counts."""
    threads: int = 1
    """CPU threads; with one, the figures are per core."""
    minutes: float | None = None
    """Be done with a device in about this time (CPU: 5; GPU: 9; projection: as long as it takes). Gradient
    steps that would take longer, compiling included, are left out and listed."""
    projection: bool = False
    """Measure every distinct size of Table 1's tasks; otherwise the missing ones are scaled by their operations."""
    quick: bool = False
    """One short turn of little: shows that the benchmark works; its figures are not worth quoting."""
    json: Path | None = None
    """Write everything measured to this file."""

    def on(self, device: torch.device) -> "Options":
        """The same with the choices that depend on the device filled in."""
        cuda = device.type == "cuda"
        tasks = self.tasks or (TASKS if cuda else (TASKS[0], TASKS[2]))
        members = self.members or ((1, 5, 25, 75) if cuda else (1, 5))
        engines = self.engines or (("eager", "graph", "compiled") if cuda else ("eager", "compiled"))
        if self.quick:
            return replace(
                self, tasks=tasks[:1], members=self.members or (1, 2), engines=engines[:1], seconds=0.05, rounds=1,
                projection=False,
            )  # fmt: skip
        if self.projection:
            tasks = (*tasks, *distinct_sizes(known=tasks))
        minutes = self.minutes or (math.inf if self.projection else 9.0 if cuda else 5.0)
        return replace(self, tasks=tasks, members=members, engines=engines, minutes=minutes)


@dataclass
class Report:
    """Everything found so far: printed as it comes, and kept for JSON."""

    console: Console
    file: Path | None
    content: dict[str, Any] = field(default_factory=dict)

    def add(self, section: str, row: dict[str, Any]) -> None:
        self.content.setdefault(section, []).append(row)
        self.save()

    def save(self) -> None:
        if self.file:
            self.file.write_text(json.dumps(self.content, indent=1) + "\n")


class Bench:
    """The measurements on one device."""

    def __init__(self, options: Options, device: torch.device, report: Report) -> None:
        self.options, self.device, self.report = options.on(device), device, report
        self.routes = measure.Routes(options.threads, device)
        self.deadline = time.monotonic() + 60.0 * (self.options.minutes or math.inf) - OTHER_SECTIONS
        self.matrix: dict[str, float] = {}

    def run(self) -> None:
        options, report = self.options, self.report
        self.matrix_rates()
        report.console.print(tables.matrix_rates(self.rows("matrix_rates")))
        sections = {
            "steps": self.gradient_steps,
            "evaluation": self.evaluations,
            "memory": self.memory,
            "startup": self.start_up,
        }
        for name in options.sections:
            with report.console.status(f"{self.device.type}: {name}"):
                sections[name]()
            report.console.print(getattr(tables, name)(self.rows(name)))
        if "steps" in options.sections:
            report.content.setdefault("projection", []).extend(project(self.rows("steps")))
            report.save()
            report.console.print(tables.projection(self.rows("projection")))

    def rows(self, section: str) -> list[dict[str, Any]]:
        return [row for row in self.report.content.get(section, []) if row["device"] == self.device.type]

    def add(self, section: str, row: dict[str, Any]) -> None:
        self.report.add(section, {"device": self.device.type} | row)

    def matrix_rates(self) -> None:
        """What the machine's libraries reach on products of the networks' sizes, and on a GPU on large ones."""
        shapes = [(1, 256), (max(self.options.members), 256)]
        shapes += [(1, 8192)] if self.device.type == "cuda" else []
        settings = [("fp32", "torch's default", self.routes.plain), ("bf16", "torch's default", self.routes.plain)]
        if self.device.type == "cpu":
            settings.insert(1, ("fp32", "the pack's", self.routes.prepared))
        for precision, route, settle in settings:
            settle()
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            for batch, size in shapes:
                rate = measure.matrix_rate(self.device, dtype, batch, size, self.options.seconds)
                self.add("matrix_rates", {
                    "precision": precision, "route": route, "batch": batch, "size": size, "gflops": rate / 1e9,
                })  # fmt: skip
                self.matrix[precision] = max(self.matrix.get(precision, 0.0), rate)

    def variants(self) -> Iterator[Variant]:
        """What to measure, the cheap and the interesting first; later ones depend on what the first task showed."""
        options = self.options
        first, *others = options.tasks
        large = max(options.members)
        sizes = sorted({large, 5 if 5 in options.members else large}, reverse=True)  # a trial of the paper holds 5
        rest = [members for members in reversed(options.members) if members not in sizes]
        for engine in options.engines:
            for members in reversed(options.members) if engine != "compiled" else sizes:
                for precision in options.precisions:
                    yield Variant(first, members, precision, engine)
        for members in sizes:
            for precision in reversed(options.precisions):
                engine = self.fastest_engine(members, precision)
                for task in others:
                    yield Variant(task, members, precision, engine)
        if "compiled" in options.engines:  # a minute each to compile
            for members in rest:
                for precision in options.precisions:
                    yield Variant(first, members, precision, "compiled")

    def fastest_engine(self, members: int, precision: str) -> EngineKind:
        """The engine with the highest rate on the first task of those that there is time for."""
        rows = [r for r in self.rows("steps") if (r["members"], r["precision"]) == (members, precision)]
        rows = [row for row in rows if self.fits(row["ran_as"])]
        return max(rows, key=lambda row: row["rate"])["ran_as"] if rows else self.options.engines[0]

    def fits(self, engine: str) -> bool:
        """Whether there is time for another measurement with this engine."""
        seconds = [row["build_seconds"] for row in self.rows("steps") if row["engine"] == engine]
        longest = max(seconds, default=COMPILING if engine == "compiled" else 0.0)
        return time.monotonic() + longest < self.deadline

    def gradient_steps(self) -> None:
        left_out = []
        for variant in self.variants():
            if self.fits(variant.engine):
                self.gradient_steps_of(variant)
            else:
                self.add("left_out", measure.as_row(variant))
                left_out.append(f"{variant.task} K={variant.members} {variant.precision} {variant.engine}")
        if left_out:
            self.report.console.print(f"Not measured within {self.options.minutes:g} minutes: {', '.join(left_out)}.")

    def gradient_steps_of(self, variant: Variant) -> None:
        options, task = self.options, get_task(variant.task)
        data = measure.made_up_data(task)
        on_gpu = self.device.type == "cuda"
        agent = measure.build_agent(task, data, self.device)
        self.routes.prepared()
        held = torch.cuda.memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        learner = measure.build_learner(variant, data, self.device)
        learner.update(1)
        measure.synchronise(self.device)
        built = time.perf_counter() - start
        contenders = measure.agent_steps(agent, self.routes), measure.learner_steps(learner, self.routes)
        plain, pack = measure.alternate(
            contenders, options.seconds, options.rounds, self.device, least=task.settings["policy_freq"]
        )
        work = flops.flops_per_member_step(measure.settings(task), task.observation_size, task.action_size)
        self.add("steps", measure.as_row(
            variant, ran_as=learner.engine.kind, notes=list(learner.engine.notes),
            rate=pack.best, median=pack.median, turns=pack.turns,
            reference_rate=plain.best, reference_median=plain.median, reference_turns=plain.turns,
            ratio=pack.best / plain.best, gflops=pack.best * work / 1e9, reference_gflops=plain.best * work / 1e9,
            of_matrix_rate=pack.best * work / self.matrix[variant.precision], flop=work, build_seconds=built,
            memory_bytes=torch.cuda.max_memory_reserved() - held if on_gpu else None,
        ))  # fmt: skip
        del agent, learner, contenders
        measure.release(self.device)

    def evaluations(self) -> None:
        """Hopper ends early under a policy that has learned nothing; HalfCheetah never does."""
        short = 10 if self.options.quick else 100
        tasks = get_task("hopper-medium-v2"), replace(get_task("halfcheetah-medium-v2"), episode_limit=short)
        sizes = [k for k in self.options.members if k > 1] or list(self.options.members)
        # beside a GPU, which leaves the cores with nothing else to do, all of them step environments
        threads = self.options.threads if self.device.type == "cpu" else tables.cores()
        for task in tasks:
            for members in sizes[:2]:
                for precision in self.options.precisions:
                    variant = Variant(task.name, members, precision, "eager")
                    plain, pack = measure.evaluation_rates(
                        task, variant, threads, self.routes, self.device, self.options.seconds, self.options.rounds
                    )
                    work = flops.flops_per_action(
                        measure.settings(task), task.observation_size, task.action_size, task.evaluation.candidates
                    )
                    self.add("evaluation", measure.as_row(
                        variant, episode_limit=task.episode_limit, threads=threads,
                        rate=pack.best, median=pack.median, turns=pack.turns,
                        reference_rate=plain.best, reference_median=plain.median, reference_turns=plain.turns,
                        ratio=pack.best / plain.best, gflops=pack.best * work / 1e9,
                    ))  # fmt: skip
                    measure.release(self.device)

    def memory(self) -> None:
        """On a GPU the gradient steps have shown it; on a CPU each size needs a process of its own."""
        if self.device.type == "cuda":
            for row in self.rows("steps"):
                names = "task", "members", "precision", "ran_as"
                self.add("memory", {name: row[name] for name in names} | {"bytes": row["memory_bytes"]})
            return
        for members in (1,) if self.options.quick else (1, 5, 25):
            variant = Variant(self.options.tasks[0], members, "fp32", "eager")
            found = measure.in_fresh_process(measure.memory_growth, variant, self.options.threads)
            self.add("memory", measure.as_row(variant, ran_as="eager", **found))

    def start_up(self) -> None:
        """Each engine in a new process. Compiled: once after another process has compiled the same, and cold.

        Where gradient steps were measured, what building them took is the cold start.
        """
        members = 5 if 5 in self.options.members else max(self.options.members)
        for engine in self.options.engines:
            variant = Variant(self.options.tasks[0], members, self.options.precisions[0], engine)
            caches = ("cold", "warm") if engine == "compiled" else ("",)
            before = [row for row in self.rows("steps") if measure.as_row(variant).items() <= row.items()]
            if engine == "compiled" and before:
                self.add("startup", measure.as_row(variant, cache="cold", first_step=before[0]["build_seconds"]))
                caches = ("warm",)
            for cache in caches:
                found = measure.in_fresh_process(
                    measure.time_to_steps, variant, self.device.type, self.options.threads, time.time()
                )
                self.add("startup", measure.as_row(variant, cache=cache, **found))


def main() -> None:
    options = tyro.cli(Options, prog="python -m tests.benchmarks.bench", description=__doc__)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    gpu = torch.cuda.is_available()
    if options.device == "cuda" and not gpu:
        raise SystemExit("--device cuda: torch finds no GPU here. Leave the flag out, or run it where there is one.")
    report = Report(console, options.json, {"machine": tables.machine(options.threads), "options": _plain(options)})
    if options.quick:
        console.print("A quick run: it shows that the benchmark works, and its figures are not worth quoting.")
    console.print(tables.header(report.content["machine"]))
    names = {"auto": ["cpu", "cuda"] if gpu else ["cpu"]}.get(options.device, [options.device])
    with tempfile.TemporaryDirectory() as cache:
        # nothing compiled before, here and in the processes that this one starts
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        os.environ["TRITON_CACHE_DIR"] = str(Path(cache) / "triton")
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        for name in names:
            Bench(options, torch.device(name), report).run()
    if not gpu:
        console.print("The GPU's columns need a GPU: the same command fills them in where torch finds one.")
    report.save()


def _plain(options: Options) -> dict[str, Any]:
    return json.loads(json.dumps(vars(options), default=str))


if __name__ == "__main__":
    main()
