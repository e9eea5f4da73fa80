"""Where the first seconds of a sweep go: when each of its processes begins, and the processor time that each takes.

python -m tests.benchmarks.start [ROUNDS]

A sweep of one short trial on a Ray cluster of its own, in an empty home. The reference, in the same run, is a process that
imports what a trial's worker cannot do without, torch and Ray Train. Linux only: processes are found in ``/proc``.
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


def start(folder: Path) -> tuple[float, float, list[Process], float]:
    """One sweep: seconds to its first row, and to its end; its processes; processor seconds up to the first row."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "DIFFCPS_"))}
    own |= {"HOME": str(folder), "RAY_TMPDIR": str(folder), "DIFFCPS_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tune" / "sweep_d4rl.py"), *SWEEP, "--results", str(folder / "results")]
    begun = time.monotonic()
    with (folder / "log").open("wb") as log:
        sweep = subprocess.Popen(command, cwd=ROOT, env=own, stdout=log, stderr=log, start_new_session=True)
    found: dict[int, Process] = {}
    row, spent = None, 0.0
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


def main() -> None:
    """Print a table for each round."""
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        imports = reference()
        with tempfile.TemporaryDirectory(prefix="start-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            row, end, processes, spent = start(Path(folder))
        print(f"round {number + 1}: importing torch and Ray {imports:.1f} s")
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
