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
from diffcps.runs.read import Sweep, read
from diffcps.storage.location import results_folder
from diffcps.storage.remote import Remote

_LOOK_PATIENCE = 20.0
"""Seconds to wait for an object store that does not answer."""
_SMALL = re.compile(rf"[^/]+/(sweep\.json|{re.escape(lock.LEASE)}|runs/[^/]+/(status|environment|config)\.json)")
"""Names of the files that are read, below the results folder."""


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
                "with --results; start a sweep with python tune/sweep_d4rl.py."
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
        known = {sweep.name: sweep for sweep in self.sweeps()}
        holds = f"It holds: {', '.join(sorted(known))}." if known else "It holds no sweep."
        raise UserError(f"no sweep is called {name!r} in {self.name}{nearest(name, known) or '.'} {holds}")


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
