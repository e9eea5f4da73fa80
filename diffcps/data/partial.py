"""A file on its way: what has come of it, whose it is, and how it gets its name.

What has come from an address is in ``NAME.KEY.partial``, where KEY stands for the address: what one mirror gives does
not touch what another has given. ``NAME.KEY.partial.json`` says which address it is, how long the whole is and by what
the address tells that its file has not changed. ``NAME`` itself appears in one rename, whole and checked, and with it
whatever came from other addresses goes.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from diffcps.data import checksums, d4rl, provenance
from diffcps.data.mirrors import Beginning, RefusedError
from diffcps.errors import UserError
from diffcps.tasks import Task

_FULL = (errno.ENOSPC, errno.EDQUOT)


class WrongFileError(RefusedError):
    """All of a file came, and it is not the one that was asked for."""


class CannotWriteError(Exception):
    """This machine cannot take the file; another address would not help."""


class Partial:
    """What has come from ``address`` of the file that will be ``target``. Making the object touches nothing."""

    def __init__(self, target: Path, address: str) -> None:
        self.target, self.address = target, address
        key = hashlib.sha256(address.encode()).hexdigest()[:8]
        self.path = target.with_name(f"{target.name}.{key}.partial")
        self._note = _note(self.path)

    def size(self) -> int:
        """Bytes that have come."""
        return _size(self.path)

    def beginning(self) -> Beginning | None:
        """What is here of the very file that the address offers, if that can be told."""
        note, size = _whose(self.path), self.size()
        total, validator = note.get("total"), note.get("validator")
        if note.get("address") != self.address or not isinstance(validator, str) or not 0 < size <= (total or size):
            return None
        return Beginning(size, total, validator)

    def begin(self, total: int | None, validator: str | None) -> None:
        """Forget what has come and start anew. Raises ``CannotWriteError`` without the space."""
        self.check_space(total, 0)
        self.discard()
        note = {"address": self.address, "total": total, "validator": validator}
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def append(self, block: bytes) -> None:
        """Add bytes at the end; they are in the file when this returns. Raises ``CannotWriteError``."""
        try:
            with self.path.open("ab", buffering=0) as file:
                _write(file, block)
        except OSError as error:
            if error.errno not in _FULL:
                raise CannotWriteError(f"{self.path} cannot be written ({error.strerror}).") from error
            raise CannotWriteError(
                f"the disk is full ({error.strerror}): {self.size()} of {_whose(self.path).get('total') or 'unknown'} bytes are "
                f"kept in {self.path}. Free some space and start the same command again; it goes on from there."
            ) from error

    def check_space(self, total: int | None, have: int) -> None:
        """Raise ``CannotWriteError`` when the rest of ``total`` bytes, after ``have``, does not fit on the disk.

        What has come from other addresses makes room if, and only if, it fits with that alone.
        """
        if total is None:
            return
        overwritten = self.size() if have == 0 else 0
        free, needed = shutil.disk_usage(self.path.parent).free + overwritten, total - have
        others = [path for path in _parts(self.target) if path != self.path]
        if needed > free + sum(map(_size, others)):
            raise CannotWriteError(
                f"{self.path.parent} has {free} bytes free, and {needed} are needed. Free some space, or name another "
                f"folder with --to."
            )
        if needed > free:
            _remove(others)

    def finish(self, tasks: Sequence[Task]) -> None:
        """Give the file its name, if ``tasks`` can read it; else remove it and raise ``WrongFileError``."""
        try:
            for task in tasks:
                d4rl.check_layout(task, self.path)
        except UserError as error:
            self.discard()
            raise WrongFileError(str(error).removeprefix(f"{self.path}: ")) from error
        digest = d4rl.sha256(self.path)
        published = provenance.KNOWN_SHA256.get(self.target.name)
        if published is not None and digest != published:
            self.discard()
            raise WrongFileError(f"another file than D4RL's: its sha256 is {digest}, the published one is {published}")
        _sync(self.path)  # the rename must not reach the disk before the bytes do
        os.replace(self.path, self.target)
        _sync(self.target.parent)
        self._note.unlink(missing_ok=True)
        _remove(_parts(self.target))
        checksums.remember(self.target, digest)

    def discard(self) -> None:
        """Forget what has come."""
        _remove([self.path])


def how_far(target: Path) -> tuple[int, int | None]:
    """Bytes that have come of the file that will be ``target`` from the address that gave most, and how many it has."""
    path = max(_parts(target), key=_size, default=None)
    return (0, None) if path is None else (_size(path), _whose(path).get("total"))


def _parts(target: Path) -> list[Path]:
    """What has come of ``target`` from any address."""
    return sorted(target.parent.glob(f"{glob.escape(target.name)}.*partial"))


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _whose(part: Path) -> dict[str, Any]:
    """``address``, ``total``, ``validator``; empty without a note, or with half of one: then nobody knows."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return note if isinstance(note, dict) and isinstance(note.get("total"), int | None) else {}


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(parts: Sequence[Path]) -> None:
    for part in parts:
        _note(part).unlink(missing_ok=True)
        part.unlink(missing_ok=True)


def _write(file: BinaryIO, block: bytes) -> None:
    """All of the block; an unbuffered file may take only a part at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
