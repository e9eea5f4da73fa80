"""Statistics of a recording: trajectories, flags, jumps, columns, actions, duplicates, published statistics."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffcps.data.checking.recording import Flags, Numbers, Recording
from diffcps.data.transitions import ACTION_TOLERANCE, trajectory_returns
from diffcps.tasks import paper
from diffcps.tasks.registry import Task

AT_BOUND = 1e-6
"""An action this close to its bound counts as being at it."""
JUMP = 100.0
"""A trunk jumps when its motion misses what its speeds say by this many times what nine steps in ten miss it by. In
recorded trajectories the largest factor is about 30, at a reset it is 300 and more."""
SMALLEST_JUMP = 0.05
"""Metres or radians; less is never called a jump."""


@dataclass(frozen=True)
class Spread:
    """Mean, population standard deviation and quartiles of some numbers."""

    mean: float
    std: float
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float

    @classmethod
    def of(cls, values: Numbers | NDArray[np.integer]) -> "Spread | None":
        """Of values ``[n]``; ``None`` of none, or when any is not finite."""
        if len(values) == 0 or not np.isfinite(values).all():
            return None
        quartiles = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
        return cls(float(np.mean(values, dtype=np.float64)), float(np.std(values, dtype=np.float64)), *quartiles)


@dataclass(frozen=True)
class Trajectories:
    """The stretches of rows between ends."""

    complete: int
    cut: int
    """Trajectories that stop without a terminal or a time-out."""
    lengths: Spread | None
    """Of the complete ones, in rows."""
    returns: Spread | None
    """Of the complete ones, each up to its first terminal or the episode limit, as an evaluation counts."""
    normalised: Spread | None
    """The same as normalised scores."""
    at_limit: int
    """Complete ones as long as the task's episode limit."""
    over_limit: int
    """Longer than it; a cut one may be among them."""


@dataclass(frozen=True)
class Ends:
    """The flags, and whether the motion agrees with them."""

    terminals: int
    terminal_runs: int
    """Stretches of consecutive terminal rows."""
    longest_run: int
    timeouts: int
    timeouts_flagged: bool
    """Whether the data say where time-outs are; otherwise they were found by counting to the episode limit."""
    both: int
    """Rows that are terminal and time-out at once."""
    timeout_length: int | None
    """The usual length of a trajectory that ends by a time-out; ``None`` when none does."""
    timeouts_elsewhere: int
    """Time-outs that end a trajectory of another length."""
    jumps: int | None
    """Rows after which the robot is suddenly elsewhere, as after a reset; ``None`` when its place is not recorded."""
    jumps_unflagged: int | None
    """Those among them that no flag announces: transitions that never happened."""
    ends_without_jump: int | None
    """Rows flagged as an end although the motion continues."""
    stored_next_wrong: int | None
    """Rows with ``next_observations`` that differ from the next row, ends left out; ``None`` without such an array."""


@dataclass(frozen=True)
class Columns:
    """The observations, one entry a dimension."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    constant: tuple[int, ...]
    """Dimensions that never change."""


@dataclass(frozen=True)
class Actions:
    """The actions."""

    largest: float
    """Of all absolute values."""
    at_bounds: float
    """Share of all values within ``AT_BOUND`` of a bound, or beyond it."""
    rows_outside: int
    """Rows with a value beyond the bounds by more than rounding."""
    constant: tuple[int, ...]
    """Dimensions that never change."""


@dataclass(frozen=True)
class Dimension:
    """One observation dimension beside D4RL's."""

    dimension: int
    mean: float
    published_mean: float
    std: float
    published_std: float
    mean_off: float
    """Difference of the means in published standard deviations."""
    std_off: float
    """Relative difference of the standard deviations."""


def trajectories(task: Task, data: Recording) -> Trajectories:
    """Number, lengths and returns."""
    segments = data.segments()
    lengths = np.array([part.stop - part.start for part in segments], dtype=np.int64)
    complete = np.array([bool(data.ends[part.stop - 1]) for part in segments], dtype=bool)
    returns = trajectory_returns(data.rewards, data.terminals, data.ends, data.cuts, limit=task.episode_limit)
    return Trajectories(
        complete=int(complete.sum()),
        cut=int((~complete).sum()),
        lengths=Spread.of(lengths[complete]),
        returns=Spread.of(returns),
        normalised=Spread.of(task.normalised_score(returns)),
        at_limit=int((lengths[complete] == task.episode_limit).sum()),
        over_limit=int((lengths > task.episode_limit).sum()),
    )


def ends(data: Recording, place: tuple[Numbers, Numbers] | None, dt: float) -> Ends:
    """Terminals, time-outs, and whether the motion breaks off at them.

    ``place`` holds position and velocity of the robot's trunk at every row, ``[N, d]`` each, ``dt`` the seconds between
    rows.
    """
    starts = data.terminals & ~np.concatenate([[False], data.terminals[:-1]])
    run_starts = np.flatnonzero(starts)
    run_ends = np.flatnonzero(data.terminals & ~np.concatenate([data.terminals[1:], [False]]))
    lengths = [part.stop - part.start for part in data.segments() if data.timeouts[part.stop - 1]]
    usual = statistics.mode(lengths) if lengths else None
    flagged = data.ends.copy()
    flagged[data.cuts] = True
    jump = None if place is None else jumps(*place, dt, ~flagged[:-1])
    wrong = None
    if data.stored_next is not None:
        rows = np.flatnonzero(data.known)
        different = data.stored_next[rows] != data.after(rows)
        wrong = int(different.any(axis=1).sum())
    return Ends(
        terminals=int(data.terminals.sum()),
        terminal_runs=len(run_starts),
        longest_run=int((run_ends - run_starts).max() + 1) if len(run_starts) else 0,
        timeouts=int(data.timeouts.sum()),
        timeouts_flagged=data.flagged,
        both=int((data.terminals & data.timeouts).sum()),
        timeout_length=usual,
        timeouts_elsewhere=sum(length != usual for length in lengths),
        jumps=None if jump is None else int(jump.sum()),
        jumps_unflagged=None if jump is None else int((jump & ~flagged[:-1]).sum()),
        ends_without_jump=None if jump is None else int((~jump & data.ends[:-1]).sum()),
        stored_next_wrong=wrong,
    )


def jumps(position: Numbers, velocity: Numbers, dt: float, within: Flags) -> Flags:
    """[N − 1] whether the motion breaks off between a row and the next.

    Positions and velocities ``[N, d]``; ``within`` [N − 1] says which pairs of rows are flagged as one trajectory's.
    Over a control step a trunk moves by about the mean of the two velocities times ``dt``; what is left is small inside
    a trajectory and large where the next one starts elsewhere.
    """
    if len(position) < 2:
        return np.zeros(0, bool)
    speed = velocity.astype(np.float64)
    miss = np.abs(np.diff(position.astype(np.float64), axis=0) - dt * (speed[1:] + speed[:-1]) / 2)
    finite = np.isfinite(miss).all(axis=1)
    usable = miss[finite & within]
    usual = np.percentile(usable, 90, axis=0) if len(usable) else np.zeros(miss.shape[1])
    beyond = (miss > np.maximum(JUMP * usual, SMALLEST_JUMP)).any(axis=1)
    return np.asarray(beyond & finite)


def columns(observations: Numbers) -> Columns:
    """Of observations ``[N, o]``; rows with values that are not finite are left out."""
    usable = observations[np.isfinite(observations).all(axis=1)]
    if len(usable) == 0:
        return Columns((), (), minimum=(), maximum=(), constant=())
    low, high = usable.min(axis=0), usable.max(axis=0)
    return Columns(
        mean=_floats(usable.mean(axis=0, dtype=np.float64)),
        std=_floats(usable.std(axis=0, dtype=np.float64)),
        minimum=_floats(low),
        maximum=_floats(high),
        constant=tuple(np.flatnonzero(low == high).tolist()),
    )


def actions(task: Task, taken: Numbers) -> Actions:
    """Of actions ``[N, a]``; rows with values that are not finite are left out."""
    usable = taken[np.isfinite(taken).all(axis=1)]
    if len(usable) == 0:
        return Actions(0.0, 0.0, 0, ())
    sizes = np.abs(usable)
    return Actions(
        largest=float(sizes.max()),
        at_bounds=float((sizes >= task.max_action - AT_BOUND).mean()),
        rows_outside=int((sizes > task.max_action + ACTION_TOLERANCE).any(axis=1).sum()),
        constant=tuple(np.flatnonzero(usable.min(axis=0) == usable.max(axis=0)).tolist()),
    )


def duplicates(observations: Numbers, taken: Numbers) -> int:
    """Rows with the same observation and action, bit by bit, as an earlier row.

    Rows are compared by a 64-bit hash: two of two million different rows have the same one with a chance of 1 in 10 million.
    """
    rows = pd.DataFrame(np.column_stack([observations, taken]) + 0.0)  # + 0.0 makes −0 the same as 0
    return len(rows) - pd.util.hash_pandas_object(rows, index=False).nunique()


def published(task: Task, measured: Columns) -> tuple[Dimension, ...]:
    """Every observation dimension beside D4RL's, the worst first; empty where nothing is published."""
    theirs = paper.observation_statistics().get(task.name)
    if theirs is None or len(measured.mean) != len(theirs["mean"]):
        return ()
    pairs = zip(measured.mean, theirs["mean"], measured.std, theirs["std"], strict=True)
    found = [
        Dimension(
            i,
            mean,
            published_mean=other_mean,
            std=std,
            published_std=other_std,
            mean_off=abs(mean - other_mean) / other_std,
            std_off=abs(std / other_std - 1.0),
        )
        for i, (mean, other_mean, std, other_std) in enumerate(pairs)
    ]
    return tuple(sorted(found, key=lambda d: -max(d.mean_off, d.std_off)))


def _floats(values: Numbers) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def not_finite(arrays: Sequence[tuple[str, Numbers]]) -> dict[str, int]:
    """Rows that hold NaN or infinite values, by the array's name; arrays without any are left out."""
    counts = {name: int((~np.isfinite(a.reshape(len(a), -1)).all(axis=1)).sum()) for name, a in arrays}
    return {name: count for name, count in counts.items() if count}
