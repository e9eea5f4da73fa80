"""Which data set a person means by a file, a folder or a task's name, for a look at it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffcps.config import DataSource
from diffcps.data import d4rl, imports, minari, recording, store
from diffcps.data.recording import Recording
from diffcps.data.transitions import Episode, Transitions
from diffcps.errors import UserError, nearest
from diffcps.tasks import TASKS, Task, defined, get_task


@dataclass(frozen=True)
class Source:
    """One data set on this machine."""

    task: Task
    path: Path
    """Its file, or the folder that holds ``data``."""
    kind: DataSource
    load: Callable[[], Transitions]
    """Its transitions as a learner gets them, rewards untransformed; raises ``UserError`` when it cannot."""
    record: Callable[[], tuple[Recording | None, dict[str, str]]]
    """As much of it as can be read, and type and shape of its arrays; raises ``UserError`` when that is nothing."""


def find(named: str, task: str | None, directories: Sequence[Path]) -> Source:
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
        return _minari(task, found)
    file = store.find(task, directories)
    if file is not None:
        return _file(task, file)
    imported = imports.find(task, directories) if task.d4rl_file else None
    if imported is not None:
        return _imported(task, imported)
    sets = [p for p in store.collected_root().rglob(f"{task.name}-collected-*") if (p / "data").is_dir()]
    if len(sets) == 1:
        return _collected(task, sets[0])
    if sets:
        listed = "\n".join(f"    {p}" for p in sorted(sets))
        raise UserError(f"there are {len(sets)} collected sets of {task.name}; name the one to look at:\n{listed}")
    if task.d4rl_file is not None:
        raise UserError(store.how_to_get([task], directories))
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
        return _minari(task, folder)
    return _imported(task, folder) if own.get("task") else _collected(task, folder)


def _imported(task: Task, folder: Path) -> Source:
    def record() -> tuple[Recording | None, dict[str, str]]:
        rows, _ = imports.read(task, folder)
        return recording.from_rows(task, rows), {}

    return Source(task, folder, "minari", lambda: imports.load(task, folder), record)


def _minari(task: Task, folder: Path) -> Source:
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
