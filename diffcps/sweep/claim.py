"""A sweep's folder: made, claimed by one process at a time, and its trials' states."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffcps.errors import UserError
from diffcps.files import disk_full_as_user_error, read_json, unwritable_as_user_error, write_json
from diffcps.runs.folder import RunFolder
from diffcps.runs.lock import HEARTBEAT_SECONDS, LOCK, locked
from diffcps.runs.plan import Plan, load
from diffcps.storage.location import Location
from diffcps.storage.remote import leased


def _terminate() -> None:
    """End this process as a cluster manager would: the sweep stops between two steps."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def claimed(
    location: Location, plan: Plan, heartbeat: float = HEARTBEAT_SECONDS, stop: Callable[[], None] = _terminate
) -> Iterator[threading.Event]:
    """Make the sweep's folder if needed and claim it; yields an event that is set when another process has claimed it.

    A sweep exists once ``begin`` has been called. When something is refused before that, nothing stays behind.

    Args:
        location: where the sweep is.
        plan: what it runs.
        heartbeat: seconds between two renewals of the lease on a sweep in an object store.
        stop: called in a thread when another process has claimed the sweep.

    Raises:
        UserError: the folder cannot be written, is claimed by another process, or holds something else.
    """
    folder = location.folder
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        with unwritable_as_user_error(folder, "Choose another folder with --results."):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / LOCK).open("a+", encoding="utf-8")
        lost = threading.Event()
        with file, locked(file, folder), _leased(location, heartbeat, lost, stop):
            location.refresh()
            _refuse_another(location, plan)
            yield lost
    finally:
        if not os.path.exists(folder / "sweep.json"):
            # a folder that another process has begun to use is not empty, and stays
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


def _leased(
    location: Location, heartbeat: float, lost: threading.Event, stop: Callable[[], None]
) -> contextlib.AbstractContextManager[None]:
    """A lease on a sweep in an object store; when another process claims the sweep, ``lost`` is set and ``stop`` called."""
    if location.remote is None:
        return contextlib.nullcontext()

    def end() -> None:
        lost.set()
        stop()

    return leased(location.remote, heartbeat, lost=end)


def begin(location: Location, plan: Plan) -> None:
    """Write ``sweep.json`` if it is missing or the plan has grown; from here on the sweep can be resumed by its name."""
    folder = location.folder
    with disk_full_as_user_error(folder):
        (folder / "runs").mkdir(exist_ok=True)
    file = folder / "sweep.json"
    if file.exists() and load(folder) != plan:
        with disk_full_as_user_error(file):
            # record the newest command: its flags match the added trials
            write_json(file, read_json(file) | plan.to_dict() | {"command": sys.argv})
    elif not file.exists():
        details = {
            "command": sys.argv,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "tracking_uri": location.tracking_uri,
            "data_directories": [str(directory) for directory in location.data_directories],
        }
        with disk_full_as_user_error(file):
            write_json(file, plan.to_dict() | details)
    location.publish("sweep.json")


def run_folders(location: Location) -> list[RunFolder]:
    """The run folders that this machine knows; see ``Location.refresh``."""
    return [location.run_folder(file.parent.name) for file in sorted((location.folder / "runs").glob("*/config.json"))]


def unfinished(location: Location, plan: Plan) -> int:
    """How many trials are not done, failed ones among them; of a search, of those that it has started."""
    folders = run_folders(location)
    done = sum(folder.done for folder in folders)
    return (len(folders) if plan.search else plan.count) - done


def save_running(location: Location, since: float, seconds: float) -> None:
    """Have every running trial write a checkpoint, and wait for them.

    Not for results in an object store: those run folders are on the workers' machines.

    Args:
        location: of the sweep.
        since: ``time.time()`` at which this launch began; a status from before is that of an earlier one.
        seconds: to wait at most.
    """
    waiting = {
        folder: folder.status.get("saved", 0)
        for folder in run_folders(location)
        if _running(folder) and folder.status.get("updated", 0.0) >= since and folder.ask_to_save()
    }
    end = time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        time.sleep(0.1)
        waiting = {
            folder: before
            for folder, before in waiting.items()
            if _running(folder) and folder.status.get("saved", 0) == before
        }


def _running(folder: RunFolder) -> bool:
    return bool(folder.status["state"] == "running")


def settle(location: Location, plan: Plan, interrupted: bool) -> None:
    """Give every trial that is not complete its final state: stopped by the interrupt, or failed and why."""
    location.refresh("runs")
    if not interrupted and plan.search is None:
        for trial in plan.trials:
            if not (record := location.run_folder(trial.key)).done:
                record.create(trial)
    for folder in run_folders(location):
        state = folder.status["state"]
        if folder.done or state == "failed":
            continue
        folder.claim()  # its worker is ending, and may still be writing
        if interrupted and state == "running":
            folder.change_state("stopped")
        elif state == "running":
            folder.fail("its worker process died repeatedly; see Ray's logs for the reason")
        elif not interrupted:
            folder.fail("its worker never reached its first step; see Ray's logs for the reason")


def holds_another_sweep(folder: Path) -> str:
    """What is said where a folder holds another sweep than the one that is asked for."""
    return (
        f"{folder} holds another sweep of that name. Continue that one with --resume {folder.name}, add these trials to it with "
        "--extend, or choose another --name or --results for this one."
    )


def _refuse_another(location: Location, plan: Plan) -> None:
    """Raise ``UserError`` when the folder holds another sweep, or something else."""
    folder = location.folder
    if (folder / "sweep.json").exists():
        if not plan.contains(load(folder)):
            raise UserError(holds_another_sweep(folder))
    elif any(path.name != LOCK for path in folder.iterdir()):
        raise UserError(f"{folder} exists and is not a sweep's folder. Choose another --name or --results.")
