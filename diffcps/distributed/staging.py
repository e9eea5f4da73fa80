"""Data sets in the object store of the results, for machines that share nothing else.

The process that starts a sweep reads every data set once, and puts it into the store unless it is there. A worker takes
it from there, once per machine, and learns from the very bytes that were checked.
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from diffcps.config import RunConfig, home
from diffcps.data import DatasetInfo, store
from diffcps.distributed.place import Place
from diffcps.errors import UserError
from diffcps.remote import Remote
from diffcps.runs import read_json


def label(config: RunConfig) -> str:
    """Which data set a trial learns from, in a word."""
    data = config.data
    return f"{config.task} {data.source}" + (f" {data.rows} {data.seed}" if data.source == "collected" else "")


def publish(results: Remote, info: DatasetInfo) -> str:
    """Put a data set into the store, unless it is there whole; returns its folder, relative to the results."""
    path = info.path
    assert path is not None, "a data set that was loaded lies somewhere"
    folder = f"data/{info.checksum[:16]}"
    if path.is_file():
        files, root = [path], path.parent
    else:
        # a collected or Minari data set goes by the last parts of its path: its id
        parts = str(read_json(path / "data" / "metadata.json")["dataset_id"]).count("/") + 1
        files, root = [file for file in sorted(path.rglob("*")) if file.is_file()], path.parents[parts - 1]
    there = results.names(folder)
    if f"{folder}/complete" in there:
        return folder
    for file in files:
        results.put(file, f"{folder}/files/{file.relative_to(root).as_posix()}")
    results.write(f"{folder}/complete", b"")
    return folder


def fetched(place: Place, config: RunConfig) -> Place:
    """The place with the trial's data on this machine. Raises ``UserError`` when they cannot be fetched."""
    folder = place.staged.get(label(config))
    if place.remote is None or folder is None:
        return place
    target = home() / "staged" / Path(folder).name
    _fetch(place.results, folder, target)
    if config.data.source == "collected":
        _collect(target)
        return place
    # nothing else that lies on this machine under the same name may be meant
    return replace(place, data_directories=(target, *place.data_directories))


def _fetch(results: Remote, folder: str, target: Path) -> None:
    """Copy a data set to ``target``, in one move; of several processes one does it and the others wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                return
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
                names = results.names(f"{folder}/files")
                results.get(names, Path(partial))
                os.rename(Path(partial) / folder / "files", target)
    except OSError as error:
        raise UserError(f"the data set cannot be stored in {target} ({error}). Free some space on this node.") from error


def _collect(staged: Path) -> None:
    """Put a collected data set where collected data sets are looked for."""
    for path in (file.parent.parent for file in staged.glob("*/*/data/metadata.json")):
        target = store.collected_root() / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                continue
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=store.collected_root()) as partial:
                shutil.copytree(path, Path(partial) / "whole")
                os.rename(Path(partial) / "whole", target)
