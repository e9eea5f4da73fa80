"""Connects to a Ray cluster, or starts one."""

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from ray.runtime_env import RuntimeEnv

from diffcps.errors import UserError
from diffcps.storage import proxies
from diffcps.sweep import RAY_SETTINGS, limits, ray_folder
from diffcps.text import first_line
from diffcps.training.facts import git_commit, unused_gpu

DRIVERS = "driver"
"""Custom resource of a node that is reserved for trials' drivers."""


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
    cpus: float
    gpus: float
    nodes: tuple[Node, ...] = ()
    for_drivers: bool = False
    """Whether a node offers the resource ``DRIVERS``."""


def check_address(address: str | None) -> None:
    """Raise ``UserError`` when nothing answers at ``address`` or RAY_ADDRESS. Ray itself would take minutes."""
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted and wanted not in ("auto", "local"):
        plain = wanted.removeprefix("ray://")
        if not ray_folder.answers(plain):
            raise UserError(
                f"nothing answers at the Ray address {wanted}. Check it with `ray status --address {plain}`; "
                "to use this machine instead, pass --address local."
            )


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to ``address``, else RAY_ADDRESS, else a cluster that this user runs on this machine, else start a local one.

    Disconnects at the end, and stops a cluster that was started here.

    Raises:
        UserError: nothing answers at the address, or Ray cannot start here.
    """
    wanted = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    running = None if wanted else ray_folder.running()
    before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN")}
    try:
        local = wanted == "local" or (wanted is None and not (running and running.mine))
        origin = _start(running) if local else _join(wanted, running)
        cluster = present(origin)
        yield without_unused_gpus(cluster) if local and cluster.gpus else cluster
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _start(running: ray_folder.Running | None) -> str:
    """Start a cluster on this machine; its processes inherit this one's variables. Returns what it is."""
    folders = ray_folder.variables()
    # inherited, and not given to Ray: it would have to start other processes than those that stand ready
    os.environ.update(_worker_environment() | folders)
    proxies.avoid()
    try:
        patiently(functools.partial(_init, "local", include_dashboard=False, **_size()))
    except Exception as error:  # the machine lacks something; Ray raises plain exceptions too
        raise UserError(
            f"Ray does not start on this machine: {first_line(error)} Its logs are in "
            f"{folders['RAY_TMPDIR']}/ray/session_latest/logs; docs/machines.md lists what it needs."
        ) from error
    origin = "a local Ray cluster, started for this sweep"
    if running:
        origin += f" (another user's at {running.address} is not used; --address {running.address} joins it)"
    return origin


def patiently(start: Callable[[], None]) -> None:
    """Start Ray, and once more if its processes took longer than the 30 s that it gives them: on a busy machine they may."""
    try:
        start()
    except Exception as error:
        if "timed out" not in str(error):
            raise
        ray.shutdown()
        start()


def _join(wanted: str | None, running: ray_folder.Running | None) -> str:
    """Connect to a running cluster. Returns which one it is."""
    there = wanted or (running.address if running else "")
    proxies.avoid(there.removeprefix("ray://").rpartition(":")[0])
    try:
        # "auto" finds the cluster of this machine and also its token, which an address does not
        _init(wanted or "auto", RuntimeEnv(env_vars=_worker_environment()))
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {there}: {str(error).splitlines()[0]} If the cluster asks for a token, set "
            "RAY_AUTH_MODE=token here too; to use this machine instead, pass --address local."
        ) from error
    return f"Ray cluster at {wanted}" if wanted else f"the Ray cluster running on this machine ({there})"


def _size() -> dict[str, Any]:
    """Ray's arguments for a cluster within the limits of this process."""
    size: dict[str, Any] = {"num_cpus": limits.cores()}
    if (memory := limits.memory()) is not None:
        # the shares that Ray gives its store and its workers of a machine's memory, with less for the store, which is hardly used
        size |= {
            "object_store_memory": min(max(_LEAST_STORE, int(0.1 * memory)), _MOST_STORE),
            "_memory": int(0.6 * memory),
        }
    return size


_LEAST_STORE = 80 * 2**20
"""Bytes; Ray takes no less than 75 MB."""
_MOST_STORE = 10**10
"""Bytes; Ray refuses more where ``/dev/shm`` is smaller."""


def _init(address: str, environment: RuntimeEnv | None = None, **size: Any) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    ray.init(address=address, runtime_env=environment, **quiet, **size)


def present(origin: str = "the Ray cluster") -> Cluster:
    """The connected cluster as it is now; nodes come and go."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0)) for node in found)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    size = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {cpus:g} CPUs, {gpus:g} GPUs"
    for_drivers = any(node.get(DRIVERS) for node in found)
    return Cluster(f"{origin}: {size}", cpus, gpus, nodes=nodes, for_drivers=for_drivers)


def without_unused_gpus(cluster: Cluster) -> Cluster:
    """The cluster of this machine alone, without its GPUs if torch cannot use them; the description then says why."""
    if not (reason := unused_gpu()):
        return cluster
    nodes = tuple(node._replace(gpus=0.0) for node in cluster.nodes)
    return replace(cluster, description=f"{cluster.description} ({reason.rstrip('.')})", gpus=0.0, nodes=nodes)


def _worker_environment() -> dict[str, str]:
    """Variables of this process that worker processes need."""
    keep = {
        name: os.environ[name]
        for name in ("DIFFCPS_HOME", "DIFFCPS_DATA", "MINARI_DATASETS_PATH")
        if name in os.environ
    }
    settings = {name: os.environ[name] for name in RAY_SETTINGS}
    return {**settings, **keep, "DIFFCPS_COMMIT": git_commit()}


# The resources of a trial, and how many trials run at once.

DRIVER_CPUS = 0.01
"""CPUs of a trial's driver, which only looks at the workers twice a second."""


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
    def fitting(
        cls,
        cluster: "Cluster",
        *,
        cpus: float | None = None,
        gpus: float | None = None,
        concurrent: int | None = None,
        workers: int = 1,
    ) -> "Resources":
        """What the user set, and for the rest what suits the cluster.

        Args:
            cluster: the cluster as it is now.
            cpus: CPUs of a trial, shared by its workers; ``None``: a worker with a GPU gets its share of the CPUs
                beside that GPU, any other worker one CPU.
            gpus: GPUs of a trial, shared by its workers; ``None``: one per worker if the cluster has any.
            concurrent: trials at once, even if the cluster must grow for them; ``None``: as many as fit.
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
                raise UserError(f"a trial needs {wanted:g} {name}, and the cluster has {there:g}. Lower {flags}.")
        ram = [
            node.memory * min(1.0, share / node.cpus) for node in cluster.nodes if node.cpus >= share and node.memory
        ]
        found = cls(
            cpus=share,
            gpus=part,
            concurrent=concurrent or 1,
            workers=workers,
            memory=min(ram, default=None),
            fixed=concurrent is not None,
        )
        return found if found.fixed else replace(found, concurrent=found.slots(cluster))

    def slots(self, cluster: "Cluster") -> int:
        """Trials at once on the cluster as it is now; at least one, which waits for nodes if there are none."""
        if self.fixed:
            return self.concurrent
        fits = math.floor(cluster.cpus / (self.workers * self.cpus + _driver_cpus(cluster)) + 1e-9)
        if self.gpus > 0:
            fits = min(fits, math.floor(cluster.gpus / (self.workers * self.gpus) + 1e-9))
        return max(1, fits)


def _driver_cpus(cluster: "Cluster") -> float:
    """CPUs that a trial's driver takes from workers; none if drivers have a node of their own."""
    return 0.0 if cluster.for_drivers else DRIVER_CPUS


def _fair_share(cluster: "Cluster", gpus: float) -> float:
    """CPUs of a worker with so many GPUs: its share of a node that is full of such workers.

    Beside a GPU, CPUs step environments; unused they help nobody.
    """
    if gpus > 0 and (nodes := [node for node in cluster.nodes if node.gpus >= gpus]):
        shares = [(node.cpus - 0.1) / math.floor(node.gpus / gpus + 1e-9) for node in nodes]
        return max(0.1, math.floor(10 * min(shares)) / 10)
    # the drivers' CPUs must fit beside the workers'
    return 0.9 if cluster.cpus <= 4 else 1.0


def threads_of(cpus: float) -> int:
    """Threads of a worker with so many CPUs."""
    return max(1, math.floor(cpus + 0.5))
