"""Files below a URL (``s3://…``, ``gs://…``, …), through fsspec: put, got and listed with patience.

An object store has no locks, no renames and no appending, and now and then it does not answer. So files go up and come
down whole, a failed request is tried again for as long as the caller is willing to wait, and what is not there is told
apart from what cannot be reached. Credentials come from the environment or the platform's own files, never from the URL.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from diffcps.errors import UserError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE = 600.0
"""Seconds for which a request is tried again before the store counts as lost."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_AT_ONCE = 16
"""Files that come down at the same time."""


def is_url(place: str) -> bool:
    """Whether a place is a URL of an object store rather than a path (``file://`` is a path)."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None and not place.startswith("file://")


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
        """fsspec's file system and the path in it that the URL stands for."""
        import fsspec

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if self.url.startswith("s3"):
            # the store's own library would hang for minutes on a connection that does not answer
            options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}
            options["cache_regions"] = False
        try:
            system, root = fsspec.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{self.url} cannot be used: {error} For S3 install `pip install 'diffcps[s3]'` on every node."
            ) from error
        return system, str(root).rstrip("/")

    def put(self, local: Path, name: str, patience: float | None = None) -> None:
        """Copy a local file up; a reader sees the old content or the new."""
        content = local.read_bytes()
        self.write(name, content, patience)

    def write(self, name: str, content: bytes, patience: float | None = None) -> None:
        """Store ``content`` under ``name``."""
        self._patiently(lambda system, root: system.pipe_file(f"{root}/{name}", content), f"write {name}", patience)

    def create(self, name: str, content: bytes) -> bool:
        """Store ``content`` under ``name`` unless there is something already; whether it was stored."""

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
        """Copy files down to the same names below ``folder``, several at a time; each appears whole."""
        from diffcps.files import write_atomically

        def fetch(name: str) -> None:
            content = self.read(name)
            if content is None:  # deleted since it was listed: a newer checkpoint has taken its place
                return
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, names))

    def names(self, folder: str = "", patience: float | None = None) -> dict[str, str]:
        """Every file below ``folder``: its name (relative to the URL) and a word that changes with its content."""

        def attempt(system: Any, root: str) -> dict[str, str]:
            system.invalidate_cache()
            try:
                found = system.find(f"{root}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            prefix = len(root) + 1
            return {str(path)[prefix:]: _fingerprint(facts) for path, facts in found.items()}

        return self._patiently(attempt, f"list {folder or 'its files'}", patience)

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""

        def attempt(system: Any, root: str) -> None:
            try:
                system.rm_file(f"{root}/{name}")
            except FileNotFoundError:
                return

        self._patiently(attempt, f"delete {name}", None)

    def _patiently(self, attempt: Callable[[Any, str], Result], what: str, patience: float | None) -> Result:
        """The result of ``attempt``, tried again with growing pauses for as long as patience lasts."""
        system, root = self.system
        give_up = time.monotonic() + (self.patience if patience is None else patience)
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt(system, root)
            except FileNotFoundError as error:  # of a file that is read or deleted it is no error; see the attempts
                raise UserError(f"{self.url}: cannot {what}: there is no such bucket or folder ({error}).") from error
            except PermissionError as error:
                raise UserError(
                    f"{self.url}: may not {what} ({error}). Check the credentials in the environment of this machine."
                ) from error
            # each store's library has errors of its own, with no common base, for an answer that did not come
            except Exception as error:
                if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                    raise UserError(f"{self.url}: there are no credentials for it here ({error}).") from error
                if time.monotonic() + pause > give_up:
                    raise UserError(
                        f"{self.url} did not answer in {self.patience if patience is None else patience:.0f} s: cannot "
                        f"{what} ({type(error).__name__}: {error}). Check the store, and start the same command again."
                    ) from error
                logger.warning("%s: cannot %s (%s: %s); trying again", self.url, what, type(error).__name__, error)
                # workers that were thrown off together must not come back together
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)


def _fingerprint(facts: dict[str, Any]) -> str:
    """What changes when a file's content does, from whatever the store tells of it."""
    words = [facts.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created", "size")]
    return " ".join(str(word) for word in words if word is not None)
