"""Downloads of D4RL's files: from several mirrors, resumed after an interruption, checked before they get their name.

A complete ``Partial`` file is checked, then renamed, and all partial files of its name are deleted. One process at a time
downloads a file; others wait for it.
"""

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import filelock

from diffcps.data import d4rl, provenance
from diffcps.data.mirrors import (
    PATIENCE,
    Answer,
    ChangedError,
    Patience,
    RefusedError,
    TransferError,
    UnreachableError,
    ask,
    is_web,
    urls,
)
from diffcps.data.partial_file import DiskError, Partial, WrongFileError, progress_of
from diffcps.errors import UserError
from diffcps.files import patiently, unwritable_as_user_error
from diffcps.tasks.registry import Task

_POLL = 0.2


@dataclass(frozen=True)
class Outcome:
    """The result for one file."""

    task: str
    """Name of the task that reads it."""
    path: Path
    """Where it is, or should be."""
    state: Literal["downloaded", "already here", "failed"]
    tried: tuple[tuple[str, str], ...] = ()
    """URLs that did not give it, each with the reason."""
    reason: str | None = None
    """Why it failed, when the cause is on this machine."""


class Watcher(Protocol):
    """Is called from several threads; ``task`` is the name of the task that reads the file."""

    def progress(self, task: str, have: int, total: int | None) -> None:
        """``have`` bytes of the file are on the disk."""

    def say(self, task: str, text: str) -> None:
        """Something happened that is worth a line."""

    def ended(self, task: str, outcome: Outcome) -> None:
        """The file has its outcome."""


def download(
    tasks: Sequence[Task],
    folder: Path,
    mirrors: Sequence[str],
    watcher: Watcher,
    *,
    jobs: int = 3,
    elsewhere: Sequence[Path] = (),
    patience: Patience = PATIENCE,
    published: Mapping[str, str] = provenance.KNOWN_SHA256,
) -> list[Outcome]:
    """Download the tasks' files into ``folder``, ``jobs`` at a time; one outcome a file, in the order of the tasks.

    Files that exist in ``folder``, or in one of the folders ``elsewhere``, are not downloaded. A file that fails does
    not stop the others. After an interrupt the next call resumes. ``published`` has the sha256 of files by name.

    Raises ``UserError`` when a task has no D4RL file or the folder cannot be written.
    """
    shared = _Shared(
        folder=folder.expanduser().absolute(),
        mirrors=mirrors,
        watcher=watcher,
        elsewhere=tuple(elsewhere),
        patience=patience,
        published=published,
    )
    files = [_File(shared, task) for task in tasks]
    if not all(file.found_here() for file in files):
        _make_folder(shared.folder)
    outcomes = _in_threads(files, jobs, shared)
    return [outcomes[file.path] for file in files]


@dataclass(frozen=True)
class _Shared:
    """What the files of one call have in common."""

    folder: Path
    mirrors: Sequence[str]
    watcher: Watcher
    elsewhere: tuple[Path, ...]
    patience: Patience
    published: Mapping[str, str]
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when no download shall continue: after an interrupt, or after a defect of this program."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Hosts that are not asked again, with the reason."""


class _StoppedError(Exception):
    """The call ends; partial files are kept."""


def _in_threads(files: "Sequence[_File]", jobs: int, shared: _Shared) -> dict[Path, Outcome]:
    """The outcome of every file. Passes on an interrupt, and any error that is a defect of this program."""
    waiting, outcomes, defects = deque(files), dict[Path, Outcome](), list[BaseException]()

    def work() -> None:
        while not shared.stop.is_set():
            try:
                file = waiting.popleft()
            except IndexError:  # none is left
                return
            try:
                outcomes[file.path] = file.fetch()
            except _StoppedError:
                return
            except BaseException as error:
                defects.append(error)
                shared.stop.set()

    # Daemons: a thread that waits for a server cannot be interrupted, and must not keep the program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(files)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL)
    except KeyboardInterrupt:
        shared.stop.set()
        until = time.monotonic() + shared.patience.farewell
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise
    if defects:
        raise defects[0]
    return outcomes


class _File:
    """The download of one file."""

    def __init__(self, shared: _Shared, task: Task) -> None:
        self.shared, self.task, self.sub_path = shared, task, d4rl.public_path(task)
        self.path = shared.folder / str(task.d4rl_file)
        self.tried: list[tuple[str, str]] = []

    def fetch(self) -> Outcome:
        """Find the file on this machine or download it."""
        outcome = self._existing()
        if outcome is None:
            try:
                with self._locked():
                    outcome = self._existing() or self._from_mirrors()
            except DiskError as error:
                outcome = self._failed(str(error))
            except OSError as error:
                outcome = self._failed(f"{error.filename or self.path}: {error.strerror or error}")
        self.shared.watcher.ended(self.task.name, outcome)
        return outcome

    def found_here(self) -> Path | None:
        """The first file of this name on this machine; a link that leads nowhere is one."""
        paths = (folder / self.path.name for folder in (self.shared.folder, *self.shared.elsewhere))
        return next(filter(os.path.lexists, paths), None)

    def _existing(self) -> Outcome | None:
        """The outcome when there is a copy, which is never changed or replaced."""
        found = self.found_here()
        if found is None:
            return None
        try:
            d4rl.check_layout(self.task, found)
        except UserError as error:
            reason = f"{error} It was not changed: move or delete it, and run the same command again."
            return Outcome(self.task.name, found, "failed", reason=reason)
        if found.name in self.shared.published:
            provenance.sha256_of(found)
        return Outcome(self.task.name, found, "already here")

    def _failed(self, reason: str | None) -> Outcome:
        return Outcome(self.task.name, self.path, "failed", tried=tuple(self.tried), reason=reason)

    def _from_mirrors(self) -> Outcome:
        for mirror in self.shared.mirrors:
            for url in urls(mirror, self.sub_path):
                try:
                    self._download(Partial(self.path, url))
                except (RefusedError, TransferError) as error:
                    self.tried.append((url, str(error)))
                    self._say(url, str(error))
                    if isinstance(error, TransferError | WrongFileError):
                        break  # the mirror's other URL is on the same host, or gives the same file
                else:
                    return Outcome(self.task.name, self.path, "downloaded", tuple(self.tried))
        return self._failed(None)

    def _download(self, partial: Partial) -> None:
        """Download all of a partial file, check it and give it its name."""
        resumed = partial.received() is not None
        self._complete(partial)
        try:
            partial.finish(self.task, self.shared.published)
        except WrongFileError as error:
            if not resumed:
                raise
            self._say(partial.url, f"{error}; its first part is from an earlier run, so it is downloaded again")
            self._complete(partial)
            partial.finish(self.task, self.shared.published)

    def _complete(self, partial: Partial) -> None:
        """Have the whole of a partial file, with repeated attempts for as long as they bring new bytes."""
        shared = self.shared
        host = urlsplit(partial.url).netloc if is_web(partial.url) else ""
        if host in shared.unreachable:
            raise UnreachableError(f"not asked again: {shared.unreachable[host]}")

        def waits() -> Iterator[float]:
            most, failures = 0, 0
            while True:
                received = partial.received()
                have = 0 if received is None else received.size
                failures, most = (1 if have > most else failures + 1), max(have, most)
                if failures >= shared.patience.attempts:
                    return
                yield shared.patience.pause * 2 ** (failures - 1)

        def wait(seconds: float, error: Exception) -> None:
            self._say(partial.url, f"{error}; trying again in {seconds:g} s")
            if shared.stop.wait(seconds):
                raise _StoppedError from error

        try:
            patiently(lambda: self._attempt(partial), waits(), lambda e: not isinstance(e, TransferError), wait)
        except UnreachableError as error:
            shared.unreachable[host] = str(error)
            raise

    def _attempt(self, partial: Partial) -> None:
        received = partial.received()
        if received is not None and received.size == received.total:
            return
        try:
            with ask(partial.url, received, self.shared.patience) as answer:
                self._append(partial, answer)
        except ChangedError:
            partial.remove()
            raise
        if answer.total is not None and (have := partial.size) < answer.total:
            raise TransferError(f"it ended after {have} of {answer.total} bytes")

    def _append(self, partial: Partial, answer: Answer) -> None:
        """Append the answer to the partial file, or replace that by it when the answer starts at the first byte."""
        blocks, have = answer.blocks, answer.start
        if have == 0:
            # Looked at before the partial file is replaced: an error page must not cost bytes that were good.
            first = next(blocks, b"")
            if (what := d4rl.recognised(first)) is not None:
                raise RefusedError(f"it does not send an HDF5 file: {what}")
            partial.begin(answer.total, answer.validator)
            blocks = itertools.chain([first], blocks)
        else:
            partial.make_space(answer.total, have)
        for block in blocks:
            partial.append(block)
            have += len(block)
            self.shared.watcher.progress(self.task.name, have, answer.total)
            if self.shared.stop.is_set():
                raise _StoppedError

    def _say(self, url: str, text: str) -> None:
        self.shared.watcher.say(self.task.name, f"{url}: {text}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until no other process downloads this file, then keep others from it."""
        watcher, task = self.shared.watcher, self.task.name
        file = self.path.with_name(f".{self.path.name}.lock")
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            watcher.say(task, "another process downloads it; waiting")
            while not lock.is_locked:
                if self.shared.stop.is_set():
                    raise _StoppedError from None
                try:
                    lock.acquire(timeout=_POLL)
                except filelock.Timeout:
                    watcher.progress(task, *progress_of(self.path))
        try:
            yield
        finally:
            # Removed while it is held: who waits for it sees that, and makes a new one.
            file.unlink(missing_ok=True)
            lock.release()


def _make_folder(folder: Path) -> None:
    with unwritable_as_user_error(folder, "Name another folder with --to."):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: the folder is not writable. Name another with --to.")
