"""Data sets in the object store of the results, for machines that share nothing else.

The process that starts a sweep reads every data set once, and puts it into the store unless it is there. A worker takes
it from there, once per machine, and learns from the very data that were checked.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from diffcps.config import RunConfig, home
from diffcps.data import DatasetInfo
from diffcps.distributed.place import Place
from diffcps.errors import UserError
from diffcps.remote import Remote
from diffcps.runs import read_json


@dataclass(frozen=True)
class Staged:
    """A data set as it was checked when the sweep started."""

    checksum: str
    """That of its ``DatasetInfo``."""
    folder: str | None = None
    """Where it lies in the object store, relative to the results; ``None`` where every machine sees the same data."""


def label(config: RunConfig) -> str:
    """Which data set a trial learns from, in a word."""
    data = config.data
    return f"{config.task} {data.source}" + (f" {data.rows} {data.seed}" if data.source == "collected" else "")


def publish(results: Remote, info: DatasetInfo) -> str:
    """Put a data set into the store, unless it is there whole; returns its folder, relative to the results."""
    path = info.path
    assert path is not None, "a data set that was loaded lies somewhere"
    if path.is_file():
        files, root = [path], path.parent
    else:
        # a collected or Minari data set goes by the last parts of its path: its id
        parts = str(read_json(path / "data" / "metadata.json")["dataset_id"]).count("/") + 1
        files, root = [file for file in sorted(path.rglob("*")) if file.is_file()], path.parents[parts - 1]
    # the same transitions may lie in another kind of file, with the same checksum
    name = hashlib.sha256(f"{info.source} {path.relative_to(root)} {info.checksum}".encode()).hexdigest()[:16]
    folder = f"data/{name}"
    if f"{folder}/complete" in results.names(folder):
        return folder
    for file in files:
        results.put(file, f"{folder}/files/{file.relative_to(root).as_posix()}")
    results.write(f"{folder}/complete", b"")
    return folder


def fetched(place: Place, config: RunConfig) -> Place:
    """The place with the trial's data on this machine. Raises ``UserError`` when they cannot be fetched."""
    staged = _staged(place.staged, config)
    if place.remote is None or staged is None or staged.folder is None:
        return place
    target = home() / "staged" / Path(staged.folder).name
    _fetch(place.results, staged.folder, target)
    # nothing else that lies on this machine under the same name may be meant
    return replace(place, data_directories=(target, *place.data_directories))


def check(place: Place, config: RunConfig, info: DatasetInfo) -> None:
    """Raise ``UserError`` when what a worker has read is not what was checked when the sweep started."""
    staged = _staged(place.staged, config)
    if staged is not None and staged.checksum != info.checksum:
        raise UserError(
            f"{info.path} has checksum {info.checksum[:12]}… on this machine ({os.uname().nodename}), and the data set "
            f"that was checked when the sweep started has {staged.checksum[:12]}…. Delete this copy, or bring the same."
        )


def _staged(staged: Mapping[str, Staged], config: RunConfig) -> Staged | None:
    return staged.get(label(config))


def _fetch(results: Remote, folder: str, target: Path) -> None:
    """Copy a data set to ``target``, in one move; of several processes one does it and the others wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                return
            names = results.names(f"{folder}/files")
            if not names:
                raise UserError(
                    f"{results.url}/{folder} holds no data any more. Start the sweep again: it puts them there anew."
                )
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
                results.get(names, Path(partial))
                os.rename(Path(partial) / folder / "files", target)
    except OSError as error:
        raise UserError(
            f"the data set cannot be stored in {target} ({error}). Free some space on this node."
        ) from error
