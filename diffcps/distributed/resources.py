"""What a trial takes of a cluster, and how many trials run at once."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.distributed.cluster import Cluster

DRIVER_CPUS = 0.01
"""What a trial's driver asks for; it only waits."""


@dataclass(frozen=True)
class Resources:
    """What each worker of a trial takes, how many workers a trial has, and how many trials run at once."""

    cpus: float
    """Of one worker."""
    gpus: float
    """Of one worker."""
    concurrent: int
    """Trials at once when the sweep started."""
    workers: int = 1
    memory: float | None = None
    """Bytes of RAM of one worker: its share of the machine's by its CPUs; ``None`` when Ray does not say."""
    asked: bool = False
    """Whether ``concurrent`` was asked for; else it follows the cluster as nodes come and go."""

    @property
    def threads(self) -> int:
        """Threads of a worker; together they never exceed the cores that Ray counts."""
        return threads_of(self.cpus)

    @classmethod
    def fitting(
        cls, cluster: "Cluster", cpus: float | None, gpus: float | None, concurrent: int | None, workers: int = 1
    ) -> "Resources":
        """What was asked for, or what suits the cluster.

        Args:
            cluster: what there is.
            cpus: CPUs of a trial, shared by its workers; ``None``: a worker with a GPU gets its share of the CPUs
                beside that GPU, any other one CPU.
            gpus: GPUs of a trial, shared by its workers; ``None``: one a worker where there are any.
            concurrent: trials at once, also where the cluster is too small for them now and has to grow; ``None``: as
                many as fit.
            workers: workers of a trial.

        Raises:
            UserError: not even one trial fits, or a number makes no sense.
        """
        part = gpus / workers if gpus is not None else (1.0 if cluster.gpus >= 1 else 0.0)
        share = cpus / workers if cpus is not None else _fair_share(cluster, part)
        if not (share > 0 and part >= 0):
            raise UserError("--cpus-per-trial must be positive and --gpus-per-trial at least zero.")
        if part > 1 and part != int(part):
            raise UserError(f"--gpus-per-trial {gpus:g}: Ray gives a worker a fraction of one GPU, or whole GPUs.")
        if concurrent is not None and concurrent < 1:
            raise UserError(f"--concurrent {concurrent}: at least one trial must be allowed to run.")
        # a trial's driver needs a sliver of CPU beside its workers'
        whole = workers * share + _driver_cpus(cluster)
        for name, wanted, there in (("GPUs", workers * part, cluster.gpus), ("CPUs", whole, cluster.cpus)):
            if wanted > there + 1e-9:
                flags = f"--{name.lower()}-per-trial" + (" or --workers-per-trial" if workers > 1 else "")
                raise UserError(
                    f"a trial takes {wanted:g} {name} and the cluster has {there:g}: it would wait for ever. Lower {flags}."
                )
        ram = [
            node.memory * min(1.0, share / node.cpus) for node in cluster.nodes if node.cpus >= share and node.memory
        ]
        found = cls(share, part, concurrent or 1, workers, min(ram, default=None), concurrent is not None)
        return found if found.asked else replace(found, concurrent=found.room(cluster))

    def room(self, cluster: "Cluster") -> int:
        """Trials that run at once on the cluster as it is; at least one, which waits for nodes if there are none."""
        if self.asked:
            return self.concurrent
        fits = math.floor(cluster.cpus / (self.workers * self.cpus + _driver_cpus(cluster)) + 1e-9)
        if self.gpus > 0:
            fits = min(fits, math.floor(cluster.gpus / (self.workers * self.gpus) + 1e-9))
        return max(1, fits)


def _driver_cpus(cluster: "Cluster") -> float:
    """What a trial's driver takes of the CPUs that workers need: nothing where drivers have a node of their own."""
    return 0.0 if cluster.for_drivers else DRIVER_CPUS


def _fair_share(cluster: "Cluster", gpus: float) -> float:
    """CPUs of a worker with so many GPUs: what falls to it where a node is full of such workers.

    Beside a GPU, CPUs are for stepping environments; left idle they would help nobody.
    """
    if gpus > 0 and (nodes := [node for node in cluster.nodes if node.gpus >= gpus]):
        shares = [(node.cpus - 0.1) / math.floor(node.gpus / gpus + 1e-9) for node in nodes]
        return max(0.1, math.floor(10 * min(shares)) / 10)
    # the slivers of the drivers must fit beside the workers
    return 0.9 if cluster.cpus <= 4 else 1.0


def threads_of(cpus: float) -> int:
    """Threads of a worker with so many CPUs."""
    return max(1, math.floor(cpus + 0.5))
