"""Run folders in an object store: worked on where the worker is, and copied up whenever something is worth keeping.

A worker's copy lies on its node's own disk. What a kill there takes away is what has come since the last checkpoint,
which is the least that any kill takes; the next worker, on whichever node, fetches the store's copy and goes on.
"""

import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs import lock
from diffcps.runs.folder import GROWING, RunFolder, TakenOverError
from diffcps.storage.remote import Remote

logger = logging.getLogger(__name__)

STATUS_SECONDS = 15.0
"""How often the store learns how far a running trial is."""
_STATUS_PATIENCE = 3.0
"""Seconds for which learning waits to tell the store so."""

_UNSEEN = re.compile(rf"/checkpoint/|^{re.escape(lock.NAME)}$|^ray/")
"""What a view leaves in the store: checkpoints, who holds the sweep, Ray's own notes."""


class MirroredFolder(RunFolder):
    """A run folder at ``path`` on this machine whose truth is ``remote``, the same folder in an object store.

    Args:
        path: this machine's copy.
        remote: the folder in the store.
        working: whether the trial is worked on here, which takes checkpoints and a copy that no view refreshes.
    """

    def __init__(self, path: Path, remote: Remote, working: bool = True) -> None:
        super().__init__(path)
        self.remote, self.working = remote, working
        self._told = 0.0

    def fetch(self) -> None:
        """Bring the store's copy here; in a working copy what lay here, from an earlier attempt, is discarded."""
        names = [name for name in self.remote.names() if self.working or not name.startswith("checkpoint/")]
        if self.working:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.remote.get(names, self.path)

    def create(self, config: RunConfig) -> None:
        """See ``RunFolder.create``; begins with what the store has."""
        self.fetch()
        new = not (self.path / "config.json").exists()
        super().create(config)
        if new:
            self.remote.put(self.path / "config.json", "config.json")

    def take(self) -> None:
        """See ``RunFolder.take``; in the store too, where workers on other machines look before they write."""
        super().take()
        self.remote.put(self.path / "owner", "owner")

    def _check_owner_there(self, patience: float | None = None) -> None:
        if self._token is not None:
            self._compare_owner((self.remote.read("owner", patience) or b"nobody: it was deleted").decode())

    def record_attempts(self, attempts: Mapping[str, Any]) -> None:
        """See ``RunFolder.record_attempts``."""
        super().record_attempts(attempts)
        self._check_owner_there()
        self.remote.put(self.path / "attempts.json", "attempts.json")

    def record_environment(self, environment: Mapping[str, Any]) -> None:
        """See ``RunFolder.record_environment``."""
        super().record_environment(environment)
        self._check_owner_there()
        self.remote.put(self.path / "environment.json", "environment.json")

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace ``status.json``; the store learns of every end, and of progress now and then, if it answers."""
        super().write_status(status)
        if status["state"] != "running":
            self._check_owner_there()
            self.remote.put(self.path / "status.json", "status.json")
        elif time.monotonic() - self._told > STATUS_SECONDS:
            self._told = time.monotonic()
            try:
                self._check_owner_there(_STATUS_PATIENCE)
                self.remote.put(self.path / "status.json", "status.json", _STATUS_PATIENCE)
            except TakenOverError:
                raise
            except UserError as error:
                logger.warning("%s", error)  # learning goes on; the next checkpoint waits for the store

    def save_checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        """Write a checkpoint and bring the store up to it: its rows first, so that it never is ahead of them."""
        super().save_checkpoint(state, step)
        self._check_owner_there()
        for name in GROWING:
            if (self.path / name).exists():
                self.remote.put(self.path / name, name)
        here = {f"checkpoint/{file.name}": file for file in (self.path / "checkpoint").iterdir()}
        there = self.remote.names("checkpoint")
        # one of this step may be there and be damaged, which is why the step was done again
        new = {name for name in here if name not in there or f"step_{step:09d}" in name}
        for name in sorted(new, key=lambda name: name.endswith(".pt")):
            self._check_owner_there()
            self.remote.put(here[name], name)
        for name in there.keys() - here.keys():
            self.remote.delete(name)
        self._told = 0.0  # the status that comes next says that there is a new checkpoint


class View:
    """A sweep's folder in the store as this process sees it: everything but checkpoints, fetched when it has changed."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        self.folder, self.remote = folder, remote
        self._seen: dict[str, str] = {}

    def refresh(self, below: str = "", patience: float | None = None) -> None:
        """Fetch what has changed since the last time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = {n: word for n, word in self.remote.names(below, patience).items() if not _UNSEEN.search(n)}
        changed = [name for name, word in there.items() if self._seen.get(name) != word]
        self.remote.get(changed, self.folder)
        self._seen.update({name: there[name] for name in changed})

    def publish(self, *names: str) -> None:
        """Copy files and folders of the sweep's folder up."""
        for name in names:
            path = self.folder / name
            files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
            for file in files:
                self.remote.put(file, file.relative_to(self.folder).as_posix())
