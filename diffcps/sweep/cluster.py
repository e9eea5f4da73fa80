"""Finds a Ray cluster or starts one, and says which."""

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
from diffcps.training.environment import git_commit

# Ray reads these when it is imported. The first reports usage over the network unless it is off; the second is how often
# Train looks whether a worker has ended (2 s by default); the third how long a worker may leave that question unanswered,
# as one that is stopped does (10 minutes by default; it is answered beside the training, within a second as a rule); the
# fourth saves two processes a trial on machines whose pre-emption Ray could not see anyway. A failed trial reports no
# score, which Tune must bear; the sweep handles Ctrl-C itself, keeps its own records and shows its own progress.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

DRIVERS = "driver"
"""Custom resource of a node on which trials' drivers should be."""


class Node(NamedTuple):
    """What one machine of a cluster has."""

    cpus: float
    gpus: float
    memory: float
    """Bytes, after what Ray keeps for itself."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    description: str
    """One line for a person: which cluster this is and what it has."""
    cpus: float
    gpus: float
    nodes: tuple[Node, ...] = ()
    for_drivers: bool = False
    """Whether a node offers the resource ``DRIVERS``: one that is not taken away, where what only waits should be."""


def check_address(address: str | None) -> None:
    """Raise ``UserError`` when nothing answers at ``address`` or RAY_ADDRESS; a moment, where Ray would take minutes."""
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

    At the end it disconnects; a cluster that was started here ends.

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
    environment = RuntimeEnv(env_vars=_worker_environment())
    try:
        ray.init(
            # "auto" finds the very cluster that was found above, and brings its token along as an address does not
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
    if not running and wanted in (None, "local"):
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
    """What the cluster that this process is connected to has now: nodes come and go."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0)) for node in found)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    size = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {cpus:g} CPUs, {gpus:g} GPUs"
    return Cluster(f"{origin}: {size}", cpus, gpus, nodes, any(node.get(DRIVERS) for node in found))


def _worker_environment() -> dict[str, str]:
    """What worker processes must know that only this process does."""
    keep = {
        name: os.environ[name]
        for name in ("DIFFCPS_HOME", "DIFFCPS_DATA", "MINARI_DATASETS_PATH")
        if name in os.environ
    }
    settings = {name: os.environ[name] for name in _SETTINGS}
    return {**settings, **keep, "DIFFCPS_COMMIT": git_commit()}


def _address_file() -> Path:
    """Where Ray writes down the newest cluster of this machine."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"


def _running_here() -> str | None:
    """Address of a cluster running on this machine; a file left behind by a dead one would hang Ray for minutes."""
    try:
        address = _address_file().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return address if address and _answers(address) else None


def _keep_private(address: str) -> None:
    """Let no other program find the cluster that was started here: it ends with this sweep, and with it all guests."""
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
    """Without the dashboard process, trials that a scheduler stops keep their CPUs and GPU, and the sweep hangs."""
    from ray.exceptions import RayError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, timeout=20)
    except (RayStateApiException, ServerUnavailable, RayError, RuntimeError, OSError) as error:
        raise UserError(
            f"this Ray cluster runs without its dashboard process, which Ray Train needs to give resources back: {error}. "
            "Install it with pip install 'ray[default,train,tune]' on every node."
        ) from error


# What a trial takes of a cluster, and how many trials run at once.

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
