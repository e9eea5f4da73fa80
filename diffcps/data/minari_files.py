"""Episodes on disk, as Minari data sets in a folder that the caller names.

The layout is Minari's own (``MINARI_DATASETS_PATH=<root> minari list local`` shows them), but this module neither reads nor
changes that variable. A data set gets its name in one rename, when it is complete. Minari takes seconds to import, and what
only looks at metadata does without it.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcps import __version__
from diffcps.data.library import Holding
from diffcps.data.transitions import Episode, check_finite, checksum
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, get_task

if TYPE_CHECKING:
    from gymnasium import Space

_EPISODE_BYTES = 40_000
"""What HDF5 needs at most for an episode beside its arrays."""

KEY = "diffcps"
"""Key of the project's own entry in a data set's metadata."""


def write(
    root: Path,
    name: str,
    task: Task,
    episodes: Sequence[Episode],
    about: Mapping[str, Any],
    own: Mapping[str, Any],
    beside: Mapping[str, bytes] = {},
) -> Path:
    """Store a task's episodes under ``root`` and return the data set's folder, ``root / name``.

    It is written to a temporary folder and renamed, so an interruption leaves nothing under its name. Of two processes
    that write the same data set, the first one wins. Raises ``UserError`` when ``root`` cannot be written.

    Args:
        root: Minari's folder of data sets, or another.
        name: Minari's id, ``namespace/name-v0``.
        task: the task, for sizes, bounds and reference scores.
        episodes: its episodes.
        about: entries of Minari's metadata: ``algorithm_name``, ``description``, ….
        own: the project's own notes, stored under ``KEY`` with the checksum of the arrays and the versions.
        beside: files to add to the folder ``data``, by name.
    """
    target = root / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Minari ignores folders with names that start with a dot.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as folder:
            whole = Path(folder) / "whole"
            _claim(Path(folder), episodes, sum(map(len, beside.values())))
            _write_storage(whole / "data", name, task=task, episodes=episodes, about=about, own=own)
            for file, content in beside.items():
                (whole / "data" / file).write_bytes(content)
            try:
                os.rename(whole, target)
            except OSError:
                if not target.is_dir():
                    raise
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError where a file that it closes does not fit
        raise UserError(
            f"the data set {name} cannot be stored under {root} ({error}). Make the folder writable, free some space, "
            "or set DIFFCPS_HOME to another folder."
        ) from error
    return target


def read(path: Path, flatten: "Callable[[Space[Any], Any], Any]" = lambda space, found: found) -> list[Episode]:
    """The episodes of the Minari data set in the folder ``path`` (the one that holds ``data``), in order.

    ``flatten`` turns an episode's observations, which are of a space, into flat vectors ``[L + 1, o]``; actions must be flat.
    A data set that this project wrote is also checked against its checksum. Raises ``UserError`` when it is missing, damaged
    or of another shape.
    """
    from minari.dataset.minari_dataset import MinariDataset

    with _damage_as_user_error(path):
        dataset = MinariDataset(path / "data")
        episodes = [
            Episode(
                np.asarray(flatten(dataset.observation_space, e.observations)),
                e.actions,
                rewards=e.rewards,
                terminations=e.terminations.astype(bool),
                truncations=e.truncations.astype(bool),
            )
            for e in dataset.iterate_episodes()
        ]
        total = dataset.total_steps
    rows = sum(len(episode.rewards) for episode in episodes)
    if rows != total or rows == 0:
        raise UserError(
            f"{path} is not complete: it holds {rows} steps, its metadata say {total}. Delete it and make it again."
        )
    check(path, episodes)
    promised = notes(path).get("checksum")
    if promised is not None and promised != checksum(episodes):
        raise UserError(
            f"{path} is damaged: its arrays do not match the checksum in its metadata. Delete it and make it again."
        )
    return episodes


def check(path: Path, episodes: Sequence[Episode]) -> None:
    """Raise ``UserError`` when the episodes for, or of, the data set at ``path`` are not flat vectors of finite numbers."""
    for number, episode in enumerate(episodes):
        for name in ("observations", "actions"):
            array = getattr(episode, name)
            if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
                raise UserError(
                    f"{path}: {name} of episode {number} are {array.dtype} of shape {array.shape}; only flat vectors "
                    f"of real numbers [steps, size] can be learned from."
                )
        for name in ("observations", "actions", "rewards"):
            check_finite(f"{path}: '{name}' of episode {number}", getattr(episode, name))


def spaces(path: Path) -> "tuple[Space[Any], Space[Any]]":
    """Observation and action space of a data set. Raises ``UserError`` when it is damaged or has none that is known."""
    from minari.dataset.minari_storage import MinariStorage

    with _damage_as_user_error(path):
        storage = MinariStorage.read(path / "data")
        return storage.observation_space, storage.action_space


@contextmanager
def _damage_as_user_error(path: Path) -> Iterator[None]:
    from gymnasium.error import Error

    try:
        yield
    # Minari does not validate: a damaged data set can raise any of these
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError, ImportError, Error,
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} cannot be read as a Minari data set ({type(error).__name__}: {error}). Delete it, and collect, import "
            f"or download it again."
        ) from error


def metadata(path: Path) -> dict[str, Any]:
    """The metadata of the data set in the folder ``path``. Raises ``UserError`` when there is none in the folder."""
    try:
        found = json.loads((path / "data" / "metadata.json").read_text(encoding="utf-8"))
        return {**found}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not hold a Minari data set ({error}). Name a file, or the folder of a set."
        ) from error


def notes(path: Path) -> dict[str, Any]:
    """The project's own entry in the metadata; empty when there is none. Raises as ``metadata`` does."""
    found = metadata(path).get(KEY, {})
    return found if isinstance(found, dict) else {}


def holding(source: str, path: Path) -> Holding:
    """A data set of Minari's format on this machine, of the given source."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        return Holding(source, path, size, int(metadata(path)["total_steps"]))
    except (UserError, KeyError, TypeError):
        return Holding(source, path, size, fault="its metadata.json cannot be read; delete it and make it again.")


def noted_task(path: Path, noted: object, name: str | None) -> Task:
    """The task that a Minari data set notes, or else the one that the user names.

    Raises ``UserError`` when there is neither, or they differ.
    """
    if noted is None and name is None:
        raise UserError(
            f"{path} does not say which task its data belong to: --task NAME (`diffcps data minari ID` makes a task)."
        )
    if noted is not None and name is not None and noted != name:
        raise UserError(f"{path} holds the data of {noted}: leave out --task {name}.")
    return get_task(str(noted if noted is not None else name))


def _claim(folder: Path, episodes: Sequence[Episode], more: int) -> None:
    """Raise ``OSError`` when the disk has no space for the episodes and ``more`` bytes.

    It allocates a file of that size and deletes it. When HDF5 runs out of space it can no longer close its files, and the
    process crashes when it ends.
    """
    arrays = sum(array.nbytes for episode in episodes for array in vars(episode).values())
    size = arrays + _EPISODE_BYTES * len(episodes) + more
    if hasattr(os, "posix_fallocate"):  # not on every system
        with (folder / "room").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        (folder / "room").unlink()


def _write_storage(
    folder: Path,
    name: str,
    task: Task,
    episodes: Sequence[Episode],
    about: Mapping[str, Any],
    own: Mapping[str, Any],
) -> None:
    from gymnasium.spaces import Box
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir(parents=True)
    storage = MinariStorage.new(
        folder,
        observation_space=Box(-np.inf, np.inf, (task.observation_size,), episodes[0].observations.dtype.type),
        action_space=Box(-task.max_action, task.max_action, (task.action_size,), episodes[0].actions.dtype.type),
        data_format="hdf5",
    )
    versions = {p: version(p) for p in ("gymnasium", "mujoco", "numpy", "minari")}
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": versions["minari"],
            "ref_min_score": task.random_return,
            "ref_max_score": task.expert_return,
            **about,
            KEY: {
                **own,
                "checksum": checksum(episodes),
                "versions": versions | {"diffcps": __version__, "python": platform.python_version()},
            },
        }
    )
    storage.update_episodes(EpisodeBuffer(id=number, **vars(episode)) for number, episode in enumerate(episodes))
