"""D4RL's HDF5 files: finding and reading them, and refusing what cannot be learned from.

Files are looked for in the folders that the user names, in those of ``DIFFCPS_DATA``, in D4RL's own ``~/.d4rl/datasets``
and in ``~/.diffcps/datasets``. Arrays that are read: ``observations`` [N, o], ``actions`` [N, a], ``rewards`` [N] or
[N, 1], ``terminals`` [N] (bool or 0/1 numbers) and, where there is one, ``timeouts`` [N]. Everything else (``infos/…``,
scalars under ``metadata/…``) stays closed. Shapes and types of the whole file are checked before any data are read.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from diffcps import files
from diffcps.config import home
from diffcps.data import provenance
from diffcps.data.library import Holding, Sha256Of, Source, distinct, named_folders
from diffcps.data.transitions import FloatArray, Origin, Rows, Transitions, check_actions, check_finite, from_rows
from diffcps.errors import UserError, nearest
from diffcps.tasks.registry import TASKS, Task, get_task
from diffcps.text import first_line

if TYPE_CHECKING:
    from diffcps.data.checking.recording import Recording

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")

_BEGINNINGS = (
    (b"<", "it is a web page or XML; a mirror has probably answered with an error page"),
    (b"version https://git-lfs", "it is a Git LFS pointer; run 'git lfs pull' where it came from"),
    (b"\x1f\x8b", "it is a gzip archive; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (b"\x93NUMPY", "it is a NumPy array"),
)

H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises, depending on where a file is damaged."""


PUBLIC_HOME = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


class D4RL(Source):
    """D4RL's files."""

    name = "d4rl"
    says = "D4RL files"

    def load(self, task: Task, path: Path) -> Transitions:
        """See ``Source.load``; raises as ``read`` and ``from_rows`` do."""
        return load(task, path)

    def wanted(self, task: Task) -> str:
        """The file's name."""
        return str(task.d4rl_file)

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """The given folders, those of ``DIFFCPS_DATA``, and the standard ones; raises as ``named_folders`` does."""
        return distinct([*named_folders(directories), "~/.d4rl/datasets", datasets_root()])

    def remedy(self, tasks: Sequence[Task]) -> str:
        """Three ways."""
        public = " and ".join(sorted({f"{PUBLIC_HOME}/{task.d4rl_folder}/" for task in tasks}))
        return (
            f"  Three ways to get {'them' if len(tasks) > 1 else 'it'}:\n"
            f"  1. diffcps data download {' '.join(task.name for task in tasks)}\n"
            f"     from {public}\n"
            f"     (that host is sometimes down for weeks; --mirror ADDRESS or FOLDER names another) into {datasets_root()}\n"
            f"  2. point to a folder that has a copy: --data-dir FOLDER, or DIFFCPS_DATA=FOLDER\n"
            f"  3. use --data collected: data made on this machine by the behaviour policies that come with the project"
        )

    def label(self, task: Task, provenance: str) -> str:
        """By provenance."""
        return {"verified": "D4RL", "unverified": "unverified", "other": "not D4RL's"}[provenance]

    def holding(self, path: Path, sha256: Sha256Of) -> Holding:
        """With rows, and the sha256 beside the published one."""
        rows, digest, state = count_rows(path), sha256(path), provenance.checksum_state(path)
        fault = None if rows is not None else "it has no 'rewards', so it is not in D4RL's layout."
        return Holding(self.name, path, path.stat().st_size, rows, checksum_state=state, sha256=digest, fault=fault)

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """By the file's name, or the named task, where it has a D4RL file."""
        if not path.is_file() or (name is not None and get_task(name).d4rl_file is None):
            return None
        return recognise(path, name) if name is not None or path.suffix in {".hdf5", ".h5"} else None

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """See ``recording.from_d4rl``."""
        from diffcps.data.checking import recording  # it imports this file

        return recording.from_d4rl(task, path)


SOURCE = D4RL()


def datasets_root() -> Path:
    """The folder that D4RL files are downloaded to unless another is named; it may not exist yet."""
    return home() / "datasets"


def public_path(task: Task) -> str:
    """Where the task's file is on D4RL's host, ``folder/name``. Raises ``UserError`` when it has none."""
    if task.d4rl_file is None:
        raise UserError(f"{task.name} has no D4RL file; its data are of source {' or '.join(map(repr, task.sources))}.")
    return f"{task.d4rl_folder}/{task.d4rl_file}"


def recognise(path: Path, name: str | None = None) -> Task:
    """The task of a file's data: the one called ``name``, else the one that has a D4RL file of this name.

    Raises ``UserError`` when there is none.
    """
    known = {str(task.d4rl_file): task for task in TASKS.values() if task.d4rl_file}
    if name is None:
        if path.name not in known:
            raise UserError(
                f"{path}: no task's D4RL file has that name{nearest(path.name, known) or '.'} If it holds a task's data, "
                f"name the task: --task NAME."
            )
        return known[path.name]
    tasks = {task.name: task for task in known.values()}
    if name not in tasks:
        raise UserError(
            f"--task {name!r}: no task with a D4RL file has that name{nearest(name, tasks) or '.'} "
            f"Tasks that have one: {', '.join(sorted(tasks))}."
        )
    return tasks[name]


def load(task: Task, path: Path) -> Transitions:
    """The transitions of a D4RL file. Raises ``UserError`` as ``read`` and ``from_rows`` do."""
    return transitions(task, read(task, path), "d4rl", path=path, sha256=files.sha256(path))


def transitions(task: Task, rows: Rows, source: str, path: Path, sha256: str) -> Transitions:
    """The transitions of the rows of a D4RL file with this ``sha256``. Raises ``UserError`` as ``from_rows`` does.

    Of data that are not D4RL's every terminal is kept; D4RL's own lose those of rows that are a time-out too.
    """
    verdict, note = provenance.judge(task, sha256, rows.observations)
    origin = Origin(source=source, path=path, checksum=sha256, provenance=verdict, provenance_note=note)
    return from_rows(task, rows, origin, keep_terminals=verdict == "other")


def read(task: Task, path: Path) -> Rows:
    """The rows of a D4RL file as float32 and bool.

    Raises ``UserError``, which names the file, the key and the value, when the file is missing, no HDF5, truncated or
    damaged; when it lacks a key, a key has a wrong type, shape or number of rows, or other dimensions than the task;
    when a value is NaN or infinite, a flag is neither 0 nor 1, or an action is outside the task's bounds.
    """
    with opened(path) as file:
        datasets = _datasets(path, file)
        _check_shapes(task, path, datasets)
        observations = _floats(path, datasets["observations"])
        actions = _floats(path, datasets["actions"])
        check_actions(path, actions, task)
        return Rows(
            observations=observations,
            actions=actions,
            rewards=_floats(path, datasets["rewards"]).reshape(-1),
            terminals=_flags(path, datasets["terminals"]),
            timeouts=_flags(path, datasets["timeouts"]) if "timeouts" in datasets else None,
        )


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading.

    Raises ``UserError``, also for what is read in the context, when it is missing, no HDF5, truncated, damaged or too large.
    """
    check_file(path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except MemoryError as error:
        raise UserError(f"{path}: it does not fit into memory ({first_line(error)}).") from error
    except H5PY_ERRORS as error:
        reason = "it is truncated" if "truncated" in str(error) else "it is damaged"
        raise UserError(
            f"{path}: {reason} and cannot be read to its end ({first_line(error)}). Copy or download it again."
        ) from error


def recognised(beginning: bytes) -> str | None:
    """What a file with this beginning is instead of HDF5, or ``None`` when it is not known to be something else."""
    return next((text for start, text in _BEGINNINGS if beginning.lstrip().startswith(start)), None)


def count_rows(path: Path) -> int | None:
    """Rows of an HDF5 file in D4RL's layout, from its head alone; ``None`` when it has another layout.

    Raises ``UserError`` when the file is missing, no HDF5, truncated, or damaged in its head.
    """
    with opened(path) as file:
        rewards = file.get("rewards")
        return rewards.shape[0] if isinstance(rewards, h5py.Dataset) and rewards.shape else None


def check_layout(task: Task, path: Path) -> None:
    """Raise ``UserError``, as ``read`` does, for all that the head of a file shows: keys, types, shapes, what is written."""
    with opened(path) as file:
        _check_shapes(task, path, _datasets(path, file))


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
        # HDF5 reads zeros where a part was never written, or is in another file that is gone
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
    check_finite(f"{path}: '{_key(dataset)}'", values)
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
