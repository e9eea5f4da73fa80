"""Raw data in, transitions out: the one place that decides which rows become (s, a, r, s', terminal).

There are two raw forms. D4RL files are flat ``Rows``: the observation after an action is the next row's. The row at a
time-out cannot be used, because its next row belongs to another episode. Collected data are ``Episode`` objects, which
hold the observation after their last action, so no step is lost.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffcps.errors import UserError
from diffcps.tasks import Task

ACTION_TOLERANCE = 1e-4
"""Actions may exceed the bounds by this (rounding); anything above is a wrong scale or a wrong task."""

Provenance = Literal["verified", "unverified", "other"]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """Where a data set came from."""

    source: str
    path: Path | None
    """The file or folder it was read from; ``None`` for arrays made in memory."""
    checksum: str
    """sha256 of the D4RL file, also where it was imported into Minari; of the arrays' bytes otherwise (``checksum``)."""
    provenance: Provenance
    """``verified``: D4RL's own data; ``other``: something else; ``unverified``: nothing is published to compare to."""
    provenance_note: str
    """The same as a sentence for a person, with the evidence."""


@dataclass(frozen=True, eq=False)
class DatasetInfo(Origin):
    """What is reported of a data set besides its transitions."""

    rows: int
    """Rows before any were dropped."""
    trajectories: int
    """Complete trajectories; a last one that was cut without a flag is not counted."""
    returns: NDArray[np.float64]
    """[trajectories] sums of rewards, each up to the first terminal or the episode limit: what an evaluation counts."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions, what a learner learns from."""

    observations: FloatArray
    """[N, o]"""
    actions: FloatArray
    """[N, a]"""
    rewards: FloatArray
    """[N]"""
    next_observations: FloatArray
    """[N, o]; without meaning where ``terminals`` is 1."""
    terminals: FloatArray
    """[N], 1 where the episode ended for good (never at a time-out), else 0."""
    info: DatasetInfo

    def __len__(self) -> int:
        return len(self.rewards)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Transitions":
        """The chosen rows: a mask ``[N]`` or indices ``[n]``; ``info`` is still that of the whole data set."""
        return replace(self, **{name: value[chosen] for name, value in vars(self).items() if name != "info"})


@dataclass(frozen=True, eq=False)
class Rows:
    """Flat rows in the order of recording, as a D4RL file holds them."""

    observations: FloatArray
    """[N, o]"""
    actions: FloatArray
    """[N, a]"""
    rewards: FloatArray
    """[N]"""
    terminals: NDArray[np.bool_]
    """[N]"""
    timeouts: NDArray[np.bool_] | None
    """[N]; ``None`` when the file does not tell."""

    def ends(self, task: Task) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[N] time-outs, and [N] rows that close a trajectory of the task.

        Without flags time-outs are found by counting to the task's episode limit (``limit_timeouts``).
        """
        timeouts = self.timeouts if self.timeouts is not None else limit_timeouts(self.terminals, task.episode_limit)
        return timeouts, (timeouts | self.terminals) if task.terminals_end else timeouts


@dataclass(frozen=True, eq=False)
class Episode:
    """Consecutive steps with the true observation after each.

    Usually one episode. Several that end by termination may be packed into one (a bandit's one-step episodes are): the
    observation after a termination is then the start of the next, which does no harm as no value is read off it.
    """

    observations: NDArray[np.floating]
    """[L + 1, o]"""
    actions: NDArray[np.floating]
    """[L, a]"""
    rewards: NDArray[np.floating]
    """[L]"""
    terminations: NDArray[np.bool_]
    """[L]"""
    truncations: NDArray[np.bool_]
    """[L]; only the last may be true."""

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        lengths = {f.name: len(getattr(self, f.name)) - (f.name == "observations") for f in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"an episode of {steps} rewards needs {steps + 1} observations and {steps} of all else")
        if np.any(self.truncations[:-1] & ~self.terminations[:-1]):
            row = int(np.argmax(self.truncations[:-1] & ~self.terminations[:-1]))
            raise ValueError(f"an episode of {steps} steps is cut off at step {row}: only its last step may be")


def check_finite(what: str, values: NDArray[Any]) -> None:
    """Raise ``UserError`` when values ``[N, …]`` hold NaN or infinite ones; ``what`` names the file and the array."""
    if not np.isfinite(values).all():
        rows = values.reshape(len(values), -1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        first = rows[bad[0]][~np.isfinite(rows[bad[0]])][0]
        raise UserError(
            f"{what} holds NaN or infinite values in {len(bad)} of {len(values)} rows, first {first} in row {bad[0]}. Copy "
            f"the file again; if its source has them too, use another file."
        )


def check_actions(path: Path, actions: NDArray[Any], task: Task) -> None:
    """Raise ``UserError`` when actions ``[N, a]`` are outside the task's bounds by more than rounding."""
    size = np.abs(actions).max(axis=1)
    row = int(np.argmax(size))
    if size[row] > task.max_action + ACTION_TOLERANCE:
        raise UserError(
            f"{path}: its actions go up to {size[row]:g} (row {row}), outside the bounds ±{task.max_action:g} of "
            f"{task.name}. Rescale them, or use data that were made for this task."
        )


def limit_timeouts(terminals: NDArray[np.bool_], episode_limit: int) -> NDArray[np.bool_]:
    """[N] time-outs of rows that carry no flag for them, by counting steps the way ``d4rl.qlearning_dataset`` counts.

    D4RL counts the step after a terminal as the second of its episode. An episode that follows a terminal and runs to
    the limit is therefore cut one row early. That is kept: it decides which transitions the published results saw.
    """
    timeouts = np.zeros(len(terminals), dtype=bool)
    step = 0
    for row, terminal in enumerate(terminals.tolist()):
        if step == episode_limit - 1:
            timeouts[row] = True
            step = 0
        else:
            step = 1 if terminal else step + 1
    return timeouts


def from_rows(task: Task, rows: Rows, origin: Origin, keep_terminals: bool = False) -> Transitions:
    """Transitions of a task as ``d4rl.qlearning_dataset`` builds them from flat rows.

    Rows flagged as time-out are dropped, so is the last row; the next observation is the next row's. With
    ``keep_terminals`` such a row is kept if it is terminal, as no value is read off its next observation. D4RL drops it,
    and its terminal with it.

    Raises ``UserError`` when no transition is left.
    """
    timeouts, ends = rows.ends(task)
    unfollowed = timeouts.copy()
    unfollowed[-1] = True
    kept = np.flatnonzero(~unfollowed | rows.terminals if keep_terminals else ~unfollowed)
    if len(kept) == 0:
        raise UserError(
            f"{origin.path or origin.source}: its {len(rows.rewards)} row(s) hold no transition: the last row and "
            f"{int(timeouts[:-1].sum())} row(s) flagged as time-out have no next observation. Use a longer data set."
        )
    returns = trajectory_returns(rows.rewards, rows.terminals, ends, limit=task.episode_limit)
    return Transitions(
        observations=rows.observations[kept],
        actions=rows.actions[kept],
        rewards=rows.rewards[kept],
        next_observations=rows.observations[np.minimum(kept + 1, len(rows.observations) - 1)],
        terminals=rows.terminals[kept].astype(np.float32),
        info=_info(origin, len(rows.rewards), returns),
    )


def split(task: Task, rows: Rows) -> tuple[list[Episode], NDArray[np.int64]]:
    """Episodes of a task's rows that have a next observation, and the indices ``[M]`` of those that have none.

    An episode ends where a trajectory does (``from_rows``); cut short of a time-out's row, it ends in a truncation one
    step early. As the next observation after a terminal is the next row's, the last observation of an episode that
    terminates is the first of the next; no value is read off it.
    """
    timeouts, ends = rows.ends(task)
    steps = ~timeouts
    steps[-1] = False
    closing = np.union1d(np.flatnonzero(ends), [len(steps) - 1])
    episodes = []
    for start, close in zip([0, *(closing[:-1] + 1)], closing, strict=True):
        stop = int(close) + int(steps[close])  # past the last step
        if stop == start:
            continue
        truncations = np.zeros(stop - start, dtype=bool)
        truncations[-1] = timeouts[close]
        episodes.append(
            Episode(
                observations=rows.observations[start : stop + 1],
                actions=rows.actions[start:stop],
                rewards=rows.rewards[start:stop],
                terminations=rows.terminals[start:stop],
                truncations=truncations,
            )
        )
    return episodes, np.flatnonzero(~steps)


def from_episodes(task: Task, episodes: Sequence[Episode], origin: Origin) -> Transitions:
    """Every step of every episode of a task as a transition, with its true next observation.

    Raises ``UserError`` when there is no step at all.
    """
    if sum(len(episode.rewards) for episode in episodes) == 0:
        raise UserError(f"{origin.path or origin.source}: it holds no step. Collect or choose another data set.")
    terminals, _, ends, cuts = flags(task, episodes)
    rewards = np.concatenate([e.rewards for e in episodes])
    returns = trajectory_returns(rewards, terminals, ends, cuts, limit=task.episode_limit)
    return Transitions(
        observations=_float32([e.observations[:-1] for e in episodes]),
        actions=_float32([e.actions for e in episodes]),
        rewards=rewards.astype(np.float32),
        next_observations=_float32([e.observations[1:] for e in episodes]),
        terminals=terminals.astype(np.float32),
        info=_info(origin, len(rewards), returns),
    )


def flags(
    task: Task, episodes: Sequence[Episode]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Of all steps in order: [N] terminals, [N] time-outs, [N] rows that close a trajectory, and the rows of cuts.

    An episode that stops without a flag was cut: its rest must not be counted into the next one's return.
    """
    terminals = np.concatenate([e.terminations for e in episodes]).astype(bool)
    timeouts = np.concatenate([e.truncations for e in episodes]).astype(bool)
    ends = (terminals | timeouts) if task.terminals_end else timeouts
    last_rows = np.cumsum([len(e.rewards) for e in episodes if len(e.rewards)]) - 1
    return terminals, timeouts, ends, last_rows[~ends[last_rows]]


def trajectory_returns(
    rewards: NDArray[np.floating],
    terminals: NDArray[np.bool_],
    ends: NDArray[np.bool_],
    cuts: Sequence[int] | NDArray[np.integer] = (),
    *,
    limit: int,
) -> NDArray[np.float64]:
    """[complete trajectories] sum of rewards [N] over each stretch that closes with a true in ``ends`` [N].

    A stretch counts up to its first terminal, and at most ``limit`` steps, because an evaluation episode stops there; only
    AntMaze has rows after either. Rows after the last end belong to no complete trajectory, nor does a stretch that closes
    with a row of ``cuts``.
    """
    closing = np.union1d(np.flatnonzero(ends), np.asarray(cuts, dtype=np.int64))
    if len(closing) == 0:
        return np.zeros(0)
    starts = np.concatenate([[0], closing[:-1] + 1])
    above: NDArray[np.int64] = np.cumsum(terminals) - terminals  # terminals in the rows before each row
    lengths = closing - starts + 1
    covered = slice(0, int(closing[-1]) + 1)
    within = np.arange(covered.stop) - np.repeat(starts, lengths) < limit
    counted: NDArray[np.bool_] = (above[covered] == np.repeat(above[starts], lengths)) & within
    sums = np.add.reduceat(rewards[covered].astype(np.float64) * counted, starts)
    return sums[ends[closing]]


def checksum(episodes: Sequence[Episode]) -> str:
    """``arrays_checksum`` of all arrays of the episodes, in order."""
    return arrays_checksum((name, array) for episode in episodes for name, array in vars(episode).items())


def arrays_checksum(arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """sha256 over the names, types, shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for name, values in arrays:
        array = np.ascontiguousarray(values)
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _float32(parts: Sequence[NDArray[np.floating]]) -> FloatArray:
    return np.concatenate(parts, axis=0, dtype=np.float32, casting="same_kind")


def _info(origin: Origin, rows: int, returns: NDArray[np.float64]) -> DatasetInfo:
    return DatasetInfo(**vars(origin), rows=rows, trajectories=len(returns), returns=returns)
