"""A results folder, at a path or in an object store, and the sweeps in it."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffcps.errors import UserError, nearest
from diffcps.runs import lock
from diffcps.runs.read import SweepEntry, read
from diffcps.storage.location import results_folder
from diffcps.storage.remote import Remote

_LOOK_PATIENCE = 20.0
"""Seconds for which a person waits for an object store that does not answer."""
_SMALL = re.compile(rf"[^/]+/(sweep\.json|{re.escape(lock.LEASE)}|runs/[^/]+/(status|environment|config)\.json)")
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
