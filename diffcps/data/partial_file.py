"""The bytes of a file that is being downloaded, on this machine's disk, with what is needed to resume.

Bytes from one URL are kept in ``NAME.KEY.partial``, where KEY stands for the URL, so that one mirror never overwrites
what another has given. ``NAME.KEY.partial.json`` records the URL, the file's length and its version on the server
(``mirrors.Received``). A complete file is checked before it gets the name ``NAME``.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcps.data import d4rl, provenance
from diffcps.data.mirrors import Received, RefusedError
from diffcps.errors import UserError
from diffcps.files import DISK_FULL, sha256
from diffcps.tasks.registry import Task


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

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return _size(self.path)

    def received(self) -> Received | None:
        """The bytes on the disk with what is needed to resume, or ``None`` when it is not known which file they are of."""
        record, size = _record(self.path), self.size
        total, validator = record.get("total"), record.get("validator")
        if record.get("url") != self.url or not isinstance(validator, str) or not 0 < size <= (total or size):
            return None
        return Received(size, total, validator)

    def begin(self, total: int | None, validator: str | None) -> None:
        """Delete what there is and record the file that comes. Raises ``DiskError`` when there is too little space."""
        self.make_space(total, 0)
        self.remove()
        record = {"url": self.url, "total": total, "validator": validator}
        _record_path(self.path).write_text(json.dumps(record), encoding="utf-8")

    def remove(self) -> None:
        """Delete what there is."""
        _remove([self.path])

    def append(self, block: bytes) -> None:
        """Append bytes; they are in the file when this returns. Raises ``DiskError``."""
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise DiskError(f"{self.path} cannot be written ({error.strerror}).") from error
            have, total = self.size, _record(self.path).get("total") or "unknown"
            raise DiskError(
                f"there is no space for more ({error.strerror}). {have} of {total} bytes are kept in {self.path}. "
                f"Free some space and run the same command again to resume."
            ) from error

    def make_space(self, total: int | None, have: int) -> None:
        """Have space for the rest of ``total`` bytes, after ``have``. Raises ``DiskError`` when it does not fit on the disk.

        Partial files of other URLs are deleted when the rest fits only without them.
        """
        if total is None:
            return
        overwritten = self.size if have == 0 else 0
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
        """Give the file its name when the task can read it and it has the published sha256, and delete all other partial files.

        Else it is deleted, and ``WrongFileError`` raised.
        """
        try:
            d4rl.check_layout(task, self.path)
        except UserError as error:
            self.remove()
            raise WrongFileError(str(error).removeprefix(f"{self.path}: ")) from error
        digest = sha256(self.path)
        expected = published.get(self.target.name, digest)
        if digest != expected:
            self.remove()
            raise WrongFileError(f"it is not D4RL's file: its sha256 is {digest}, the published one is {expected}")
        _sync(self.path)  # the rename must not reach the disk before the bytes do
        os.replace(self.path, self.target)
        _sync(self.target.parent)
        _remove([self.path, *_partials(self.target)])
        provenance.remember_sha256(self.target, digest)


def progress_of(target: Path) -> tuple[int, int | None]:
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
