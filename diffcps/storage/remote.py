"""Files below a URL (``s3://…``, ``gs://…``, …), through fsspec; and a lease on a sweep there.

An object store has no locks, no renames and no appending, and sometimes it does not answer. So files are copied whole, a
failed request is repeated for as long as the caller is willing to wait, and a missing file is told apart from a store that
cannot be reached. Credentials come from the environment or the platform's own files, never from the URL.
"""

import json
import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from diffcps.errors import UserError
from diffcps.files import file_system, fingerprint, no_credentials, patiently, write_atomically
from diffcps.runs.lock import HEARTBEAT_SECONDS, LEASE

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE = 600.0
"""Seconds for which a request is repeated before the store counts as lost."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_AT_ONCE = 16
"""Files fetched at the same time."""


@dataclass(frozen=True)
class Remote:
    """The files below one URL. Names of files are relative, with ``/``. Light to make and to pickle.

    Raises ``UserError`` when the URL carries credentials, its scheme is unknown or needs a package that is not
    installed, access is denied, or the store does not answer for ``patience`` seconds.
    """

    url: str
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if "@" in self.url.split("://", 1)[-1].split("/", 1)[0]:
            raise UserError(
                "the URL of the store carries credentials, which would end up in logs and process lists. Give them in "
                "the environment (AWS_ACCESS_KEY_ID …) or the platform's own files."
            )

    def below(self, name: str) -> "Remote":
        """The files below a folder of it."""
        return Remote(f"{self.url.rstrip('/')}/{name}", self.patience)

    @cached_property
    def system(self) -> tuple[Any, str]:
        """fsspec's file system, and the URL's path in it."""
        try:
            system = file_system(self.url, connect=5, stall=30)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{self.url} cannot be used: {error} For S3 install `pip install 'diffcps[s3]'` on every node."
            ) from error
        return system, str(system._strip_protocol(self.url)).rstrip("/")

    def put(self, local: Path, name: str, patience: float | None = None) -> None:
        """Upload a local file; a reader sees the old content or the new."""
        self.write(name, local.read_bytes(), patience)

    def write(self, name: str, content: bytes, patience: float | None = None) -> None:
        """Store ``content`` under ``name``."""
        self._patiently(lambda system, root: system.pipe_file(f"{root}/{name}", content), f"write {name}", patience)

    def create(self, name: str, content: bytes) -> bool:
        """Store ``content`` under ``name`` unless that exists; returns whether it was stored."""

        def attempt(system: Any, root: str) -> bool:
            try:
                system.pipe_file(f"{root}/{name}", content, mode="create")
            except FileExistsError:
                return False
            return True

        return self._patiently(attempt, f"create {name}", None)

    def read(self, name: str, patience: float | None = None) -> bytes | None:
        """The content of a file, or ``None`` when there is none."""

        def attempt(system: Any, root: str) -> bytes | None:
            try:
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

        return self._patiently(attempt, f"read {name}", patience)

    def get(self, names: Iterable[str], folder: Path) -> None:
        """Fetch files to the same names below ``folder``, several at a time; each appears whole."""

        def fetch(name: str) -> None:
            content = self.read(name)
            if content is None:  # deleted since it was listed: a newer checkpoint has replaced it
                return
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, names))

    def names(self, folder: str = "", patience: float | None = None) -> dict[str, str]:
        """Every file below ``folder``: its name, relative to the URL -> a word that changes with its content."""

        def attempt(system: Any, root: str) -> dict[str, str]:
            system.invalidate_cache()
            try:
                found = system.find(f"{root}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            prefix = len(root) + 1
            return {str(path)[prefix:]: fingerprint(facts) for path, facts in found.items()}

        return self._patiently(attempt, f"list {folder or 'its files'}", patience)

    def delete(self, name: str) -> None:
        """Delete a file; a missing one is no error."""

        def attempt(system: Any, root: str) -> None:
            try:
                system.rm_file(f"{root}/{name}")
            except FileNotFoundError:
                return

        self._patiently(attempt, f"delete {name}", None)

    def _patiently(self, attempt: Callable[[Any, str], Result], what: str, patience: float | None) -> Result:
        """The result of ``attempt``, repeated after growing pauses until ``patience`` runs out."""
        system, root = self.system
        patience = self.patience if patience is None else patience

        def wait(pause: float, error: Exception) -> None:
            logger.warning("%s: cannot %s (%s: %s); trying again", self.url, what, type(error).__name__, error)
            # workers that lost the store at the same moment must not all come back at the same moment
            time.sleep(pause * random.uniform(0.5, 1.0))

        try:
            return patiently(lambda: attempt(system, root), _pauses(time.monotonic() + patience), _is_final, wait)
        except FileNotFoundError as error:  # reading and deleting handle a missing file themselves
            raise UserError(f"{self.url}: cannot {what}: there is no such bucket or folder ({error}).") from error
        except PermissionError as error:
            raise UserError(
                f"{self.url}: may not {what} ({error}). Check the credentials in the environment of this machine."
            ) from error
        # every store's library has its own errors, without a common base
        except Exception as error:
            if no_credentials(error):
                raise UserError(f"{self.url}: there are no credentials for it here ({error}).") from error
            raise UserError(
                f"{self.url} did not answer in {patience:.0f} s: cannot {what} ({type(error).__name__}: {error}). "
                "Check the store, and run the same command again."
            ) from error


def _pauses(end: float) -> Iterator[float]:
    """Seconds before each repetition, until ``time.monotonic()`` reaches ``end``."""
    pause = _FIRST_PAUSE
    while time.monotonic() + pause <= end:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_final(error: Exception) -> bool:
    """Whether the same request would fail again."""
    return isinstance(error, FileNotFoundError | PermissionError) or no_credentials(error)


# The lease on a sweep -------------------------------------------------------------------------------------------------
#
# An object store has no locks, so the lease is a note that its holder keeps renewing.


@contextmanager
def leased(remote: Remote, beat: float = HEARTBEAT_SECONDS, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the sweep at ``remote``; ``lost`` is called, in a thread, when another process has claimed it.

    Clocks differ between machines, so whether another holder lives follows from watching its note: after three heartbeats
    without a change it is dead.

    Raises ``UserError`` when a living process holds it.
    """
    token = secrets.token_hex(8)
    holder, begun = f"process {os.getpid()} on {os.uname().nodename}", time.time()
    count = 0

    def note() -> bytes:
        values = {"token": token, "holder": holder, "beat": count, "since": begun, "at": time.time()}
        return json.dumps(values).encode()

    if not remote.create(LEASE, note()):
        _wait_for_silence(remote, beat)
        remote.write(LEASE, note())
        time.sleep(beat / 5)  # if two waited for the same dead holder, the later one gets the lease
        if _noted(remote.read(LEASE), "token") != token:
            raise _in_use(remote, remote.read(LEASE))
    ended, taken = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal count
        while not ended.wait(beat):
            try:
                if _noted(remote.read(LEASE, patience=beat), "token") not in (token, None):
                    taken.set()
                    lost()
                    return
                count += 1
                remote.write(LEASE, note(), patience=beat)
            except UserError:  # the store does not answer, for other processes neither
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if not taken.is_set() and _noted(remote.read(LEASE), "token") == token:
            remote.delete(LEASE)


def _wait_for_silence(remote: Remote, beat: float) -> None:
    before = remote.read(LEASE)
    deadline = time.monotonic() + 3 * beat
    while before is not None and time.monotonic() < deadline:
        time.sleep(beat / 5)
        begun = time.monotonic()
        now = remote.read(LEASE)
        if time.monotonic() - begun > beat / 5:
            # the store did not answer for some time, so the holder could not renew its note either
            deadline = time.monotonic() + 3 * beat
        if now is not None and now != before:
            raise _in_use(remote, now)
        before = now


def _noted(content: bytes | None, key: str) -> str | None:
    """What a lease's note says; ``None`` when there is no lease, or a damaged one."""
    try:
        return str(json.loads(content or b"")[key])
    except (ValueError, KeyError, TypeError):
        return None


def _in_use(remote: Remote, content: bytes | None) -> UserError:
    holder = _noted(content, "holder") or "another process"
    return UserError(f"{remote.url} is in use by {holder}. Wait for it, or stop it, and start again.")
