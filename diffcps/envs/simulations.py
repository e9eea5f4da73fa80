"""Many simulations of one MuJoCo environment, stepped by MuJoCo's own threads; observations and rewards in NumPy.

A Gymnasium environment spends a quarter of a step in Python, one environment after the other. Here MuJoCo steps all
simulations of a task in one call (``mujoco.batch``). The results equal those of one environment at a time to the last
bit. For this, each class of environment defines its observations and rewards a second time, for arrays with a leading
axis of simulations.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.spaces import Box
from mujoco.batch import Batch
from numpy.typing import NDArray

Step = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]


class VectorEnvironment(Protocol):
    """``n`` environments of one task, each playing one episode at a time."""

    n: int

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Start an episode in each environment from its own seed (``n`` of them): observations [n, o]."""

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """Step the environments where ``active`` [n] holds, with ``actions`` [n, a] clipped to the bounds.

        Returns observations [n, o], rewards [n] and ended [n] (terminated or cut off by the limit). The others keep
        their last observation, with reward 0 and not ended. Raises ``ValueError`` when an active environment is given
        an action that is not finite.
        """

    def close(self) -> None:
        """Free what the environments hold."""


class OneByOne:
    """A ``VectorEnvironment`` of Gymnasium environments of one kind, stepped one after the other."""

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self.n = len(environments)
        self._environments = list(environments)
        actions, observations = environments[0].action_space, environments[0].observation_space
        assert isinstance(actions, Box)
        assert observations.shape is not None
        self._actions = actions
        self._observations = np.zeros((self.n, *observations.shape), np.float32)

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        require_seeds(seeds, self.n)
        for i, seed in enumerate(seeds):
            self._observations[i], _ = self._environments[i].reset(seed=int(seed))
        return self._observations.copy()

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        require_finite(actions, active)
        rewards, ended = np.zeros(self.n), np.zeros(self.n, bool)
        clipped = np.clip(actions, self._actions.low, self._actions.high).astype(self._actions.dtype)
        for i in np.flatnonzero(active):
            observation, reward, terminated, truncated, _ = self._environments[i].step(clipped[i])
            self._observations[i], rewards[i], ended[i] = observation, reward, terminated or truncated
        return self._observations.copy(), rewards, ended

    def close(self) -> None:
        """See ``VectorEnvironment.close``."""
        for environment in self._environments:
            environment.close()


def require_seeds(seeds: Sequence[int], n: int) -> None:
    """Raise ``ValueError`` unless there are ``n`` seeds."""
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} environments")


def require_finite(actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> None:
    """Raise ``ValueError`` naming the active environments with actions that are no finite numbers."""
    broken = active & ~np.isfinite(actions).all(axis=-1)
    if broken.any():
        raise ValueError(f"the actions of environments {np.flatnonzero(broken).tolist()} are not finite")


def reached(positions: NDArray[np.float64], goals: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Whether positions ``[..., 2 or more]``, of which x and y count, are within ``radius`` of goals ``[..., 2]``."""
    return np.square(positions[..., :2] - goals).sum(axis=-1) <= radius**2


# Simulations of this project ------------------------------------------------------------------------------------------


Floats = NDArray[np.float64]


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


Cell = tuple[int, int]
"""(row, column) in a maze's map."""


@dataclass(frozen=True)
class Layout:
    """A maze of square cells seen from above."""

    rows: tuple[str, ...]
    """Its map: ``#`` a wall, ``S`` the start's cell, ``G`` the goal's, ``.`` another free cell."""
    cell: float
    """Side of a cell in metres."""
    origin: Cell
    """The cell with its centre at x = y = 0."""
    goal_radius: float
    """The goal is reached within this distance, in metres."""
    goal_spread: float
    """A goal lies up to so far, in metres, from its cell's centre, towards larger x and y."""
    y_up: bool
    """Whether y grows upwards on the map; in D4RL's mazes it grows downwards, with the row."""

    def cells(self, symbols: str = ".SG") -> tuple[Cell, ...]:
        """All cells that show one of the ``symbols``; by default those that are no wall."""
        return tuple((r, c) for r, row in enumerate(self.rows) for c, cell in enumerate(row) if cell in symbols)

    def centre(self, cell: Cell) -> Floats:
        """(x, y) in metres of a cell's centre, ``[2]``."""
        (row, column), (r0, c0) = cell, self.origin
        return self.cell * np.array([column - c0, r0 - row if self.y_up else row - r0])

    def centres(self, symbols: str = ".SG") -> Floats:
        """(x, y) in metres of the centres of ``cells``, ``[n, 2]``."""
        return np.array([self.centre(cell) for cell in self.cells(symbols)])

    def at(self, position: Floats) -> Cell:
        """The cell of (x, y) ``[2]``, in metres; it may be a wall or outside the maze."""
        column, row = np.round(np.asarray(position) / self.cell).astype(int)
        return self.origin[0] + int(-row if self.y_up else row), self.origin[1] + int(column)


@dataclass(frozen=True)
class Moves:
    """One control step of n simulations."""

    before: Floats
    """Positions before it, ``[n, nq]``."""
    qpos: Floats
    """Positions after it, ``[n, nq]``."""
    qvel: Floats
    """Velocities after it, ``[n, nv]``."""
    actions: NDArray[np.floating[Any]]
    """The actions, within the bounds, ``[n, a]``."""
    goals: Floats
    """(x, y) of each simulation's goal in metres, ``[n, 2]``; zeros where an environment has none."""


class Simulated(MujocoEnv):
    """A MuJoCo environment that also has the rules of its ``step`` for many simulations."""

    goal: Floats | None = None
    """(x, y) of this episode's goal in metres, ``[2]``; ``None`` where there is none."""
    maze: Layout | None = None
    """Its maze; ``None`` where it has none."""

    def prepare_many(self, batch: Batch, active: NDArray[np.bool_]) -> None:
        """Change the states of the ``active`` ``[n]`` simulations before a step; by default not at all."""

    def control_many(self, actions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Controls ``[n, nu]`` of actions ``[n, a]`` within the bounds: the actions themselves."""
        return actions

    def observe_many(self, qpos: Floats, qvel: Floats) -> Floats:
        """Observations ``[n, o]`` of positions ``[n, nq]`` and velocities ``[n, nv]``: all of both."""
        return np.concatenate([qpos, qvel], axis=1)

    def reward_many(self, moves: Moves) -> tuple[Floats, NDArray[np.bool_]]:
        """Rewards ``[n]``, and whether the task ended the episode ``[n]``."""
        raise NotImplementedError


class InMaze(Simulated):
    """A maze with a goal: the reward is 1 at the goal, which ends the episode, and 0 elsewhere."""

    goal: Floats
    maze: Layout
    _start: Floats
    """(x, y) in metres near which this episode starts."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start a new episode; the option ``start``, (x, y) in metres, moves its start, for collecting data.

        Raises ``ValueError`` for another option, or a start that is not in a free cell.
        """
        options = options or {}
        if unknown := set(options) - {"start"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}: there is 'start'")
        self._start = np.asarray(options.get("start", self.maze.centres("S")[0]), dtype=np.float64)
        if self.maze.at(self._start) not in self.maze.cells():
            raise ValueError(f"start = {self._start.tolist()}: it is not in a free cell of the maze")
        return super().reset(seed=seed)

    def _get_reset_info(self) -> dict[str, Any]:
        return {"goal": self.goal.copy()}

    def reward_many(self, moves: Moves) -> tuple[Floats, NDArray[np.bool_]]:
        """See ``Simulated.reward_many``."""
        success = reached(moves.qpos, moves.goals, self.maze.goal_radius)
        return success.astype(np.float64), success


class Simulations:
    """A ``VectorEnvironment`` of a MuJoCo task. Its results do not depend on ``threads``.

    Args:
        environments: one Gymnasium environment a goal; they reset the simulations.
        kinds: index of each simulation's environment, ``[n]``.
        limit: control steps after which an episode is cut off.
        threads: how many, with the caller's, step the simulations.
    """

    def __init__(
        self, environments: Sequence[gymnasium.Env[Any, Any]], kinds: Sequence[int], limit: int, threads: int
    ) -> None:
        self.n = len(kinds)
        self.kinds = list(kinds)
        self.limit = limit
        self.environments = list(environments)
        self.rules: Simulated = self.environments[0].unwrapped  # type: ignore[assignment]
        space = self.environments[0].action_space
        assert isinstance(space, Box)
        self._low, self._high = space.low, space.high
        self.batch = Batch(self.rules.model, self.n, min(threads, self.n))
        # live views of the simulations' states
        self._qpos, self._qvel, self._ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self.goals = np.zeros((self.n, 2))
        """(x, y) of each simulation's goal in metres, ``[n, 2]``; zeros where the environment has none."""
        for i in range(self.n):
            self._remember_goal(i)
        self._age = np.zeros(self.n, np.int64)
        self.terminated = np.zeros(self.n, bool)
        """Whether the last step ended the episode by the task's rules rather than by the limit, ``[n]``."""
        self._observations = np.zeros_like(self.rules.observe_many(self._qpos, self._qvel), np.float32)

    def _remember_goal(self, i: int) -> None:
        environment: Simulated = self.environments[self.kinds[i]].unwrapped  # type: ignore[assignment]
        if environment.goal is not None:
            self.goals[i] = environment.goal

    @property
    def observations(self) -> NDArray[np.float32]:
        """A copy of the last observations, ``[n, o]``."""
        return self._observations.copy()

    @property
    def qpos(self) -> Floats:
        """A copy of all positions, ``[n, nq]``."""
        return self._qpos.copy()

    @property
    def qvel(self) -> Floats:
        """A copy of all velocities, ``[n, nv]``."""
        return self._qvel.copy()

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """See ``VectorEnvironment.reset``."""
        require_seeds(seeds, self.n)
        for i, seed in enumerate(seeds):
            self.restart(i, seed)
        return self.observations

    def restart(self, i: int, seed: int, options: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Start an episode in simulation ``i`` alone, as its gymnasium environment's ``reset``: observation ``[o]``."""
        environment = self.environments[self.kinds[i]]
        self._observations[i], _ = environment.reset(seed=int(seed), options=options)
        start: Simulated = environment.unwrapped  # type: ignore[assignment]
        mujoco.mj_getState(start.model, start.data, self.batch.state[i], mujoco.mjtState.mjSTATE_INTEGRATION)
        self._remember_goal(i)
        self._age[i] = 0
        return self._observations[i].copy()

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_]) -> Step:
        """See ``VectorEnvironment.step``."""
        require_finite(actions, active)
        rewards, ended = np.zeros(self.n), np.zeros(self.n, bool)
        self.terminated = np.zeros(self.n, bool)
        if not active.any():
            return self.observations, rewards, ended
        clipped = np.clip(actions[active], self._low, self._high)
        self.rules.prepare_many(self.batch, active)
        before = self._qpos[active]
        self._ctrl[active] = self.rules.control_many(clipped)
        self.batch.step(active, nstep=self.rules.frame_skip)
        moves = Moves(before, self._qpos[active], qvel=self._qvel[active], actions=clipped, goals=self.goals[active])
        rewards[active], self.terminated[active] = self.rules.reward_many(moves)
        self._age[active] += 1
        ended[active] = self.terminated[active] | (self._age[active] >= self.limit)
        self._observations[active] = self.rules.observe_many(moves.qpos, moves.qvel)
        return self.observations, rewards, ended

    def close(self) -> None:
        """See ``VectorEnvironment.close``."""
        for environment in self.environments:
            environment.close()
