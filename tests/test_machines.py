"""What machines lack or have besides: long paths, other people's folders, proxies, terminals without UTF-8."""

import ast
import errno
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

import pytest
import torch
from sweeps import SCRIPT
from waits import GUARD

from diffcps.errors import UserError
from diffcps.runs import lock
from diffcps.runs.flags import MachineFlags
from diffcps.storage import proxies
from diffcps.sweep import RAY_SETTINGS, cluster, limits, ray_folder
from diffcps.sweep.cluster import tried_twice, without_unused_gpus
from diffcps.sweep.resources import Cluster, Node, Resources
from diffcps.text import READABLE, ascii_only
from diffcps.tracking import store
from diffcps.training import engine
from diffcps.training.facts import unused_gpu

NOBODY = 65534


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        yield Path(folder)


# Ray's own settings


def test_workers_run_in_the_environment_of_the_sweep_with_its_priority() -> None:
    read = "import diffcps.sweep.cluster; from ray._private import ray_constants as r; print(r.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    # in a process of its own: here another test may have imported Ray first
    given = {name: value for name, value in os.environ.items() if name not in RAY_SETTINGS}
    said = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True, env=given).stdout
    assert said.split() == ["False"]
    assert RAY_SETTINGS["RAY_worker_niceness"] == "0"
    assert os.environ.keys() >= RAY_SETTINGS.keys()


def test_a_slow_start_of_ray_is_tried_again_and_another_failure_is_not() -> None:
    reasons = ["The current node timed out during startup.", "no room"]
    with pytest.raises(RuntimeError, match=reasons[1]):
        tried_twice(lambda: _fails(reasons))
    assert not reasons, "tried twice"
    reasons = ["no room", "never asked"]
    with pytest.raises(RuntimeError, match="no room"):
        tried_twice(lambda: _fails(reasons))
    assert reasons == ["never asked"]


def _fails(reasons: list[str]) -> None:
    raise RuntimeError(reasons.pop(0))


# Ray's folder


def test_each_user_has_a_folder_of_ones_own_and_no_other_can_read_it(short: Path) -> None:
    (short / "ray").mkdir()  # that of another user
    folder = ray_folder.own({"TMPDIR": str(short)})
    assert folder == short / f"ray-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert ray_folder.own({"TMPDIR": str(short)}) == folder


def test_a_long_temporary_folder_is_not_used_for_sockets(short: Path) -> None:
    found = ray_folder.variables({"TMPDIR": str(short / ("x" * 80))})
    assert found["RAY_TMPDIR"] == found["TMPDIR"] == f"/tmp/ray-{os.getuid()}"
    found = ray_folder.variables({"TMPDIR": str(short)})
    assert found == {"RAY_TMPDIR": str(short / f"ray-{os.getuid()}")}


def test_the_longest_socket_of_ray_fits() -> None:
    """Ray checks the same length and raises ``OSError``, with a traceback, after its first processes have started."""
    from ray._private.utils import validate_socket_filepath

    session = "/ray/session_2026-11-29_11-56-46_939799_4194304/sockets/dash_TaskEventsHead"
    validate_socket_filepath("/" * ray_folder.LONGEST + session)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("/" * (ray_folder.LONGEST + 1) + session)


def test_a_folder_that_the_user_names_is_used_or_refused_with_the_reason(short: Path) -> None:
    assert ray_folder.own({"RAY_TMPDIR": str(short)}) == short
    long = short / ("x" * 40)
    with pytest.raises(UserError) as refused:
        ray_folder.own({"RAY_TMPDIR": str(long)})
    assert str(long) in str(refused.value)
    assert f"at most {ray_folder.LONGEST} bytes" in str(refused.value)
    assert not long.exists()
    file = short / "file"
    file.touch()
    with pytest.raises(UserError) as refused:
        ray_folder.own({"RAY_TMPDIR": str(file)})
    assert f"{file} cannot be written" in str(refused.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_that_another_user_made_under_this_users_name_is_not_used(short: Path) -> None:
    trap = short / f"ray-{os.getuid()}"
    trap.mkdir()
    os.chown(trap, NOBODY, NOBODY)
    assert ray_folder.own({"TMPDIR": str(short)}) == Path(f"/tmp/ray-{os.getuid()}")


def test_the_cluster_of_this_user_is_told_from_that_of_another(short: Path) -> None:
    given = {"TMPDIR": str(short)}
    assert ray_folder.running(given) is None
    file = short / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        file.write_text(address)
        assert ray_folder.running(given) == (address, True)
        if os.getuid() == 0:
            os.chown(file, NOBODY, NOBODY)
            assert ray_folder.running(given) == (address, False)
    assert ray_folder.running(given) is None, "a dead cluster is none"


def test_a_home_that_cannot_be_written_needs_no_token_there(short: Path) -> None:
    given = {"RAY_TMPDIR": str(short), "HOME": str(short / "absent")}
    found = ray_folder.variables(given)
    assert len(found["RAY_AUTH_TOKEN"]) == 64
    assert found != ray_folder.variables(given), "a token for each cluster"
    assert "RAY_AUTH_TOKEN" not in ray_folder.variables(given | {"RAY_AUTH_TOKEN": "mine"})
    assert "RAY_AUTH_TOKEN" not in ray_folder.variables(given | {"HOME": str(short)})


# Locks


def test_a_file_system_without_locks_is_told_from_a_sweep_in_use(short: Path) -> None:
    with (short / ".lock").open("a+") as file, (short / ".lock").open("a+") as other:
        with lock.locked(file, short), pytest.raises(UserError, match="in use"), lock.locked(other, short):
            pass
        with pytest.raises(UserError) as refused, lock.locked(file, short, take=without_locks):
            pass
    assert "No locks available" in str(refused.value)
    assert "--results" in str(refused.value)


def without_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


# GPUs

NVIDIA_SMI = "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-6f1)'\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch uses the GPU here")
def test_a_gpu_that_torch_cannot_use_is_told_and_not_asked_for(short: Path, monkeypatch) -> None:
    here = Cluster("here: 1 GPU", (Node(8.0, 1.0, 2.0**30),))
    monkeypatch.setenv("PATH", str(short))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not unused_gpu()
    assert without_unused_gpus(here) == here
    (short / "nvidia-smi").write_text(NVIDIA_SMI)
    (short / "nvidia-smi").chmod(0o755)
    found = without_unused_gpus(here)
    assert "is not used" in found.description
    assert torch.__version__ in found.description
    assert found.gpus == sum(node.gpus for node in found.nodes) == 0
    assert Resources.fitting(found, MachineFlags()).gpus == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not unused_gpu(), "it is hidden on purpose"


PARTS = "GPU-8f2a1c3e-0000-1111-2222-333344445555", "MIG-5b1a2c3d-aaaa-bbbb-cccc-ddddeeeeffff"
EACH_SHOWS_ITS_GPU = """
import os, time
import ray
import torch
ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="ERROR")

@ray.remote(num_gpus=1)
def shown():
    time.sleep(1)  # so that both run at once
    return os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda._parse_visible_devices()

print(ray.get([shown.remote(), shown.remote()]))
"""


def test_names_of_gpus_and_of_their_parts_reach_ray_and_torch(short: Path) -> None:
    """Each of two workers is shown one of the two names, and torch looks for that device; no device is needed to tell."""
    given = {**os.environ, **RAY_SETTINGS, "CUDA_VISIBLE_DEVICES": ",".join(PARTS), "RAY_TMPDIR": str(short)}
    done = subprocess.run(
        [sys.executable, "-c", EACH_SHOWS_ITS_GPU], capture_output=True, text=True, env=given, check=True, timeout=GUARD
    )
    assert sorted(ast.literal_eval(done.stdout.splitlines()[-1])) == [(name, [name]) for name in PARTS]


# Limits


def test_the_limits_of_a_group_within_the_container_count(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    groups.write_text("0::/slurm/job_7/step_0\n")
    inner = tmp_path / "slurm" / "job_7" / "step_0"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("max\n")
    bound = len(os.sched_getaffinity(0))
    assert limits.cores(groups, tmp_path) == bound
    assert limits.memory(groups, tmp_path) is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text(f"{2**29}\n")
    assert limits.cores(groups, tmp_path) == 1
    assert limits.memory(groups, tmp_path) == 2**29


def test_the_limits_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    groups.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/job\n")
    for name, values in {
        "cpu,cpuacct/job": {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"},
        "memory/job": {"memory.limit_in_bytes": str(2**30)},
        "memory": {"memory.limit_in_bytes": "9223372036854771712"},
    }.items():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file, value in values.items():
            (tmp_path / name / file).write_text(value)
    assert limits.cores(groups, tmp_path) == 1
    assert limits.memory(groups, tmp_path) == 2**30


def test_a_process_that_is_bound_to_a_core_counts_one(tmp_path: Path) -> None:
    bound = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(bound)})
        assert limits.cores(tmp_path / "absent", tmp_path) == 1
    finally:
        os.sched_setaffinity(0, bound)


# Proxies

PROXY = "http://me:secret@127.0.0.1:9"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy at which nobody listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, PROXY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that pytest puts back what is there


class Health(BaseHTTPRequestHandler):
    """An MLflow server that is well and has no experiments."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


def test_local_machines_are_asked_without_the_proxy_and_others_with_it(proxy: None, monkeypatch) -> None:
    from requests.utils import should_bypass_proxies

    monkeypatch.setenv("no_proxy", "example.org")
    proxies.avoid("10.1.2.3")
    proxies.avoid_locally("http://mlflow:5000")
    proxies.avoid_locally("http://mlflow.example.com:5000")
    for host in ("127.0.0.1", "localhost", "10.1.2.3", "mlflow", "example.org"):
        assert should_bypass_proxies(f"http://{host}:8265", None), host
        assert not proxies.used(f"http://{host}:8265"), host
    for host in ("mlflow.example.com", "8.8.8.8", "10.1.2.4"):
        assert not should_bypass_proxies(f"http://{host}:8265", None), host
        assert proxies.used(f"http://{host}:8265") == "http://127.0.0.1:9"


def test_a_server_on_this_machine_answers_in_spite_of_a_proxy(proxy: None) -> None:
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert store.check(address) == address
        server.shutdown()


@pytest.mark.parametrize("mine", [True, False, None])
def test_a_cluster_on_this_machine_is_joined_only_if_it_is_this_users(proxy: None, mine: bool | None) -> None:
    """Without being asked; and Ray is reached directly."""
    running = None if mine is None else ray_folder.Running("10.1.2.3:6379", mine)
    asked: list[str] = []

    def present(origin: str) -> Cluster:
        assert "127.0.0.1" in os.environ["no_proxy"]
        assert ("10.1.2.3" in os.environ["no_proxy"]) == (mine is True)
        return Cluster(origin, (Node(2.0, 0.0, 0.0),))

    with (
        mock.patch.object(ray_folder, "running", return_value=running),
        mock.patch.object(cluster, "_init", lambda address, *_, **__: asked.append(address)),
        mock.patch.object(cluster, "present", present),
        mock.patch.dict(os.environ),
    ):
        os.environ.pop("RAY_ADDRESS", None)
        with cluster.connected(None) as found:
            assert asked == ["auto" if mine else "local"]
            assert ("another user's at 10.1.2.3:6379" in found.description) == (mine is False)


def test_a_server_that_the_proxy_does_not_reach_is_reported_with_the_proxy(proxy: None) -> None:
    with pytest.raises(UserError) as refused:
        store.check("http://mlflow.example.com:5000", 1)
    for fact in ("mlflow.example.com:5000", "proxy http://127.0.0.1:9", "no_proxy=mlflow.example.com"):
        assert fact in str(refused.value)
    assert "secret" not in str(refused.value)


def test_without_a_proxy_nothing_changes(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    proxies.avoid("10.1.2.3")
    assert "no_proxy" not in os.environ
    assert not proxies.used("http://10.1.2.3")


# All at once


def test_a_sweep_on_a_machine_that_lacks_much(short: Path) -> None:
    """One core, 1024 open files, no home, a proxy at which nobody listens, a terminal without UTF-8, a long temp folder."""
    long = short / ("t" * 120)
    long.mkdir()
    given = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_TMPDIR", "RAY_ADDRESS", "no_proxy", "NO_PROXY")
    }
    given |= {
        "HOME": "/proc/none",
        "DIFFCPS_HOME": str(short / "home"),
        "TMPDIR": str(long),
        "http_proxy": PROXY,
        "https_proxy": PROXY,
    }
    given |= {"PYTHONIOENCODING": "ascii", "LANG": "C", "OMP_NUM_THREADS": "1"}
    flags = "--tasks bandit-ring --rows 200 --seeds 1 --steps 4 --episodes 2 --set hidden_size=8 --set batch_size=4"
    command = [sys.executable, SCRIPT, *flags.split(), "--address", "local", "--results", short / "results"]
    poor = f"ulimit -n 1024; exec taskset -c {min(os.sched_getaffinity(0))} {shlex.join(map(str, command))}"
    done = subprocess.run(["bash", "-c", poor], env=given, capture_output=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()
    said = done.stdout.decode()
    assert "1 node, 1 CPUs" in said
    assert "bandit-ring" in said.split("table:")[0]
    assert list((short / "results").glob("*/table.html"))


@pytest.mark.parametrize("elsewhere", [pytest.param(False, marks=pytest.mark.slow), True])
def test_uv_run_starts_a_sweep_from_any_folder(short: Path, elsewhere: bool) -> None:
    """Ray's own hook would build an environment anew for every worker, and hang."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed beside this Python")
    where = short if elsewhere else SCRIPT.parents[1]
    given = {name: value for name, value in os.environ.items() if name not in RAY_SETTINGS} | {
        "VIRTUAL_ENV": sys.prefix
    }
    flags = "--tasks bandit-ring --rows 200 --seeds 1 --steps 4 --episodes 2 --set hidden_size=8 --set batch_size=4"
    command = [uv, "run", "--no-project", "--active", "python", SCRIPT, *flags.split(), "--address", "local"]
    done = subprocess.run(
        [*command, "--results", short / "results"], cwd=where, env=given, timeout=GUARD, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trial" in done.stdout
    assert list((short / "results").glob("*/table.html"))


# Terminals


@pytest.mark.parametrize("arguments", [("data", "list"), ("sweep", "--help"), ("settings",)])
def test_a_terminal_without_utf_8_gets_readable_text(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffcps", *arguments], env=os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C"},
        capture_output=True, timeout=GUARD, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert not done.stderr
    assert len(done.stdout) > 500


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("λ ± 0.5 × κ − 1…", "lambda +- 0.5 x kappa - 1..."),
        ("87.2 ± 1.1 · T ≤ 5 → Σ é ᾱ² ─┼", "87.2 +- 1.1 | T <= 5 -> Sigma e alpha2 -+"),
        ("as before\n", "as before\n"),
        ("漢", "?"),
    ],
)
def test_the_likeness_of_a_character(text: str, plain: str) -> None:
    assert ascii_only(text) == plain
    assert text.encode("ascii", READABLE).decode() == plain
    assert "±".encode("latin-1", READABLE) == b"\xb1", "what can be shown is shown"


# Compilers


def test_a_missing_header_is_named() -> None:
    output = "C++ compile error\n\nCommand:\ng++\n\nOutput:\nmain.cpp:629:10: fatal error: Python.h: No such file or directory"
    said = engine._complaint("compiled", RuntimeError(output))
    assert "Python.h" in said
    assert "\n" not in said
