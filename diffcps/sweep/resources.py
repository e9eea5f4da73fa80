"""The resources of a trial on a cluster, and how many trials run at once."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.runs.flags import MachineFlags

DRIVER_CPUS = 0.01
"""CPUs of a trial's driver, which only looks at the workers twice a second."""


class Node(NamedTuple):
    """The resources of one machine of a cluster."""

    cpus: float
    gpus: float
    memory: float
    """Bytes, without what Ray reserves for itself."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    description: str
    """Which cluster this is and its size, in one line."""
    nodes: tuple[Node, ...]
    for_drivers: bool = False
    """Whether a node is reserved for trials' drivers (``cluster.DRIVERS``)."""
    warning: str = ""
    """What is not as it should be, for a person; the sweep runs all the same."""

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class Resources:
    """Resources of each worker of a trial, workers per trial, and trials at once."""

    cpus: float
    """Of one worker."""
    gpus: float
    """Of one worker."""
    concurrent: int
    """Trials at once when the sweep started."""
    workers: int = 1
    memory: float | None = None
    """Bytes of RAM of one worker, in proportion to its CPUs; ``None`` when Ray does not know the machine's."""
    fixed: bool = False
    """Whether the user set ``concurrent``; else it follows the cluster as nodes come and go."""

    @property
    def threads(self) -> int:
        """Threads of a worker; together they never exceed the cores that Ray counts."""
        return threads_of(self.cpus)

    @classmethod
    def fitting(cls, cluster: Cluster, flags: "MachineFlags") -> "Resources":
        """What the flags say, and for the rest what suits the cluster as it is now.

        A trial's CPUs and GPUs are shared by its workers. By default a worker gets a GPU if the cluster has any. With a GPU
        it gets its share of the CPUs beside that GPU, without one a CPU.

        Raises:
            UserError: not even one trial fits, or a number makes no sense.
        """
        cpus, gpus, workers = flags.cpus_per_trial, flags.gpus_per_trial, flags.workers_per_trial
        part = gpus / workers if gpus is not None else (1.0 if cluster.gpus >= 1 else 0.0)
        share = cpus / workers if cpus is not None else _fair_share(cluster, part)
        if not (share > 0 and part >= 0):
            raise UserError("--cpus-per-trial must be positive and --gpus-per-trial at least zero.")
        if part > 1 and part != int(part):
            raise UserError(f"--gpus-per-trial {gpus:g}: Ray gives a worker a fraction of one GPU, or whole GPUs.")
        if flags.concurrent is not None and flags.concurrent < 1:
            raise UserError(f"--concurrent {flags.concurrent}: at least one trial must be allowed to run.")
        # a trial's driver needs a sliver of CPU beside its workers'
        whole = workers * share + _driver_cpus(cluster)
        for name, wanted, there in (("GPUs", workers * part, cluster.gpus), ("CPUs", whole, cluster.cpus)):
            if wanted > there + 1e-9:
                lower = f"--{name.lower()}-per-trial" + (" or --workers-per-trial" if workers > 1 else "")
                raise UserError(f"a trial needs {wanted:g} {name}, and the cluster has {there:g}. Lower {lower}.")
        ram = [
            node.memory * min(1.0, share / node.cpus) for node in cluster.nodes if node.cpus >= share and node.memory
        ]
        found = cls(
            cpus=share,
            gpus=part,
            concurrent=flags.concurrent or 1,
            workers=workers,
            memory=min(ram, default=None),
            fixed=flags.concurrent is not None,
        )
        return found if found.fixed else replace(found, concurrent=found.slots(cluster))

    def slots(self, cluster: Cluster) -> int:
        """Trials at once on the cluster as it is now; at least one, which waits for nodes if there are none."""
        if self.fixed:
            return self.concurrent
        fits = math.floor(cluster.cpus / (self.workers * self.cpus + _driver_cpus(cluster)) + 1e-9)
        if self.gpus > 0:
            fits = min(fits, math.floor(cluster.gpus / (self.workers * self.gpus) + 1e-9))
        return max(1, fits)


def _driver_cpus(cluster: Cluster) -> float:
    """CPUs that a trial's driver takes from workers; none if drivers have a node of their own."""
    return 0.0 if cluster.for_drivers else DRIVER_CPUS


def _fair_share(cluster: Cluster, gpus: float) -> float:
    """CPUs of a worker with so many GPUs: its share of a node that is full of such workers.

    Beside a GPU, CPUs step environments; unused they help nobody.
    """
    if gpus > 0 and (nodes := [node for node in cluster.nodes if node.gpus >= gpus]):
        shares = [(node.cpus - 0.1) / math.floor(node.gpus / gpus + 1e-9) for node in nodes]
        return max(0.1, math.floor(10 * min(shares)) / 10)
    # the drivers' CPUs must fit beside the workers'
    return 0.9 if cluster.cpus <= 4 else 1.0


def share_gpus(flags: "MachineFlags") -> bool:
    """Whether several workers run on one GPU."""
    return flags.gpus_per_trial is not None and 0 < flags.gpus_per_trial / flags.workers_per_trial < 1


def threads_of(cpus: float) -> int:
    """Threads of a worker with so many CPUs."""
    return max(1, math.floor(cpus + 0.5))
