"""Where data sets live on this machine, and what to tell a person when one is not there.

D4RL files are looked for in the folders that the user names, in those of ``DIFFCPS_DATA``, in D4RL's own
``~/.d4rl/datasets`` and in ``~/.diffcps/datasets``. Collected data are kept in ``$DIFFCPS_HOME/collected``.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffcps.config import DataConfig, home
from diffcps.data import d4rl, imports, minari, provenance
from diffcps.data.checking import recording
from diffcps.data.checking.recording import Recording
from diffcps.data.transitions import Episode, Transitions
from diffcps.errors import UserError, nearest
from diffcps.files import sha256
from diffcps.tasks.registry import TASKS, Task, defined, get_task

PUBLIC_HOME = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


def collected_root() -> Path:
    """The folder of data sets that were collected on the spot; it need not exist yet."""
    return home() / "collected"


def datasets_root() -> Path:
    """The folder that D4RL files are downloaded to unless another is named; it need not exist yet."""
    return home() / "datasets"


def search_path(directories: Sequence[Path]) -> list[Path]:
    """The folders that are searched, in order, each once: the given ones first, then the standard ones.

    Raises ``UserError`` when a given folder is not there: going on with another copy would hide a slip of the pen.
    """
    given = [Path(directory).expanduser().absolute() for directory in directories]
    for directory in given:
        if not directory.is_dir():
            what = "it is a file; give the folder it is in" if directory.is_file() else "there is no such folder"
            raise UserError(f"data folder {directory}: {what}.")
    variable = [Path(part) for part in os.environ.get("DIFFCPS_DATA", "").split(os.pathsep) if part]
    standard = [Path("~/.d4rl/datasets"), datasets_root()]
    return list(dict.fromkeys([*given, *(p.expanduser().absolute() for p in [*variable, *standard])]))


def where_looked(directories: Sequence[Path]) -> list[str]:
    """The searched folders as text, with a word on those that do not exist or cannot be read."""
    lines = []
    for directory in search_path(directories):
        if not directory.is_dir():
            lines.append(f"{directory} (no such folder)")
        elif not os.access(directory, os.R_OK | os.X_OK):
            lines.append(f"{directory} (may not be read)")
        else:
            lines.append(str(directory))
    return lines


def copies(task: Task, directories: Sequence[Path]) -> list[Path]:
    """Every file on the search path that has the name of the task's D4RL file, in order."""
    if task.d4rl_file is None:
        return []
    return [path for d in search_path(directories) if os.path.exists(path := d / task.d4rl_file)]


def find(task: Task, directories: Sequence[Path]) -> Path | None:
    """The task's D4RL file: the first one on the search path, or ``None``.

    Raises ``UserError`` when two searched folders hold files of that name with different content, because which of them
    a result comes from must not depend on an order of folders.
    """
    found = copies(task, directories)
    for other in found[1:]:
        if not _same_content(found[0], other):
            raise UserError(
                f"two files are called {task.d4rl_file} but differ: {found[0]} ({found[0].stat().st_size} bytes) and "
                f"{other} ({other.stat().st_size} bytes). Rename or remove the one that is not meant."
            )
    return found[0] if found else None


def public_path(task: Task) -> str:
    """Where the task's own file is below D4RL's public home, ``folder/name``. Raises ``UserError`` when it has none."""
    if task.d4rl_file is None:
        raise UserError(f"{task.name} has no D4RL file; its data are of source {' or '.join(map(repr, task.sources))}.")
    return f"{task.d4rl_folder}/{task.d4rl_file}"


def not_offered(task: Task, data: DataConfig) -> str | None:
    """Why the task cannot take its data from ``data.source``, or ``None`` when it can."""
    if data.source in task.sources:
        return None
    text = (
        f"{task.name} has no data of source {data.source!r}, only {' or '.join(map(repr, task.sources))}. "
        f"Choose --data {task.sources[0]}"
    )
    return f"{text}, or another task ({_offering(data.source)} have {data.source} data)."


def missing(wanted: Sequence[tuple[Task, DataConfig]], directories: Sequence[Path]) -> str | None:
    """``None`` when every data set is there or can be made on the spot, else what a person needs to know to get them.

    Raises ``UserError`` as ``search_path`` and ``find`` do.
    """
    search_path(directories)  # a folder that is not there is a slip even where no file is read
    refused = [reason for task, data in wanted if (reason := not_offered(task, data))]
    if refused:
        return "\n".join(refused)
    read = {task.name: task for task, data in wanted if data.source == "d4rl"}
    absent = [task for task in read.values() if find(task, directories) is None]
    return how_to_get(absent, directories) if absent else None


def how_to_get(absent: Sequence[Task], directories: Sequence[Path]) -> str:
    """What a person needs to know when D4RL files are absent: which, where they were looked for, three ways."""
    several = len(absent) > 1
    names = "\n".join(f"    {task.name}: {task.d4rl_file}" for task in absent)
    looked = "\n".join(f"    {line}" for line in where_looked(directories))
    folders = sorted({public_path(task).partition("/")[0] for task in absent})
    public = " and ".join(f"{PUBLIC_HOME}/{folder}/" for folder in folders)
    return (
        f"{len(absent)} data set{'s are' if several else ' is'} missing:\n{names}\n  Looked in\n{looked}\n"
        f"  Three ways to get {'them' if several else 'it'}:\n"
        f"  1. diffcps data download {' '.join(task.name for task in absent)}\n"
        f"     from {public}\n"
        f"     (that host is sometimes down for weeks; --mirror ADDRESS or FOLDER names another) into {datasets_root()}\n"
        f"  2. point to a folder that has a copy: --data-dir FOLDER, or DIFFCPS_DATA=FOLDER\n"
        f"  3. use --data collected: data made on the spot by the behaviour policies that come with the project"
    )


def _offering(source: str) -> str:
    return ", ".join(sorted(task.name for task in TASKS.values() if source in task.sources))


def _same_content(first: Path, second: Path) -> bool:
    if first.samefile(second):
        return True
    if first.stat().st_size != second.stat().st_size:
        return False
    return sha256(first) == sha256(second)


# What is here of each task's data, found without reading more of it than its head.


@dataclass(frozen=True)
class Holding:
    """One data set on this machine."""

    source: str
    path: Path
    """The file, or the folder of a Minari data set."""
    size: int
    """Bytes."""
    rows: int | None = None
    """``None`` when its head does not tell."""
    checksum: provenance.ChecksumState | None = None
    """How a D4RL file stands to the published sha256."""
    sha256: str | None = None
    """Of a D4RL file, where it is known."""
    fault: str | None = None
    """What is wrong with it."""


def holdings(
    task: Task, directories: Sequence[Path], sha256: Callable[[Path], str | None] = provenance.known_sha256
) -> list[Holding]:
    """The task's data sets in ``directories`` and the standard folders, in the order of its sources.

    ``sha256`` gives the sum of a file, or ``None``: ``known_sha256`` reads no file, ``sha256_of`` reads those not yet known.
    Several D4RL files of one name are all listed; those that differ from the first have that as their fault.
    Raises ``UserError`` when one of ``directories`` is not there.
    """
    found: list[Holding] = []
    for source in task.sources:
        match source:
            case "d4rl":
                found += _d4rl(task, directories, sha256)
            case "minari":
                found += _minari(task, directories)
            case "collected":
                folders = sorted(collected_root().glob(f"*/{task.name}-collected-*"))
                found += [_set(source, folder) for folder in folders if (folder / "data").is_dir()]
    return found


def _d4rl(task: Task, directories: Sequence[Path], sha256: Callable[[Path], str | None]) -> list[Holding]:
    found: list[Holding] = []
    for path in copies(task, directories):
        try:
            size, rows, digest = path.stat().st_size, d4rl.count_rows(path), sha256(path)
        except (UserError, OSError) as error:
            found.append(Holding("d4rl", path, 0, fault=str(error).removeprefix(f"{path}: ")))
            continue
        fault = None if rows is not None else "it has no 'rewards', so it is not in D4RL's layout."
        first = next((holding for holding in found if holding.fault is None), None)
        if first is not None and not path.samefile(first.path):
            differs = size != first.size or (None not in (digest, first.sha256) and digest != first.sha256)
            if differs:
                fault = f"it is another file than {first.path}. Rename or remove the one that is not meant."
        found.append(Holding("d4rl", path, size, rows, provenance.checksum_state(path), digest, fault))
    return found


def _minari(task: Task, directories: Sequence[Path]) -> list[Holding]:
    own = task.definition
    path = imports.find(task, directories) if own is None else minari.find(own.minari_id, directories)
    return [] if path is None else [_set("minari", path)]


def _set(source: str, path: Path) -> Holding:
    """A Minari data set; importing Minari to read four lines of JSON would take seconds."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        rows = json.loads((path / "data" / "metadata.json").read_text(encoding="utf-8"))["total_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return Holding(source, path, size, fault="its metadata.json cannot be read; delete it and make it again.")
    return Holding(source, path, size, int(rows))


# Which data set a person means by a file, a folder or a task's name, for a look at it.


@dataclass(frozen=True)
class Source:
    """One data set on this machine."""

    task: Task
    path: Path
    """Its file, or the folder that holds ``data``."""
    kind: str
    load: Callable[[], Transitions]
    """Its transitions as a learner gets them, rewards untransformed; raises ``UserError`` when it cannot."""
    record: Callable[[], tuple[Recording | None, dict[str, str]]]
    """As much of it as can be read, and type and shape of its arrays; raises ``UserError`` when that is nothing."""


def find_sources(named: str, task: str | None, directories: Sequence[Path]) -> Source:
    """The data set of that path or of the task of that name.

    A task's is its D4RL file; where there is none its imported, and then its only collected one. ``task`` says whose
    data a file or a folder holds that does not tell by itself. Raises ``UserError`` when there is no such thing, or
    several are meant.
    """
    path = Path(named).expanduser()
    if path.is_file():
        return _file(imports.recognise(path, task), path)
    if path.is_dir():
        return _folder(path, task)
    if path.exists():
        raise UserError(f"{path} is neither a file nor a folder.")
    if named in TASKS or named in defined():
        if task is not None and task != named:
            raise UserError(f"{named} is a task itself: leave out --task {task}.")
        return _of_task(get_task(named), directories)
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"{path}: there is no such file.")
    near = nearest(named, [*TASKS, *defined()]) or "."
    raise UserError(f"{named!r} is neither a file, nor a folder, nor a task{near} `diffcps data list` shows the tasks.")


def _of_task(task: Task, directories: Sequence[Path]) -> Source:
    if task.definition is not None:
        found = minari.find(task.definition.minari_id, directories)
        if found is None:
            raise UserError(minari.how_to_get([task], directories))
        return _minari_sources(task, found)
    file = find(task, directories)
    if file is not None:
        return _file(task, file)
    imported = imports.find(task, directories) if task.d4rl_file else None
    if imported is not None:
        return _imported(task, imported)
    sets = [p for p in collected_root().rglob(f"{task.name}-collected-*") if (p / "data").is_dir()]
    if len(sets) == 1:
        return _collected(task, sets[0])
    if sets:
        listed = "\n".join(f"    {p}" for p in sorted(sets))
        raise UserError(f"there are {len(sets)} collected sets of {task.name}; name the one to look at:\n{listed}")
    if task.d4rl_file is not None:
        raise UserError(how_to_get([task], directories))
    raise UserError(f"there are no data of {task.name} yet. Make some: diffcps data collect {task.name}")


def _file(task: Task, path: Path) -> Source:
    return Source(task, path, "d4rl", lambda: d4rl.load(task, path), lambda: recording.from_d4rl(task, path))


def _folder(path: Path, name: str | None) -> Source:
    """A Minari data set that this project wrote says itself whose it is."""
    from diffcps.data import episodes

    folder = path.parent if path.name == "data" and not (path / "data").is_dir() else path
    if not (folder / "data").is_dir():
        raise UserError(
            f"{path} is a folder without a data set in it. Name a file, or the folder of a Minari data set."
        )
    own = episodes.notes(folder)
    recipe = own.get("recipe")
    collected = recipe.get("task") if isinstance(recipe, dict) else None
    noted = own.get("task") or collected or name
    if noted is None:
        raise UserError(
            f"{folder} does not say whose data it holds: --task NAME (`diffcps data minari ID` makes a task)."
        )
    if name is not None and noted != name:
        raise UserError(f"{folder} holds the data of {noted}: leave out --task {name}.")
    task = get_task(str(noted))
    if task.definition is not None:
        return _minari_sources(task, folder)
    return _imported(task, folder) if own.get("task") else _collected(task, folder)


def _imported(task: Task, folder: Path) -> Source:
    def record() -> tuple[Recording | None, dict[str, str]]:
        rows, _ = imports.read(task, folder)
        return recording.from_rows(task, rows), {}

    return Source(task, folder, "minari", lambda: imports.load(task, folder), record)


def _minari_sources(task: Task, folder: Path) -> Source:
    def record() -> tuple[Recording | None, dict[str, str]]:
        found = minari.read(task, folder)
        return recording.from_episodes(task, found), _shapes(found)

    return Source(task, folder, "minari", lambda: minari.load(task, folder), record)


def _collected(task: Task, folder: Path) -> Source:
    # imported here: the simulator takes a second to import, which a look at a file need not wait for
    from diffcps.data import collected, episodes

    def load() -> Transitions:
        return collected.transitions(task, folder, episodes.read(folder))

    def record() -> tuple[Recording | None, dict[str, str]]:
        found = episodes.read(folder)
        return recording.from_episodes(task, found), _shapes(found)

    return Source(task, folder, "collected", load, record)


def _shapes(found: Sequence[Episode]) -> dict[str, str]:
    """Type and width of the arrays of the first episode; all episodes have the same."""
    arrays = vars(found[0]).items()
    return {name: " ".join(map(str, (a.dtype, list(a.shape[1:]) or ""))).strip() for name, a in arrays}
