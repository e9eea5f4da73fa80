"""NVIDIA's MPS: with it, kernels of several processes run on one GPU at once; without it, the processes take turns."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from diffcps.text import first_line

PROGRAM = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""Variable by which MPS and the processes that use it find each other."""
TURNS = "trials that share a GPU take turns on it"
_LONGEST_START, _LONGEST_PROBE, _LONGEST_END = 20.0, 60.0, 40.0
"""Seconds."""
_END = """
read -r _
echo 'quit -t 10' | timeout 30 "$0" > /dev/null 2>&1
rm -rf "$1"
"""
"""A shell that waits until nobody holds its input open: the sweep has ended, of itself or by ``kill -9``. Then it ends MPS, and
after ten seconds what still uses it."""
_PROBE = """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit(0)
device, context = ctypes.c_int(), ctypes.c_void_p()
for error in (
    lambda: cuda.cuInit(0),
    lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
    lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
):
    if code := error():
        sys.exit(f"CUDA's error {code} in a process that uses it")
"""
"""A small program that uses the first visible GPU. Where it finds no driver, nothing can be said."""


class Sharing(NamedTuple):
    """How processes share the GPUs of this machine."""

    variables: Mapping[str, str]
    """What a process needs in its environment to use MPS, beside what this process has."""
    how: str = ""
    """In two or three words; empty without MPS."""
    warning: str = ""
    """Why there is no MPS; empty with it."""


def assumed(address: str | None) -> str:
    """What a dry run supposes, in a sentence; ``address``: of the Ray cluster, ``None`` or ``local`` for this machine alone."""
    if address not in (None, "local"):
        return f"GPUs are shared: by MPS if the nodes run it (cluster/README.md), else {TURNS}"
    if os.environ.get(PIPES):
        return f"GPUs are shared by the MPS of {PIPES}"
    if shutil.which(PROGRAM) is None:
        return f"GPUs are shared without MPS, as {PROGRAM} is not on the PATH: {TURNS}"
    return "GPUs are shared by MPS, which the sweep starts and ends unless it runs already"


def works(environment: Mapping[str, str]) -> str:
    """Why a process with this environment cannot use a GPU; empty if it can, or has no driver."""
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LONGEST_PROBE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a process that uses it waits for more than {_LONGEST_PROBE:g} s"
    return first_line(done.stderr) if done.returncode else ""


@contextmanager
def shared(above: Path, probe: Callable[[Mapping[str, str]], str] = works) -> Iterator[Sharing]:
    """MPS for the processes of this machine that get ``Sharing.variables``; a daemon that is started here ends with the block.

    One that the user has set up is used instead: that of CUDA_MPS_PIPE_DIRECTORY, or the default one if it answers.
    Nothing is raised if MPS does not start; ``Sharing.warning`` then says why.

    If this process is killed the daemon ends too, by a shell that waits for that. If somebody kills this shell as well,
    the daemon stays, idle, until ``echo quit | nvidia-cuda-mps-control`` with its folder in CUDA_MPS_PIPE_DIRECTORY.

    Args:
        above: a folder with a short path, in which the daemon's own folder is made, for its sockets and logs.
        probe: tells why MPS does not work with an environment; empty if it does.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if os.environ.get(PIPES):
        yield Sharing({}, f"with the MPS of {PIPES}")
    elif shutil.which(PROGRAM) is None:
        yield Sharing({}, warning=f"{PROGRAM} is not on the PATH: {TURNS}.")
    elif "MIG-" in visible:
        yield Sharing({}, warning=f"MPS is not started for parts of a GPU (MIG): {TURNS}.")
    elif _answers():
        yield Sharing({}, "with the MPS that runs here")
    else:
        with _started(above, visible) as (folder, reason):
            variables = {PIPES: str(folder)}
            if reason := reason or probe(os.environ | variables):
                yield Sharing({}, warning=f"MPS does not work here ({reason}): {TURNS}.")
            else:
                yield Sharing(variables, "with MPS")


def _answers() -> bool:
    """Whether a daemon with the default folder runs; whoever has started it, processes without the variable use it."""
    try:
        done = subprocess.run(
            [PROGRAM], input="get_server_list\n", capture_output=True, text=True, timeout=_LONGEST_START, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextmanager
def _started(above: Path, visible: str) -> Iterator[tuple[Path, str]]:
    """The folder of a daemon that runs inside, and why it does not; the latter is empty if all is well."""
    folder = Path(tempfile.mkdtemp(prefix="mps-", dir=above))
    environment = os.environ | {PIPES: str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    if not visible.startswith("GPU-"):  # of visible numbers MPS makes new ones, while its clients count by the old
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    # Ctrl-C in the terminal does not reach it: it is in a session of its own
    ending = subprocess.Popen(
        ["sh", "-c", _END, PROGRAM, str(folder)], env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield folder, _start(folder, environment)
    finally:
        assert ending.stdin is not None
        ending.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # it goes on without this process
            ending.wait(_LONGEST_END)


def _start(folder: Path, environment: Mapping[str, str]) -> str:
    """Start the daemon; returns why it does not, empty if it does."""
    said = folder / "start.log"  # a file, because the daemon would keep a pipe open
    try:
        with said.open("wb") as out:
            subprocess.run(
                [PROGRAM, "-d"], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                timeout=_LONGEST_START, check=True,
            )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return first_line(said.read_text(errors="replace").strip() or error).rstrip(".")
    return ""
