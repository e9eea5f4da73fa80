"""A sweep's folder: made, held by one process at a time, and asked how far its trials have come."""

import contextlib
import fcntl
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from diffcps.distributed.lease import Holder, leased
from diffcps.distributed.place import Place
from diffcps.distributed.plan import Plan, load
from diffcps.errors import UserError
from diffcps.runs import RunFolder, room, write_json

REPEATED = "address", "cpus_per_trial", "gpus_per_trial", "workers_per_trial", "concurrent"
"""Flags of a launch that the command to go on with the sweep repeats."""

_SCRIPT = "tune/sweep_d4rl.py"


@contextmanager
def held(place: Place, plan: Plan) -> Iterator[threading.Event]:
    """Make the sweep's folder, or find it, and hold it alone; yields an event that says that another has taken it over.

    A sweep exists once ``begin`` has been called. When something is refused before, nothing stays behind.

    Raises:
        UserError: nothing can be written there, another process holds it, or it holds another sweep or something else.
    """
    folder = place.folder
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written: {error.strerror}. Choose another folder with --results."
            ) from error
        lost = threading.Event()
        with file, _locked(file, folder), _leased(place, lost):
            place.refresh()
            _refuse_another(place, plan)
            yield lost
    finally:
        if not os.path.exists(folder / "sweep.json"):
            # a folder that another process has begun to use in between is not empty, and stays
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


@contextmanager
def _locked(file: IO[str], folder: Path) -> Iterator[None]:
    try:
        _lock(file)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(f"{folder} is in use by {holder}. Wait for it, or stop it, and start again.") from error
    try:
        with room(folder / ".lock"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        yield
    finally:
        if not (folder / "sweep.json").exists():
            (folder / ".lock").unlink(missing_ok=True)


def _leased(place: Place, lost: threading.Event) -> contextlib.AbstractContextManager[None]:
    """Hold a sweep in an object store; if another process takes it over, ``lost`` is set, and this one must end."""
    if place.remote is None:
        return contextlib.nullcontext()

    def end() -> None:
        lost.set()
        os.kill(os.getpid(), signal.SIGTERM)  # as a cluster manager would: the sweep stops between two steps

    return leased(place.remote, lost=end)


def _lock(file: IO[str]) -> None:
    """Take the lock; a person who is just looking whether it is held (``holder``) lets go of it at once."""
    for _ in range(3):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(folder: Path) -> Holder | None:
    """The process that holds a sweep's folder now, or ``None``; a process that was killed holds nothing."""
    try:
        file = (folder / ".lock").open(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(file.read().strip() or "another process", os.fstat(file.fileno()).st_mtime)
    return None


def python() -> str:
    """This process's Python, as a command from where it is."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def resume_command(name: str, results: object, script: str, flags: Mapping[str, object]) -> str:
    """The command that goes on with the sweep ``name``, from where this process is and with its Python.

    Args:
        name: of the sweep.
        results: where it lies, a path or a URL.
        script: what it was started with; where that is no script that can be found from here, the project's own.
        flags: of ``REPEATED``, those that are not at their default.
    """
    if not script.endswith(".py") or not Path(script).exists():
        own = Path(__file__).parents[2] / _SCRIPT
        script = _SCRIPT if Path(_SCRIPT).exists() or not own.exists() else str(own)
    words = [python(), script, "--resume", name, "--results", results]
    for flag, value in flags.items():
        words += [f"--{flag.replace('_', '-')}", value]
    return shlex.join(map(str, words))


def begin(place: Place, plan: Plan) -> None:
    """Write down what the sweep is, if that is not there yet: from here on it can be resumed by its name."""
    folder = place.folder
    with room(folder):
        (folder / "runs").mkdir(exist_ok=True)
    if not (folder / "sweep.json").exists():
        details = {
            "command": sys.argv,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "tracking_uri": place.tracking_uri,
            "data_directories": [str(directory) for directory in place.data_directories],
        }
        with room(folder / "sweep.json"):
            write_json(folder / "sweep.json", plan.to_dict() | details)
    place.publish("sweep.json")


def run_folders(place: Place) -> list[RunFolder]:
    """The run folders that exist, as far as this machine knows (``Place.refresh``)."""
    return [place.record(file.parent.name) for file in sorted((place.folder / "runs").glob("*/config.json"))]


def unfinished(place: Place, plan: Plan) -> int:
    """Trials that should be complete and are not. A search has only those that it has started."""
    folders = run_folders(place)
    complete = sum(folder.complete for folder in folders)
    return (len(folders) if plan.search else plan.count) - complete


def settle(place: Place, plan: Plan, interrupted: bool) -> None:
    """Give every trial that is not complete its true state: stopped by the interrupt, or failed and why."""
    place.refresh("runs")
    if not interrupted and plan.search is None:
        for trial in plan.trials:
            if not (record := place.run_folder(trial)).complete:
                record.create(trial)
    for folder in run_folders(place):
        state = folder.status["state"]
        if state in ("complete", "failed"):
            continue
        folder.take()  # the workers have just been told to end, and one may still be writing
        if interrupted and state == "running":
            folder.write_status({**folder.status, "state": "stopped", "updated": time.time()})
        elif state == "running":
            folder.fail("its worker process died again and again; see Ray's logs for the reason")
        elif not interrupted:
            folder.fail("its worker never came to its first step; see Ray's logs for the reason")


def _refuse_another(place: Place, plan: Plan) -> None:
    """Raise ``UserError`` when the folder holds another sweep, or something that is no sweep at all."""
    folder = place.folder
    if (folder / "sweep.json").exists():
        if load(folder) != plan:
            raise UserError(
                f"{folder} holds another sweep of that name. Continue that one with --resume {plan.name}, or give "
                "this one another --name or --results."
            )
    elif any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"{folder} exists and is no sweep's folder. Choose another --name or --results.")
