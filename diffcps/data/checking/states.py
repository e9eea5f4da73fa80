"""The simulator's state at every row of a recording, as recorded or rebuilt from the observations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffcps.data.checking.recording import Flags, Numbers, Recording
from diffcps.envs.simulations import Simulated

_AGREES = 1e-4
"""Relative difference between an observation and its state's, up to which they belong together."""
_MOST_COMPARED = 20_000
_SPEED_LIMIT = 10.0
"""Hopper and Walker2d limit the speeds that they show; at the limit the true one is not known."""
_LARGEST = {"qpos": 1e4, "qvel": 1e3}
"""Metres and radians, and those a second: beyond, MuJoCo gives up, and no robot here ever was."""


class NoStatesError(Exception):
    """Why a simulator cannot be set to a recording's rows; a sentence."""


@dataclass(frozen=True, eq=False)
class States:
    """Where each row starts from."""

    qpos: Numbers
    """[N, nq] in the precision of the recording."""
    qvel: Numbers
    """[N, nv]"""
    usable: Flags
    """[N] rows with a state, an action and an observation after it, all of them finite and possible."""
    source: str
    """Where they were taken from, as text."""


def of(rules: Simulated, data: Recording) -> States:
    """The states of a recording made in the environment ``rules``; from the observations where none were recorded.

    D4RL's locomotion files hold the state that a row's observation shows, its AntMaze files the one after the action:
    the observations tell which. Raises ``NoStatesError`` when neither fits.
    """
    recorded = _recorded(rules, data)
    qpos, qvel, usable, source = recorded if recorded is not None else _rebuilt(rules, data)
    usable = usable & data.known & np.isfinite(data.actions).all(axis=1)
    for values, name in ((qpos, "qpos"), (qvel, "qvel")):
        usable &= (np.abs(values) <= _LARGEST[name]).all(axis=1)  # false for NaN
    rows = np.flatnonzero(usable)
    usable[rows] = np.isfinite(data.after(rows)).all(axis=1)
    if not usable.any():
        raise NoStatesError("No row has a whole state, an action and an observation after it.")
    return States(qpos, qvel, usable, source)


def dimensions(rules: Simulated, size: int) -> tuple[slice, slice]:
    """Which of the ``size`` dimensions of an observation are positions, and which are velocities."""
    return slice(0, size - rules.model.nv), slice(size - rules.model.nv, size)


def trunk(rules: Simulated, data: Recording) -> tuple[Numbers, Numbers] | None:
    """Position and velocity ``[N, d]`` of the robot's trunk; ``None`` when it is not known how far it had come.

    Three coordinates, or a point's two. Where it is after a reset differs from where any trajectory ends.
    """
    size = min(3, rules.model.nv)
    if data.qpos is not None and data.qvel is not None and _recorded(rules, data) is not None:
        return data.qpos[:, :size], data.qvel[:, :size]
    if data.own.shape[1] == rules.model.nq + rules.model.nv:
        return data.own[:, :size], data.own[:, rules.model.nq : rules.model.nq + size]
    return None


def _recorded(rules: Simulated, data: Recording) -> tuple[Numbers, Numbers, Flags, str] | None:
    if data.qpos is None or data.qvel is None:
        return None
    if (data.qpos.shape[1], data.qvel.shape[1]) != (rules.model.nq, rules.model.nv):
        return None
    every = max(1, len(data) // _MOST_COMPARED)
    rows = np.arange(0, len(data), every)
    if _agreement(rules, data, rows, data.own[rows]) > 0.99:
        return data.qpos, data.qvel, np.ones(len(data), bool), "infos/qpos and infos/qvel"
    rows = rows[data.known[rows]]
    if len(rows) and _agreement(rules, data, rows, data.after(rows)) > 0.99:
        # the state after row i − 1 is that before row i, unless another trajectory starts there
        usable = np.concatenate([[False], data.known[:-1]])
        source = "infos/qpos and infos/qvel of the row before (recorded after the action)"
        return np.roll(data.qpos, 1, axis=0), np.roll(data.qvel, 1, axis=0), usable, source
    return None


def _agreement(rules: Simulated, data: Recording, rows: NDArray[np.int64], observations: Numbers) -> float:
    """Share of the rows with a recorded state that matches the observation."""
    assert data.qpos is not None
    assert data.qvel is not None
    shown = rules.observe_many(data.qpos[rows].astype(np.float64), data.qvel[rows].astype(np.float64))
    return float((np.abs(shown - observations) <= _AGREES * (1 + np.abs(observations))).all(axis=1).mean())


def _rebuilt(rules: Simulated, data: Recording) -> tuple[Numbers, Numbers, Flags, str]:
    """Observations hold the whole state except, in locomotion, the distance covered, on which nothing depends."""
    nq, nv = rules.model.nq, rules.model.nv
    own = data.own
    why = "the observations" if data.qpos is None else "the observations, which infos/qpos and infos/qvel do not fit"
    if own.shape[1] == nq + nv:
        return own[:, :nq], own[:, nq:], np.ones(len(data), bool), why
    if own.shape[1] == nq - 1 + nv:
        usable = (np.abs(own[:, nq - 1 :]) != _SPEED_LIMIT).all(axis=1)
        return np.column_stack([np.zeros_like(own[:, :1]), own[:, : nq - 1]]), own[:, nq - 1 :], usable, why
    raise NoStatesError(f"Observations of {own.shape[1]} dimensions do not show the simulator's state.")
