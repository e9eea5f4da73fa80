"""D4RL files as Minari data sets, and back without a difference in any bit.

A Minari episode holds the observation after each of its steps. A D4RL file does not: the row at a time-out and the last
row of the file have no next observation, and ``d4rl.qlearning_dataset`` drops them. Such rows are not steps of an episode
here. They are kept in a file next to the episodes (``LEFT_OVER``), together with everything else in the D4RL file, so that
the original rows can be restored. Transitions are built from the restored rows by the function that builds them from the
D4RL file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffcps import files
from diffcps.data import d4rl, minari, minari_files
from diffcps.data.transitions import DatasetInfo, Episode, Rows, Transitions, arrays_checksum, split
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

LEFT_OVER = "d4rl.hdf5"
"""Sidecar HDF5 file. ``rows/``: rows without a next observation. ``file/``: everything else from the D4RL file, including
arrays that Minari cannot store at full precision."""

_NUMBERS = ("observations", "actions", "rewards")
_USED = (*d4rl.REQUIRED, "timeouts")


def import_file(task: Task, path: Path, root: Path) -> tuple[DatasetInfo, bool]:
    """Store a task's D4RL file as a Minari data set under ``root``; the same file again changes nothing.

    Returns what is known of the data set, and whether it was written now. Raises ``UserError`` when the file is broken, in
    any way that ``d4rl.load`` refuses, before anything is written; when the data set is there already, but of another file
    or damaged; and when ``root`` cannot be written.
    """
    from diffcps import envs

    target = root / minari.imported_id(task)
    if target.exists():
        return _again(task, path, target), False
    rows = d4rl.read(task, path)
    info = d4rl.transitions(task, rows, "d4rl", path=path, sha256=files.sha256(path)).info
    rows = _stored(path, rows)
    episodes, left_over = split(task, rows)
    if not episodes:
        raise UserError(
            f"{path}: its {len(rows.rewards)} row(s) hold no transition with a next observation, so no episode can be made of "
            "them. Use a longer data set."
        )
    kept = _taken(rows, left_over)
    image, dangling = _left_over_file(kept, path)
    file = {"name": path.name, "sha256": info.checksum, "columns": _columns(path), "links_left_out": dangling}
    own = {
        "task": task.name,
        "file": file,
        "provenance": info.provenance,
        "provenance_note": info.provenance_note,
        "left_over": {"rows": len(left_over), "timeouts": rows.timeouts is not None, "checksum": _checksum(kept)},
    }
    about = {
        "algorithm_name": "see D4RL",
        "description": (
            f"{path.name} (sha256 {info.checksum}), D4RL's file format, imported for the task {task.name}. "
            f"{info.provenance_note} Rows without a next observation are not among the steps; DiffCPS keeps them in "
            f"{LEFT_OVER}. env_spec is the environment that DiffCPS evaluates the task in."
            + "".join(
                f" The file's link '{name}' leads nowhere ({target}) and was left out."
                for name, target in dangling.items()
            )
        ),
        "env_spec": envs.specification(task, task.physics).to_json(),
    }

    written = minari_files.write(
        root,
        minari.imported_id(task),
        task=task,
        episodes=episodes,
        about=about,
        own=own,
        beside={LEFT_OVER: image},
    )
    return load(task, written).info, True


def load(task: Task, path: Path) -> Transitions:
    """The transitions of a task's imported data set in the folder ``path``.

    They equal those of ``d4rl.load`` on the file it was imported from, to the last bit, and so does what is said of them
    but for the source. Raises ``UserError`` when the set is damaged or was not imported for this task.
    """
    rows, own = read(task, path)
    return d4rl.transitions(task, rows, "minari", path=path, sha256=own["file"]["sha256"])


def read(task: Task, path: Path) -> tuple[Rows, dict[str, Any]]:
    """The rows of the D4RL file that the set in the folder ``path`` was imported from, and what was noted of it.

    Raises as ``load`` does.
    """
    episodes, own = minari_files.read(path), minari_files.notes(path)
    if own.get("task") != task.name or not _complete(own):
        raise UserError(
            f"{path} was not imported from a D4RL file of {task.name}. Move it away, then: diffcps data import "
            f"{task.d4rl_file}"
        )
    kept, index = _read_left_over(path / "data" / LEFT_OVER, own["left_over"])
    return join(episodes, kept, index), own


def join(episodes: Sequence[Episode], kept: Rows, index: NDArray[np.int64]) -> Rows:
    """The inverse of ``split``: rows in their order, as float32, from episodes and the rows left over at ``index`` ``[M]``."""
    steps = np.ones(sum(len(episode.rewards) for episode in episodes) + len(index), dtype=bool)
    steps[index] = False

    def woven(parts: Sequence[NDArray[Any]], rest: NDArray[Any], dtype: type) -> NDArray[Any]:
        values = np.empty((len(steps), *rest.shape[1:]), dtype=dtype)
        values[steps] = np.concatenate(parts)
        values[index] = rest
        return values

    timeouts = None
    if kept.timeouts is not None:
        timeouts = np.zeros(len(steps), dtype=bool)
        timeouts[index] = kept.timeouts
    return Rows(
        observations=woven([e.observations[:-1] for e in episodes], kept.observations, np.float32),
        actions=woven([e.actions for e in episodes], kept.actions, np.float32),
        rewards=woven([e.rewards for e in episodes], kept.rewards, np.float32),
        terminals=woven([e.terminations for e in episodes], kept.terminals, bool),
        timeouts=timeouts,
    )


def _again(task: Task, path: Path, target: Path) -> DatasetInfo:
    """The data set that is there already. Raises ``UserError`` when it is another file's."""
    digest = files.sha256(path)
    info = load(task, target).info
    if info.checksum != digest:
        raise UserError(
            f"{target} was imported from another file of {task.name}: its sha256 is {info.checksum[:12]}…, that of {path} "
            f"is {digest[:12]}…. Delete the data set, or import into another folder with --root."
        )
    return info


def _stored(path: Path, rows: Rows) -> Rows:
    """The rows with the file's own type where float32 does not hold all its numbers: nothing of it shall be lost, though
    no learner sees it. A type that Minari's episodes do not have stays float32; ``_beside`` such an array is kept whole."""
    values: dict[str, Any] = vars(rows).copy()
    with d4rl.opened(path) as file:
        for key in _NUMBERS:
            if not np.can_cast(file[key].dtype, np.float32) and not _beside(key, file[key].dtype):
                values[key] = file[key][...].astype(file[key].dtype.newbyteorder("=")).reshape(values[key].shape)
    return Rows(**values)


def _beside(key: str, dtype: np.dtype[Any]) -> bool:
    """Whether an array is kept whole beside the episodes: as exact as the file has it, it cannot be in them.

    Their observations and actions are float32 or float64; their rewards may be integers too.
    """
    inexact = key in _NUMBERS and not np.can_cast(dtype, np.float32)
    return inexact and (dtype.itemsize > 8 or (key != "rewards" and dtype.kind != "f"))


def _columns(path: Path) -> dict[str, str]:
    """Type and shape of the file's arrays: ``{"rewards": "float32 (60000, 1)"}``."""
    with d4rl.opened(path) as file:
        return {key: f"{file[key].dtype} {file[key].shape}" for key in _USED if key in file}


def _taken(rows: Rows, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Every array of the rows at ``index`` ``[M]``, and ``index`` itself."""
    return {"index": index} | {name: array[index] for name, array in vars(rows).items() if array is not None}


def _left_over_file(kept: dict[str, NDArray[Any]], source: Path) -> tuple[bytes, dict[str, str]]:
    """The content of ``LEFT_OVER``, and the source's links that lead nowhere, which are not in it, with their targets.

    Raises ``UserError`` when something in the source cannot be copied.
    """
    dangling: dict[str, str] = {}
    # made in memory: what the source cannot give is found before anything is written
    with h5py.File("left over", "w", driver="core", backing_store=False) as file:
        group = file.create_group("rows")
        for name, array in kept.items():
            group.create_dataset(name, data=array)
        rest = file.create_group("file")
        with d4rl.opened(source) as read:
            for key in read:
                if (target := _dangling(read, key)) is not None:
                    dangling[key] = target
                elif key not in _USED or _beside(key, read[key].dtype):
                    _copy(source, read, key, rest)
            rest.attrs.update(read.attrs)
        file.flush()
        return file.id.get_file_image(), dangling


def _dangling(file: h5py.File, key: str) -> str | None:
    """Where the link ``key`` should lead to, if it is one and there is nothing."""
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        return None
    try:
        file[key]
    except (KeyError, OSError):
        return f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else str(link.path)
    return None


def _copy(source: Path, read: h5py.File, key: str, to: h5py.Group) -> None:
    try:
        read.copy(key, to, name=key)
    except d4rl.H5PY_ERRORS as error:
        raise UserError(
            f"{source}: '{key}' is damaged and cannot be copied ({error}). Copy or download the file again."
        ) from error


def _read_left_over(path: Path, noted: dict[str, Any]) -> tuple[Rows, NDArray[np.int64]]:
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            kept = {name: array[...] for name, array in file["rows"].items()}
        matches = _checksum(kept) == noted["checksum"]
    except d4rl.H5PY_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error}). Delete the data set and import the file again.") from error
    if not matches:
        raise UserError(
            f"{path} is damaged: it does not match its checksum. Delete the data set and import the file again."
        )
    index = kept.pop("index")
    return Rows(**({"timeouts": None} | kept)), index


def _complete(own: dict[str, Any]) -> bool:
    """Whether the notes of a data set are those of an imported file."""
    parts = own.get("file"), own.get("left_over")
    return all(isinstance(part, dict) for part in parts) and "sha256" in own["file"] and "checksum" in own["left_over"]


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    return arrays_checksum(sorted(arrays.items()))
