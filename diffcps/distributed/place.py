"""Where a trial finds its data and leaves its results. Light to import: a trial's driver and controller carry it too."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcps.config import RunConfig, home
from diffcps.remote import Remote, is_url
from diffcps.runs import RunFolder

if TYPE_CHECKING:
    from diffcps.distributed.mirror import View
    from diffcps.distributed.staging import Staged


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
        from diffcps.distributed.mirror import MirroredFolder

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
    from diffcps.distributed.mirror import View

    return View(folder, remote)
