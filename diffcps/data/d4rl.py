"""Reads D4RL's HDF5 files as they are, and refuses what cannot be learned from.

What is used: ``observations`` [N, o], ``actions`` [N, a], ``rewards`` [N] or [N, 1], ``terminals`` [N] (bool or 0/1
numbers) and, where there is one, ``timeouts`` [N]. The rest (``infos/…``, scalars under ``metadata/…``) is never
opened. Shapes and types are checked for the whole file before any data are read.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from diffcps.data import provenance
from diffcps.data.transitions import FloatArray, Origin, Rows, Transitions, from_rows
from diffcps.errors import UserError
from diffcps.files import sha256
from diffcps.tasks.registry import Task

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")

ACTION_TOLERANCE = 1e-4
"""Actions may exceed the bounds by this (rounding); anything above is a wrong scale or a wrong task."""

_BEGINNINGS = (
    (b"<", "it is a web page or XML; a mirror has probably answered with an error page"),
    (b"version https://git-lfs", "it is a Git LFS pointer; run 'git lfs pull' where it came from"),
    (b"\x1f\x8b", "it is a gzip archive; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (b"\x93NUMPY", "it is a NumPy array"),
)

H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises, depending on where a file is damaged."""


def load(task: Task, path: Path) -> Transitions:
    """The transitions of a D4RL file, rewards untransformed. Raises ``UserError`` as ``read`` and ``from_rows`` do."""
    rows = read(task, path)
    digest = sha256(path)
    verdict, note = provenance.judge(task, digest, rows.observations)
    origin = Origin(source="d4rl", path=path, checksum=digest, provenance=verdict, provenance_note=note)
    return from_rows(rows, origin, episode_limit=task.episode_limit, terminals_end=task.terminals_end)


def read(task: Task, path: Path) -> Rows:
    """The rows of a D4RL file as float32 and bool.

    Raises ``UserError``, which names the file, the key and the value, when the file is missing, no HDF5, truncated or
    damaged; when it lacks a key, a key has a wrong type, shape or number of rows, or other dimensions than the task;
    when a value is NaN or infinite, a flag is neither 0 nor 1, or an action is outside the task's bounds.
    """
    check_file(path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return _read(task, path, file)
    except MemoryError as error:
        raise UserError(f"{path}: it does not fit into memory ({_first_line(error)}).") from error
    except H5PY_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = "it is truncated" if "truncated" in str(error) else "it is damaged"
    return UserError(
        f"{path}: {reason} and cannot be read to its end ({_first_line(error)}). Copy or download it again."
    )


def recognised(beginning: bytes) -> str | None:
    """What a file with this beginning is instead of HDF5, or ``None`` when it is not known to be something else."""
    return next((text for start, text in _BEGINNINGS if beginning.lstrip().startswith(start)), None)


def count_rows(path: Path) -> int | None:
    """Rows of an HDF5 file in D4RL's layout, from its head alone; ``None`` when it has another layout.

    Raises ``UserError`` when the file is missing, no HDF5, truncated, or damaged in its head.
    """
    check_file(path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            rewards = file.get("rewards")
            return rewards.shape[0] if isinstance(rewards, h5py.Dataset) and rewards.shape else None
    except H5PY_ERRORS as error:
        raise _damaged(path, error) from error


def check_layout(task: Task, path: Path) -> None:
    """Raise ``UserError``, as ``read`` does, for all that the head of a file shows: keys, types, shapes, what is written."""
    check_file(path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            _check_shapes(task, path, _datasets(path, file))
    except H5PY_ERRORS as error:
        raise _damaged(path, error) from error


def check_file(path: Path) -> None:
    """Raise ``UserError`` unless there is a file that can be read and begins as HDF5 does."""
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: it is {what}, where an HDF5 file is needed.")
        with path.open("rb") as file:
            beginning = file.read(32)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}). Check its permissions.") from error
    if not beginning:
        raise UserError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    if not h5py.is_hdf5(path):
        what = recognised(beginning) or f"it begins with {beginning[:8]!r}"
        raise UserError(f"{path}: not an HDF5 file: {what}. Copy or download D4RL's file again.")


def _read(task: Task, path: Path, file: h5py.File) -> Rows:
    datasets = _datasets(path, file)
    _check_shapes(task, path, datasets)
    observations = _floats(path, datasets["observations"])
    actions = _floats(path, datasets["actions"])
    size = np.abs(actions).max(axis=1)
    if size.max() > task.max_action + ACTION_TOLERANCE:
        row = int(np.argmax(size))
        raise UserError(
            f"{path}: the actions in 'actions' go up to {size[row]:g} (row {row}), outside the bounds "
            f"±{task.max_action:g} of {task.name}. Rescale them, or use a file that was made for this task."
        )
    return Rows(
        observations=observations,
        actions=actions,
        rewards=_floats(path, datasets["rewards"]).reshape(-1),
        terminals=_flags(path, datasets["terminals"]),
        timeouts=_flags(path, datasets["timeouts"]) if "timeouts" in datasets else None,
    )


def _datasets(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """The data sets that matter, by key, with their kind checked."""
    keys = list(file)
    missing = [key for key in REQUIRED if key not in keys]
    if missing:
        raise UserError(
            f"{path}: it lacks {_listed(missing)}; it has {_listed(sorted(keys)) or 'nothing'}. A D4RL file needs "
            f"{_listed(REQUIRED)}."
        )
    datasets = {}
    for key in [*REQUIRED, *(key for key in OPTIONAL if key in keys)]:
        item = file[key]
        if not isinstance(item, h5py.Dataset):
            raise UserError(f"{path}: '{key}' is a group, where a D4RL file has an array. Is it another format?")
        if item.dtype.kind not in "fiub":
            raise UserError(f"{path}: '{key}' holds {item.dtype} values, where a D4RL file has numbers.")
        if item.shape is None or len(item.shape) == 0:
            raise UserError(f"{path}: '{key}' is a single value, where a D4RL file has one entry a row.")
        if 0 in item.shape:
            raise UserError(f"{path}: '{key}' is empty (shape {item.shape}). Use a file that holds data.")
        # HDF5 reads zeros where a part was never written, or lies in another file that is gone
        if item.is_virtual or item.external:
            raise UserError(f"{path}: '{key}' only points to other files. Use a file that holds its data itself.")
        if item.id.get_storage_size() == 0:
            raise UserError(f"{path}: '{key}' was declared (shape {item.shape}) but never written. Copy it again.")
        if item.chunks is not None:
            parts = math.prod(-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
            if (written := item.id.get_num_chunks()) < parts:
                raise UserError(
                    f"{path}: '{key}' is not complete: {written} of its {parts} parts were written. Copy or build it again."
                )
        datasets[key] = item
    return datasets


def _check_shapes(task: Task, path: Path, datasets: dict[str, h5py.Dataset]) -> None:
    lengths = {key: dataset.shape[0] for key, dataset in datasets.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{key}' {length}" for key, length in lengths.items())
        raise UserError(f"{path}: its arrays have different numbers of rows: {shown}. Copy or build the file again.")
    widths = {"observations": task.observation_size, "actions": task.action_size}
    for key, width in widths.items():
        shape = datasets[key].shape
        if len(shape) != 2 or shape[1] != width:
            raise UserError(
                f"{path}: '{key}' has shape {shape}, but {task.name} needs (rows, {width}). "
                f"Is it the file of another task?"
            )
    for key in ("rewards", "terminals", "timeouts"):
        if key in datasets and datasets[key].shape[1:] not in ((), (1,)):
            raise UserError(f"{path}: '{key}' has shape {datasets[key].shape}, where one value a row is needed.")


def _floats(path: Path, dataset: h5py.Dataset) -> FloatArray:
    """The data set as float32, converted while it is read, every value finite."""
    if dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 8:
        values = np.empty(dataset.shape, dtype=np.float32)
        dataset.read_direct(values)
    else:
        values = dataset[...].astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
        first = values[bad[0]].reshape(-1)
        value = first[~np.isfinite(first)][0]
        raise UserError(
            f"{path}: '{_key(dataset)}' holds NaN or infinite values in {len(bad)} of {len(values)} rows, first "
            f"{value} in row {bad[0]}. Copy the file again; if its source has them too, use another file."
        )
    return values


def _flags(path: Path, dataset: h5py.Dataset) -> NDArray[np.bool_]:
    """[N] the data set as bool; only 0 and 1 are allowed."""
    values = dataset[...].reshape(-1)
    flags = values.astype(bool)
    wrong = np.flatnonzero(values != flags)
    if len(wrong):
        raise UserError(
            f"{path}: '{_key(dataset)}' must be 0 or 1, but row {wrong[0]} holds {values[wrong[0]]} (and "
            f"{len(wrong) - 1} more rows). Copy the file again, or use another."
        )
    return flags


def _key(dataset: h5py.Dataset) -> str:
    return str(dataset.name).lstrip("/")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
