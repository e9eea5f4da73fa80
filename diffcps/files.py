"""Files: atomic writes, JSON, checksums, a full disk, requests to servers and object stores."""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from diffcps.errors import UserError

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
"""Errors of a disk without space."""
_LASTING = *DISK_FULL, errno.EROFS
"""Errors of a disk that the next attempt would meet again."""


class DiskFullError(UserError):
    """The disk is full or write-protected: the next attempt would meet the same error."""


@contextmanager
def disk_full_as_user_error(path: Path) -> Iterator[None]:
    """Turn a full or write-protected disk into ``DiskFullError`` naming ``path``; other errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LASTING:
            raise
        raise DiskFullError(
            f"{path} cannot be written: {error.strerror}. What was saved before is intact: "
            "free some space, or move the results, and continue with --resume."
        ) from error


@contextmanager
def unwritable_as_user_error(path: Path, remedy: str) -> Iterator[None]:
    """Turn any ``OSError`` into a ``UserError`` that names ``path`` and says what to do; see also ``DiskFullError``."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in _LASTING else UserError
        raise kind(f"{path} cannot be written: {error.strerror or error}. {remedy}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` at once: readers see the old or the new content, also after a kill."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, write: Callable[[Path, bytes], None] = write_atomically) -> None:
    """Write ``value`` as readable JSON, atomically."""
    write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN and no infinity: ``None`` in their place."""
    return float(value) if math.isfinite(value) else None


def read_json(path: Path) -> Any:
    """Read JSON. Raises ``UserError`` naming the file when it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. If it is damaged, delete its folder and run again."
        ) from error


def is_url(place: str) -> bool:
    """Whether this is the URL of an object store; a path and ``file://`` are not."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None and not place.startswith("file://")


def local_path(place: str) -> Path:
    """The absolute path of a folder of this machine, given as a path or as a ``file://`` address."""
    path = unquote(place.removeprefix("file://")) if place.startswith("file://") else place
    return Path(path).expanduser().resolve()


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises ``UserError`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}).") from error


# Writes the files of a report.


def save(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files below a folder, each atomically. Raises ``UserError`` naming a file that cannot be written."""
    paths = []
    for name, content in files.items():
        path = folder / name
        with unwritable_as_user_error(path, "Choose another folder."):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        paths.append(path)
    return paths


# Requests to servers that sometimes do not answer: one loop for retries, one way to open a store through fsspec.

Result = TypeVar("Result")


def patiently(
    call: Callable[[], Result],
    waits: Iterable[float],
    is_final: Callable[[Exception], bool],
    wait: Callable[[float, Exception], object],
) -> Result:
    """The result of ``call``, repeated while it raises.

    Args:
        call: one attempt.
        waits: seconds before the second attempt, the third, …. An iterator is advanced once after each failure, so it
            can look at a clock, or at how far the last attempt got, to decide whether there is another.
        is_final: whether another attempt is useless after this error.
        wait: waits that many seconds, after this error; a place for a log line.

    Raises the error of the last attempt when it is final or when ``waits`` are used up.
    """
    remaining = iter(waits)
    while True:
        try:
            return call()
        except Exception as error:
            pause = None if is_final(error) else next(remaining, None)
            if pause is None:
                raise
            wait(pause, error)


def file_system(url: str, connect: float, stall: float) -> Any:
    """fsspec's file system for a URL, or for a path on this machine. Nothing it lists is cached.

    ``connect`` and ``stall`` are seconds without a connection, and without an answer, after which a request to S3 fails.
    It is then not repeated: that is for the caller to decide.

    Raises ``ImportError`` when the scheme needs a package that is not installed, ``ValueError`` when it is unknown.
    """
    import fsspec

    scheme, separator, _ = url.partition("://")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # botocore's own timeouts and retries add up to minutes
        options["config_kwargs"] = {"connect_timeout": connect, "read_timeout": stall, "retries": {"max_attempts": 1}}
        options["cache_regions"] = False
    return fsspec.filesystem(scheme if separator else "file", **options)


def fingerprint(facts: Mapping[str, Any]) -> str:
    """What changes with a file's content, of the facts that fsspec tells of it."""
    keys = "size", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created", "ino"
    return "-".join(str(facts[key]) for key in keys if facts.get(key) is not None)


def no_credentials(error: Exception) -> bool:
    """Whether a store's library found no credentials in the environment; each has an error of its own."""
    return "Credentials" in type(error).__name__
