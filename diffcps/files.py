"""."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from diffcps.errors import UserError

_NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS
"""What a disk says that will say the same to the next attempt."""


class NoRoomError(UserError):
    """The disk is full, or may not be written: the next attempt would meet the same."""


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Writes of ``path`` within it that find no room raise ``NoRoomError``; all others pass on what the disk says."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise NoRoomError(
            f"{path} cannot be written: {error.strerror}. What was saved before is whole: "
            "make room, or move the results, and go on with --resume."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` in one move: a reader, or a kill, sees the old file or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises ``UserError`` naming the file when it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. If it is damaged, delete its folder and run again."
        ) from error


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises ``UserError`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}).") from error


# Puts the files of a report where they belong.


def save(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files below a folder, each replaced in one move. Raises ``UserError`` when one cannot be written."""
    paths = []
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error
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
