"""Run folders in an object store: a copy on the worker's disk, uploaded with every checkpoint.

A kill loses what came after the last checkpoint, as it does everywhere. The next worker, on any node, fetches the store's
copy and continues.
"""

import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs import lock
from diffcps.runs.checkpoint import Checkpoint
from diffcps.runs.folder import GROWING, RunFolder, TakenOverError
from diffcps.runs.status import StatusFile
from diffcps.storage.remote import Remote

logger = logging.getLogger(__name__)

STATUS_SECONDS = 15.0
"""Seconds between two uploads of a running trial's status."""
_PAUSE = 10.0
"""Times that an upload takes, until the next one by this process: of whichever trial it trains."""
_STATUS_PATIENCE = 3.0
"""Seconds for which learning waits for such an upload."""

_UPLOADED_AT_ONCE = "owner", "attempts.json", "environment.json"
_UNSEEN = re.compile(rf"/checkpoint/|^{re.escape(lock.LEASE)}$|^ray/")
"""Files that a view does not fetch: checkpoints, the lease, Ray's own."""


class MirroredFolder(RunFolder):
    """A run folder in an object store, with a copy on this machine.

    Args:
        path: this machine's copy.
        remote: the folder in the store.
        working: whether the trial is trained here; then checkpoints are fetched too.
    """

    _free_at: ClassVar[float] = 0.0
    """``time.monotonic()`` from which on this process may upload a status again: it may train many trials."""

    def __init__(self, path: Path, remote: Remote, working: bool = True) -> None:
        super().__init__(path)
        self.remote, self.working = remote, working
        self._uploaded_at = 0.0

    def fetch(self) -> None:
        """Fetch the store's copy; a working copy of an earlier attempt is discarded."""
        names = [name for name in self.remote.names() if self.working or not name.startswith("checkpoint/")]
        if self.working:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.remote.get(names, self.path)

    def create(self, config: RunConfig) -> None:
        """See ``RunFolder.create``; fetches the store's copy first."""
        self.fetch()
        new = not (self.path / "config.json").exists()
        super().create(config)
        if new:
            self.remote.put(self.path / "config.json", "config.json")

    def _replace(self, name: str, content: bytes | dict[str, Any]) -> None:
        """Also in the store, where workers on other machines look before they write."""
        super()._replace(name, content)
        if name in _UPLOADED_AT_ONCE:
            if name != "owner":
                self._check_owner_there()
            self.remote.put(self.path / name, name)

    def _check_owner_there(self, patience: float | None = None) -> None:
        if self._token is not None:
            self._compare_owner((self.remote.read("owner", patience) or b"nobody: it was deleted").decode())

    def write_status(self, status: StatusFile) -> None:
        """Replace ``status.json``; in the store at every end, and for progress only now and then and if it answers."""
        super().write_status(status)
        if status["state"] != "running":
            self._check_owner_there()
            self.remote.put(self.path / "status.json", "status.json")
        elif time.monotonic() - self._uploaded_at > STATUS_SECONDS and time.monotonic() >= MirroredFolder._free_at:
            self._uploaded_at = begun = time.monotonic()
            try:
                self._check_owner_there(_STATUS_PATIENCE)
                self.remote.put(self.path / "status.json", "status.json", _STATUS_PATIENCE)
            except TakenOverError:
                raise
            except UserError as error:
                logger.warning("%s", error)  # learning continues; the next checkpoint waits for the store
            MirroredFolder._free_at = time.monotonic() + _PAUSE * (time.monotonic() - begun)

    def save_checkpoint(self, state: Checkpoint, step: int) -> None:
        """Write a checkpoint and upload it; the rows first, so that no checkpoint in the store is ahead of its rows."""
        super().save_checkpoint(state, step)
        self._check_owner_there()
        for name in GROWING:
            if (self.path / name).exists():
                self.remote.put(self.path / name, name)
        here = {f"checkpoint/{file.name}": file for file in (self.path / "checkpoint").iterdir()}
        there = self.remote.names("checkpoint")
        # a damaged one of this step may be there, which is why the step was done again
        new = {name for name in here if name not in there or f"step_{step:09d}" in name}
        for name in sorted(new, key=lambda name: name.endswith(".pt")):
            self._check_owner_there()
            self.remote.put(here[name], name)
        for name in there.keys() - here.keys():
            self.remote.delete(name)
        self._uploaded_at = 0.0  # upload the next status, which says that there is a new checkpoint


class View:
    """This machine's copy of a sweep's folder in an object store, without checkpoints."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        self.folder, self.remote = folder, remote
        self._seen: dict[str, str] = {}

    def refresh(self, below: str = "", patience: float | None = None) -> None:
        """Fetch files that have changed since the last call."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = {n: word for n, word in self.remote.names(below, patience).items() if not _UNSEEN.search(n)}
        changed = [name for name, word in there.items() if self._seen.get(name) != word]
        self.remote.get(changed, self.folder)
        self._seen.update({name: there[name] for name in changed})

    def publish(self, *names: str) -> None:
        """Upload files and folders of the sweep's folder."""
        for name in names:
            path = self.folder / name
            files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
            for file in files:
                self.remote.put(file, file.relative_to(self.folder).as_posix())
