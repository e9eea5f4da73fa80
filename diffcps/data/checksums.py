"""The sha256 of D4RL files, remembered by path, size and time of change: files of gigabytes are read once.

The memory is ``$DIFFCPS_HOME/checksums.json``. It is a convenience and never evidence: a training run hashes what it
reads. A file of it that is damaged, or that cannot be written, costs the time of hashing again and nothing else.
"""

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal

from diffcps.config import home
from diffcps.data import d4rl, provenance

State = Literal["verified", "differs", "none published", "not computed"]
"""Against the published sha256: the same, another one, there is none to compare with, not compared yet."""

_ONE_AT_A_TIME = threading.Lock()


def known(path: Path) -> str | None:
    """The file's sha256 if it was computed since the file last changed, without reading the file."""
    entry = _read().get(str(path.absolute()))
    if not isinstance(entry, dict) or {key: entry.get(key) for key in ("size", "mtime_ns")} != _stamp(path):
        return None
    return str(entry.get("sha256"))


def of(path: Path) -> str:
    """The file's sha256, computed now if need be, and remembered. Raises ``UserError`` when it cannot be read."""
    digest = known(path)
    if digest is None:
        stamp = _stamp(path)
        digest = d4rl.sha256(path)
        if stamp == _stamp(path):  # else it changed while it was read
            remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Note the sha256 of the file as it is now."""
    file = home() / "checksums.json"
    with _ONE_AT_A_TIME:
        # Of two processes that write at once one may lose its entry, which then is computed again.
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


def state(path: Path) -> State:
    """How the file stands to the sha256 published for a file of its name, from memory alone."""
    published = provenance.KNOWN_SHA256.get(path.name)
    if published is None:
        return "none published"
    digest = known(path)
    if digest is None:
        return "not computed"
    return "verified" if digest == published else "differs"


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read() -> dict[str, Any]:
    try:
        entries = json.loads((home() / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
