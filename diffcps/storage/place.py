"""Where a trial finds its data and leaves its results. Light to import: a trial's driver and controller carry it too."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from diffcps.config import RunConfig, home
from diffcps.data import DatasetInfo
from diffcps.errors import UserError, nearest
from diffcps.files import read_json
from diffcps.runs import lock
from diffcps.runs.folder import RunFolder
from diffcps.runs.read import SweepEntry, read
from diffcps.storage.remote import Remote, is_url

if TYPE_CHECKING:
    from diffcps.storage.mirror import View


@dataclass(frozen=True)
class Place:
    """Absolute paths, for a worker's own folder is Ray's.

    Results lie in a folder that every machine sees, or in an object store. Of a store each machine has a view: the
    sweep's small files, in a folder of its own.
    """

    folder: Path
    """The sweep's folder, or this machine's view of it."""
    data_directories: tuple[Path, ...] = ()
    """Folders with data sets, searched first."""
    tracking_uri: str | None = None
    """MLflow store; ``None`` for none."""
    sweep: str = ""
    """Name of the sweep."""
    remote: Remote | None = None
    """The sweep's folder in an object store; ``None`` where ``folder`` itself is the truth."""
    staged: Mapping[str, "Staged"] = field(default_factory=dict)
    """The data sets as they were checked when the sweep started, by ``staging.label``."""

    @property
    def results(self) -> Remote:
        """The results in an object store that the sweep is one of."""
        assert self.remote is not None, "there is no object store"
        return Remote(self.remote.url.rpartition("/")[0], self.remote.patience)

    @property
    def shown(self) -> str:
        """Where the sweep is, for a person."""
        return str(self.folder) if self.remote is None else self.remote.url

    def here(self) -> "Place":
        """The same place as the machine of this process sees it."""
        return self if self.remote is None else replace(self, folder=view_folder(self.remote.url))

    def run_folder(self, config: RunConfig) -> RunFolder:
        """The record of a trial; where it lies in an object store, this machine's view of it, without checkpoints."""
        return self.record(config.key)

    def record(self, key: str) -> RunFolder:
        """The same by the trial's key."""
        return self._folder(key, self.folder / "runs" / key, working=False)

    def working_folder(self, config: RunConfig, rank: int = 0) -> RunFolder:
        """The run folder that a worker works in: in an object store's case its own copy, apart from all views."""
        if self.remote is None:
            return self.run_folder(config)
        path = home() / "work" / _digest(self.remote.url) / config.key / str(rank)
        return self._folder(config.key, path, working=True)

    def _folder(self, key: str, path: Path, working: bool) -> RunFolder:
        if self.remote is None:
            return RunFolder(path)
        from diffcps.storage.mirror import MirroredFolder

        return MirroredFolder(path, self.remote.below(f"runs/{key}"), working)

    def ray_storage(self, name: str) -> dict[str, Any]:
        """Where Ray Train keeps its own notes, which nothing here reads: a place that all machines see."""
        if self.remote is None:
            return {"storage_path": str(self.folder / "ray" / name)}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        system, root = self.remote.system
        return {"storage_path": f"{root}/ray/{name}", "storage_filesystem": PyFileSystem(FSSpecHandler(system))}

    def refresh(self, below: str = "", patience: float | None = None) -> None:
        """Bring this machine's view up to date; nothing to do where the folder itself is the truth."""
        if self.remote is not None:
            _view(self.folder, self.remote).refresh(below, patience)

    def publish(self, *names: str) -> None:
        """Copy files and folders of the sweep's folder to the object store, if that is where the results lie."""
        if self.remote is not None:
            _view(self.folder, self.remote).publish(*names)


def results_folder(results: str) -> tuple[Path, Remote | None]:
    """A results folder and, where it is the URL of an object store, the store that the folder is a view of."""
    if is_url(results):
        url = results.rstrip("/")
        return home() / "views" / _digest(url), Remote(url)
    path = results.removeprefix("file://")
    return Path(path).expanduser().resolve(), None


def view_folder(url: str) -> Path:
    """Where this machine keeps its view of a sweep; below its view of the results that the sweep belongs to."""
    parent, _, name = url.rpartition("/")
    return home() / "views" / _digest(parent) / name


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:12]


@cache
def _view(folder: Path, remote: Remote) -> "View":
    from diffcps.storage.mirror import View

    return View(folder, remote)


# What a results folder holds: its sweeps, how far their trials have come, how long they still take, how to go on.
_LOOK_PATIENCE = 20.0
"""Seconds for which a person waits for an object store that does not answer."""
_SMALL = re.compile(rf"[^/]+/(sweep\.json|{re.escape(lock.NAME)}|runs/[^/]+/(status|environment|config)\.json)")
"""Names of the files that are read, below the results folder."""


@dataclass(frozen=True)
class Results:
    """A results folder, as ``opened`` gives it."""

    folder: Path
    """Where its files are read."""
    name: str
    """Where it is: an absolute path, or a URL."""

    def sweeps(self) -> list[SweepEntry]:
        """Every sweep in it, the one that was touched last first; what is no sweep is left out.

        Raises ``UserError`` when there is no such folder.
        """
        try:
            folders = [Path(entry.path) for entry in os.scandir(self.folder) if entry.is_dir()]
        except OSError as error:
            raise UserError(
                f"the results folder {self.name} cannot be read: {error.strerror}. Name the folder that holds the sweeps "
                "with --results; sweeps are started with python tune/sweep_d4rl.py."
            ) from error
        found = [entry for folder in folders if (entry := read(folder, self.name)) is not None]
        return sorted(found, key=lambda entry: (-(entry.touched or 0.0), entry.name))

    def find(self, name: str) -> SweepEntry:
        """The sweep of a name, or in the folder of that path. Raises ``UserError`` when there is none."""
        elsewhere = Path(name).expanduser().resolve()
        for folder, results in ((self.folder / name, self.name), (elsewhere, str(elsewhere.parent))):
            if folder.name not in ("", ".", "..") and (entry := read(folder, results)) is not None:
                return entry
        if (self.folder / name / "runs").is_dir():
            raise UserError(f"{self.name}/{name} holds trials, but no sweep; `diffcps report {name}` tabulates them.")
        known = {entry.name: entry for entry in self.sweeps()}
        holds = f"It holds: {', '.join(sorted(known))}." if known else "It holds no sweep."
        raise UserError(f"no sweep is called {name!r} in {self.name}{nearest(name, known) or '.'} {holds}")


@contextmanager
def opened(results: str) -> Iterator[Results]:
    """The results folder at a path; or at a URL, of which a copy of the small files is read, deleted in the end.

    Raises ``UserError`` when the store of a URL may not be read or does not answer.
    """
    path, store = results_folder(results)
    if store is None:
        yield Results(path, str(path))
        return
    remote = Remote(store.url, _LOOK_PATIENCE)
    there = remote.names()
    with tempfile.TemporaryDirectory(prefix="diffcps-") as folder:
        remote.get([name for name in there if _SMALL.fullmatch(name)], Path(folder))
        yield Results(Path(folder), remote.url)


# Data sets in the object store of the results, for machines that share nothing else.


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
    return f"{config.task} {data.source} {data.rows} {data.seed}"


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
