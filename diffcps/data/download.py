"""Downloads of D4RL's files: from several mirrors, resumed after an interruption, checked before they get their name.

Bytes from one URL are kept in ``NAME.KEY.partial``, where KEY stands for the URL, so that one mirror never overwrites
what another has given. ``NAME.KEY.partial.json`` records the URL, the file's length and its version on the server
(``mirrors.Received``). A complete file is checked, then renamed to ``NAME``, and all its partial files are deleted. One
process at a time downloads a file; others wait for it.
"""

import glob
import hashlib
import itertools
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import filelock

from diffcps.data import d4rl, provenance
from diffcps.data.mirrors import (
    PATIENCE,
    Answer,
    ChangedError,
    Patience,
    Received,
    RefusedError,
    TransferError,
    UnreachableError,
    ask,
    is_web,
    urls,
)
from diffcps.errors import UserError
from diffcps.files import DISK_FULL, patiently, sha256, unwritable_as_user_error
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
    if not all(file.copy() for file in files):
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
                    outcome = self._existing() or self._downloaded()
            except DiskError as error:
                outcome = self._failed(str(error))
            except OSError as error:
                outcome = self._failed(f"{error.filename or self.path}: {error.strerror or error}")
        self.shared.watcher.ended(self.task.name, outcome)
        return outcome

    def copy(self) -> Path | None:
        """The first file of this name on this machine; a link that leads nowhere is one."""
        paths = (folder / self.path.name for folder in (self.shared.folder, *self.shared.elsewhere))
        return next(filter(os.path.lexists, paths), None)

    def _existing(self) -> Outcome | None:
        """The outcome when there is a copy, which is never changed or replaced."""
        found = self.copy()
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

    def _downloaded(self) -> Outcome:
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

    def _download(self, partial: "Partial") -> None:
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

    def _complete(self, partial: "Partial") -> None:
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

    def _attempt(self, partial: "Partial") -> None:
        received = partial.received()
        if received is not None and received.size == received.total:
            return
        try:
            with ask(partial.url, received, self.shared.patience) as answer:
                self._append(partial, answer)
        except ChangedError:
            _remove([partial.path])
            raise
        if answer.total is not None and (have := _size(partial.path)) < answer.total:
            raise TransferError(f"it ended after {have} of {answer.total} bytes")

    def _append(self, partial: "Partial", answer: Answer) -> None:
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
            partial.check_space(answer.total, have)
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
                    watcher.progress(task, *_progress_of(self.path))
        try:
            yield
        finally:
            # Removed while it is held: who waits for it sees that, and makes a new one.
            file.unlink(missing_ok=True)
            lock.release()


class WrongFileError(RefusedError):
    """The whole file came, and it is not the one that was asked for."""


class DiskError(Exception):
    """This machine cannot store the file; another mirror would not help."""


class Partial:
    """The bytes of the file ``target`` that came from ``url``. Making the object touches nothing on disk."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        key = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.path = target.with_name(f"{target.name}.{key}.partial")

    def received(self) -> Received | None:
        """The bytes on the disk with what is needed to resume, or ``None`` when it is not known which file they are of."""
        record, size = _record(self.path), _size(self.path)
        total, validator = record.get("total"), record.get("validator")
        if record.get("url") != self.url or not isinstance(validator, str) or not 0 < size <= (total or size):
            return None
        return Received(size, total, validator)

    def begin(self, total: int | None, validator: str | None) -> None:
        """Delete what there is and record the file that comes. Raises ``DiskError`` when there is too little space."""
        self.check_space(total, 0)
        _remove([self.path])
        record = {"url": self.url, "total": total, "validator": validator}
        _record_path(self.path).write_text(json.dumps(record), encoding="utf-8")

    def append(self, block: bytes) -> None:
        """Append bytes; they are in the file when this returns. Raises ``DiskError``."""
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise DiskError(f"{self.path} cannot be written ({error.strerror}).") from error
            have, total = _size(self.path), _record(self.path).get("total") or "unknown"
            raise DiskError(
                f"there is no space for more ({error.strerror}). {have} of {total} bytes are kept in {self.path}. "
                f"Free some space and run the same command again to resume."
            ) from error

    def check_space(self, total: int | None, have: int) -> None:
        """Raise ``DiskError`` when the rest of ``total`` bytes, after ``have``, does not fit on the disk.

        Partial files of other URLs are deleted when the rest fits only without them.
        """
        if total is None:
            return
        overwritten = _size(self.path) if have == 0 else 0
        free, needed = shutil.disk_usage(self.path.parent).free + overwritten, total - have
        others = [path for path in _partials(self.target) if path != self.path]
        if needed > free + sum(map(_size, others)):
            raise DiskError(
                f"{self.path.parent} has {free} bytes free, and {needed} are needed. Free some space, or name another "
                f"folder with --to."
            )
        if needed > free:
            _remove(others)

    def finish(self, task: Task, published: Mapping[str, str]) -> None:
        """Give the file its name when the task can read it; else delete it and raise ``WrongFileError``."""
        try:
            d4rl.check_layout(task, self.path)
        except UserError as error:
            _remove([self.path])
            raise WrongFileError(str(error).removeprefix(f"{self.path}: ")) from error
        digest = sha256(self.path)
        expected = published.get(self.target.name, digest)
        if digest != expected:
            _remove([self.path])
            raise WrongFileError(f"it is not D4RL's file: its sha256 is {digest}, the published one is {expected}")
        _sync(self.path)  # the rename must not reach the disk before the bytes do
        os.replace(self.path, self.target)
        _sync(self.target.parent)
        _remove([self.path, *_partials(self.target)])
        provenance.remember_sha256(self.target, digest)


def _progress_of(target: Path) -> tuple[int, int | None]:
    """Bytes in the largest partial file of ``target``, and of the whole file."""
    path = max(_partials(target), key=_size, default=None)
    return (0, None) if path is None else (_size(path), _record(path).get("total"))


def _partials(target: Path) -> list[Path]:
    """The partial files of ``target``, of all URLs."""
    return sorted(target.parent.glob(f"{glob.escape(target.name)}.*partial"))


def _record_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _record(partial: Path) -> dict[str, Any]:
    """``url``, ``total``, ``validator``; empty when there is no record, or a damaged one."""
    try:
        record = json.loads(_record_path(partial).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("total"), int | None) else {}


def _size(partial: Path) -> int:
    try:
        return partial.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(partials: Sequence[Path]) -> None:
    for partial in partials:
        _record_path(partial).unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    with unwritable_as_user_error(folder, "Name another folder with --to."):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: the folder is not writable. Name another with --to.")
