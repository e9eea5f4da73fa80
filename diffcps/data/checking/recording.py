"""A data set as it was recorded, for checks: rows in order, in the types of the file, broken values included.

``d4rl.read`` and ``episodes.read`` give float32 and refuse data that cannot be learned from. A check needs full
precision, the simulator's states where they were recorded, and as much as can be read of a broken file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffcps.data import d4rl
from diffcps.data.transitions import Episode, Rows, flags
from diffcps.errors import UserError
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


def from_episodes(task: Task, episodes: Sequence[Episode]) -> tuple[Recording, dict[str, str]]:
    """The steps of all episodes, one after the other; and type and width of their arrays, which are those of the first."""
    lengths = np.array([len(episode.rewards) for episode in episodes])
    observations = np.concatenate([episode.observations for episode in episodes])
    number = np.repeat(np.arange(len(episodes)), lengths)
    terminals, timeouts, ends, cuts = flags(task, episodes)
    found = Recording(
        observations=observations,
        at=np.arange(len(number)) + number,
        known=np.ones(len(number), bool),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=terminals,
        timeouts=timeouts,
        flagged=True,
        ends=ends,
        cuts=cuts,
    )
    arrays = vars(episodes[0]).items()
    return found, {name: f"{a.dtype} {list(a.shape[1:]) or ''}".strip() for name, a in arrays}


def from_d4rl(task: Task, path: Path) -> tuple[Recording | None, dict[str, str]]:
    """What can be read of a D4RL file, and type and shape of everything in it by key.

    The recording is ``None`` when its arrays do not fit together or to the task. It may hold NaN, infinite values and
    actions out of bounds; flags that are neither 0 nor 1 count as set.
    """
    content: dict[str, str] = {}
    try:
        with d4rl.opened(path) as file:
            file.visititems(lambda key, item: _describe(content, key, item))
            return _recording(task, file), content
    except UserError:  # the strict reader says it too
        return None, content


def _describe(content: dict[str, str], key: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset):
        shape = "" if item.shape is None else f" {list(item.shape)}" if item.shape else " a single value"
        content[key] = f"{item.dtype}{shape}"


def from_rows(task: Task, rows: Rows, **more: Numbers | None) -> Recording:
    """Flat rows, in any precision, and what ``more`` of a recording they come with."""
    timeouts, ends = rows.ends(task)
    n = len(rows.rewards)
    known = ~ends
    known[-1] = False
    return Recording(
        observations=rows.observations,
        at=np.arange(n),
        known=known,
        actions=rows.actions,
        rewards=rows.rewards,
        terminals=rows.terminals,
        timeouts=timeouts,
        flagged=rows.timeouts is not None,
        ends=ends,
        cuts=np.array([] if ends[-1] else [n - 1], dtype=np.int64),
        **more,
    )


def _recording(task: Task, file: h5py.File) -> Recording | None:
    found: dict[str, Any] = {
        "observations": _matrix(file, "observations", task.observation_size),
        "actions": _matrix(file, "actions", task.action_size),
    }
    found |= {key: _column(file, key) for key in ("rewards", "terminals", "timeouts")}
    there = {key: array for key, array in found.items() if array is not None}
    if not set(d4rl.REQUIRED) <= set(there) or len(set(map(len, there.values()))) > 1:
        return None
    found |= {key: there[key].astype(bool) for key in ("terminals", "timeouts") if key in there}
    more = {
        "qpos": _matrix(file, STATES[0]),
        "qvel": _matrix(file, STATES[1]),
        "stored_next": _matrix(file, "next_observations", task.observation_size),
    }
    n = len(found["rewards"])
    return from_rows(task, Rows(**found), **{k: a if a is not None and len(a) == n else None for k, a in more.items()})


def _matrix(file: h5py.File, key: str, width: int | None = None) -> Numbers | None:
    """[rows, width, or any width without one] real numbers under ``key``; ``None`` when there are none such."""
    return _numbers(file, key, lambda shape: len(shape) == 2 and width in (None, shape[1]))


def _column(file: h5py.File, key: str) -> Numbers | None:
    """[rows] real numbers under ``key``, one a row; ``None`` when there are none such."""
    array = _numbers(file, key, lambda shape: shape[1:] in ((), (1,)))
    return array if array is None else array.reshape(-1)


def _numbers(file: h5py.File, key: str, fits: Callable[[tuple[int, ...]], bool]) -> Numbers | None:
    """The array of real numbers under ``key``; ``None`` when there is none of a shape that ``fits``, and then nothing is read."""
    item = file.get(key)
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or not item.shape or 0 in item.shape:
        return None
    if not fits(item.shape):
        return None
    array = item[...]
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
