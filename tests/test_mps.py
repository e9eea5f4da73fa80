"""MPS, with a stand-in for NVIDIA's program: who starts it, what it gets, and that it ends with its sweep."""

import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from waits import GUARD

from diffcps.runs.flags import MachineFlags
from diffcps.sweep import RAY_SETTINGS, mps
from diffcps.sweep.resources import share_gpus

STAND_IN = """#!/bin/sh
# a daemon is a process that sleeps, whose number is in its folder; the default folder is beside this file
here=$(dirname "$0")
pipes=${{CUDA_MPS_PIPE_DIRECTORY:-$here/default}}
[ "$1" = -d ] && said=start || read -r said
echo "$said|${{CUDA_MPS_PIPE_DIRECTORY:-}}|${{CUDA_MPS_LOG_DIRECTORY:-}}|${{CUDA_VISIBLE_DEVICES-all}}" >> "$here/log"
case $said in
    start) {start};;
    quit*) kill "$(cat "$pipes/pid")";;
    *) [ -e "$pipes/pid" ];;
esac
"""
STARTS = 'setsid sleep 1000 & echo $! > "$pipes/pid"'


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, whose programs are found, and none of NVIDIA's; nothing of MPS is set."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        for name in (mps.PIPES, "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        yield Path(folder)


def install(place: Path, start: str = STARTS) -> None:
    program = place / mps.PROGRAM
    program.write_text(STAND_IN.format(start=start))
    program.chmod(0o755)


def calls(place: Path) -> list[list[str]]:
    """[what was said, CUDA_MPS_PIPE_DIRECTORY, CUDA_MPS_LOG_DIRECTORY, CUDA_VISIBLE_DEVICES] of every call so far."""
    return [line.split("|") for line in (place / "log").read_text().splitlines()]


def lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def has_ended(pid: int) -> bool:
    """In a while: the stand-in does not wait until what it ends is gone."""
    end = time.monotonic() + GUARD
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not lives(pid)


def well(environment: Mapping[str, str]) -> str:
    return ""


def test_a_daemon_lives_as_long_as_its_sweep(place: Path) -> None:
    install(place)
    with mps.shared(place, well) as sharing:
        folder = Path(sharing.variables[mps.PIPES])
        daemon = int((folder / "pid").read_text())
        assert (sharing.how, sharing.warning) == ("with MPS", "")
        assert folder.parent == place
        assert folder.stat().st_mode & 0o777 == 0o700
        assert lives(daemon)
        assert mps.PIPES not in os.environ, "this process does not use it"
    assert has_ended(daemon)
    assert not folder.exists()
    asked, started, ended = calls(place)
    assert asked == ["get_server_list", "", "", "all"]
    assert started == ["start", str(folder), str(folder), "all"]
    assert ended[:2] == ["quit -t 10", str(folder)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_ends_after_an_error_too(place: Path, error: type[BaseException]) -> None:
    install(place)
    daemons: list[int] = []

    def run() -> None:
        with mps.shared(place, well) as sharing:
            daemons.append(int((Path(sharing.variables[mps.PIPES]) / "pid").read_text()))
            raise error

    with pytest.raises(error):
        run()
    assert has_ended(*daemons)


OWNER = """
import sys, time
from pathlib import Path
from diffcps.sweep import mps
with mps.shared(Path(sys.argv[1])) as sharing:
    print(sharing.variables[mps.PIPES], flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_a_killed_sweep(place: Path, number: int) -> None:
    """Also where the signal goes to all processes of a terminal. No driver is here, so the probe has nothing to say."""
    install(place)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(place)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    daemon = int((folder / "pid").read_text())
    assert lives(daemon)
    os.killpg(owner.pid, number)
    owner.wait(GUARD)
    assert has_ended(daemon)
    end = time.monotonic() + GUARD
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()


def test_one_that_the_user_has_set_up_is_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(place)
    (place / "default").mkdir()
    (place / "default" / "pid").write_text("1")
    with mps.shared(place, well) as sharing:
        assert not sharing.variables
        assert not sharing.warning
    monkeypatch.setenv(mps.PIPES, "/elsewhere")
    with mps.shared(place, well) as sharing:
        assert not sharing.variables
        assert mps.PIPES in sharing.how
    assert [call[0] for call in calls(place)] == ["get_server_list"]


@pytest.mark.parametrize("start", ["echo no such device >&2; exit 1", "echo no such device; exit 3"])
def test_one_that_does_not_start_is_told_and_done_without(place: Path, start: str) -> None:
    install(place, start)
    with mps.shared(place, well) as sharing:
        assert not sharing.variables
        assert "no such device" in sharing.warning
        assert "\n" not in sharing.warning
    assert not list(place.glob("mps-*"))


def test_one_that_starts_and_does_not_work_is_ended_after_the_sweep(place: Path) -> None:
    install(place)
    with mps.shared(place, lambda environment: f"CUDA's error 805 at {environment[mps.PIPES]}") as sharing:
        assert not sharing.variables
        assert f"CUDA's error 805 at {place}" in sharing.warning
    assert calls(place)[-1][0] == "quit -t 10"


def test_without_the_program_and_with_parts_of_gpus_there_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with mps.shared(place, well) as sharing:
        assert not sharing.variables
        assert mps.PROGRAM in sharing.warning
    install(place)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5b1a2c3d-aaaa-bbbb-cccc-ddddeeeeffff")
    with mps.shared(place, well) as sharing:
        assert not sharing.variables
        assert "MIG" in sharing.warning
    assert not (place / "log").exists()


@pytest.mark.parametrize(("visible", "given"), [("2,3", "all"), ("GPU-8f2a1c3e", "GPU-8f2a1c3e")])
def test_clients_count_gpus_as_without_mps(
    place: Path, monkeypatch: pytest.MonkeyPatch, visible: str, given: str
) -> None:
    """MPS gives new numbers to those that it is shown by numbers, and its clients would count wrongly."""
    install(place)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with mps.shared(place, well):
        assert calls(place)[-1][3] == given


WORKERS = """
import functools, os
import ray
from diffcps.sweep import cluster, mps
cluster._init = functools.partial(cluster._init, num_gpus=1)  # as if the machine had one
with cluster.connected("local", sharing=True) as found:
    @ray.remote(num_gpus=0.15)
    def shown():
        return os.environ.get(mps.PIPES)
    print([found.description, found.warning, ray.get(shown.remote()), os.environ.get(mps.PIPES)])
"""


def test_workers_of_a_sweep_that_shares_gpus_find_it(place: Path) -> None:
    install(place)
    given = {**os.environ, **RAY_SETTINGS, "RAY_TMPDIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, env=given, check=True,
        timeout=GUARD,
    )  # fmt: skip
    description, warning, found, here = ast.literal_eval(done.stdout.splitlines()[-1])
    assert not warning
    assert here is None
    assert "with MPS" in description
    assert found == calls(place)[1][1]
    assert Path(found).parent == place
    assert [call[0] for call in calls(place)] == ["get_server_list", "start", "quit -t 10"]


def test_gpus_are_shared_where_a_worker_has_less_than_one() -> None:
    assert share_gpus(MachineFlags(gpus_per_trial=0.15))
    assert share_gpus(MachineFlags(gpus_per_trial=1.0, workers_per_trial=2))
    assert not share_gpus(MachineFlags())
    assert not share_gpus(MachineFlags(gpus_per_trial=0.0))
    assert not share_gpus(MachineFlags(gpus_per_trial=1.0))


def test_what_a_dry_run_supposes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not on the PATH" in mps.assumed(None)
    install(place)
    assert "starts and ends" in mps.assumed("local")
    assert "cluster/README.md" in mps.assumed("10.0.0.1:6379")
    monkeypatch.setenv(mps.PIPES, "/elsewhere")
    assert mps.PIPES in mps.assumed(None)
