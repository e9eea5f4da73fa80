"""Which process works on a sweep: a lock on its folder, and the lease on one in an object store as others see it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from diffcps.errors import UserError
from diffcps.files import disk_full_as_user_error

HEARTBEAT_SECONDS = 15.0
"""Between two renewals of a lease."""
LOCK = ".lock"
"""Name of the lock in a sweep's folder."""
LEASE = "lease.json"
"""Name of a lease's note in the sweep's folder."""
_LOOK_SECONDS = 3 * HEARTBEAT_SECONDS + 120.0


class Holder(NamedTuple):
    """The process that works on a sweep."""

    who: str
    """``process 123 on host``."""
    since: float
    """``time.time()`` at which it began."""


def noted(content: bytes) -> Holder | None:
    """The holder by a single look at its note; ``None`` when it has not been renewed for some time.

    A single look relies on clocks, so it allows them two minutes of difference. That is good enough to show, not to claim
    a sweep.
    """
    try:
        values = json.loads(content)
        found, at = Holder(str(values["holder"]), float(values["since"])), float(values["at"])
    except (ValueError, KeyError, TypeError):
        return None
    return found if time.time() - at < _LOOK_SECONDS else None


def _flock(file: IO[str], shared: bool = False) -> None:
    """Take the lock if nobody has it. Raises ``UserError`` on a system without such locks."""
    try:
        import fcntl
    except ImportError as error:
        raise UserError("a sweep needs POSIX's file locks, which Windows does not have: run it in WSL.") from error
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _lock(file: IO[str]) -> None:
    """Take the lock; ``holder``, which only looks, releases it at once."""
    for _ in range(3):
        try:
            return _flock(file)
        except BlockingIOError:
            time.sleep(0.05)
    return _flock(file)


@contextmanager
def locked(file: IO[str], folder: Path, take: Callable[[IO[str]], None] = _lock) -> Iterator[None]:
    """Lock a sweep's folder by its file ``.lock``, with ``take``.

    Raises ``UserError`` when another process has locked it, or the file system has no locks.
    """
    try:
        take(file)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(f"{folder} is in use by {holder}. Wait for it, or stop it, and start again.") from error
    except OSError as error:
        raise UserError(
            f"{folder} cannot be locked: {error.strerror}. Without locks two processes could write one sweep, and MLflow's "
            "database does not work. Choose another folder with --results, on a local disk or in an object store, or "
            "mount this file system with locks."
        ) from error
    try:
        with disk_full_as_user_error(folder / LOCK):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        yield
    finally:
        if not (folder / "sweep.json").exists():
            (folder / LOCK).unlink(missing_ok=True)


def holder(folder: Path) -> Holder | None:
    """The living process that has claimed a sweep, by its lock or by its lease, or ``None``."""
    note = folder / LEASE
    return _locking(folder / LOCK) or (noted(note.read_bytes()) if note.exists() else None)


def was_held(folder: Path) -> bool:
    """Whether a process has ever claimed the sweep: whether there is a lock or a lease, of a living process or not."""
    return (folder / LOCK).exists() or (folder / LEASE).exists()


def _locking(file: Path) -> Holder | None:
    """The process that locks a file; one that was killed locks it no more."""
    try:
        opened = file.open(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with opened:
        try:
            _flock(opened, shared=True)
        except BlockingIOError:
            return Holder(opened.read().strip() or "another process", os.fstat(opened.fileno()).st_mtime)
        except (OSError, UserError):  # a file system, or a system, without locks
            return None
    return None
