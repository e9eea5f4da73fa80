"""Connects to a Ray cluster, or starts one."""

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import ray
from ray.runtime_env import RuntimeEnv

from diffcps.errors import UserError
from diffcps.sweep import RAY_SETTINGS
from diffcps.training.environment import git_commit

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
        if not _answers(plain):
            raise UserError(
                f"nothing answers at the Ray address {wanted}. Check it with `ray status --address {plain}`; "
                "to use this machine instead, pass --address local."
            )


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to ``address``, else RAY_ADDRESS, else a cluster running on this machine, else start a local one.

    Disconnects at the end, and stops a cluster that was started here.

    Raises:
        UserError: nothing answers at the address, or Ray was installed without its dashboard.
    """
    try:
        yield _connect(address)
    finally:
        ray.shutdown()


def _connect(address: str | None) -> Cluster:
    wanted = address or os.environ.get("RAY_ADDRESS")
    running = None if wanted else _running_here()
    check_address(address)
    local, variables = not running and wanted in (None, "local"), _worker_environment()
    if local:
        os.environ.update(variables)
    # the processes of a cluster started here inherit them, and then Ray need not start others than those that stand ready
    environment = None if local else RuntimeEnv(env_vars=variables)
    try:
        ray.init(
            # "auto" finds the same cluster as above and also its token, which an address does not
            address=wanted or ("auto" if running else "local"),
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {wanted or running}: {str(error).splitlines()[0]} If the cluster asks for a token, set "
            "RAY_AUTH_MODE=token here too; to use this machine instead, pass --address local."
        ) from error
    if local:
        _keep_private(ray.get_runtime_context().gcs_address)
    _require_dashboard()
    if wanted and wanted != "local":
        origin = f"Ray cluster at {wanted}"
    elif running:
        origin = f"the Ray cluster running on this machine ({running})"
    else:
        origin = "a local Ray cluster, started for this sweep"
    return present(origin)


def present(origin: str = "the Ray cluster") -> Cluster:
    """The connected cluster as it is now; nodes come and go."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0)) for node in found)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    size = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {cpus:g} CPUs, {gpus:g} GPUs"
    for_drivers = any(node.get(DRIVERS) for node in found)
    return Cluster(f"{origin}: {size}", cpus, gpus, nodes=nodes, for_drivers=for_drivers)


def _worker_environment() -> dict[str, str]:
    """Variables of this process that worker processes need."""
    keep = {
        name: os.environ[name]
        for name in ("DIFFCPS_HOME", "DIFFCPS_DATA", "MINARI_DATASETS_PATH")
        if name in os.environ
    }
    settings = {name: os.environ[name] for name in RAY_SETTINGS}
    return {**settings, **keep, "DIFFCPS_COMMIT": git_commit()}


def _address_file() -> Path:
    """Where Ray keeps the address of the newest cluster of this machine."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"


def _running_here() -> str | None:
    """Address of a cluster running on this machine, if it answers; a dead one's would hang Ray for minutes."""
    try:
        address = _address_file().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return address if address and _answers(address) else None


def _keep_private(address: str) -> None:
    """Hide the cluster that was started here from other programs: it ends with this sweep."""
    file = _address_file()
    try:
        if file.read_text(encoding="utf-8").strip() == address:
            file.unlink()
    except FileNotFoundError:
        return


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False


def _require_dashboard() -> None:
    """Raise ``UserError`` without the dashboard process: stopped trials would keep their CPUs and GPU, and the sweep hang."""
    from ray.exceptions import RayError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, timeout=20)
    except (RayStateApiException, ServerUnavailable, RayError, RuntimeError, OSError) as error:
        raise UserError(
            f"this Ray cluster runs without its dashboard process, which Ray Train needs to free resources: {error}. "
            "Install it with pip install 'ray[default,train,tune]' on every node."
        ) from error


# The resources of a trial, and how many trials run at once.

DRIVER_CPUS = 0.01
"""CPUs of a trial's driver, which only waits."""


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
