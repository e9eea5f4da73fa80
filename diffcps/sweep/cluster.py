"""Connects to a Ray cluster, or starts one."""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.runtime_env import RuntimeEnv

from diffcps.errors import UserError
from diffcps.files import patiently
from diffcps.storage import proxies
from diffcps.sweep import RAY_SETTINGS, mps, ray_folder
from diffcps.sweep.resources import Cluster, Node
from diffcps.text import counted, first_line
from diffcps.training.facts import git_commit, unused_gpu

DRIVERS = "driver"
"""Custom resource of a node that is reserved for trials' drivers."""


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
def connected(address: str | None, sharing: bool = False) -> Iterator[Cluster]:
    """Connect to ``address``, else RAY_ADDRESS, else a cluster that this user runs on this machine, else start a local one.

    Disconnects at the end, and stops a cluster that was started here.

    Args:
        address: ``host:port`` of a cluster, or ``local``.
        sharing: whether workers will share a GPU: a cluster that is started here then gets NVIDIA's MPS.

    Raises:
        UserError: nothing answers at the address, or Ray cannot start here.
    """
    wanted = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    running = None if wanted else ray_folder.running()
    before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN")}
    local = wanted == "local" or (wanted is None and not (running and running.mine))
    with ExitStack() as until_ray_has_ended:
        try:
            of_gpus = mps.Sharing({})
            if local and sharing:
                of_gpus = until_ray_has_ended.enter_context(mps.shared(ray_folder.own(os.environ)))
            origin = _start(running, of_gpus) if local else _join(wanted, running)
            cluster = replace(present(origin), warning=of_gpus.warning)
            yield without_unused_gpus(cluster) if local and cluster.gpus else cluster
        finally:
            ray.shutdown()
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({name: value} if value is not None else {})


def _start(running: ray_folder.Running | None, of_gpus: mps.Sharing) -> str:
    """Start a cluster on this machine; its processes inherit this one's variables. Returns what it is."""
    # imported here: it takes half a second, and joining a cluster does not need it
    from diffcps.sweep.ray_train import local_size

    folders = ray_folder.variables()
    # inherited, and not given to Ray: it would have to start other processes than those that are already started
    os.environ.update({**_worker_environment(), **folders, **of_gpus.variables})
    proxies.avoid()
    try:
        tried_twice(functools.partial(_init, "local", include_dashboard=False, **local_size()))
    except Exception as error:  # the machine lacks something; Ray raises plain exceptions too
        raise UserError(
            f"Ray does not start on this machine: {first_line(error)} Its logs are in "
            f"{folders['RAY_TMPDIR']}/ray/session_latest/logs; docs/machines.md lists what it needs."
        ) from error
    finally:
        for name in of_gpus.variables:  # only for Ray's processes: MPS waits at its end for all that use it
            del os.environ[name]
    origin = f"a local Ray cluster, started for this sweep {of_gpus.how}".rstrip()
    if running:
        origin += f" (another user's at {running.address} is not used; --address {running.address} joins it)"
    return origin


def tried_twice(start: Callable[[], None]) -> None:
    """Start Ray, and once more if its processes took longer than the 30 s that it gives them: on a busy machine they may."""
    patiently(start, [0.0], lambda error: "timed out" not in str(error), lambda *_: ray.shutdown())


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


def _init(address: str, environment: RuntimeEnv | None = None, **size: Any) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    ray.init(address=address, runtime_env=environment, **quiet, **size)


def present(origin: str = "the Ray cluster") -> Cluster:
    """The connected cluster as it is now; nodes come and go."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0)) for node in found)
    there = Cluster(origin, nodes, for_drivers=any(node.get(DRIVERS) for node in found))
    size = f"{counted(len(nodes), 'node')}, {there.cpus:g} CPUs, {there.gpus:g} GPUs"
    return replace(there, description=f"{origin}: {size}")


def without_unused_gpus(cluster: Cluster) -> Cluster:
    """The cluster of this machine alone, without its GPUs if torch cannot use them; the description then says why."""
    if not (reason := unused_gpu()):
        return cluster
    nodes = tuple(node._replace(gpus=0.0) for node in cluster.nodes)
    return replace(cluster, description=f"{cluster.description} ({reason.rstrip('.')})", nodes=nodes)


def _worker_environment() -> dict[str, str]:
    """Variables of this process that worker processes need."""
    keep = {
        name: os.environ[name]
        for name in ("DIFFCPS_HOME", "DIFFCPS_DATA", "MINARI_DATASETS_PATH")
        if name in os.environ
    }
    settings = {name: os.environ[name] for name in RAY_SETTINGS}
    return {**settings, **keep, "DIFFCPS_COMMIT": git_commit()}
