"""Run a sweep undisturbed, then again while it is struck at random moments, and hold the two against each other."""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

from . import blows, verify
from .blows import KINDS, Victim
from .machines import Group, Laboratory, wait_until

Kind = Literal[
    "worker",
    "trial",
    "raylet",
    "machine",
    "driver",
    "everything",
    "hang",
    "damage",
    "mlflow",
    "two-drivers",
]
WEIGHTS = {"worker": 4, "everything": 1, "two-drivers": 1}
"""How often a kind comes, against 2 for all others."""


@dataclass(frozen=True)
class Options:
    """Disturb a sweep on a cluster of several machines on this one, and verify what it leaves.

    The exit status is 0 only if everything is as in an undisturbed sweep.
    """

    kills: int = 50
    """Disturbances, at moments spread evenly at random over the sweep's work."""
    kinds: tuple[Kind, ...] = ()
    """Which kinds of them; by default all, that of the MLflow server only with ``--mlflow``."""
    seed: int = 0
    """Of the moments, the kinds and the victims."""
    nodes: int = 2
    """Machines with one CPU each, beside a head that has none."""
    mlflow: bool = False
    """Log to an MLflow server rather than to a SQLite file."""
    diffusion_steps: tuple[int, ...] = (2, 3, 5)
    """T of the trials, crossed with ``lambda_clip``."""
    lambda_clip: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    """λ-clip of the trials."""
    pack_trials: int = 1
    """Trials that train together, as one pack: those of one T."""
    steps: int = 4000
    """Gradient steps of a trial."""
    checkpoint_seconds: float = 3.0
    """Time between checkpoints."""
    folder: Path | None = None
    """Where everything is kept for looking at afterwards; by default a temporary folder."""
    json: Path | None = None
    """Write the figures here."""

    @property
    def sweep(self) -> tuple[object, ...]:
        """The flags of the sweep."""
        return (
            "--preset", "demo", "--tasks", "bandit-ring", "--rows", 500, "--batch-size", 32, "--seeds", 3,
            "--diffusion-steps", *self.diffusion_steps, "--lambda-clip", *self.lambda_clip, "--steps", self.steps,
            "--evaluate-every", max(1, self.steps // 5), "--episodes", 20,
            "--checkpoint-minutes", self.checkpoint_seconds / 60, *self.machines,
        )  # fmt: skip

    @property
    def machines(self) -> tuple[object, ...]:
        """The flags that a resume repeats."""
        return "--pack-trials", self.pack_trials


@dataclass
class Struck:
    """One disturbance."""

    kind: str
    at: float
    """Seconds since the sweep began."""
    progress: float
    """Of all work of the sweep, 0 to 1."""
    lost: list[float] = field(default_factory=list)
    """Seconds since the newest checkpoint, of each trial that was interrupted."""
    took: float = 0.0
    """Seconds that it took, with whatever was started again."""


@dataclass
class Disturbed:
    """A disturbed sweep: runs it to its end."""

    options: Options
    victim: Victim
    say: Callable[[str], None]
    struck: list[Struck] = field(default_factory=list)
    complete: dict[str, verify.Snapshot] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Strike whenever the work has come to the next moment, until the driver ends."""
        rng, victim = self.victim.rng, self.victim
        moments = sorted(rng.uniform(0.005, 0.95) for _ in range(self.options.kills))
        kinds = list(self.options.kinds or KINDS)
        if victim.lab.server is None and "mlflow" in kinds:
            kinds.remove("mlflow")
        # every kind comes, if there are moments enough
        chosen = [*kinds, *rng.choices(kinds, [WEIGHTS.get(kind, 2) for kind in kinds], k=len(moments))][: len(moments)]
        rng.shuffle(chosen)
        plan = list(zip(moments, chosen, strict=True))
        while victim.driver.running:
            self.look()
            if victim.mlflow_back and time.monotonic() > victim.mlflow_back:
                victim.mlflow_back = 0.0
                victim.lab.start_mlflow()
            if plan and self.progress() >= plan[0][0]:
                self.strike(plan.pop(0)[1])
            time.sleep(0.1)
        self.look()
        if plan:
            victim.faults.append(f"the sweep ended before {len(plan)} of its {len(moments)} disturbances")
        self.ended()
        if "could not be brought up to date" in victim.driver.output:
            # the MLflow server was away at the end, and the sweep said so: going on with it sends what is missing
            victim.driver = victim.resume()
            wait_until(lambda: not victim.driver.running, "MLflow to be brought up to date", 600)
            self.ended()

    def ended(self) -> None:
        """Take note of a driver that has not ended well."""
        if code := self.victim.driver.process.returncode:
            self.victim.faults.append(f"the last driver ended with {code}: {self.victim.driver.output[-2000:]}")

    def progress(self) -> float:
        """How much of all steps has been done, 0 to 1."""
        if not (self.victim.sweep / "sweep.json").exists():
            return 0.0
        statuses = [folder.status for folder in verify.folders(self.victim.sweep).values()]
        return sum(status["step"] for status in statuses) / (self.options.steps * len(statuses))

    def look(self) -> None:
        """Remember how the folder of a trial looks as soon as it is complete."""
        if (self.victim.sweep / "sweep.json").exists():
            for key, folder in verify.folders(self.victim.sweep).items():
                if key not in self.complete and folder.done:
                    self.complete[key] = verify.snapshot(folder)

    def strike(self, kind: str) -> None:
        """Do one of ``KINDS``, and see which trials it interrupted and what that cost."""
        before, now = self.victim.owners(), time.monotonic()
        # a damaged checkpoint costs what lies before it too
        costs = {key: self.since_checkpoint(key, 2 if kind == "damage" else 1) for key in before}
        record = Struck(kind, now - self.began, self.progress())
        KINDS[kind](self.victim)
        record.took = time.monotonic() - now
        time.sleep(1.0)
        after = self.victim.owners()
        for key, pid in before.items():
            if after.get(key) != pid and key not in self.complete:
                record.lost.append(costs[key])
        self.struck.append(record)
        self.say(
            f"{record.at:6.0f} s  {len(self.struck):3}  {kind:12} at {100 * record.progress:4.1f} %"
            f"  trials interrupted: {len(record.lost)}  {', '.join(f'{lost:.1f} s' for lost in record.lost)}"
        )
        for fault in self.victim.faults:
            self.say(f"fault: {fault}")
        time.sleep(self.victim.rng.choice([0, self.victim.rng.uniform(0, 4)]))

    def since_checkpoint(self, key: str, back: int) -> float:
        """Seconds since a trial's newest checkpoint or the one before, or since its worker began, if that was later."""
        folder = self.victim.sweep / "runs" / key
        saved = sorted(file.stat().st_mtime for file in folder.glob("checkpoint/step_*.pt"))
        return max(0.0, time.time() - max([(folder / "owner").stat().st_mtime, *saved[-back : len(saved) - back + 1]]))

    def too_dear(self) -> list[str]:
        """Interruptions that cost more than a checkpoint interval and two rows."""
        rows = [pd.read_csv(folder.path / "metrics.csv") for folder in verify.folders(self.victim.sweep).values()]
        slowest = min(table["steps_per_second"].min() for table in rows)
        row = max(1, self.options.steps // 50) / slowest
        return [
            f"{blow.kind} at {blow.at:.0f} s: {lost:.1f} s"
            for blow in self.struck
            for lost in blow.lost
            if lost > (2 if blow.kind == "damage" else 1) * (self.options.checkpoint_seconds + 2 * row)
        ]


def undisturbed(lab: Laboratory, options: Options) -> Group:
    """The reference sweep."""
    driver = lab.driver("--name", "reference", *options.sweep)
    wait_until(lambda: not driver.running, "the undisturbed sweep", 3600)
    if driver.process.returncode:
        raise RuntimeError(f"the undisturbed sweep failed:\n{driver.output}")
    return driver


def judged(work: Disturbed, lab: Laboratory, reference: Path) -> dict[str, Any]:
    """Every claim with what was found: an empty list where it holds."""
    sweep, victim = work.victim.sweep, work.victim
    expected = verify.folders(reference)
    found = verify.folders(sweep)
    different = [f"{key}: {text}" for key in expected for text in verify.differences(found[key], expected[key])]
    lost = [key for key, folder in found.items() if not folder.done]
    extra = sorted({path.name for path in (sweep / "runs").iterdir()} - found.keys())
    changed = [key for key, before in work.complete.items() if verify.snapshot(found[key]) != before]
    orphans = [f"{pid} {name}" for pid, name in _orphans(lab).items()]
    return {
        "per-seed raw returns, rows and final checkpoints bit-equal to the undisturbed sweep's": different,
        "trials lost": lost,
        "trials that no one asked for": extra,
        "trials repeated after completion": changed,
        "MLflow: each run once, with one unbroken curve": list(verify.mlflow_faults(lab.uri, sweep)),
        "more work lost at an interruption than a checkpoint interval and two rows": work.too_dear(),
        "processes left behind": orphans,
        "whatever else should not happen": victim.faults,
    }


def _orphans(lab: Laboratory) -> dict[int, str]:
    """What still lives of the sweep a while after its end, on the machines too."""
    names = blows.WORKER, blows.TRIAL, "ray::SynchronizationActor"

    def left() -> dict[int, str]:
        on_machines = {pid: name for group in lab.machines() for pid, name in group.processes().items()}
        return lab.orphans() | {pid: name for pid, name in on_machines.items() if name.startswith(names)}

    try:
        wait_until(lambda: not left(), "all processes of the sweep to end", 60)
    except TimeoutError:
        return left()
    return {}


def figures(work: Disturbed, options: Options, seconds: Sequence[float]) -> dict[str, Any]:
    """What is worth a record, in plain values."""
    lost = [cost for blow in work.struck for cost in blow.lost]
    statuses = [folder.status for folder in verify.folders(work.victim.sweep).values()]
    spent = Counter()
    for status in statuses:
        spent.update(status["seconds"])
    attempts = [folder.attempts for folder in verify.folders(work.victim.sweep).values()]
    return {
        "disturbances": len(work.struck),
        "by kind": dict(Counter(blow.kind for blow in work.struck)),
        "trials": len(statuses),
        "trials interrupted, in all": len(lost),
        "interruptions that one launch noted, per trial, most": max(record["interruptions"] for record in attempts),
        "seconds undisturbed": seconds[0],
        "seconds disturbed": seconds[1],
        "checkpoint interval, seconds": options.checkpoint_seconds,
        "work lost at an interruption, seconds, mean": sum(lost) / max(1, len(lost)),
        "work lost at an interruption, seconds, most": max(lost, default=0.0),
        "work done twice, seconds, all trials": spent["repeated"],
        "writing the run folder, share of learning": spent["checkpoint"] / max(spent["learning"], 1e-9),
    }


def main(options: Options) -> int:
    """Run it; returns the exit status."""
    console = Console(width=132)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then too
    root = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    lab = Laboratory(root.resolve(), options.nodes, options.mlflow)
    work, left = None, {}
    try:
        lab.start_cluster()
        lab.start_mlflow()
        console.print(
            f"cluster of {options.nodes + 1} nodes at {lab.address}; everything is in {root}", highlight=False
        )
        start = time.monotonic()
        undisturbed(lab, options)
        seconds = [time.monotonic() - start]
        console.print(f"undisturbed: {seconds[0]:.0f} s", highlight=False)
        driver = lab.driver("--name", "disturbed", *options.sweep)
        victim = Victim(lab, lab.results / "disturbed", driver, options.machines, rng=random.Random(options.seed))
        work = Disturbed(
            options, victim, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
        )
        work.run()
        seconds.append(time.monotonic() - work.began)
        claims = judged(work, lab, lab.results / "reference")
    finally:
        left = lab.close()
    claims["processes left behind"] += [f"{pid} {name}" for pid, name in left.items()]
    numbers = figures(work, options, seconds)
    show(console, claims, numbers)
    if options.json is not None:
        strikes = [asdict(blow) for blow in work.struck]
        command = ["python", "-m", "tests.chaos", *sys.argv[1:]]
        record = {"command": command, "figures": numbers, "claims": claims, "disturbances": strikes}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if any(claims.values()):
        return 1
    if options.folder is None:
        shutil.rmtree(root)
    return 0


def show(console: Console, claims: dict[str, list[str]], numbers: dict[str, Any]) -> None:
    """Print both as tables."""
    table = Table("figure", "value")
    for name, value in numbers.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        table.add_row(name, f"{shown:.3g}" if isinstance(shown, float) else str(shown))
    console.print(table)
    table = Table("claim", "holds", "found")
    for claim, found in claims.items():
        table.add_row(claim, "no" if found else "yes", "\n".join(found[:20]) or "0")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
