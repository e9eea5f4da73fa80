"""Where the first seconds of a sweep go: when each of its processes begins, and the processor time that each takes.

python -m tests.benchmarks.start [ROUNDS]

A sweep of one short trial on a Ray cluster of its own, in an empty home. Two references in the same run: a process that imports
what a trial's worker cannot do without, torch and Ray Train; and the least program in which Tune starts Train and Train a worker,
which imports torch and writes a file. Linux only: processes are found in ``/proc``.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SWEEP = (
    "--preset", "demo", "--tasks", "bandit-ring", "--steps", "100", "--seeds", "1", "--address", "local", "--quiet",
)  # fmt: skip
BARE = """
import sys
from pathlib import Path
import ray
from ray import tune

def work(config):
    import torch
    torch.ones(2, 2) @ torch.ones(2, 2)
    Path(config["folder"], "first").touch()

def drive(config):
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    scaling = ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1})
    run = ray.train.RunConfig(name="train", storage_path=config["folder"])
    DataParallelTrainer(work, train_loop_config=config, scaling_config=scaling, run_config=run).fit()
    tune.report({"done": 1})

folder = sys.argv[1]
ray.init(address="local", include_dashboard=False, log_to_driver=False)
run = tune.RunConfig(name="tune", storage_path=folder, verbose=0)
tune.Tuner(tune.with_resources(drive, {"CPU": 0.01}), param_space={"folder": folder}, run_config=run).fit()
"""
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass
class Process:
    """A process of the sweep."""

    name: str
    begun: float
    """Seconds after the command."""
    cpu: float = 0.0
    """Seconds of a processor so far."""


def living(session: int) -> Iterator[tuple[int, str, float]]:
    """(id, name, processor seconds) of every process of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                name = " ".join(
                    Path(word.decode(errors="replace")).name for word in words[:3] if not word.startswith(b"-")
                )
                yield int(folder.name), name, (int(fields[11]) + int(fields[12])) / _TICKS
        except (OSError, ValueError, IndexError):  # it ended while it was looked at
            continue


def reference() -> float:
    """Seconds that the imports take."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch, ray.train, ray.tune"], check=True)
    return time.monotonic() - begun


def bare(folder: Path) -> float:
    """Seconds until the worker of the least program has written its file."""
    begun, first = time.monotonic(), None
    with _run([sys.executable, "-c", BARE, str(folder)], folder) as program:
        while program.poll() is None:
            if first is None and (folder / "first").exists():
                first = time.monotonic() - begun
            time.sleep(0.1)
    if program.returncode or first is None:
        raise RuntimeError((folder / "log").read_text(errors="replace"))
    return first


def start(folder: Path) -> tuple[float, float, list[Process], float]:
    """One sweep: seconds to its first row, and to its end; its processes; processor seconds up to the first row."""
    command = [sys.executable, str(ROOT / "tune" / "sweep_d4rl.py"), *SWEEP, "--results", str(folder / "results")]
    begun = time.monotonic()
    found: dict[int, Process] = {}
    row, spent = None, 0.0
    with _run(command, folder) as sweep:
        while sweep.poll() is None:
            now = time.monotonic() - begun
            for identity, name, cpu in living(sweep.pid):
                process = found.setdefault(identity, Process(name, now))
                process.cpu = cpu
                if name.startswith("ray::"):  # it says what it is only after a while
                    process.name = name
            rows = [file for file in folder.glob("results/*/runs/*/metrics.csv") if file.read_bytes().count(b"\n") > 1]
            if row is None and rows:
                row, spent = now, sum(process.cpu for process in found.values())
            time.sleep(0.2)
    if sweep.returncode or row is None:
        raise RuntimeError((folder / "log").read_text(errors="replace"))
    return row, time.monotonic() - begun, list(found.values()), spent


def _run(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A program in a session of its own, whose home is ``folder`` and whose words go to ``log`` there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "DIFFCPS_"))}
    own |= {"HOME": str(folder), "RAY_TMPDIR": str(folder), "DIFFCPS_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    own |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=own, stdout=log, stderr=log, start_new_session=True)


def _folder() -> tempfile.TemporaryDirectory[str]:
    # a short path: Ray's sockets lie in it
    return tempfile.TemporaryDirectory(prefix="start-", dir="/tmp", ignore_cleanup_errors=True)


def main() -> None:
    """Print a table for each round."""
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        imports = reference()
        with _folder() as folder:
            least = bare(Path(folder))
        with _folder() as folder:
            row, end, processes, spent = start(Path(folder))
        print(f"round {number + 1}: importing torch and Ray {imports:.1f} s")
        print(f"  the least program's file after {least:.1f} s")
        print(f"  first row after {row:.1f} s ({row / imports:.1f} ×), with {spent:.1f} s of a processor")
        print(
            f"  end after {end:.1f} s ({end / imports:.1f} ×), with {sum(each.cpu for each in processes):.1f} s of a processor"
        )
        for process in sorted(processes, key=lambda each: each.begun):
            print(
                f"    from {process.begun:5.1f} s  {process.cpu:5.1f} s of a processor  {process.name[:60]}", flush=True
            )


if __name__ == "__main__":
    main()
