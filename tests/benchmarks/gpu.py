"""The first thing to run on a GPU: what one pack alone reaches, and what six processes that share the card do.

    python -m tests.benchmarks.gpu [--minutes 4] [--json FILE]
    python -m tests.benchmarks.gpu --device cpu --quick        # shows that it works, in half a minute

Every cell (engine, K, precision, sizes) is a process of its own. Processes of a wave are built side by side, because compiling
takes a minute each, and then measured one after the other, while the rest wait. So a cell that fails loses no other. Then
six processes with the same compiled step learn at the same time, first without MPS and then with it. The most valuable
comes first; what there is no time for is listed. The JSON file is rewritten after every measurement.
"""

import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import tyro
from rich.console import Console
from rich.table import Table

from diffcps.sweep import mps
from diffcps.tasks.registry import get_task
from diffcps.text import first_line
from diffcps.training.process import prepare_process

from . import flops, measure, model, tables
from .bench import Report
from .measure import Variant
from .projection import hours, project

HOPPER, ANTMAZE = "hopper-medium-v2", "antmaze-medium-diverse-v0"
STARTING, BUILDING, SHARING, LAST = 15.0, 100.0, 40.0, 5.0
"""Seconds until processes have started; until they have compiled side by side, where that has not been timed yet; until those
that share the card, whose step is compiled already, have learned; and for the tables."""
TURNS = 3


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Without a GPU only `cpu` works; its figures are not those of a GPU."""
    minutes: float = 4.0
    """Be done in about this time."""
    seconds: float = 2.0
    """Of each measurement."""
    trials: int = 6
    """Processes that share the card."""
    quick: bool = False
    """A little of all: shows that the command works; its figures are not worth quoting."""
    json: Path | None = None
    """Write everything measured to this file."""


def waves(options: Options) -> list[list[Variant]]:
    """What is built side by side, the most valuable wave first, and in each what is measured first."""
    if options.quick:
        return [[Variant(HOPPER, 1, "fp32", "eager")]]

    def both(task: str, sizes: Sequence[int], precision: str) -> list[Variant]:
        return [Variant(task, k, precision, engine) for k in sizes for engine in ("compiled", "graph")]

    return [
        [*both(HOPPER, (5, 75, 15), "fp32"), *both(HOPPER, (75, 5), "bf16")],
        [*both(HOPPER, (75, 5), "tf32"), *both(ANTMAZE, (75, 5), "fp32"), *both(HOPPER, (15,), "bf16")],
        [*both(HOPPER, (15,), "tf32"), *both(ANTMAZE, (75, 5), "bf16")],
    ]


# In a process of its own ----------------------------------------------------------------------------------------------


def serve(variant: Variant, device: str, pipe: Connection) -> None:
    """Build a learner, say how it went, and then measure whenever asked to, until nobody listens."""
    try:
        prepare_process(1, torch.device(device))
        start = time.perf_counter()
        learner = measure.build_learner(variant, measure.made_up_data(get_task(variant.task)), torch.device(device))
        step = get_task(variant.task).settings["policy_freq"]
        learner.update(step)
        measure.synchronise(torch.device(device))
        engine = learner.engine
        pipe.send({"ran_as": engine.kind, "notes": list(engine.notes), "build_seconds": time.perf_counter() - start})
        while True:
            pipe.send({"turns": turns(learner, step, *pipe.recv())})
    except EOFError:
        return
    except Exception as error:  # whatever a compiler or a driver may throw: the other cells go on
        pipe.send({"failed": f"{type(error).__name__}: {first_line(error)}"})


def turns(learner: Any, step: int, begin: float, seconds: float) -> list[float]:
    """Member-steps per second in turns of ``seconds / TURNS`` each, from the time ``begin`` on, in steps of ``step``."""
    device = learner.work.key.device

    def take(count: int) -> float:
        start = time.perf_counter()
        learner.update(count)
        measure.synchronise(device)
        return time.perf_counter() - start

    chunk = step
    while (taken := take(chunk)) < 0.02 and time.time() < begin:  # beside others, the machine is as busy as it will be
        chunk *= 2
    chunk = max(step, round(chunk * 0.05 / taken / step) * step)
    while time.time() < begin:
        take(chunk)
    found = []
    for turn in range(1, TURNS + 1):
        done, spent = 0, 0.0
        while done == 0 or time.time() < begin + turn * seconds / TURNS:
            spent += take(chunk)
            done += chunk
        found.append(done * learner.members / spent)
    return found


class Cell:
    """A process that trains one pack, when asked to."""

    def __init__(self, variant: Variant, device: str, environment: Mapping[str, str] | None = None) -> None:
        self.variant, self.row = variant, measure.as_row(variant)
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(variant, device, other))
        with mock.patch.dict(os.environ, environment or {}):
            self.process.start()
        other.close()

    def answer(self, until: float) -> dict[str, Any]:
        """What it says before ``until`` (of ``time.monotonic``); ``failed`` is why it says nothing more."""
        try:
            if not self.pipe.poll(max(0.0, until - time.monotonic())):
                return {"failed": "not done in time"}
            said: dict[str, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5.0)
            return {"failed": f"the process ended with status {self.process.exitcode}"}
        return said

    def ready(self, until: float) -> bool:
        """Whether it is built; the row then knows how, else why not."""
        self.row |= self.answer(until)
        return "failed" not in self.row

    def ask(self, begin: float, seconds: float) -> None:
        """Measure from the time ``begin`` on."""
        with contextlib.suppress(OSError):  # it has died: `answer` says so
            self.pipe.send((begin, seconds))

    def end(self) -> None:
        """End the process, which by now waits, hangs, or is not needed."""
        self.pipe.close()
        self.process.join(2.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def end(cells: Sequence[Cell]) -> None:
    """All of them at the same time."""
    for cell in cells:
        cell.pipe.close()
    for cell in cells:
        cell.end()


# The measurements -----------------------------------------------------------------------------------------------------


def predicted(variant: Variant) -> float:
    """Member-steps per second by the model."""
    return model.rate(measure.settings(get_task(variant.task), variant.precision, variant.members))


class First:
    """What is measured, while there is time."""

    def __init__(self, options: Options, report: Report) -> None:
        if options.quick:
            options = replace(options, trials=2, seconds=0.3)
        self.options, self.report = options, report
        self.deadline = time.monotonic() + 60.0 * options.minutes - LAST
        self.building = 0.0 if options.quick else BUILDING
        self.each = options.seconds + 1.0
        """Seconds of a measurement."""

    def run(self) -> None:
        """All of it, then what it means for the paper's Table 1."""
        first, *others = waves(self.options)
        self.wave(first)
        with tempfile.TemporaryDirectory(prefix="gpu-", dir="/tmp") as folder:
            self.share(self.as_it_ran(first[0]), Path(folder))
        for wave in others:
            self.wave(wave)
        self.project()

    def as_it_ran(self, variant: Variant) -> Variant:
        """The same, with the next best engine if this one did not work alone."""
        same = {"task": variant.task, "members": variant.members, "precision": variant.precision}
        ran = {row["ran_as"] for row in self.report.content.get("steps", []) if row.items() >= same.items()}
        return replace(
            variant, engine=next((kind for kind in (variant.engine, "graph", "eager") if kind in ran), "eager")
        )

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def leave_out(self, variant: Variant, reason: str, **more: Any) -> None:
        self.report.add("left_out", measure.as_row(variant, reason=reason, **more))

    def wave(self, variants: Sequence[Variant]) -> None:
        """Build them side by side, then measure one after the other, those that are ready."""
        kept = self.affordable(variants)
        for variant in variants:
            if variant not in kept:
                self.leave_out(variant, "no time left")
        start = time.monotonic()
        # as many compilers in all as there are cores
        threads = max(1, tables.cores() // max(1, sum(each.engine == "compiled" for each in kept)))
        given = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        cells = [Cell(variant, self.options.device, given) for variant in kept]
        try:
            for variant in kept:  # counted while they are built; one that cannot be counted says so itself
                with contextlib.suppress(Exception):
                    predicted(variant)
            # one that hangs does not take the others' time
            latest = min(self.deadline - self.each * len(kept), start + 1.5 * BUILDING)
            ready = [cell for cell in cells if self.checked(cell, latest)]
            if any(cell.variant.engine == "compiled" for cell in ready):
                self.building = time.monotonic() - start
            for cell in ready:
                self.alone(cell)
        finally:
            end(cells)

    def affordable(self, variants: Sequence[Variant]) -> list[Variant]:
        """Those that there is time for: first of all those that need not be compiled."""
        measuring = self.each * len(variants)
        kept = [each for each in variants if each.engine != "compiled" or self.left() > self.building + measuring]
        starting = 0.0 if self.options.quick else STARTING
        return kept[: max(0, int((self.left() - starting) / self.each))]

    def checked(self, cell: Cell, until: float) -> bool:
        """Whether a cell is ready by then; else it is ended, and reported."""
        if cell.ready(until):
            return True
        self.report.add("failed", cell.row)
        cell.end()
        return False

    def alone(self, cell: Cell) -> None:
        """The rate of one cell, while the others wait."""
        cell.ask(time.time() + 0.3, self.options.seconds)
        said = cell.answer(min(self.deadline, time.monotonic() + 10.0 * self.options.seconds + 20.0))
        if "failed" in said:
            self.report.add("failed", cell.row | said)
            return
        variant, task = cell.variant, get_task(cell.variant.task)
        work = flops.flops_per_member_step(measure.settings(task), task.observation_size, task.action_size)
        rate = max(said["turns"])
        self.report.add("steps", cell.row | said | {
            "device": self.options.device, "rate": rate, "median": statistics.median(said["turns"]),
            "gflops": rate * work / 1e9, "model_rate": predicted(variant),
        })  # fmt: skip

    def share(self, variant: Variant, folder: Path) -> None:
        """Several processes with the same step at the same time: taking turns, and with MPS."""
        if self.left() < (0.0 if self.options.quick else SHARING):
            self.leave_out(variant, "no time left", trials=self.options.trials)
            return
        nobody = {mps.PIPES: str(folder)}  # no daemon listens there
        with mps.shared(folder) as sharing:
            ways: dict[str, Mapping[str, str]] = {"in turns": nobody}
            if sharing.warning:
                self.leave_out(variant, sharing.warning, trials=self.options.trials)
            else:
                ways["MPS"] = sharing.variables
            cells = {
                how: [Cell(variant, self.options.device, given) for _ in range(self.options.trials)]
                for how, given in ways.items()
            }
            try:
                latest = self.deadline - len(ways) * (self.options.seconds + 4.0)
                ready = {how: [cell for cell in group if self.checked(cell, latest)] for how, group in cells.items()}
                for how, group in ready.items():
                    self.together(how, group)
            finally:
                end([cell for group in cells.values() for cell in group])

    def together(self, how: str, cells: Sequence[Cell]) -> None:
        """The rates of cells that learn at the same time."""
        if len(cells) < self.options.trials:  # fewer would be another measurement
            return
        begin = time.time() + 1.5
        for cell in cells:
            cell.ask(begin, self.options.seconds)
        until = min(self.deadline, time.monotonic() + 10.0 * self.options.seconds + 20.0)
        said = [cell.answer(until) for cell in cells]
        if failures := [answer["failed"] for answer in said if "failed" in answer]:
            self.report.add("failed", cells[0].row | {"failed": failures[0], "how": how})
            return
        each = [statistics.mean(answer["turns"]) for answer in said]
        own = asdict(cells[0].variant).items()
        alone = [statistics.mean(row["turns"]) for row in self.report.content.get("steps", []) if row.items() >= own]
        self.report.add("sharing", measure.as_row(
            cells[0].variant, how=how, ran_as=cells[0].row["ran_as"], trials=len(cells), each=each, rate=sum(each),
            times_alone=sum(each) / alone[0] if alone else None,
        ))  # fmt: skip

    def project(self) -> None:
        """Hours of Table 1 at each precision and pack size, and with packs that share the card."""
        found = project(self.report.content.get("steps", []))
        for row in self.report.content.get("sharing", []):
            found.append({
                "device": self.options.device, "program": f"{row['trials']} packs at once, {row['how']}",
                "precision": row["precision"], "members": row["members"], "hours": hours({row["task"]: row["rate"]}),
                "measured": 1,
            })  # fmt: skip
        self.report.content["projection"] = found
        self.report.save()


# What a person sees ---------------------------------------------------------------------------------------------------


def steps(rows: Sequence[dict[str, Any]], device: str) -> Table:
    """A row for each cell, with the model's prediction beside."""
    caption = "Member-steps per second, best of three turns. The model is of a step captured on an H200 (see model.py)."
    table = Table(title=f"One pack alone ({device})", caption=caption, title_justify="left", caption_justify="left")
    for column in ("task", "engine", "precision"):
        table.add_column(column)
    for column in ("K", "measured", "median", "model", "measured to model", "GFLOP/s", "built, s"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: (row["task"], row["precision"], row["members"], row["engine"])):
        engine = row["engine"] if row["engine"] == row["ran_as"] else f"{row['ran_as']} (not {row['engine']})"
        table.add_row(
            row["task"], engine, row["precision"], str(row["members"]), f"{row['rate']:,.0f}", f"{row['median']:,.0f}",
            f"{row['model_rate']:,.0f}", f"{row['rate'] / row['model_rate']:.2f}", f"{row['gflops']:,.0f}",
            f"{row['build_seconds']:.0f}",
        )  # fmt: skip
    return table


def sharing(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each way to share the card."""
    table = Table(
        "processes", "task", "engine", "precision", title="Several processes on the card", title_justify="left"
    )
    for column in ("K", "member-steps/s of each", "of all", "times one alone"):
        table.add_column(column, justify="right")
    for row in rows:
        times = f"{row['times_alone']:.2f}" if row["times_alone"] else ""
        table.add_row(
            f"{row['trials']}, {row['how']}", row["task"], row["ran_as"], row["precision"], str(row["members"]),
            f"{min(row['each']):,.0f} to {max(row['each']):,.0f}", f"{row['rate']:,.0f}", times,
        )  # fmt: skip
    return table


def show(content: dict[str, Any], device: str, console: Console) -> None:
    """Print what was found, and what was not."""
    console.print(steps(content.get("steps", []), device))
    console.print(sharing(content.get("sharing", [])))
    console.print(tables.projection(content["projection"]))
    for row in [row for row in content.get("steps", []) if row["notes"]]:
        console.print(f"{_name(row)}: {'; '.join(row['notes'])}", markup=False)
    for row in content.get("failed", []):
        console.print(f"failed: {_name(row)}: {row['failed']}", markup=False)
    for row in content.get("left_out", []):
        console.print(f"left out: {_name(row)}: {row['reason']}", markup=False)


def _name(row: Mapping[str, Any]) -> str:
    processes = f"{row['trials']} at once, " if "trials" in row else ""
    return f"{processes}{row['task']} K={row['members']} {row['precision']} {row['engine']}"


def main(options: Options) -> None:
    """Measure, print and write."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here. --device cpu --quick shows that the command works.")
    report = Report(console, options.json, {"machine": tables.machine(1)})
    console.print(tables.header(report.content["machine"]))
    with tempfile.TemporaryDirectory() as cache:
        # nothing compiled before; processes with the same step share what one of them has compiled
        fresh = {
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "TRITON_CACHE_DIR": str(Path(cache) / "triton"),
            "OMP_NUM_THREADS": "1",
        }
        with mock.patch.dict(os.environ, fresh):
            First(options, report).run()
    show(report.content, options.device, console)


if __name__ == "__main__":
    main(tyro.cli(Options))
