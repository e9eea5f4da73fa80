"""."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from diffcps.errors import UserError
from diffcps.files import room

BEAT = 15.0
"""Seconds between renewals."""
NAME = "lease.json"
"""Name of the note in the sweep's folder."""
_LOOK_SECONDS = 3 * BEAT + 120.0


class Holder(NamedTuple):
    """Who works on a sweep."""

    who: str
    """``process 123 on host``."""
    since: float
    """``time.time()`` at which it took hold."""


def noted(content: bytes) -> Holder | None:
    """Who holds a sweep as far as one look at its note tells; ``None`` when it has not been renewed for some time.

    One look has only the clocks to go by, so it grants them two minutes; enough to show, not to take a sweep over.
    """
    try:
        values = json.loads(content)
        found, at = Holder(str(values["holder"]), float(values["since"])), float(values["at"])
    except (ValueError, KeyError, TypeError):
        return None
    return found if time.time() - at < _LOOK_SECONDS else None


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
