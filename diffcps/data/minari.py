"""Collected episodes on disk, as Minari data sets under a folder of the caller's choice.

The layout is Minari's own (``MINARI_DATASETS_PATH=<root> minari list local`` shows them), but nothing here reads or
changes that variable or touches the user's own Minari folder. A data set appears under its name in one rename, whole.
"""

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_dataset import MinariDataset
from minari.dataset.minari_storage import MinariStorage

from diffcps import __version__
from diffcps.config import DataConfig
from diffcps.data import behaviour
from diffcps.data.collect import Progress, collect
from diffcps.data.transitions import Episode, checksum
from diffcps.errors import UserError
from diffcps.tasks import Task

COLLECTION = 0
"""Version of the collecting code and of the shipped policies; raise it when either changes what is collected."""

_KEY = "diffcps"
"""Key of the project's own entry in a data set's metadata."""


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
    episodes = read(path)
    recipe = _recipe(task, data)
    found = _metadata(path).get(_KEY, {}).get("recipe")
    if found != recipe:
        changed = [key for key, value in recipe.items() if not isinstance(found, dict) or found.get(key) != value]
        raise UserError(
            f"{path} was collected differently from what {task.name} asks for now (other {', '.join(changed)}). "
            f"Delete or move it and it is collected anew, or name another data folder."
        )
    return path, episodes


def write(task: Task, data: DataConfig, episodes: Sequence[Episode], root: Path) -> Path:
    """Store episodes under ``root`` and return the data set's folder.

    It is written beside its place and renamed into it, so an interruption leaves nothing under its name, and of two
    processes that write the same data set the first one wins. Raises ``UserError`` when ``root`` cannot be written.
    """
    name = dataset_id(task, data)
    target = root / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Minari ignores folders whose name starts with a dot.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as folder:
            whole = Path(folder) / "whole"
            _write_storage(whole / "data", name, task, data, episodes)
            try:
                os.rename(whole, target)
            except OSError:
                if not target.is_dir():
                    raise
    except OSError as error:
        raise UserError(
            f"the data set {name} cannot be stored under {root} ({error}). Make the folder writable, free some space, "
            f"or name another data folder."
        ) from error
    return target


def read(path: Path) -> list[Episode]:
    """The episodes of the Minari data set in the folder ``path`` (the one that holds ``data``), in order.

    Any Minari data set with flat observations and actions can be read; one that this project wrote is also checked
    against its checksum. Raises ``UserError`` when it is missing, damaged or of another shape.
    """
    try:
        dataset = MinariDataset(path / "data")
        episodes = [
            Episode(e.observations, e.actions, e.rewards, e.terminations.astype(bool), e.truncations.astype(bool))
            for e in dataset.iterate_episodes()
        ]
        total = dataset.total_steps
    # Minari does not validate: a damaged set shows as whatever its reading happens to stumble over.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read as a Minari data set ({type(error).__name__}: {error}). Delete it; if it was "
            f"collected by this project it will be collected anew."
        ) from error
    _check(path, episodes, total)
    return episodes


def _check(path: Path, episodes: Sequence[Episode], total: int) -> None:
    rows = sum(len(episode.rewards) for episode in episodes)
    if rows != total or rows == 0:
        raise UserError(f"{path} holds {rows} steps but its metadata promise {total}. Delete it: it is not complete.")
    for number, episode in enumerate(episodes):
        for name in ("observations", "actions"):
            array = getattr(episode, name)
            if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
                raise UserError(
                    f"{path}: {name} of episode {number} are {array.dtype} of shape {array.shape}; only flat vectors "
                    f"of real numbers [steps, size] can be learned from."
                )
        for name in ("observations", "actions", "rewards"):
            broken = ~np.isfinite(getattr(episode, name))
            if broken.any():
                raise UserError(
                    f"{path}: {name} of episode {number} hold {int(broken.sum())} value(s) that are NaN or infinite. "
                    f"Repair the data set or leave it out."
                )
    promised = _metadata(path).get(_KEY, {}).get("checksum")
    if promised is not None and promised != checksum(episodes):
        raise UserError(
            f"{path} is damaged: its arrays do not match the checksum in its metadata. "
            f"Delete it and it is collected anew."
        )


def _metadata(path: Path) -> dict[str, Any]:
    return MinariStorage.read_raw_metadata(path / "data")


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
    if task.domain == "locomotion":
        recipe["policy"] = behaviour.load(task.environment).checksum
    return recipe


def _write_storage(folder: Path, name: str, task: Task, data: DataConfig, episodes: Sequence[Episode]) -> None:
    folder.mkdir(parents=True)
    storage = MinariStorage.new(
        folder,
        observation_space=Box(-np.inf, np.inf, (task.observation_size,), np.float32),
        action_space=Box(-task.max_action, task.max_action, (task.action_size,), np.float32),
        data_format="hdf5",
    )
    versions = {p: metadata.version(p) for p in ("gymnasium", "mujoco", "numpy", "minari")}
    own: dict[str, Any] = {
        "recipe": _recipe(task, data),
        "checksum": checksum(episodes),
        "versions": versions | {"diffcps": __version__, "python": platform.python_version()},
        "note": "Collected by DiffCPS with its own behaviour policy; not D4RL's data.",
    }
    if task.domain == "locomotion":
        own["policy"] = asdict(behaviour.facts(task.environment))
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": versions["minari"],
            "algorithm_name": "behaviour policy of DiffCPS",
            "description": f"{data.rows} steps of {task.environment} for the task {task.name}. {own['note']}",
            "ref_min_score": task.random_return,
            "ref_max_score": task.expert_return,
            _KEY: own,
        }
    )
    storage.update_episodes(
        EpisodeBuffer(
            id=number,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
        )
        for number, episode in enumerate(episodes)
    )
