"""The library of data sets: where data come from, and finding, reading and listing a task's data.

A source of data is a class in a file of its own and a line in ``SOURCES``. The rest of the project asks the source and
does not look at its name. ``docs/add-a-data-set.md`` adds one.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.config import DataConfig
from diffcps.errors import UserError, nearest
from diffcps.files import sha256
from diffcps.tasks.registry import TASKS, Task, defined, get_task

if TYPE_CHECKING:
    from diffcps.data.checking.recording import Recording
    from diffcps.data.transitions import Transitions

SOURCES = {
    "d4rl": "diffcps.data.d4rl",
    "minari": "diffcps.data.minari",
    "collected": "diffcps.data.collected",
    "ogbench": "diffcps.data.ogbench",
}
"""Name -> the module with the source, ``SOURCE``. It is imported when it is first asked for."""

Progress = Callable[[int, int], None]
"""Called during a collection with the number of rows so far and of rows wanted."""
Sha256Of = Callable[[Path], str | None]
"""Gives the sha256 of a file, or ``None`` where it is not known."""


@dataclass(frozen=True)
class Holding:
    """One data set on this machine."""

    source: str
    path: Path
    """Its file or folder."""
    size: int
    """Bytes."""
    rows: int | None = None
    """``None`` when its head does not say."""
    checksum_state: str | None = None
    """Result of comparing its sha256 with a published one (``provenance.ChecksumState``); ``None`` where nothing is compared."""
    sha256: str | None = None
    """Of a file, where it is known."""
    fault: str | None = None
    """What is wrong with it."""


class Source:
    """Where data come from. A subclass defines ``load``, ``wanted``, ``places`` and ``remedy``, or overrides more."""

    name: str
    """Its name in ``SOURCES``."""
    says: str
    """Its data in a few words."""
    makes: bool = False
    """Whether it makes data that are missing (``make``); the others only read."""
    packages: tuple[str, ...] = ()
    """Packages, besides those of the project, that its data or environments need; runs record their versions."""

    def load(self, task: Task, path: Path) -> "Transitions":
        """The transitions of the task's data set at ``path``.

        Raises ``UserError`` when it is damaged, or not a data set of the task.
        """
        raise NotImplementedError

    def wanted(self, task: Task) -> str:
        """Name of the task's data set: a file or a folder, relative to the places."""
        raise NotImplementedError

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """The folders that are searched, in order: those that the user named (``directories``), then the standard ones."""
        raise NotImplementedError

    def remedy(self, tasks: Sequence[Task]) -> str:
        """How to get the missing data of these tasks: indented lines."""
        raise NotImplementedError

    def label(self, task: Task, provenance: str) -> str:
        """The data set in a few words, for a report; ``provenance`` is that of its ``DatasetInfo``."""
        return self.name

    def make(self, task: Task, data: DataConfig, progress: Progress | None) -> Path:
        """Make the task's data set, for a source that ``makes`` some; the path of it."""
        raise NotImplementedError

    def every(self, task: Task, directories: Sequence[Path]) -> list[Path]:
        """All data sets of the task that are here."""
        found = (folder / self.wanted(task) for folder in self.places(directories))
        return [path for path in found if os.path.exists(path)]

    def find(self, task: Task, data: DataConfig, directories: Sequence[Path]) -> Path | None:
        """The task's data set: the first on ``places``, or ``None``.

        Raises ``UserError`` when several files of its name differ: a result must not depend on the order of folders.
        """
        found = self.every(task, directories)
        for other in found[1:]:
            if not _same_content(found[0], other):
                raise UserError(
                    f"two files are called {other.name} but differ: {found[0]} ({found[0].stat().st_size} bytes) and "
                    f"{other} ({other.stat().st_size} bytes). Rename or remove the wrong one."
                )
        return found[0] if found else None

    def files(self, path: Path) -> list[Path]:
        """The files of the data set at ``path``: what other machines get through an object store."""
        return [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]

    def place(self, task: Task, path: Path) -> Path:
        """The folder of ``places`` in which the task's data set at ``path`` is."""
        return path.parents[len(Path(self.wanted(task)).parts) - 1]

    def missing(self, tasks: Sequence[Task], directories: Sequence[Path]) -> str:
        """What a person needs to know about missing data: which, where they were looked for, how to get them."""
        names = "\n".join(f"    {task.name}: {self.wanted(task)}" for task in tasks)
        looked = "\n".join(f"    {line}" for line in self.looked(directories))
        are = "data sets are" if len(tasks) > 1 else "data set is"
        return f"{len(tasks)} {are} missing:\n{names}\n  Looked in\n{looked}\n{self.remedy(tasks)}"

    def looked(self, directories: Sequence[Path]) -> list[str]:
        """The places as text, with a remark on those that do not exist or cannot be read."""
        lines = []
        for folder in self.places(directories):
            remark = "" if os.access(folder, os.R_OK | os.X_OK) else " (no permission to read)"
            lines.append(f"{folder}{remark if folder.is_dir() else ' (no such folder)'}")
        return lines

    def holdings(self, task: Task, directories: Sequence[Path], sha256: Sha256Of) -> list[Holding]:
        """All data sets of the task that are here; one that differs from the first of its name is faulty."""
        found: list[Holding] = []
        for path in self.every(task, directories):
            try:
                holding = self.holding(path, sha256)
            except (UserError, OSError) as error:
                found.append(Holding(self.name, path, 0, fault=str(error).removeprefix(f"{path}: ")))
                continue
            first = next((other for other in found if other.fault is None and other.path.name == path.name), None)
            if first is not None and not path.samefile(first.path):
                known = holding.sha256 is not None and first.sha256 is not None
                if holding.size != first.size or (known and holding.sha256 != first.sha256):
                    holding = replace(holding, fault=f"it differs from {first.path}. Rename or remove the wrong one.")
            found.append(holding)
        return found

    def holding(self, path: Path, sha256: Sha256Of) -> Holding:
        """The data set at ``path``, from its head. Raises ``UserError`` or ``OSError`` when it cannot be read."""
        return Holding(self.name, path, path.stat().st_size)

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """The task of the data set at ``path``; ``None`` when it is not one of this source.

        ``name`` is the task that the user names. Raises ``UserError`` when that contradicts the data set.
        """
        return None

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """The data set for ``data check``: in full precision, faults included; and type and shape of its arrays.

        Raises ``UserError`` when nothing of it can be read.
        """
        return None, {}


def source(name: str) -> Source:
    """The source of that name. Raises ``UserError`` when there is none."""
    if name not in SOURCES:
        raise UserError(
            f"no source of data is called {name!r}{nearest(name, SOURCES) or '.'} Sources: {', '.join(SOURCES)}."
        )
    found: Source = importlib.import_module(SOURCES[name]).SOURCE
    return found


def configured(task: Task, name: str | None = None, rows: int | None = None) -> DataConfig:
    """The settings of a task's data from a source, by default its first; ``rows`` matter where the source makes them.

    Raises ``UserError`` when the task does not have that source.
    """
    data = DataConfig(source=name or task.sources[0], rows=task.rows if rows is None else rows)
    if (refused := not_offered(task, data)) is not None:
        raise UserError(refused)
    # a file is read whole: a number of rows must not make another trial of it
    return data if source(data.source).makes else data.replaced(rows=task.rows)


def load(task: Task, data: DataConfig, directories: Sequence[Path], progress: Progress | None = None) -> "Transitions":
    """The task's transitions, as recorded.

    ``directories`` are searched before the standard folders. A source that makes its data makes them now when they are
    not found.

    Raises ``UserError`` when the task does not have the source, the data are missing, or they cannot be learned from.
    """
    if (refused := not_offered(task, data)) is not None:
        raise UserError(refused)
    chosen = source(data.source)
    path = chosen.find(task, data, directories)
    if path is None:
        if not chosen.makes:
            raise UserError(chosen.missing([task], directories))
        path = chosen.make(task, data, progress)
    return chosen.load(task, path)


def missing(wanted: Sequence[tuple[Task, DataConfig]], directories: Sequence[Path]) -> str | None:
    """``None`` when every data set is here or can be made, else how to get those that are missing.

    Raises ``UserError`` when one of ``directories`` does not exist, and as ``Source.find`` does.
    """
    named_folders(directories)
    refused = dict.fromkeys(reason for task, data in wanted if (reason := not_offered(task, data)))
    if refused:
        return "\n".join(refused)
    absent: dict[str, dict[str, Task]] = {}
    for task, data in wanted:
        chosen = source(data.source)
        if not chosen.makes and chosen.find(task, data, directories) is None:
            absent.setdefault(data.source, {})[task.name] = task
    return "\n".join(source(name).missing(list(tasks.values()), directories) for name, tasks in absent.items()) or None


def not_offered(task: Task, data: DataConfig) -> str | None:
    """Why the task cannot take its data from ``data.source``, or ``None`` when it can."""
    if data.source in task.sources:
        return None
    offering = ", ".join(sorted(other.name for other in TASKS.values() if data.source in other.sources))
    others = f", or another task ({offering} have {data.source} data)" if offering else ""
    return (
        f"{task.name} has no data of source {data.source!r}, only {' or '.join(map(repr, task.sources))}. "
        f"Choose --data {task.sources[0]}{others}."
    )


def holdings(task: Task, directories: Sequence[Path], sha256: Sha256Of) -> list[Holding]:
    """The task's data sets in ``directories`` and the standard folders, in the order of its sources.

    ``sha256`` is ``provenance.known_sha256``, which reads no file, or ``provenance.sha256_of``. Raises ``UserError`` when
    one of ``directories`` does not exist.
    """
    return [found for name in task.sources for found in source(name).holdings(task, directories, sha256)]


@dataclass(frozen=True)
class DataSet:
    """One data set, for ``data check``."""

    task: Task
    path: Path
    """Its file, or the folder that holds ``data``."""
    source: Source
    others: tuple[Path, ...] = ()
    """Further data sets of the task."""


def look_up(named: str, task: str | None, directories: Sequence[Path]) -> DataSet:
    """The data set at that path, or of the task of that name: that of the task's first source which has one.

    Of several that were collected it is the one that a trial takes without being told a size, else the newest. ``task`` names
    the task of a file or folder that does not say it. Raises ``UserError`` when there is no such data set.
    """
    path = Path(named).expanduser()
    if path.is_file() or path.is_dir():
        return _at(path, task)
    if path.exists():
        raise UserError(f"{path} is neither a file nor a folder.")
    try:
        found = get_task(named)
    except UserError as error:
        if path.suffix or len(path.parts) > 1:
            raise UserError(f"{path}: there is no such file.") from error
        near = nearest(named, [*TASKS, *defined()]) or "."
        raise UserError(
            f"{named!r} is neither a file, nor a folder, nor a task{near} `diffcps data list` shows the tasks."
        ) from error
    if task is not None and task != named:
        raise UserError(f"{named} is a task itself: leave out --task {task}.")
    return _of_task(found, directories)


def _at(path: Path, name: str | None) -> DataSet:
    if path.name == "data" and not (path / "data").is_dir():
        path = path.parent
    for each in map(source, SOURCES):
        if (task := each.recognise(path, name)) is not None:
            return DataSet(task, path, each)
    what = "a file that no source of data recognises" if path.is_file() else "a folder without a data set in it"
    raise UserError(f"{path} is {what}. Name a data set, and its task with --task NAME.")


def _of_task(task: Task, directories: Sequence[Path]) -> DataSet:
    for each in map(source, task.sources):
        sets = each.every(task, directories)
        if sets:
            found = each.find(task, configured(task, each.name), directories) if len(sets) > 1 else sets[0]
            taken = found or max(sets, key=lambda path: path.stat().st_mtime)
            return DataSet(task, taken, each, tuple(sorted({path for path in sets if path.name != taken.name})))
    raise UserError(source(task.sources[0]).missing([task], directories))


def named_folders(directories: Sequence[Path]) -> list[Path]:
    """The folders that the user named, and those of ``DIFFCPS_DATA``.

    Raises ``UserError`` when one of ``directories`` does not exist, which is probably a typing error.
    """
    named = [Path(directory).expanduser().absolute() for directory in directories]
    for directory in named:
        if not directory.is_dir():
            what = "it is a file; give the folder it is in" if directory.is_file() else "there is no such folder"
            raise UserError(f"data folder {directory}: {what}.")
    return named + [Path(part) for part in os.environ.get("DIFFCPS_DATA", "").split(os.pathsep) if part]


def distinct(folders: Sequence[Path | str]) -> list[Path]:
    """The folders as absolute paths, each once."""
    return list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in folders))


def _same_content(first: Path, second: Path) -> bool:
    if first.samefile(second):
        return True
    return first.stat().st_size == second.stat().st_size and sha256(first) == sha256(second)
