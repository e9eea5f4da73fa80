"""A file on its way: what has come of it, whose it is, and how it gets its name.

What has come is in ``NAME.partial``; ``NAME.partial.json`` says from which address, how long the whole is and by what
the address tells that its file has not changed. ``NAME`` itself appears in one rename, whole and checked.
"""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from diffcps.data import checksums, d4rl, provenance
from diffcps.data.mirrors import Beginning, RefusedError
from diffcps.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class WrongFileError(RefusedError):
    """All of a file came, and it is not the one that was asked for."""


class CannotWriteError(Exception):
    """This machine cannot take the file; another address would not help."""


class Partial:
    """What is here of the file that will be ``target``. Making the object touches nothing."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")

    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def whose(self) -> dict[str, Any]:
        """``address``, ``total``, ``validator``; empty without a note, or with half of one: then nobody knows."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return note if isinstance(note, dict) and isinstance(note.get("total"), int | None) else {}

    def beginning(self, address: str) -> Beginning | None:
        """What is here of the very file that ``address`` offers, if that can be told."""
        note, size = self.whose(), self.size()
        total, validator = note.get("total"), note.get("validator")
        if note.get("address") != address or not isinstance(validator, str) or not 0 < size <= (total or size):
            return None
        return Beginning(size, total, validator)

    def begin(self, address: str, total: int | None, validator: str | None) -> None:
        """Forget what has come and start with the file of ``address``. Raises ``CannotWriteError`` without the space."""
        self.check_space(total, 0)
        self.discard()
        note = {"address": address, "total": total, "validator": validator}
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
                f"the disk is full ({error.strerror}): {self.size()} of {self.whose().get('total') or 'unknown'} bytes are "
                f"kept in {self.path}. Free some space and start the same command again; it goes on from there."
            ) from error

    def check_space(self, total: int | None, have: int) -> None:
        """Raise ``CannotWriteError`` when the rest of ``total`` bytes, after ``have``, does not fit on the disk."""
        overwritten = self.size() if have == 0 else 0
        free = shutil.disk_usage(self.path.parent).free + overwritten
        if total is not None and total - have > free:
            raise CannotWriteError(
                f"{self.path.parent} has {free} bytes free, and {total - have} are needed. Free some space, or name "
                f"another folder with --to."
            )

    def finish(self) -> None:
        """Give the file its name, if it is what it should be; else remove it and raise ``WrongFileError``."""
        try:
            d4rl.count_rows(self.path)
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
        checksums.remember(self.target, digest)

    def discard(self) -> None:
        """Forget what has come."""
        self._note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


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
