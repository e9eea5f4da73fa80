"""The sha256 of D4RL files, remembered by path, size and time of change, so that gigabytes are read once.

They are remembered in ``$DIFFCPS_HOME/checksums.json``. That file saves time and proves nothing: a training run computes
the sha256 of the file it reads. When it is damaged or cannot be written, the sums are computed again.
"""

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from diffcps.config import home
from diffcps.data import d4rl, provenance

ChecksumState = Literal["verified", "differs", "none published", "not computed"]
"""A file's sha256 against the published one: the same, another, nothing to compare with, not compared yet."""

_LOCK = threading.Lock()


def known_sha256(path: Path) -> str | None:
    """The file's sha256 if it was computed since the file last changed. Does not read the file."""
    entry = _read().get(str(path.absolute()))
    if not isinstance(entry, dict) or {key: entry.get(key) for key in ("size", "mtime_ns")} != _stamp(path):
        return None
    return str(entry.get("sha256"))


def sha256_of(path: Path) -> str:
    """The file's sha256, computed unless it is known, and remembered. Raises ``UserError`` when it cannot be read."""
    digest = known_sha256(path)
    if digest is None:
        stamp = _stamp(path)
        digest = d4rl.sha256(path)
        if stamp == _stamp(path):  # else it changed while it was read
            remember_sha256(path, digest)
    return digest


def remember_sha256(path: Path, digest: str) -> None:
    """Record the sha256 of the file as it is now."""
    file = home() / "checksums.json"
    with _LOCK:
        # when two processes write at once, one may lose its entry, which is then computed again
        entries = {key: entry for key, entry in _read().items() if os.path.exists(key)}
        entries[str(path.absolute())] = {**_stamp(path), "sha256": digest}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(prefix=".checksums-", dir=file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(entries, out, indent=1)
            os.replace(beside, file)
        except OSError:
            return  # a home that cannot be written must not fail a download to another folder


def checksum_state(path: Path, published: Mapping[str, str] = provenance.KNOWN_SHA256) -> ChecksumState:
    """Compare the remembered sha256 with the one in ``published`` for a file of this name. Does not read the file."""
    expected = published.get(path.name)
    if expected is None:
        return "none published"
    digest = known_sha256(path)
    if digest is None:
        return "not computed"
    return "verified" if digest == expected else "differs"


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read() -> dict[str, Any]:
    try:
        entries = json.loads((home() / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
