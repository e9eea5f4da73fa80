"""A trial on a disk that really is full: run in a mount namespace of its own, where a small disk may be made.

unshare --map-root-user --mount python tests/full_disk.py FOLDER

Prints one line for each amount of room that was left to the trial: the room in bytes, what could not be written, how far
the trial had come. Every line stands for a trial that was told of it, went on when there was room, and ended bit-equal.
Then ``table.md`` and ``mlflow``, when these have met the full disk too.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import looped as trials
import pytest
import sweeps

from diffcps import report, tracking
from diffcps.errors import UserError
from diffcps.files import DiskFullError
from diffcps.runs.folder import RunFolder
from diffcps.tracking.sink import Pace

CONFIG = trials.CONFIG.replaced(checkpoint_minutes=1e-9)  # a checkpoint a row
PAGE = 4096
BALLAST = "ballast"


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes."""
    space = os.statvfs(disk)
    size = space.f_bavail * space.f_frsize - left
    with (disk / BALLAST).open("wb") as file:
        file.write(bytes(max(0, size)))


def main(root: Path) -> None:
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    undisturbed = trials.trained(root / "whole" / "runs" / CONFIG.key, CONFIG)
    room, failed = 0, True
    while failed:
        folder = RunFolder(disk / f"run-{room}")
        folder.create(CONFIG)
        fill(disk, room)
        failed = False
        try:
            trials.trained(folder.path, CONFIG)
        except DiskFullError as error:
            failed, what = True, str(error)
            assert "No space left on device" in what, what
            assert "--resume" in what, what
        (disk / BALLAST).unlink()
        if failed:
            state, complaints = folder.load_checkpoint()
            assert not complaints, complaints
            assert not list(folder.path.rglob("*.tmp"))
            print(room, Path(what.partition(" cannot be written")[0]).name, state["learner"]["step"] if state else 0)
            trials.trained(folder.path, CONFIG)
        sweeps.assert_same_result(folder, undisturbed)
        subprocess.run(["rm", "-r", folder.path], check=True)
        room += PAGE
    table(root / "whole", disk)
    mlflow(disk)


def table(finished: Path, disk: Path) -> None:
    """No room for a report: the file is named, the one that is there stays whole, and with room all are written."""
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    folder = disk / "reported"
    subprocess.run(["cp", "-r", finished, folder], check=True)
    written = report.build(folder).write()
    before = {path: path.read_bytes() for path in written}
    fill(disk, 0)
    with pytest.raises(UserError, match=r"table\.md.*No space left"):
        report.build(folder).write()
    assert {path: path.read_bytes() for path in written} == before
    assert not list(folder.rglob("*.tmp"))
    (disk / BALLAST).unlink()
    assert report.build(folder).write() == written
    subprocess.run(["rm", "-r", folder], check=True)
    print("table.md")


def mlflow(disk: Path) -> None:
    """MLflow's database on a full disk holds nothing up, is told of once, and gets its rows in the end."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("diffcps").addHandler(handler)
    folder = RunFolder(disk.parent / "shown" / "runs" / CONFIG.key)
    uri = tracking.check(tracking.default_uri(disk))
    tracker = tracking.Tracker(uri, "shown")
    tracker.trial_runs(CONFIG, {})
    fill(disk, 0)
    pace = Pace(close=5.0)
    trials.trained(
        folder.path,
        CONFIG,
        sinks=lambda facts: [tracking.MlflowSink(tracking.Tracker(uri, "shown"), CONFIG, facts, folder, pace)],
    )
    assert folder.done
    assert any("disk is full" in text and "Training continues" in text for text in records), records
    (disk / BALLAST).unlink()
    tracker.reconcile(disk.parent / "shown")
    runs = tracker.trial_runs(CONFIG, folder.environment)
    assert {tracker.progress(run) for run in runs} == {CONFIG.steps}
    print("mlflow")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
