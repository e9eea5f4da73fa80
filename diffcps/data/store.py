"""Where data sets live on this machine, and what to tell a person when one is not there.

D4RL files are looked for in the folders that the user names, in those of ``DIFFCPS_DATA``, in D4RL's own
``~/.d4rl/datasets`` and in ``~/.diffcps/datasets``. Collected data are kept in ``$DIFFCPS_HOME/collected``.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from diffcps.config import DataConfig, home
from diffcps.data.d4rl import sha256
from diffcps.errors import UserError
from diffcps.tasks import TASKS, Task

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
    if task.domain == "antmaze":
        folder = "ant_maze_v2" if task.d4rl_file.endswith("_sparse_fixed.hdf5") else "ant_maze_new"
    else:
        folder = "gym_mujoco_v2"
    return f"{folder}/{task.d4rl_file}"


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
