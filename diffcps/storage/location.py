"""Where a sweep finds its data and writes its results: folders that every machine sees, or an object store.

This module is light to import, because a trial's driver uses it too.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

from diffcps.config import RunConfig, home
from diffcps.errors import UserError
from diffcps.files import is_url, local_path, unwritable_as_user_error
from diffcps.runs import lock
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import no_sweep
from diffcps.runs.read import Sweep, read
from diffcps.storage.mirror import MirroredFolder, View
from diffcps.storage.remote import Remote
from diffcps.tasks.registry import Task, task_of

if TYPE_CHECKING:
    from diffcps.data.transitions import DatasetInfo

_LOOK_PATIENCE = 20.0
"""Seconds to wait for an object store that does not answer."""
_SMALL = re.compile(rf"[^/]+/(sweep\.json|{re.escape(lock.LEASE)}|runs/[^/]+/(status|environment|config)\.json)")
"""Names of the files that are read, below the results folder."""


class Staged(NamedTuple):
    """A data set as it was checked when the sweep started."""

    checksum: str
    """That of its ``DatasetInfo``."""
    folder: str | None = None
    """Its folder in the object store, relative to the results; ``None`` if every machine sees the same files."""


@dataclass(frozen=True)
class Location:
    """Where a sweep is. Paths are absolute, because each worker has its own working folder.

    Of a sweep in an object store each machine has a view: its small files, in a folder of that machine.
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
    """The sweep's folder in an object store; ``None`` if ``folder`` is the sweep's own."""
    staged: Mapping[str, Staged] = field(default_factory=dict)
    """The data sets of the sweep; see ``with_data``."""

    def __str__(self) -> str:
        return str(self.folder) if self.remote is None else self.remote.url

    @property
    def results(self) -> Remote:
        """The results in an object store to which the sweep belongs."""
        assert self.remote is not None, "there is no object store"
        return Remote(self.remote.url.rpartition("/")[0], self.remote.patience)

    def on_this_machine(self) -> "Location":
        """The same location with this machine's view."""
        if self.remote is None:
            return self
        return replace(self, folder=results_folder(self.results.url)[0] / self.folder.name)

    def run_folder(self, key: str) -> RunFolder:
        """The record of a trial; of one in an object store this machine's view, without checkpoints."""
        return self._folder(key, self.folder / "runs" / key, working=False)

    def working_folder(self, key: str, rank: int = 0) -> RunFolder:
        """The run folder that a worker writes; of one in an object store the worker's own copy."""
        if self.remote is None:
            return self.run_folder(key)
        return self._folder(key, home() / "work" / _digest(self.remote.url) / key / str(rank), working=True)

    def _folder(self, key: str, path: Path, working: bool) -> RunFolder:
        if self.remote is None:
            return RunFolder(path)
        return MirroredFolder(path, self.remote.below(f"runs/{key}"), working)

    def ray_storage(self) -> dict[str, Any]:
        """Where Ray Train keeps its own files, which nothing here reads; all machines must see it."""
        if self.remote is None:
            return {"storage_path": str(self.folder / "ray" / "train")}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        system, root = self.remote.system
        return {"storage_path": f"{root}/ray/train", "storage_filesystem": PyFileSystem(FSSpecHandler(system))}

    def refresh(self, below: str = "", patience: float | None = None) -> None:
        """Bring this machine's view up to date."""
        if self.remote is not None:
            _view(self.folder, self.remote).refresh(below, patience)

    def publish(self, *names: str) -> None:
        """Upload files and folders of the sweep's folder, if the results are in an object store."""
        if self.remote is not None:
            _view(self.folder, self.remote).publish(*names)

    def with_data(self, config: RunConfig, info: "DatasetInfo") -> "Location":
        """The same location knowing the checksum of the trial's data set, and where it was uploaded.

        A worker on another machine fetches an uploaded data set and checks what it reads against the checksum.
        """
        folder = None if self.remote is None else upload(self.results, task_of(config), info)
        return replace(self, staged={**self.staged, _label(config): Staged(info.checksum, folder)})

    def data_folders(self, config: RunConfig) -> tuple[Path, ...]:
        """Folders to search for the trial's data set; an uploaded one is fetched to this machine, and comes first.

        Raises ``UserError`` when it cannot be fetched.
        """
        staged = self.staged.get(_label(config))
        if self.remote is None or staged is None or staged.folder is None:
            return self.data_directories
        target = home() / "staged" / Path(staged.folder).name
        _fetch(self.results, staged.folder, target)
        return target, *self.data_directories

    def check_data(self, config: RunConfig, info: "DatasetInfo") -> None:
        """Raise ``UserError`` when the data that a worker has read are not those checked when the sweep started."""
        staged = self.staged.get(_label(config))
        if staged is not None and staged.checksum != info.checksum:
            raise UserError(
                f"{info.path} has checksum {info.checksum[:12]}… on this machine ({os.uname().nodename}), and the data "
                f"set that was checked when the sweep started has {staged.checksum[:12]}…. Delete this copy, or replace it."
            )


def results_folder(results: str) -> tuple[Path, Remote | None]:
    """A results folder; of the URL of an object store this machine's view of it, and the store."""
    if is_url(results):
        url = results.rstrip("/")
        return home() / "views" / _digest(url), Remote(url)
    return local_path(results), None


def upload(results: Remote, task: Task, info: "DatasetInfo") -> str:
    """Upload a task's data set unless the store has it already; returns its folder, relative to the results."""
    from diffcps.data import library

    source, path = library.source(info.source), info.path
    assert path is not None, "a data set that was loaded has a path"
    place = source.place(task, path)
    # another kind of file may hold the same transitions, with the same checksum
    name = hashlib.sha256(f"{info.source} {path.relative_to(place)} {info.checksum}".encode()).hexdigest()[:16]
    folder = f"data/{name}"
    if f"{folder}/complete" in results.names(folder):
        return folder
    for file in source.files(path):
        results.put(file, f"{folder}/files/{file.relative_to(place).as_posix()}")
    results.write(f"{folder}/complete", b"")
    return folder


def _fetch(results: Remote, folder: str, target: Path) -> None:
    """Fetch a data set to ``target``, which appears whole; one process does it, others wait."""
    with unwritable_as_user_error(target, "Free some space on this node."):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                return
            names = results.names(f"{folder}/files")
            if not names:
                raise UserError(
                    f"{results.url}/{folder} holds no data any more. Start the sweep again: it uploads them again."
                )
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
                results.get(names, Path(partial))
                os.rename(Path(partial) / folder / "files", target)


def _label(config: RunConfig) -> str:
    """Names the data set of a trial."""
    data = config.data
    return f"{config.task} {data.source} {data.rows} {data.seed}"


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:12]


@cache
def _view(folder: Path, remote: Remote) -> View:
    return View(folder, remote)


# A results folder, at a path or in an object store, and the sweeps in it ----------------------------------------------


@dataclass(frozen=True)
class Results:
    """A results folder."""

    folder: Path
    """Where its files are read: the folder itself, or a copy of the small files in an object store."""
    name: str
    """An absolute path, or a URL."""

    def sweeps(self) -> list[Sweep]:
        """Every sweep in it, the one with the latest change first.

        Raises ``UserError`` if the folder cannot be read.
        """
        try:
            folders = [Path(entry.path) for entry in os.scandir(self.folder) if entry.is_dir()]
        except OSError as error:
            raise UserError(
                f"the results folder {self.name} cannot be read: {error.strerror}. Name the folder that holds the sweeps "
                "with --results; start a sweep with diffcps sweep."
            ) from error
        found = [sweep for folder in folders if (sweep := read(folder, self.name)) is not None]
        return sorted(found, key=lambda sweep: (-(sweep.touched or 0.0), sweep.name))

    def find(self, name: str) -> Sweep:
        """The sweep with this name, or in the folder at this path. Raises ``UserError`` if there is none."""
        elsewhere = Path(name).expanduser().resolve()
        for folder, results in ((self.folder / name, self.name), (elsewhere, str(elsewhere.parent))):
            if folder.name not in ("", ".", "..") and (sweep := read(folder, results)) is not None:
                return sweep
        if (self.folder / name / "runs").is_dir():
            raise UserError(
                f"{self.name}/{name} holds trials but no sweep. Tabulate them with `diffcps report {name}`."
            )
        raise no_sweep(name, self.name, (sweep.name for sweep in self.sweeps()))


@contextmanager
def opened(results: str) -> Iterator[Results]:
    """The results folder at a path or a URL. Of a URL a temporary copy of the small files is made.

    Raises ``UserError`` if the store does not answer or denies access.
    """
    path, store = results_folder(results)
    if store is None:
        yield Results(path, str(path))
        return
    remote = Remote(store.url, _LOOK_PATIENCE)
    there = remote.names()
    with tempfile.TemporaryDirectory(prefix="diffcps-") as folder:
        remote.get([name for name in there if _SMALL.fullmatch(name)], Path(folder))
        for sweep in Path(folder).iterdir():
            (sweep / lock.LOCK).touch()  # without a lease in the store no process works on the sweep
        yield Results(Path(folder), remote.url)
