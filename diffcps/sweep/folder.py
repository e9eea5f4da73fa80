"""A sweep's folder: made, held by one process at a time, and asked how far its trials have come."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from diffcps.errors import UserError
from diffcps.files import room, write_json
from diffcps.runs.folder import RunFolder
from diffcps.runs.lock import _locked
from diffcps.runs.plan import Plan, load
from diffcps.storage.lease import leased
from diffcps.storage.place import Place


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


def _leased(place: Place, lost: threading.Event) -> contextlib.AbstractContextManager[None]:
    """Hold a sweep in an object store; if another process takes it over, ``lost`` is set, and this one must end."""
    if place.remote is None:
        return contextlib.nullcontext()

    def end() -> None:
        lost.set()
        os.kill(os.getpid(), signal.SIGTERM)  # as a cluster manager would: the sweep stops between two steps

    return leased(place.remote, lost=end)


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
