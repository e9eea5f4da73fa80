"""OGBench's single-task data sets, state-based, and the environments that policies are evaluated in.

Files are looked for in the folders that the user names, in those of ``DIFFCPS_DATA``, and in OGBench's own
``~/.ogbench/data``. A file (NPZ) holds ``observations`` [N, o], ``actions`` [N, a], ``terminals`` [N] (1 in the last row of a
trajectory, whose action has no next observation) and the simulator's states ``qpos`` [N, nq] and, for scenes and puzzles,
``button_states`` [N, b]. One file serves five tasks: the package ``ogbench`` computes from the states which rows reach a
task's goal, and the rewards. A file with the full name of a task may hold its own ``rewards`` and ``masks`` [N] instead.

**Learning** uses the package's rewards: 0 at the goal and −1 elsewhere in mazes, minus the number of unmet conditions in
manipulation. A step from a state at the goal is terminal (``masks`` 0), and its trajectory continues.
**Scores** are success rates in percent: an evaluation episode has return 1 if the package reports success, else 0.
Since version 1.2.0 of the package, reward and success belong to the state before a step.
"""

import contextlib
import copy
import functools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffcps import files
from diffcps.data.library import Holding, Sha256Of, Source, distinct, named_folders
from diffcps.data.transitions import (
    Episode,
    FloatArray,
    Origin,
    Rows,
    Transitions,
    check_actions,
    check_finite,
    from_episodes,
    split,
)
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, get_task

if TYPE_CHECKING:
    from diffcps.data.checking.recording import Recording

URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
"""Where the package downloads its files from."""
STANDARD = "~/.ogbench/data"

_DAMAGE = OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile
_STATES = "qpos", "button_states"


class OGBench(Source):
    """OGBench's files."""

    name = "ogbench"
    says = "OGBench files"
    packages = ("ogbench",)

    def load(self, task: Task, path: Path) -> Transitions:
        """With the package's rewards; ``info.returns`` are 1 for trajectories that reach the goal, else 0."""
        found = read(task, path)
        by = "its own file" if found.own_labels else f"ogbench {metadata.version('ogbench')}"
        note = f"OGBench's {path.stem}, rewards by {by}. Nothing is published to verify the file with."
        origin = Origin(
            source=self.name, path=path, checksum=files.sha256(path), provenance="unverified", provenance_note=note
        )
        return replace(from_episodes(task, found.episodes, origin), rewards=found.rewards)

    def wanted(self, task: Task) -> str:
        """The file that the five tasks share."""
        return re.sub(r"-singletask(-task\d)?-", "-", task.name) + ".npz"

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """Raises ``UserError`` when one of ``directories`` does not exist."""
        return distinct([*named_folders(directories), STANDARD])

    def every(self, task: Task, directories: Sequence[Path]) -> list[Path]:
        """The task's own file, or else the shared one."""
        own = [path for folder in self.places(directories) if (path := folder / f"{task.name}.npz").exists()]
        return own or super().every(task, directories)

    def remedy(self, tasks: Sequence[Task]) -> str:
        """Commands that download the files."""
        wanted = dict.fromkeys(map(self.wanted, tasks))
        lines = [f"    curl --create-dirs -o {STANDARD}/{file} {URL}/{file}" for file in wanted]
        return "\n".join(["  To get them:", *lines, "  or point to a folder that has a copy: --data-dir FOLDER"])

    def label(self, task: Task, provenance: str) -> str:
        """The same for all."""
        return "OGBench"

    def holding(self, path: Path, sha256: Sha256Of) -> Holding:
        """With rows."""
        try:
            with np.load(path, allow_pickle=False) as file:
                rows = len(file["terminals"])
        except _DAMAGE as error:
            raise UserError(f"{path}: it cannot be read as an OGBench file ({error}).") from error
        return Holding(self.name, path, path.stat().st_size, rows, sha256=sha256(path))

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """By the file's name; of a file that several tasks share, the default one."""
        if not path.is_file() or path.suffix != ".npz":
            return None
        own = path.stem if "-singletask-" in path.stem else f"{path.stem.removesuffix('-v0')}-singletask-v0"
        task = get_task(name or own)
        return task if self.name in task.sources else None

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """The steps, with success as reward."""
        from diffcps.data.checking import recording

        return recording.from_episodes(task, read(task, path).episodes)


SOURCE = OGBench()


@dataclass(frozen=True, eq=False)
class Labelled:
    """The steps of a file, labelled for a task."""

    episodes: list[Episode]
    """Trajectories; the rewards are 1 for steps from a state at the goal, which count as terminal, and 0 for others."""
    rewards: FloatArray
    """[steps] to learn from."""
    own_labels: bool
    """Whether rewards and masks are the file's own."""


def read(task: Task, path: Path) -> Labelled:
    """The content of a file, with rewards and successes of a task.

    Raises ``UserError``, which names file and array, when the file is damaged, is not one of the task, or needs the package
    ``ogbench`` and it is not installed.
    """
    arrays = _arrays(task, path)
    ends = arrays["terminals"].astype(bool)
    own = path.stem == task.name and {"rewards", "masks"} <= set(arrays)
    if not own:
        _label(task, path, arrays)
    success = arrays["masks"] == 0
    rows = Rows(arrays["observations"], arrays["actions"], success.astype(np.float32), terminals=success, timeouts=ends)
    episodes, _ = split(task, rows)
    return Labelled(episodes, arrays["rewards"].astype(np.float32)[~ends], own)


def _arrays(task: Task, path: Path) -> dict[str, NDArray[Any]]:
    """The arrays that matter, checked."""
    names = ("observations", "actions", "terminals", "rewards", "masks", *_STATES)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file}
    except _DAMAGE as error:
        raise UserError(
            f"{path}: it cannot be read as an OGBench file ({error}). Copy or download it again."
        ) from error
    if missing := [name for name in names[:3] if name not in arrays]:
        raise UserError(f"{path}: it lacks {', '.join(missing)}; it has {', '.join(arrays) or 'none of its arrays'}.")
    rows = len(np.atleast_1d(arrays["terminals"]))
    shapes: dict[str, tuple[int, ...]] = {
        "observations": (rows, task.observation_size),
        "actions": (rows, task.action_size),
    }
    shapes |= {name: (rows,) for name in ("terminals", "rewards", "masks")}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.shape != shapes.get(name, (rows, *array.shape[1:])):
            raise UserError(
                f"{path}: '{name}' is {array.dtype} of shape {array.shape}, where {task.name} needs numbers of shape "
                f"{shapes.get(name, (rows, 'any'))}."
            )
        check_finite(f"{path}: '{name}'", array)
    for name in ("terminals", "masks"):
        if name in arrays and not np.isin(arrays[name], (0, 1)).all():
            raise UserError(f"{path}: '{name}' must be 0 or 1.")
    if rows == 0 or not arrays["terminals"][-1] or arrays["terminals"].all():
        raise UserError(f"{path}: its {rows} rows are not whole trajectories. Copy or download the file again.")
    check_actions(path, arrays["actions"], task)
    return arrays | {name: arrays[name].astype(np.float32) for name in ("observations", "actions")}


def _label(task: Task, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Set ``rewards`` and ``masks`` as the package computes them from the states."""
    name = task.environment.arguments["name"]
    environment = SingleTask(name)
    from ogbench.relabel_utils import relabel_dataset

    try:
        relabel_dataset(name, environment, arrays)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{path}: ogbench cannot compute rewards from its states ({type(error).__name__}: {error}). It needs 'qpos' and, "
            f"for scenes and puzzles, 'button_states', as OGBench's own files have them."
        ) from error
    finally:
        environment.close()


class SingleTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A single-task environment of OGBench with success as its reward: an episode's return is 1 or 0.

    Its random numbers depend only on the seed of ``reset``, although the package's mazes draw from NumPy's global stream.
    """

    def __init__(self, name: str) -> None:
        super().__init__(_environment(name))
        with _quiet():  # a manipulation environment makes new ones whenever it is asked
            self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self._random = np.random.RandomState(0)
        self._damping = self.unwrapped.model.dof_damping.copy()  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env.reset``; the state before the first step may be any that the task starts from."""
        if seed is not None:
            self._random.seed(seed)
        with self._alone(), _quiet():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``."""
        with self._alone():
            observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(info["success"]), bool(terminated), truncated, info

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Give the package this environment's random numbers, and its own damping (a locked drawer's is high)."""
        model, outside = self.unwrapped.model, np.random.get_state()  # type: ignore[attr-defined]
        model.dof_damping[:] = self._damping
        np.random.set_state(self._random.get_state())
        try:
            yield
        finally:
            self._random.set_state(np.random.get_state())
            np.random.set_state(outside)
            self._damping = model.dof_damping.copy()


def _environment(name: str) -> gymnasium.Env[Any, Any]:
    """The package's environment. Those of a manipulation task share a compiled model, which takes 2 s and 100 MB to make."""
    first = _first(name)
    if not _is_manipulation(first):
        return _made(name)
    import mujoco

    twin: Any = copy.copy(first)
    twin._data = mujoco.MjData(twin.model)
    return twin


@functools.cache
def _first(name: str) -> gymnasium.Env[Any, Any]:
    made = _made(name)
    if _is_manipulation(made):
        with _quiet():
            made.reset(seed=0)  # compiles the model; a maze has one, and would draw from NumPy's global stream
    return made


def _is_manipulation(environment: gymnasium.Env[Any, Any]) -> bool:
    return hasattr(environment, "build_mjcf_model")


def _made(name: str) -> gymnasium.Env[Any, Any]:
    """Raises ``UserError`` when the package is not installed."""
    try:
        with _quiet():
            import ogbench  # noqa: F401

            return gymnasium.make(name, disable_env_checker=True).unwrapped
    except ImportError as error:
        raise UserError(
            f"OGBench's tasks need the package ogbench ({error}): pip install 'diffcps[ogbench]'."
        ) from error


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Without the package's warnings, about the window system and the precision of its spaces."""
    return warnings.catch_warnings(action="ignore")
