"""What may happen to a sweep: each function does it once, at a moment that somebody else has chosen."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffcps.runs.folder import RunFolder

from .machines import Group, Laboratory, send, wait_until

WORKER, TRIAL = "ray::RayTrainWorker", "ray::ImplicitFunc"
PATIENCE = 240.0
"""Seconds for the cluster to get over one blow."""


@dataclass
class Victim:
    """A sweep that is being run in a laboratory, by a driver that can be started again."""

    lab: Laboratory
    sweep: Path
    driver: Group
    machines: tuple[object, ...]
    """The flags that a resume repeats."""
    rng: random.Random
    faults: list[str] = field(default_factory=list)
    """What should not have happened, in sentences."""
    mlflow_back: float = 0.0
    """``time.monotonic()`` at which the MLflow server is to be started again."""

    def resume(self) -> Group:
        """Start a driver that goes on with the sweep; the MLflow server is there, for without it it would refuse."""
        self.lab.start_mlflow()
        return self.lab.driver("--resume", self.sweep.name, *self.machines)

    def owners(self) -> dict[str, int]:
        """The trials that are being worked on, with the process that does so."""
        alive = set(self.lab.called(WORKER))
        found = {}
        for file in self.sweep.glob("runs/*/owner"):
            words = file.read_text().split()
            pid = int(words[2]) if len(words) > 2 else 0
            if pid in alive and RunFolder(file.parent).status["state"] == "running":
                found[file.parent.name] = pid
        return found

    def one_of(self, name: str) -> int:
        """A living process of that name, which may first have to be waited for."""
        return self.rng.choice(wait_until(lambda: self.lab.called(name), f"a process {name}", PATIENCE))

    def trial(self) -> tuple[RunFolder, int]:
        """A trial that is being worked on, and the worker's process."""
        owners = wait_until(self.owners, "a worker that trains", PATIENCE)
        key = self.rng.choice(sorted(owners))
        return RunFolder(self.sweep / "runs" / key), owners[key]


def worker(victim: Victim) -> None:
    """SIGKILL of a Ray Train worker, wherever it is: starting, learning, judging, writing."""
    send(victim.one_of(WORKER), signal.SIGKILL)


def trial(victim: Victim) -> None:
    """SIGKILL of the process in which Ray Tune drives a trial."""
    send(victim.one_of(TRIAL), signal.SIGKILL)


def raylet(victim: Victim) -> None:
    """SIGKILL of a node's raylet; its workers must end by themselves. Then another node joins."""
    node = victim.rng.choice(victim.lab.nodes)
    for pid in node.called("raylet"):
        send(pid, signal.SIGKILL)
    try:
        wait_until(lambda: not any("ray::" in name for name in node.processes().values()), "a dead node's workers", 60)
    except TimeoutError:
        victim.faults.append(f"processes outlived their raylet: {node.processes()}")
    _replace(victim, node)


def machine(victim: Victim) -> None:
    """A node loses its power: raylet, workers and all at once. Then another node joins."""
    _replace(victim, victim.rng.choice(victim.lab.nodes))


def _replace(victim: Victim, node: Group) -> None:
    node.kill()
    victim.lab.nodes.remove(node)
    time.sleep(victim.rng.uniform(0, 5))
    victim.lab.start_cluster()


def driver(victim: Victim) -> None:
    """SIGKILL of the driver, and the sweep resumed at once or a little later."""
    victim.driver.kill()
    time.sleep(victim.rng.choice([0, victim.rng.uniform(0, 5)]))
    victim.driver = victim.resume()


def everything(victim: Victim) -> None:
    """Driver, all machines and the MLflow server lose their power together."""
    for group in (victim.driver, *victim.lab.machines(), *filter(None, [victim.lab.server])):
        for pid in group.processes():
            send(pid, signal.SIGKILL)
    victim.driver.kill()
    victim.lab.kill_cluster()
    victim.lab.start_cluster()
    victim.driver = victim.resume()


def hang(victim: Victim) -> None:
    """SIGSTOP of a worker. Now and then it comes to life again just when Ray has given it up, or is about to."""
    folder, pid = victim.trial()
    send(pid, signal.SIGSTOP)
    if victim.rng.random() < 0.5:
        time.sleep(victim.rng.uniform(8, 16))
        send(pid, signal.SIGCONT)
        return
    try:
        wait_until(lambda: pid not in victim.owners().values(), "a hung worker's end", PATIENCE)
    except TimeoutError as error:
        victim.faults.append(f"{folder.path.name}: {error}")


def damage(victim: Victim) -> None:
    """A worker is killed and its newest checkpoint is cut in half, or some of its bits are flipped."""
    folder, pid = victim.trial()
    send(pid, signal.SIGSTOP)  # so that it does not write another one meanwhile
    saved = sorted((folder.path / "checkpoint").glob("step_*.pt"))
    if saved:
        content = bytearray(saved[-1].read_bytes())
        if victim.rng.random() < 0.5:
            content = content[: len(content) // 2]
        else:
            for place in victim.rng.sample(range(len(content)), 3):
                content[place] ^= 1 << victim.rng.randrange(8)
        saved[-1].write_bytes(content)
    send(pid, signal.SIGKILL)


def mlflow(victim: Victim) -> None:
    """SIGKILL of the MLflow server, which is away for up to a minute while the sweep goes on."""
    if victim.lab.server is not None:
        victim.trial()  # a sweep that starts without its server is refused
        victim.lab.server.kill()
        victim.mlflow_back = time.monotonic() + victim.rng.uniform(5, 60)


def two_drivers(victim: Victim) -> None:
    """The driver is killed and two resume the sweep at once: one of them must be refused."""
    victim.driver.kill()
    pair = [victim.resume(), victim.resume()]
    refused = wait_until(lambda: [each for each in pair if not each.running], "one driver to be refused", PATIENCE)
    if len(refused) != 1 or refused[0].process.returncode != 2 or "is in use by" not in refused[0].output:
        codes = [each.process.poll() for each in pair]
        victim.faults.append(f"of two drivers at once the exit codes were {codes}: {refused[0].output[-500:]}")
    (victim.driver,) = [each for each in pair if each not in refused] or [victim.resume()]


KINDS: dict[str, Callable[[Victim], None]] = {
    "worker": worker, "trial": trial, "raylet": raylet, "machine": machine,
    "driver": driver, "everything": everything, "hang": hang, "damage": damage, "mlflow": mlflow,
    "two-drivers": two_drivers,
}  # fmt: skip
