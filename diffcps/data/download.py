"""Fetches D4RL's files from mirrors and the public home; a file has its name only when it is whole.

The next attempt, in this run or a later one, asks only for what has not come yet (``partial``), and only where the
address vouches that its file is still the same (a strong ETag or the time of its last change). One process at a time
works on a file; others wait for it.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import filelock

from diffcps.data import checksums, d4rl, provenance, store
from diffcps.data.mirrors import (
    Answer,
    BrokenError,
    ChangedError,
    Mirror,
    RefusedError,
    UnreachableError,
    ask,
    is_web,
)
from diffcps.data.partial import CannotWriteError, Partial, WrongFileError, how_far
from diffcps.errors import UserError
from diffcps.tasks import Task

_POLL = 0.2
_FAREWELL = 2.0
"""Seconds that threads get to end after an interrupt; one that waits for a server is left behind."""


@dataclass(frozen=True)
class Patience:
    """When an address is given up."""

    connect: float = 10.0
    """Seconds without an answer to a connection."""
    stall: float = 30.0
    """Seconds without a byte."""
    attempts: int = 4
    """Attempts in a row that bring the file no further."""
    pause: float = 1.0
    """Seconds before the second attempt, doubled each time."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    tasks: tuple[str, ...]
    """Names of the tasks that read it."""
    path: Path
    """Where it is, or should have been."""
    state: Literal["downloaded", "already here", "failed"]
    tried: tuple[tuple[str, str], ...] = ()
    """Addresses that did not give it, each with the reason."""
    reason: str | None = None
    """Why it failed, where that is no fault of an address."""


class Watcher(Protocol):
    """Is told how it goes, from several threads; ``task`` is the first task that reads the file."""

    def progress(self, task: str, have: int, total: int | None) -> None:
        """So many bytes of the file are here."""

    def say(self, task: str, text: str) -> None:
        """Something worth a line happened."""

    def ended(self, task: str, outcome: Outcome) -> None:
        """The file is done with."""


def download(
    tasks: Sequence[Task],
    folder: Path,
    mirrors: Sequence[Mirror],
    watcher: Watcher,
    *,
    jobs: int = 3,
    elsewhere: Sequence[Path] = (),
    patience: Patience = Patience(),
) -> list[Outcome]:
    """Fetch each file that the tasks read into ``folder``, ``jobs`` at a time; outcomes in the order of the tasks.

    A file that is in ``folder``, or in one of the folders ``elsewhere``, is left alone. A file that cannot be had does
    not keep the others from coming. An interrupt leaves what has come for the next run.

    Raises ``UserError`` when a task has no D4RL file or the folder cannot be written.
    """
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(store.public_path(task), []).append(task)
    errand = _Errand(folder.expanduser().absolute(), mirrors, watcher, tuple(elsewhere), patience)
    if not all(errand.copies(sub_path) for sub_path in groups):
        _make(errand.folder)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for sub_path in groups:
        waiting.put(sub_path)
    ended: dict[str, Outcome | BaseException] = {}

    def work() -> None:
        while not errand.stop.is_set():
            try:
                sub_path = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended[sub_path] = _File(errand, sub_path, groups[sub_path]).fetch()
            except BaseException as error:
                ended[sub_path] = error  # raised again by the thread that waits
                errand.stop.set()

    # Daemons, because a thread that waits for a server cannot be interrupted, and an interrupt must not wait for it.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(groups)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL)
    except KeyboardInterrupt:
        errand.stop.set()
        until = time.monotonic() + _FAREWELL
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise
    for result in ended.values():
        if isinstance(result, BaseException) and not isinstance(result, _StoppedError):
            raise result
    return [outcome for sub_path in groups if isinstance(outcome := ended[sub_path], Outcome)]


class _StoppedError(Exception):
    """The run ends; what has come is kept."""


class _Errand:
    """What the files of one run share."""

    def __init__(
        self, folder: Path, mirrors: Sequence[Mirror], watcher: Watcher, elsewhere: tuple[Path, ...], patience: Patience
    ) -> None:
        self.folder, self.mirrors, self.watcher, self.elsewhere = folder, mirrors, watcher, elsewhere
        self.patience = patience
        self.stop = threading.Event()
        self.unreachable: dict[str, str] = {}

    def copies(self, sub_path: str) -> list[Path]:
        name = sub_path.rpartition("/")[2]
        return [path for folder in (self.folder, *self.elsewhere) if os.path.lexists(path := folder / name)]


class _File:
    """One file on its way."""

    def __init__(self, errand: _Errand, sub_path: str, readers: Sequence[Task]) -> None:
        self.errand, self.sub_path, self.readers = errand, sub_path, readers
        self.tasks = tuple(task.name for task in readers)
        self.path = errand.folder / sub_path.rpartition("/")[2]
        self.tried: list[tuple[str, str]] = []

    def fetch(self) -> Outcome:
        outcome = self._found()
        if outcome is None:
            try:
                with self._alone():
                    outcome = self._found() or self._from_somewhere()
            except CannotWriteError as error:
                outcome = Outcome(self.tasks, self.path, "failed", tuple(self.tried), str(error))
            except OSError as error:
                reason = f"{error.filename or self.path}: {error.strerror or error}"
                outcome = Outcome(self.tasks, self.path, "failed", tuple(self.tried), reason)
        self.errand.watcher.ended(self.tasks[0], outcome)
        return outcome

    def _found(self) -> Outcome | None:
        """The outcome when a copy is here already, which nothing here touches."""
        found = self.errand.copies(self.sub_path)
        if not found:
            return None
        try:
            for task in self.readers:
                d4rl.check_layout(task, found[0])
        except UserError as error:
            reason = f"{error} It was left as it is: move or delete it, and start the same command again."
            return Outcome(self.tasks, found[0], "failed", reason=reason)
        if provenance.KNOWN_SHA256.get(found[0].name) is not None:
            checksums.of(found[0])
        return Outcome(self.tasks, found[0], "already here")

    def _from_somewhere(self) -> Outcome:
        for mirror in self.errand.mirrors:
            for address in mirror.addresses(self.sub_path):
                try:
                    self._have(address)
                except (BrokenError, WrongFileError) as error:
                    self._note(address, str(error))
                    break  # the mirror's other address is on the same host, or has the same file
                except RefusedError as error:
                    self._note(address, str(error))
                else:
                    return Outcome(self.tasks, self.path, "downloaded", tuple(self.tried))
        return Outcome(self.tasks, self.path, "failed", tuple(self.tried))

    def _note(self, address: str, reason: str) -> None:
        self.tried.append((address, reason))
        self.errand.watcher.say(self.tasks[0], f"{address}: {reason}")

    def _have(self, address: str) -> None:
        """The whole of the file from ``address``, under its name."""
        partial = Partial(self.path, address)
        continued = partial.beginning() is not None
        self._insist(partial)
        try:
            partial.finish(self.readers)
        except WrongFileError as error:
            if not continued:
                raise
            self.errand.watcher.say(self.tasks[0], f"{address}: {error}; it was continued from before, so once anew")
            self._insist(partial)
            partial.finish(self.readers)

    def _insist(self, partial: Partial) -> None:
        """Have the whole of the file in ``partial``, trying again while that may help."""
        errand, patience, address = self.errand, self.errand.patience, partial.address
        host = urlsplit(address).netloc if is_web(address) else ""
        if host in errand.unreachable:
            raise UnreachableError(f"not asked again: {errand.unreachable[host]}")
        farthest, failures = _come(partial), 0
        while True:
            try:
                return self._attempt(partial)
            except ChangedError:
                partial.discard()
                failures += 1
                if failures >= patience.attempts:
                    raise BrokenError("its file changes while it is fetched") from None
            except BrokenError as error:
                have = _come(partial)
                failures = 1 if have > farthest else failures + 1
                farthest = max(farthest, have)
                if failures >= patience.attempts:
                    if isinstance(error, UnreachableError):
                        errand.unreachable[host] = str(error)
                    raise
                pause = patience.pause * 2 ** (failures - 1)
                errand.watcher.say(self.tasks[0], f"{address}: {error}; trying again in {pause:g} s")
                if errand.stop.wait(pause):
                    raise _StoppedError from error

    def _attempt(self, partial: Partial) -> None:
        beginning = partial.beginning()
        if beginning is not None and beginning.size == beginning.total:
            return
        with ask(partial.address, beginning, self.errand.patience.connect, self.errand.patience.stall) as answer:
            self._take(partial, answer)
        have = partial.size()
        if answer.total is not None and have < answer.total:
            raise BrokenError(f"it ended after {have} of the {answer.total} bytes that it announced")

    def _take(self, partial: Partial, answer: Answer) -> None:
        """Append the answer to the partial file, or begin that anew with it."""
        blocks = answer.blocks
        if answer.start == 0:
            # Looked at before anything is overwritten: an error page must not cost what the address has given before.
            first = next(blocks, b"")
            if (what := d4rl.recognised(first)) is not None:
                raise RefusedError(f"what it sends is no HDF5 file: {what}")
            partial.begin(answer.total, answer.validator)
            blocks = _chained(first, blocks)
        else:
            partial.check_space(answer.total, answer.start)
        have = answer.start
        for block in blocks:
            partial.append(block)
            have += len(block)
            self.errand.watcher.progress(self.tasks[0], have, answer.total)
            if self.errand.stop.is_set():
                raise _StoppedError

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process is at this file, then keep others from it."""
        watcher, task = self.errand.watcher, self.tasks[0]
        file = self.path.with_name(f".{self.path.name}.lock")
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            watcher.say(task, "another process is downloading it; waiting for that")
            while not lock.is_locked:
                if self.errand.stop.is_set():
                    raise _StoppedError from None
                try:
                    lock.acquire(timeout=_POLL)
                except filelock.Timeout:
                    watcher.progress(task, *how_far(self.path))
        try:
            yield
        finally:
            # Removed while it is held: who waits for it sees that and takes the next one.
            file.unlink(missing_ok=True)
            lock.release()


def _come(partial: Partial) -> int:
    """Bytes that the address need not send again."""
    beginning = partial.beginning()
    return 0 if beginning is None else beginning.size


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}). Name another with --to.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: nothing may be written there. Name another folder with --to.")
