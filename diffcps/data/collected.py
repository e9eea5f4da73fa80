"""Collected data sets on disk: made once, found again, and refused when they were made under other conditions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffcps.config import DataConfig
from diffcps.data import episodes as storage
from diffcps.data.collecting import behaviour
from diffcps.data.collecting.collect import Progress, collect
from diffcps.data.transitions import Episode, Origin, Transitions, checksum, from_episodes
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

COLLECTION = 1
"""Version of the collecting code and of the shipped policies; raise it when either changes what is collected."""

_NOTE = "Collected by DiffCPS with its own behaviour policy; not D4RL's data."


def dataset_id(task: Task, data: DataConfig) -> str:
    """Minari's id for a collected data set, ``namespace/name-v0``."""
    return f"diffcps/{task.name}-collected-s{data.seed}-{data.rows}-v{COLLECTION}"


def find(task: Task, data: DataConfig, root: Path) -> Path | None:
    """The folder of the collected data set under ``root``, or ``None`` when there is none yet."""
    path = root / dataset_id(task, data)
    return path if path.is_dir() else None


def collected(task: Task, data: DataConfig, root: Path, progress: Progress | None = None) -> tuple[Path, list[Episode]]:
    """Folder and episodes of the collected data set under ``root``; collected now if it is not there.

    What is returned was read back from the disk either way. Raises ``UserError`` when the folder cannot be written, or
    holds a damaged data set or one that was collected under other conditions.
    """
    path = find(task, data, root)
    if path is None:
        path = write(task, data, collect(task, data, progress), root)
    episodes = storage.read(path)
    recipe = _recipe(task, data)
    found = storage.notes(path).get("recipe")
    if found != recipe:
        changed = [key for key, value in recipe.items() if not isinstance(found, dict) or found.get(key) != value]
        raise UserError(
            f"{path} was collected differently from what {task.name} asks for now (other {', '.join(changed)}). "
            f"Delete or move it and it is collected anew, or name another data folder."
        )
    return path, episodes


def transitions(task: Task, path: Path, episodes: Sequence[Episode]) -> Transitions:
    """The transitions of the collected data set in the folder ``path``, rewards untransformed."""
    origin = Origin(
        source="collected",
        path=path,
        checksum=checksum(episodes),
        provenance="other",
        provenance_note="Collected on the spot by a behaviour policy of this project: not D4RL's data.",
    )
    return from_episodes(episodes, origin, terminals_end=task.terminals_end)


def write(task: Task, data: DataConfig, episodes: Sequence[Episode], root: Path) -> Path:
    """Store collected episodes under ``root`` and return the data set's folder; raises as ``episodes.write`` does."""
    about = {
        "algorithm_name": "behaviour policy of DiffCPS",
        "description": f"{data.rows} steps of {task.environment.id} for the task {task.name}. {_NOTE}",
    }
    own: dict[str, Any] = {"recipe": _recipe(task, data), "note": _NOTE}
    if task.robot is not None:
        own["policies"] = asdict(behaviour.load(task.robot).facts)
    return storage.write(root, dataset_id(task, data), task, episodes, about, own)


def _recipe(task: Task, data: DataConfig) -> dict[str, Any]:
    """What determines the rows of a collected data set, apart from the versions of the simulator."""
    recipe: dict[str, Any] = {
        "task": task.name,
        "physics": task.physics,
        "rows": data.rows,
        "seed": data.seed,
        "episode_limit": task.episode_limit,
        "collection": COLLECTION,
    }
    if task.robot is not None:
        recipe["policy"] = behaviour.load(task.robot).checksum
    return recipe
