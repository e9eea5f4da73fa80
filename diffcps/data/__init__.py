"""Data sets: D4RL files, Minari's data sets and data collected on the spot, as transitions that a learner learns from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from diffcps.config import DataConfig
from diffcps.data import d4rl, imports, library, minari
from diffcps.data.transitions import DatasetInfo, Episode, Transitions
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

__all__ = ["DatasetInfo", "Episode", "Transitions", "load", "missing"]


def load(
    task: Task, data: DataConfig, directories: Sequence[Path], progress: Callable[[int, int], None] | None = None
) -> Transitions:
    """The task's transitions with its reward transform applied; ``info.returns`` keep the untransformed rewards.

    ``directories`` are searched before the standard folders: for D4RL files before ``store.search_path``, for Minari's data
    sets before Minari's own folder, for collected ones before ``store.collected_root()``. Collected data are made now when
    they are nowhere yet; ``progress`` is then called now and then with the rows that there are and the rows wanted.

    Raises ``UserError`` when the task does not offer the source, the data are missing, or they cannot be learned from.
    """
    refused = library.not_offered(task, data)
    if refused is not None:
        raise UserError(refused)
    match data.source:
        case "collected":
            transitions = _collected(task, data, directories, progress)
        case "minari":
            transitions = _minari(task, directories)
        case "d4rl":
            transitions = _d4rl(task, directories)
    return transitions.reward_transformed(task.reward_transform)


def missing(wanted: Sequence[tuple[Task, DataConfig]], directories: Sequence[Path]) -> str | None:
    """``None`` when every data set is there or can be made on the spot, else what a person needs to know to get them.

    Raises ``UserError`` as ``store.missing`` does.
    """
    read = {task.name: task for task, data in wanted if data.source == "minari" in task.sources}
    absent = {name: task for name, task in read.items() if _find_minari(task, directories) is None}
    said = [library.missing(wanted, directories), _how_to_get(list(absent.values()), directories) if absent else None]
    return "\n".join(filter(None, said)) or None


def _find_minari(task: Task, directories: Sequence[Path]) -> Path | None:
    if task.definition is None:
        return imports.find(task, directories)
    return minari.find(task.definition.minari_id, directories)


def _how_to_get(absent: Sequence[Task], directories: Sequence[Path]) -> str:
    ways = (
        (imports.how_to_import, [task for task in absent if task.definition is None]),
        (minari.how_to_get, [task for task in absent if task.definition is not None]),
    )
    return "\n".join(way(tasks, directories) for way, tasks in ways if tasks)


def _minari(task: Task, directories: Sequence[Path]) -> Transitions:
    path = _find_minari(task, directories)
    if path is None:
        raise UserError(_how_to_get([task], directories))
    return imports.load(task, path) if task.definition is None else minari.load(task, path)


def _d4rl(task: Task, directories: Sequence[Path]) -> Transitions:
    path = library.find(task, directories)
    if path is None:
        raise UserError(library.how_to_get([task], directories))
    return d4rl.load(task, path)


def _collected(
    task: Task, data: DataConfig, directories: Sequence[Path], progress: Callable[[int, int], None] | None
) -> Transitions:
    # Imported here: Minari and the simulator take seconds to import, and only collected data need them.
    from diffcps.data import collected

    roots = [*(folder for folder in directories if collected.find(task, data, folder)), library.collected_root()]
    path, episodes = collected.collected(task, data, roots[0], progress)
    return collected.transitions(task, path, episodes)
