"""What is here of each task's data, found without reading more of it than its head."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffcps.config import DataSource
from diffcps.data import checksums, d4rl, imports, minari, store
from diffcps.errors import UserError
from diffcps.tasks import Task


@dataclass(frozen=True)
class Holding:
    """One data set on this machine."""

    source: DataSource
    path: Path
    """The file, or the folder of a Minari data set."""
    size: int
    """Bytes."""
    rows: int | None = None
    """``None`` when its head does not tell."""
    checksum: checksums.ChecksumState | None = None
    """How a D4RL file stands to the published sha256."""
    sha256: str | None = None
    """Of a D4RL file, where it is known."""
    fault: str | None = None
    """What is wrong with it."""


def holdings(
    task: Task, directories: Sequence[Path], sha256: Callable[[Path], str | None] = checksums.known_sha256
) -> list[Holding]:
    """The task's data sets in ``directories`` and the standard folders, in the order of its sources.

    ``sha256`` gives the sum of a file, or ``None``: ``known_sha256`` reads no file, ``sha256_of`` reads those not yet known.
    Several D4RL files of one name are all listed; those that differ from the first have that as their fault.
    Raises ``UserError`` when one of ``directories`` is not there.
    """
    found: list[Holding] = []
    for source in task.sources:
        match source:
            case "d4rl":
                found += _d4rl(task, directories, sha256)
            case "minari":
                found += _minari(task, directories)
            case "collected":
                folders = sorted(store.collected_root().glob(f"*/{task.name}-collected-*"))
                found += [_set(source, folder) for folder in folders if (folder / "data").is_dir()]
    return found


def _d4rl(task: Task, directories: Sequence[Path], sha256: Callable[[Path], str | None]) -> list[Holding]:
    found: list[Holding] = []
    for path in store.copies(task, directories):
        try:
            size, rows, digest = path.stat().st_size, d4rl.count_rows(path), sha256(path)
        except (UserError, OSError) as error:
            found.append(Holding("d4rl", path, 0, fault=str(error).removeprefix(f"{path}: ")))
            continue
        fault = None if rows is not None else "it has no 'rewards', so it is not in D4RL's layout."
        first = next((holding for holding in found if holding.fault is None), None)
        if first is not None and not path.samefile(first.path):
            differs = size != first.size or (None not in (digest, first.sha256) and digest != first.sha256)
            if differs:
                fault = f"it is another file than {first.path}. Rename or remove the one that is not meant."
        found.append(Holding("d4rl", path, size, rows, checksums.checksum_state(path), digest, fault))
    return found


def _minari(task: Task, directories: Sequence[Path]) -> list[Holding]:
    own = task.definition
    path = imports.find(task, directories) if own is None else minari.find(own.minari_id, directories)
    return [] if path is None else [_set("minari", path)]


def _set(source: DataSource, path: Path) -> Holding:
    """A Minari data set; importing Minari to read four lines of JSON would take seconds."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        rows = json.loads((path / "data" / "metadata.json").read_text(encoding="utf-8"))["total_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return Holding(source, path, size, fault="its metadata.json cannot be read; delete it and make it again.")
    return Holding(source, path, size, int(rows))
