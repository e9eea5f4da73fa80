"""How much of a cluster's time a sweep uses, and what a thousand trials cost the machine that hands them out.

python -m tests.benchmarks.scheduling                                     # real trials of a minute, four at once
python -m tests.benchmarks.scheduling --workers none --nodes 8 --cpus 4 --trials 128    # many nodes, without workers
python -m tests.benchmarks.scheduling --workers none --nodes 8 --cpus 1 --trials 1000 --seconds 0

What is real: the sweep's own ``execute`` with Tune, the searcher and the room for trials, on a Ray cluster of several
raylets; with ``--workers real`` also each trial's driver with Train's controller, and a worker that imports all that a trial
needs. What is not: all nodes are on this machine and share its cores, and a trial's work is sleep. With ``--workers
none`` a trial is its driver alone, which sleeps and writes what a trial leaves.
"""

import functools
import io
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from diffcps.config import RunConfig
from diffcps.files import read_json, write_json
from diffcps.runs.flags import MachineFlags
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import OBJECTIVE, Plan
from diffcps.storage.location import Location, opened
from diffcps.sweep import cluster as clusters
from diffcps.sweep.display import Board
from diffcps.sweep.driver import Job, drive
from diffcps.sweep.resources import Resources
from diffcps.sweep.tuner import Interrupts, execute

SCORE = 42.0
SIGN = "work.json"


@dataclass(frozen=True)
class Options:
    """Run a sweep whose trials sleep, and print how long its cluster stood idle."""

    workers: Literal["real", "none"] = "real"
    """Whether a trial has a Ray Train worker, of a gigabyte and eight processes, or only its driver."""
    nodes: int = 4
    """Machines, beside a head that has no CPUs for trials."""
    cpus: int = 1
    """CPUs of each: trials that it holds at once."""
    trials: int = 12
    """Trials of the sweep."""
    seconds: float = 60.0
    """What a trial takes once its worker runs."""
    json: Path | None = None
    """Write the figures here."""


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    slots: int
    """Trials at once."""
    trials: int
    seconds: float
    """Of the whole sweep."""
    ideal: float
    """Of one that starts every trial at the very moment at which there is room for it."""
    efficiency: float
    """Ideal over actual."""
    steady: float
    """The same without the start of the first trials and the end of the last, which do not grow with their number."""
    first: float
    """Seconds to the first trial's start."""
    gap_mean: float
    """Seconds from a trial's end to the start of the one in its place."""
    gap_to_worker: float
    """Mean of the part of it until the worker's first line; after that it imports what a trial needs."""
    start_cpu: float
    """Mean CPU seconds of the process that works, from its birth to the trial's start; a driver's of all its trials."""
    gap_most: float
    gap_first_tenth: float
    """Mean of the first tenth of the gaps; beside that of the last tenth it tells whether they grow with the trials."""
    gap_last_tenth: float
    driver_before: float
    """Memory of the sweep's process alone, MiB (proportional set size), before its first trial."""
    driver_after: float
    driver_cpu: float
    """CPU seconds of the sweep's process a trial."""
    all_cpu: float
    """CPU seconds of the whole machine a trial, other programs' included."""


def sleep_in_worker(loop: dict[str, Any], seconds: float) -> bool:
    """In place of a trial's work: import what it needs, as it does, then sleep; its process may then run another."""
    entered = time.time()
    from diffcps.sweep import worker  # noqa: F401

    (config,) = map(RunConfig.from_dict, loop["configs"])
    _sleep(loop["location"].run_folder(config.key), config, seconds, entered)
    return True


def sleep_in_driver(point: dict[str, Any], job: Job, seconds: float) -> None:
    """In place of a trial's driver and its workers."""
    from ray import tune

    entered = time.time()
    config = job.plan.trial(point)
    _sleep(job.location.run_folder(config.key), config, seconds, entered)
    tune.report({"step": config.steps, OBJECTIVE: SCORE, "best": SCORE})


def _sleep(folder: RunFolder, config: RunConfig, seconds: float, entered: float) -> None:
    folder.create(config)
    begun, cpu = time.time(), time.process_time()
    status = {"step": 0, "steps": config.steps, "updated": begun}
    folder.write_status(status | {"state": "running"})
    time.sleep(seconds)
    # first the sign, for a trial that is complete may be killed at any moment
    write_json(folder.path / SIGN, [entered, begun, time.time(), cpu])
    folder.write_status(status | {"state": "complete", "step": config.steps, "last": SCORE, "best": SCORE})


def measure(options: Options, root: Path) -> tuple[Figures, Plan]:
    """Run the sweep in ``root`` on a cluster of its own."""
    from ray.cluster_utils import Cluster

    plan = _plan(options.trials)
    location = Location(root / plan.name, sweep=plan.name)
    (location.folder / "runs").mkdir(parents=True)
    write_json(location.folder / "sweep.json", plan.to_dict() | {"command": sys.argv})
    run = functools.partial(sleep_in_driver, seconds=options.seconds)
    if options.workers == "real":
        run = functools.partial(drive, work=functools.partial(sleep_in_worker, seconds=options.seconds))
    memory = 100_000_000
    head = {"num_cpus": 0, "resources": {clusters.DRIVERS: 1}, "object_store_memory": memory}
    machines = Cluster(True, head_node_args=head | {"include_dashboard": False})
    try:
        for _ in range(options.nodes):
            machines.add_node(num_cpus=options.cpus, object_store_memory=memory)
        machines.wait_for_nodes()
        with clusters.connected(machines.address) as cluster, Interrupts() as interrupts:
            resources = Resources.fitting(cluster, MachineFlags())
            slots = options.nodes * options.cpus
            before, cpu, everything = _memory(), time.process_time(), _machine_cpu()
            begun = time.time()
            console = Console(file=io.StringIO(), width=120)
            with Board(plan, location, console):
                execute(Job(plan, location, resources), interrupts, run)
            ended = time.time()
            cpu, everything = time.process_time() - cpu, _machine_cpu() - everything
            after = _memory()
    finally:
        machines.shutdown()
    times = [read_json(location.run_folder(trial.key).path / SIGN) for trial in plan.trials]
    entered, starts, ends, cpus = (sorted(column) for column in zip(*times, strict=True))
    gaps = [start - end for start, end in zip(starts[slots:], ends, strict=False)] or [0.0]
    reached = [start - end for start, end in zip(entered[slots:], ends, strict=False)] or [0.0]
    tenth = max(1, len(gaps) // 10)
    waves = -(-options.trials // slots)
    ideal = waves * options.seconds
    # a trial and the gap after it, against the trial alone
    steady = options.seconds / (options.seconds + statistics.fmean(gaps))
    return Figures(
        slots, options.trials, ended - begun, ideal, ideal / (ended - begun), steady, starts[0] - begun,
        statistics.fmean(gaps), statistics.fmean(reached), statistics.fmean(cpus), max(gaps), statistics.fmean(gaps[:tenth]),
        statistics.fmean(gaps[-tenth:]), before, after, cpu / options.trials, everything / options.trials,
    ), plan  # fmt: skip


def look(plan: Plan, root: Path) -> dict[str, float]:
    """Seconds that a person waits for a look at the sweep of ``plan`` below ``root``, its trials' rows made up."""
    from diffcps import report
    from tests import run_folders

    seconds = {}
    for trial in plan.trials:
        run_folders.write(root / plan.name, trial)
    begun = time.perf_counter()
    with opened(str(root)) as results:
        results.find(plan.name)
    seconds["read the sweep's state"] = time.perf_counter() - begun
    begun = time.perf_counter()
    built = report.build(root / plan.name)
    seconds["build the report"] = time.perf_counter() - begun
    begun = time.perf_counter()
    built.write()
    seconds["write the report with its figures"] = time.perf_counter() - begun
    return seconds


def _plan(trials: int) -> Plan:
    from tests import run_folders

    configs = tuple(run_folders.config(seeds=1, target_kl=0.01 + 1e-5 * index) for index in range(trials))
    return Plan("scheduling", "paper", configs)


def _memory() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not say")


def _machine_cpu() -> float:
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main(options: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        # Ray gives its workers the lowest priority: on a machine with other work that would be what is measured
        os.environ |= {"DIFFCPS_HOME": f"{folder}/home", "RAY_TMPDIR": folder, "RAY_worker_niceness": "0"}
        os.environ.pop("RAY_ADDRESS", None)
        figures, plan = measure(options, Path(folder) / "results")
        found: dict[str, Any] = asdict(figures)
        if options.trials >= 100:
            found["look"] = look(plan, Path(folder) / "results")
    print(json.dumps(found, indent=2))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main(tyro.cli(Options))
