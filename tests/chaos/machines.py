"""The machines of a small Ray cluster on this one: real ``ray start`` processes, an MLflow server, drivers of a sweep.

Each lives in a session of its own, by which every process that it starts, and they start, is told from all others: only
those are ever ended.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).parents[2] / "tune" / "sweep_d4rl.py"
Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], what: str, seconds: float = 120.0) -> Value:
    """The condition's first true value. Raises ``TimeoutError`` after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)
    return value


class Group:
    """A command in a session of its own, and all that it has started."""

    def __init__(self, command: Sequence[object], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, env=dict(environment), cwd=SCRIPT.parents[1],
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """Whether the command itself still runs."""
        return self.process.poll() is None

    def processes(self) -> dict[int, str]:
        """Every living process of the session: id -> what it calls itself."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state not in "ZX":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, ValueError):  # it ended while we were looking
                continue
        return found

    def called(self, *names: str) -> list[int]:
        """Ids of its processes whose command line has one of the names in its first word."""
        return sorted(
            pid for pid, command in self.processes().items() if any(name in command.split(" ", 1)[0] for name in names)
        )

    def kill(self) -> None:
        """End all of it at once, as if the power had failed."""
        while alive := self.processes():
            for pid in alive:
                send(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait(30)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Laboratory:
    """A folder with a Ray cluster, results, and perhaps an MLflow server; all of it ends with ``close``.

    Args:
        root: an empty folder for logs, results and collected data.
        nodes: worker nodes of one CPU each beside the head, which has none.
        mlflow: whether drivers log to a server rather than to a database in the results.
    """

    def __init__(self, root: Path, nodes: int, mlflow: bool) -> None:
        self.root, self.wanted = root, nodes
        self.results = root / "results"
        # its name is part of the path of sockets, which must be short
        self._ray = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
        own = {
            "HOME": str(root / "home"),
            "DIFFCPS_HOME": str(root / "home" / ".diffcps"),
            "RAY_TMPDIR": self._ray.name,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "10",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
        (root / "home").mkdir(parents=True)
        self.groups: list[Group] = []
        self.head: Group | None = None
        self.nodes: list[Group] = []
        self.address = ""
        self.server: Group | None = None
        self._port = _free_port()
        self.uri = f"http://127.0.0.1:{self._port}" if mlflow else f"sqlite:///{self.results / 'mlflow.db'}"

    def _start(self, name: str, *command: object) -> Group:
        group = Group(command, self.root / f"{name}-{len(self.groups)}.log", self.environment)
        self.groups.append(group)
        return group

    def _ray_start(self, name: str, *arguments: object) -> Group:
        common = "--object-store-memory=100000000", "--dashboard-agent-listen-port=0", "--disable-usage-stats"
        group = self._start(name, sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *common)
        if group.process.wait(120) != 0:
            raise RuntimeError(f"ray start failed:\n{group.output}")
        return group

    def start_cluster(self) -> None:
        """Start whatever is missing of head and nodes."""
        if self.head is None:
            flags = "--head", "--port=0", "--num-cpus=0", "--include-dashboard=false"
            self.head = self._ray_start("head", *flags, f"--temp-dir={self._ray.name}")
            (self.address,) = re.findall(r"ray start --address='([^']+)'", self.head.output)
        while len(self.nodes) < self.wanted:
            self.nodes.append(self._ray_start("node", f"--address={self.address}", "--num-cpus=1"))

    def start_mlflow(self) -> None:
        """Start the MLflow server, if there is to be one and it is not running."""
        if self.uri.startswith("sqlite") or (self.server and self.server.running):
            return
        folder = self.root / "mlflow"
        folder.mkdir(exist_ok=True)
        self.server = self._start(
            "mlflow", sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self._port,
            "--workers", 1, "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination", folder / "artifacts",
        )  # fmt: skip
        wait_until(self._mlflow_answers, "the MLflow server")

    def _mlflow_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False

    def driver(self, *arguments: object) -> Group:
        """Start a driver of a sweep on this cluster."""
        where = "--results", self.results, "--address", self.address, "--tracking-uri", self.uri
        return self._start("driver", sys.executable, SCRIPT, *arguments, *where)

    def machines(self) -> list[Group]:
        """Head and nodes, as far as they run."""
        return [group for group in (self.head, *self.nodes) if group is not None]

    def called(self, *names: str) -> list[int]:
        """Processes of those names on all machines."""
        return [pid for group in self.machines() for pid in group.called(*names)]

    def kill_cluster(self) -> None:
        """End all machines at once."""
        for group in self.machines():
            group.kill()
        self.head, self.nodes = None, []

    def orphans(self) -> dict[int, str]:
        """What lives of all that was ever started here, other than the machines and the server that are to live."""
        alive = {*self.machines(), self.server}
        return {pid: name for group in self.groups if group not in alive for pid, name in group.processes().items()}

    def close(self) -> dict[int, str]:
        """End everything. Returns what of it would not end by itself: nothing, one hopes."""
        left = self.orphans()
        for group in self.groups:
            group.kill()
        self._ray.cleanup()
        return left


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
