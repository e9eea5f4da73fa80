"""Downloads of D4RL's files: from several mirrors, resumed after an interruption, checked before they get their name.

Bytes from one URL are kept in ``NAME.KEY.partial``, where KEY stands for the URL, so that one mirror never overwrites
what another has given. ``NAME.KEY.partial.json`` records the URL, the file's length and its version on the server
(``mirrors.Received``). A complete file is checked, then renamed to ``NAME``, and all its partial files are deleted. One
process at a time downloads a file; others wait for it.
"""

import errno
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote, unquote, urlsplit

import filelock
import requests
from urllib3.exceptions import ReadTimeoutError

from diffcps import __version__
from diffcps import files as file_tools
from diffcps.data import d4rl, library, provenance
from diffcps.data.library import PUBLIC_HOME
from diffcps.errors import UserError
from diffcps.files import file_system, patiently
from diffcps.tasks.registry import Task

# Mirrors of D4RL's files: web servers, folders and object stores, each read from any byte on.

VARIABLE = "DIFFCPS_MIRRORS"
BLOCK = 1 << 16
"""Bytes read at a time from a web server. When a connection breaks, the unfinished block is lost."""
RANGE = 1 << 23
"""Bytes read at a time from a folder or an object store."""
OBJECT_STORES = ("s3", "gs", "az")
"""Schemes of URLs that may be mirrors besides http, https and file."""

_WORTH_REPEATING = (408, 425, 429)
"""HTTP statuses besides 5xx after which the same request may succeed."""


@dataclass(frozen=True)
class Patience:
    """When to give up a URL."""

    connect: float = 10.0
    """Seconds without a connection."""
    stall: float = 30.0
    """Seconds without a byte."""
    attempts: int = 4
    """Attempts in a row that bring no new bytes."""
    pause: float = 1.0
    """Seconds before the second attempt, doubled before each further one."""
    farewell: float = 2.0
    """Seconds that downloads get to stop after an interrupt. One that waits for a server is abandoned."""


PATIENCE = Patience()


class RefusedError(Exception):
    """The URL does not give the file, and asking again is useless."""


class TransferError(Exception):
    """The connection failed or broke; another attempt may succeed."""


class UnreachableError(TransferError):
    """There was no connection to the host at all."""


class ChangedError(TransferError):
    """The file has changed since its first bytes came: they are useless."""


@dataclass(frozen=True)
class Received:
    """The first bytes of a file, and how to tell that the rest belongs to them."""

    size: int
    total: int | None
    """Bytes of the whole file; ``None`` when the server does not say."""
    validator: str
    """What the server said of the file's version: an ETag, or when it was last changed."""


@dataclass(frozen=True)
class Answer:
    """What a URL sends: the bytes from ``start`` on."""

    start: int
    total: int | None
    validator: str | None
    """``None`` when the server says nothing of the file's version; the download cannot be resumed then."""
    blocks: Iterator[bytes]


def mirrors(given: Sequence[str]) -> list[str]:
    """The mirrors to try, in order: ``given``, those in the variable ``DIFFCPS_MIRRORS``, D4RL's public server.

    Each is a URL (http, https, s3, gs, az) or the absolute path of a folder, without a slash at the end.
    Raises ``UserError`` for anything else, and for a folder that does not exist.
    """
    named = [_checked(text, "--mirror") for text in given]
    named += [_checked(text, VARIABLE) for text in os.environ.get(VARIABLE, "").split()]
    return list(dict.fromkeys([*named, PUBLIC_HOME]))


def _checked(text: str, named_by: str) -> str:
    path = text
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text):
        scheme = match[1].lower()
        try:
            parts = urlsplit(text)
            host = parts.hostname
        except ValueError:
            raise UserError(f"{named_by} {text!r} is not a valid URL.") from None
        if scheme != "file":
            if scheme not in ("http", "https", *OBJECT_STORES):
                kinds = ", ".join(f"{known}://" for known in ("http", "https", "file", *OBJECT_STORES))
                raise UserError(f"{named_by} {text!r}: a mirror is a folder or a URL ({kinds}).")
            if not host:
                raise UserError(f"{named_by} {text!r}: the URL names no {'host' if is_web(text) else 'bucket'}.")
            return f"{scheme}://{text[match.end() :].rstrip('/')}"
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{named_by} {text!r} is a file on another machine. Use file:///FOLDER for this machine.")
        path = unquote(parts.path)
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        what = "is a file; name the folder that contains it" if folder.is_file() else "does not exist"
        raise UserError(f"{named_by} {text}: the folder {what}.")
    return str(folder)


def urls(mirror: str, sub_path: str) -> list[str]:
    """Where a mirror may have a file: at D4RL's own sub-path (``gym_mujoco_v2/NAME``), or directly in the mirror."""
    name = sub_path.rpartition("/")[2]
    return [f"{mirror}/{quote(part) if is_web(mirror) else part}" for part in (sub_path, name)]


def is_web(url: str) -> bool:
    """Whether it is an http or https URL."""
    return url.lower().startswith(("http://", "https://"))


@contextmanager
def ask(url: str, received: Received | None, patience: Patience) -> Iterator[Answer]:
    """Open the file at ``url``: after the bytes in ``received`` where possible, else from its start.

    Raises:
        RefusedError: this URL does not give the file.
        TransferError: no connection, or it broke (also while ``blocks`` are read).
        ChangedError: the file is another one than that of ``received``.
    """
    if not is_web(url):
        with _store_errors():
            answer = _ask_store(url, received, patience)
        yield answer
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": f"diffcps/{__version__}"}
    if received is not None:
        headers |= {"Range": f"bytes={received.size}-", "If-Range": received.validator}
    with _web_errors(patience):
        response = requests.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.stall))
    with response:
        start, total = _extent(response, received)
        yield Answer(start, total, _validator(response), _web_blocks(response, patience))


def _extent(response: requests.Response, received: Received | None) -> tuple[int, int | None]:
    """The first byte that is sent, and the length of the whole file."""
    status = response.status_code
    if status == 416 and received is not None:
        raise ChangedError("the file changed during the download")
    if status not in (200, 206):
        text = f"the server answers {status} {response.reason or ''}".rstrip()
        raise (TransferError if status >= 500 or status in _WORTH_REPEATING else RefusedError)(text)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(f"the server sends the file compressed ({encoding}) although asked not to")
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if extent is None or received is None:
        raise RefusedError("the server sends a part of the file that was not asked for")
    start, total = int(extent[1]), None if extent[2] == "*" else int(extent[2])
    same = _validator(response) in (None, received.validator)  # it need not be repeated where If-Range is obeyed
    if not same or (start, total) != (received.size, received.total):
        raise ChangedError("the file changed during the download")
    return start, total


def _validator(response: requests.Response) -> str | None:
    """A strong ETag, else the time of the last change; a weak ETag may be the same for other bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _web_blocks(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    with _web_errors(patience):
        yield from response.iter_content(BLOCK)


@contextmanager
def _web_errors(patience: Patience) -> Iterator[None]:
    """Errors of ``requests`` become ours, with a reason that names the cause."""
    try:
        yield
    except requests.ConnectTimeout as error:
        raise UnreachableError(f"the host does not answer within {patience.connect:g} s") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransferError("the connection broke") from error
    except requests.exceptions.SSLError as error:
        raise RefusedError(f"its certificate is not accepted ({_cause(error)})") from error
    except (requests.ReadTimeout, requests.ConnectionError) as error:
        if isinstance(error, requests.ReadTimeout) or isinstance(next(iter(error.args), None), ReadTimeoutError):
            raise TransferError(f"the connection stalled: no bytes for {patience.stall:g} s") from error
        was_connected = "RemoteDisconnected" in str(error) or "Connection reset" in str(error)
        raise (TransferError if was_connected else UnreachableError)(f"no connection ({_cause(error)})") from error
    except requests.RequestException as error:
        raise RefusedError(f"the request failed ({error})") from error


def _cause(error: BaseException) -> str:
    """The operating system's words at the bottom of a chain of errors, or the last error's."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _ask_store(url: str, received: Received | None, patience: Patience) -> Answer:
    system = file_system(url, patience.connect, patience.stall)
    facts = system.info(url)
    if facts["type"] != "file":
        raise RefusedError("it is a folder or a device, not a file")
    total, validator = int(facts["size"]), _version(facts)
    continues = received is not None and (received.total, received.validator) == (total, validator)
    start = received.size if continues and received is not None else 0

    def blocks() -> Iterator[bytes]:
        for first in range(start, total, RANGE):
            with _store_errors():
                block = system.cat_file(url, start=first, end=min(first + RANGE, total))
                if _version(system.info(url)) != validator:
                    raise ChangedError("the file changed during the download")
            yield block

    return Answer(start, total, validator, blocks())


def _version(facts: dict[str, Any]) -> str:
    """What changes with a file's content, of the facts that fsspec tells of it."""
    return "-".join(str(facts[key]) for key in ("size", "ETag", "etag", "LastModified", "mtime", "ino") if key in facts)


@contextmanager
def _store_errors() -> Iterator[None]:
    """Errors of fsspec and of the stores' own libraries become ours."""
    try:
        yield
    except (RefusedError, TransferError):
        raise
    except FileNotFoundError as error:
        raise RefusedError("no such file") from error
    except PermissionError as error:
        raise RefusedError(f"access is denied ({error.strerror or error})") from error
    except ImportError as error:
        raise RefusedError(f"a package is missing ({error}); for s3:// run pip install 'diffcps[s3]'") from error
    except Exception as error:  # each store's library has errors of its own, without a common base
        text = f"{type(error).__name__}: {error}"
        if "Credentials" in type(error).__name__:
            raise RefusedError(f"no credentials for it in the environment ({text})") from error
        raise TransferError(f"cannot be read ({text})") from error


_POLL = 0.2
_DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


@dataclass(frozen=True)
class Outcome:
    """The result for one file."""

    tasks: tuple[str, ...]
    """Names of the tasks that read it."""
    path: Path
    """Where it is, or should be."""
    state: Literal["downloaded", "already here", "failed"]
    tried: tuple[tuple[str, str], ...] = ()
    """URLs that did not give it, each with the reason."""
    reason: str | None = None
    """Why it failed, when the cause is on this machine."""


class Watcher(Protocol):
    """Is called from several threads; ``task`` is the first task that reads the file."""

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
    readers: dict[str, list[Task]] = {}
    for task in tasks:
        readers.setdefault(library.public_path(task), []).append(task)
    shared = _Shared(folder.expanduser().absolute(), mirrors, watcher, tuple(elsewhere), patience, published)
    files = [_File(shared, sub_path, tasks) for sub_path, tasks in readers.items()]
    if not all(file.copies() for file in files):
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
        while waiting and not shared.stop.is_set():
            try:
                file = waiting.popleft()
                outcomes[file.path] = file.fetch()
            except (IndexError, _StoppedError):
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

    def __init__(self, shared: _Shared, sub_path: str, readers: Sequence[Task]) -> None:
        self.shared, self.sub_path, self.readers = shared, sub_path, readers
        self.tasks = tuple(task.name for task in readers)
        self.path = shared.folder / sub_path.rpartition("/")[2]
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
        self.shared.watcher.ended(self.tasks[0], outcome)
        return outcome

    def copies(self) -> list[Path]:
        """Files of this name on this machine."""
        folders = (self.shared.folder, *self.shared.elsewhere)
        return [path for folder in folders if os.path.lexists(path := folder / self.path.name)]

    def _existing(self) -> Outcome | None:
        """The outcome when there is a copy, which is never changed or replaced."""
        found = next(iter(self.copies()), None)
        if found is None:
            return None
        try:
            for task in self.readers:
                d4rl.check_layout(task, found)
        except UserError as error:
            reason = f"{error} It was not changed: move or delete it, and run the same command again."
            return Outcome(self.tasks, found, "failed", reason=reason)
        if found.name in self.shared.published:
            provenance.sha256_of(found)
        return Outcome(self.tasks, found, "already here")

    def _failed(self, reason: str | None) -> Outcome:
        return Outcome(self.tasks, self.path, "failed", tuple(self.tried), reason)

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
                    return Outcome(self.tasks, self.path, "downloaded", tuple(self.tried))
        return self._failed(None)

    def _download(self, partial: "Partial") -> None:
        """Download all of a partial file, check it and give it its name."""
        resumed = partial.received() is not None
        self._complete(partial)
        try:
            partial.finish(self.readers, self.shared.published)
        except WrongFileError as error:
            if not resumed:
                raise
            self._say(partial.url, f"{error}; its first part is from an earlier run, so it is downloaded again")
            self._complete(partial)
            partial.finish(self.readers, self.shared.published)

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
            partial.discard()
            raise
        if answer.total is not None and (have := partial.size()) < answer.total:
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
            self.shared.watcher.progress(self.tasks[0], have, answer.total)
            if self.shared.stop.is_set():
                raise _StoppedError

    def _say(self, url: str, text: str) -> None:
        self.shared.watcher.say(self.tasks[0], f"{url}: {text}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until no other process downloads this file, then keep others from it."""
        watcher, task = self.shared.watcher, self.tasks[0]
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

    def size(self) -> int:
        """Bytes on the disk."""
        return _size(self.path)

    def received(self) -> Received | None:
        """The bytes on the disk with what is needed to resume, or ``None`` when it is not known which file they are of."""
        record, size = _record(self.path), self.size()
        total, validator = record.get("total"), record.get("validator")
        if record.get("url") != self.url or not isinstance(validator, str) or not 0 < size <= (total or size):
            return None
        return Received(size, total, validator)

    def begin(self, total: int | None, validator: str | None) -> None:
        """Delete what there is and record the file that comes. Raises ``DiskError`` when there is too little space."""
        self.check_space(total, 0)
        self.discard()
        record = {"url": self.url, "total": total, "validator": validator}
        _record_path(self.path).write_text(json.dumps(record), encoding="utf-8")

    def append(self, block: bytes) -> None:
        """Append bytes; they are in the file when this returns. Raises ``DiskError``."""
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise DiskError(f"{self.path} cannot be written ({error.strerror}).") from error
            raise DiskError(
                f"there is no space for more ({error.strerror}). {self.size()} of {_record(self.path).get('total') or 'unknown'} "
                f"bytes are kept in {self.path}. Free some space and run the same command again to resume."
            ) from error

    def check_space(self, total: int | None, have: int) -> None:
        """Raise ``DiskError`` when the rest of ``total`` bytes, after ``have``, does not fit on the disk.

        Partial files of other URLs are deleted when the rest fits only without them.
        """
        if total is None:
            return
        overwritten = self.size() if have == 0 else 0
        free, needed = shutil.disk_usage(self.path.parent).free + overwritten, total - have
        others = [path for path in _partials(self.target) if path != self.path]
        if needed > free + sum(map(_size, others)):
            raise DiskError(
                f"{self.path.parent} has {free} bytes free, and {needed} are needed. Free some space, or name another "
                f"folder with --to."
            )
        if needed > free:
            _remove(others)

    def finish(self, tasks: Sequence[Task], published: Mapping[str, str]) -> None:
        """Give the file its name when the tasks can read it; else delete it and raise ``WrongFileError``."""
        try:
            for task in tasks:
                d4rl.check_layout(task, self.path)
        except UserError as error:
            self.discard()
            raise WrongFileError(str(error).removeprefix(f"{self.path}: ")) from error
        digest = file_tools.sha256(self.path)
        expected = published.get(self.target.name, digest)
        if digest != expected:
            self.discard()
            raise WrongFileError(f"it is not D4RL's file: its sha256 is {digest}, the published one is {expected}")
        _sync(self.path)  # the rename must not reach the disk before the bytes do
        os.replace(self.path, self.target)
        _sync(self.target.parent)
        _remove([self.path, *_partials(self.target)])
        provenance.remember_sha256(self.target, digest)

    def discard(self) -> None:
        """Delete the bytes and their record."""
        _remove([self.path])


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be created ({error.strerror}). Name another with --to."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: the folder is not writable. Name another with --to.")
