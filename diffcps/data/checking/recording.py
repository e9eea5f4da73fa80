"""A data set as it was recorded, for checks: rows in order, in the types of the file, broken values included.

``d4rl.read`` and ``episodes.read`` give float32 and refuse data that cannot be learned from. A check needs full
precision, the simulator's states where they were recorded, and as much as can be read of a broken file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffcps.data import d4rl
from diffcps.data.transitions import Episode, Rows, limit_timeouts
from diffcps.tasks.registry import Task

Numbers = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

STATES = ("infos/qpos", "infos/qvel")


@dataclass(frozen=True, eq=False)
class Recording:
    """N rows; row i is an observation, the action taken there and the reward that followed."""

    observations: Numbers
    """[M, o]; M is N for a flat file, and one more an episode where the observation after the last action is known."""
    at: NDArray[np.int64]
    """[N] which observation is the row's own; the one after its action, where ``known``, is the next one."""
    known: Flags
    """[N] whether the observation after the row's action was recorded."""
    actions: Numbers
    """[N, a]"""
    rewards: Numbers
    """[N] not transformed."""
    terminals: Flags
    """[N]"""
    timeouts: Flags
    """[N] as flagged, or found by counting to the episode limit where ``flagged`` is false."""
    flagged: bool
    """Whether the data say where a time-out was."""
    ends: Flags
    """[N] rows that close a complete trajectory."""
    cuts: NDArray[np.int64]
    """Last rows of trajectories that were cut without a flag."""
    qpos: Numbers | None = None
    """[N, nq] the simulator's positions, where they were recorded."""
    qvel: Numbers | None = None
    """[N, nv] its velocities."""
    stored_next: Numbers | None = None
    """[N, o] the file's own ``next_observations``, where it has them."""

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def own(self) -> Numbers:
        """[N, o] the observation of every row."""
        return self.observations if len(self.observations) == len(self) else self.observations[self.at]

    def after(self, rows: NDArray[np.int64]) -> Numbers:
        """[n, o] the observations after the actions of these rows, all of them ``known``."""
        return self.observations[self.at[rows] + 1]

    def segments(self) -> list[slice]:
        """The rows of each trajectory in order, cut ones included."""
        closing = np.union1d(np.flatnonzero(self.ends), self.cuts).tolist()
        return [slice(first, last + 1) for first, last in zip([0, *(c + 1 for c in closing)], closing, strict=False)]


def from_episodes(task: Task, episodes: Sequence[Episode]) -> Recording:
    """The steps of all episodes, one after the other."""
    lengths = np.array([len(episode.rewards) for episode in episodes])
    observations = np.concatenate([episode.observations for episode in episodes])
    number = np.repeat(np.arange(len(episodes)), lengths)
    terminals = np.concatenate([episode.terminations for episode in episodes]).astype(bool)
    timeouts = np.concatenate([episode.truncations for episode in episodes]).astype(bool)
    ends = (terminals | timeouts) if task.terminals_end else timeouts
    last = (np.cumsum(lengths) - 1)[lengths > 0]
    return Recording(
        observations=observations,
        at=np.arange(len(number)) + number,
        known=np.ones(len(number), bool),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=terminals,
        timeouts=timeouts,
        flagged=True,
        ends=ends,
        cuts=last[~ends[last]],
    )


def shapes(episodes: Sequence[Episode]) -> dict[str, str]:
    """Type and width of the arrays of the first episode; all episodes have the same."""
    arrays = vars(episodes[0]).items()
    return {name: " ".join(map(str, (a.dtype, list(a.shape[1:]) or ""))).strip() for name, a in arrays}


def from_d4rl(task: Task, path: Path) -> tuple[Recording | None, dict[str, str]]:
    """What can be read of a D4RL file, and type and shape of everything in it by key.

    The recording is ``None`` when its arrays do not fit together or to the task. It may hold NaN, infinite values and
    actions out of bounds; flags that are neither 0 nor 1 count as set.
    """
    content: dict[str, str] = {}
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            file.visititems(lambda key, item: _describe(content, key, item))
            return _recording(task, file), content
    except (*d4rl.H5PY_ERRORS, MemoryError):
        # the strict reader says what is wrong with such a file
        return None, content


def _describe(content: dict[str, str], key: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset):
        shape = "" if item.shape is None else f" {list(item.shape)}" if item.shape else " a single value"
        content[key] = f"{item.dtype}{shape}"


def from_rows(task: Task, rows: Rows) -> Recording:
    """Flat rows without anything else."""
    return _flat(
        task,
        rows.observations,
        actions=rows.actions,
        rewards=rows.rewards,
        terminals=rows.terminals,
        timeouts=rows.timeouts,
    )


def _recording(task: Task, file: h5py.File) -> Recording | None:
    observations = _numbers(file, "observations", task.observation_size)
    actions = _numbers(file, "actions", task.action_size)
    rewards, terminals, timeouts = (_numbers(file, key) for key in ("rewards", "terminals", "timeouts"))
    if observations is None or actions is None or rewards is None or terminals is None:
        return None
    n = len(rewards)
    if any(array is not None and len(array) != n for array in (observations, actions, terminals, timeouts)):
        return None
    return _flat(
        task,
        observations,
        actions=actions,
        rewards=rewards,
        terminals=terminals.astype(bool),
        timeouts=None if timeouts is None else timeouts.astype(bool),
        qpos=_matrix(file, STATES[0], n, None),
        qvel=_matrix(file, STATES[1], n, None),
        stored_next=_matrix(file, "next_observations", n, task.observation_size),
    )


def _flat(
    task: Task,
    observations: Numbers,
    actions: Numbers,
    rewards: Numbers,
    terminals: Flags,
    timeouts: Flags | None,
    qpos: Numbers | None = None,
    qvel: Numbers | None = None,
    stored_next: Numbers | None = None,
) -> Recording:
    n = len(rewards)
    limit = limit_timeouts(terminals, task.episode_limit) if timeouts is None else timeouts
    ends = (terminals | limit) if task.terminals_end else limit
    known = ~ends
    known[-1] = False
    return Recording(
        observations=observations,
        at=np.arange(n),
        known=known,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=limit,
        flagged=timeouts is not None,
        ends=ends,
        cuts=np.array([] if ends[-1] else [n - 1], dtype=np.int64),
        qpos=qpos,
        qvel=qvel,
        stored_next=stored_next,
    )


def _matrix(file: h5py.File, key: str, rows: int, width: int | None) -> Numbers | None:
    """[rows, width or any] an array that a file may have; ``None`` when it has none of that shape."""
    array = _numbers(file, key, width, any_width=width is None)
    return array if array is not None and len(array) == rows else None


def _numbers(file: h5py.File, key: str, width: int | None = None, any_width: bool = False) -> Numbers | None:
    """[rows, width] or, without a width, [rows] real numbers under ``key``; ``None`` when there are none such."""
    item = file.get(key)
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or not item.shape or 0 in item.shape:
        return None
    fits = len(item.shape) == 2 and (any_width or item.shape[1] == width)
    if not fits and (any_width or width is not None or item.shape[1:] not in ((), (1,))):
        return None
    array = item[...]
    if width is None and not any_width:
        array = array.reshape(-1)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
