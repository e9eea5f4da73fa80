"""Is a file D4RL's own data, or other data under the same name?

Published scores can be compared with ours only when the data are the same. There are three kinds of evidence: a published
sha256, the published mean and standard deviation of every observation dimension, and the number of rows. The last two
detect another policy's data, or a part of D4RL's data, but not altered rewards or a changed order.
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffcps import files
from diffcps.config import home
from diffcps.data.transitions import FloatArray, Provenance
from diffcps.tasks import paper
from diffcps.tasks.registry import Task

KNOWN_SHA256 = {
    "hopper_medium-v2.hdf5": "5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0",
    "halfcheetah_medium_replay-v2.hdf5": "48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683",
}

TOLERANCE = 0.02
"""Largest difference from a published mean, in published standard deviations, and from a published standard deviation,
relative. The published numbers were summed in float32 and without the last, unfinished trajectory: those of
medium-expert, which is medium and expert joined, are up to 0.007 away from what medium and expert give together. Data
of another policy differ by 0.1 and more in several dimensions."""

ROW_TOLERANCE = 0.01
"""Relative difference from ``Task.rows`` up to which a file can be D4RL's own; a part of it has nearly the same statistics."""

_CHUNK = 65_536


def judge(task: Task, sha256: str, observations: FloatArray) -> tuple[Provenance, str]:
    """Whether the file with this sha256 and these observations [N, o] (all finite) holds D4RL's data for the task.

    Returns the verdict and a sentence for a person: ``verified`` when the sha256 is the published one, or statistics
    and row count agree; ``other`` when they do not; ``unverified`` when only the row count is published (AntMaze), and agrees.
    """
    if KNOWN_SHA256.get(task.d4rl_file or "") == sha256:
        return "verified", f"D4RL's own file: its sha256 is the published one ({sha256[:12]}…)."
    # a file may be packed again without a change of content, so another sha256 proves nothing; but the text mentions it
    packed = " The published sha256 is another one." if task.d4rl_file in KNOWN_SHA256 else ""
    rows, published_rows = len(observations), task.rows
    counts = f"{rows:,} rows, D4RL's file has about {published_rows:,}"
    enough = abs(rows - published_rows) <= ROW_TOLERANCE * published_rows
    statistics = paper.observation_statistics().get(task.name)
    if statistics is None:
        if not enough:
            return "other", f"Not D4RL's data, or not the whole of them: there are {counts}."
        return "unverified", (
            f"Unverified: nothing is published for {task.name} to compare with. Only the file's name says which version it "
            f"is. The row count fits: {counts}."
        )

    mean, std = _moments(observations)
    published_mean, published_std = np.array(statistics["mean"]), np.array(statistics["std"])
    mean_error = np.abs(mean - published_mean) / published_std
    std_error = np.abs(std / published_std - 1.0)
    worst = int(np.argmax(np.maximum(mean_error, std_error)))
    largest = max(mean_error[worst], std_error[worst])
    if largest > TOLERANCE:
        return "other", (
            f"Not D4RL's data, in spite of the file's name: observation dimension {worst} has mean {mean[worst]:.4g} and "
            f"standard deviation {std[worst]:.4g}, D4RL's {published_mean[worst]:.4g} and {published_std[worst]:.4g} "
            f"({counts})."
        )
    if not enough:
        return "other", f"Not the whole of D4RL's data: the observations look like it, but there are {counts}."
    return "verified", (
        f"Agrees with D4RL's data: mean and standard deviation of all {len(mean)} observation dimensions are the "
        f"published ones within {largest:.2%} ({counts}).{packed}"
    )


def _moments(observations: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[o] mean and [o] population standard deviation in float64, without a float64 copy of the whole."""
    mean = observations.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(observations), _CHUNK):
        squares += np.square(observations[start : start + _CHUNK] - mean).sum(axis=0)
    return mean, np.sqrt(squares / len(observations))


# The sha256 of D4RL files, remembered by path, size and time of change, so that gigabytes are read once.

ChecksumState = Literal["verified", "differs", "none published", "not computed"]
"""A file's sha256 against the published one."""
MEANINGS: Mapping[ChecksumState, str] = {
    "verified": "its sha256 is the published one, so it is D4RL's own file",
    "differs": "its sha256 is not the published one, so it is not D4RL's file",
    "none published": "no sha256 is published for it",
    "not computed": "its sha256 is not computed yet; use diffcps data list --verify",
}
"""State of a checksum -> what is said of the file."""

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
        digest = files.sha256(path)
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
            files.write_json(file, entries)
        except OSError:
            return  # a home that cannot be written must not fail a download to another folder


def checksum_state(path: Path, published: Mapping[str, str] = KNOWN_SHA256) -> ChecksumState:
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
