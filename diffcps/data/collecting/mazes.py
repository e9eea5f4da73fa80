"""How data are made in the mazes: starts, goals, and the ways between them.

AntMaze follows D4RL's protocol. The ant is sent from a start cell to a goal cell along the shortest way, found by
breadth-first search over the free cells. Way-points and actions are noisy (standard deviation of actions .2). The ant stays
near the goal until the time limit. In ``umaze`` start and goal are the task's own; in
``play`` starts are any free cell and goals a few chosen cells; in ``diverse`` both are any free cell. Rewards are those
of the *task's* goal, wherever the ant was sent. PointMaze wanders from cell to cell without knowing any goal.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.data.collecting.behaviour import BehaviourPolicy
from diffcps.data.collecting.practice import features
from diffcps.envs import antmaze
from diffcps.envs.simulations import Cell, Floats, Layout, Simulations
from diffcps.tasks.registry import Task

ACTION_NOISE = 0.2
"""Standard deviation of the noise on the ant's actions."""
_WAYPOINT_NOISE = 1.0
"""A way-point is uniform within this many metres, along each axis, from its cell's centre on."""
_ARRIVED = 1.0
"""Metres within which a way-point counts as reached."""
_LOST = 1.25 * antmaze.CELL
"""Metres from the next way-point beyond which a new way is searched: the ant was pushed or fell elsewhere."""

PLAY_GOALS: dict[str, tuple[Cell, ...]] = {
    "medium": ((2, 6), (5, 1), (6, 5)),
    "large": ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9)),
}
"""The goal cells that D4RL chose by hand for its ``play`` data."""


def shortest_ways(start: Cell, free: Iterable[Cell]) -> dict[Cell, list[Cell]]:
    """The shortest way from ``start`` to every free cell: the cells after ``start``, the last one included."""
    open_cells = set(free)
    ways: dict[Cell, list[Cell]] = {start: []}
    waiting = deque([start])
    while waiting:
        row, column = cell = waiting.popleft()
        for near in (row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1):
            if near in open_cells and near not in ways:
                ways[near] = [*ways[cell], near]
                waiting.append(near)
    return ways


@dataclass(frozen=True)
class Errands:
    """Where the ant of a task's data starts and is sent."""

    maze: Layout
    starts: tuple[Cell, ...]
    """Cells to start in; with a single one the episode starts as an evaluation episode does."""
    goals: tuple[Cell, ...]

    @classmethod
    def of(cls, task: Task) -> "Errands":
        """Those of an AntMaze task."""
        maze = antmaze.MAZES[task.maze]
        free = maze.cells()
        if task.goals == "diverse":
            return cls(maze, free, free)
        if task.goals == "play":
            goals = PLAY_GOALS[task.maze]
            return cls(maze, tuple(cell for cell in free if cell not in goals), goals)
        return cls(maze, maze.cells("S"), maze.cells("G"))


class AntErrands:
    """Sends ants on errands. What happens to one ant depends on its own generator alone."""

    def __init__(self, task: Task, policy: BehaviourPolicy, n: int) -> None:
        self._errands = Errands.of(task)
        self._policy = policy
        self._ways = _all_ways(self._errands.maze)
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * n
        self._goal: list[Cell] = [(0, 0)] * n
        self._way: list[list[Cell]] = [[] for _ in range(n)]
        self._target = np.zeros((n, 2))

    def begin(self, i: int, generator: np.random.Generator) -> dict[str, Any] | None:
        """Draw a start and a goal for ant ``i``; returns the options of the environment's ``reset``."""
        self._generators[i] = generator
        errands = self._errands
        start = errands.starts[generator.integers(len(errands.starts))]
        goals = [cell for cell in errands.goals if cell != start]
        self._goal[i] = goals[generator.integers(len(goals))]
        self._plan(i, start)
        if len(errands.starts) == 1:
            return None
        centre = errands.maze.centre(start)
        return {"start": centre + generator.uniform(0, antmaze.CELL / 4, 2)}

    def _plan(self, i: int, cell: Cell) -> None:
        self._way[i] = list(self._ways[cell][self._goal[i]]) or [self._goal[i]]
        self._aim(i)

    def _aim(self, i: int) -> None:
        centre = self._errands.maze.centre(self._way[i][0])
        self._target[i] = centre + self._generators[i].uniform(0, _WAYPOINT_NOISE, 2)

    def act(self, simulations: Simulations, active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions ``[n, 8]`` for the ``active`` ants; zeros for the others."""
        qpos, qvel = simulations.qpos, simulations.qvel
        for i in np.flatnonzero(active):
            self._follow(int(i), qpos[i, :2])
        offsets = self._target - qpos[:, :2]
        inputs = features(qpos, qvel, np.where(np.abs(offsets).sum(axis=1, keepdims=True) > 0, offsets, 1.0))
        actions = np.zeros((len(qpos), 8), np.float32)
        mean = self._policy.mean(inputs)
        for i in np.flatnonzero(active):
            noise = self._generators[i].standard_normal(8, dtype=np.float32)
            actions[i] = np.clip(mean[i] + ACTION_NOISE * noise, -1, 1)
        return actions

    def _follow(self, i: int, position: Floats) -> None:
        distance = float(np.hypot(*(self._target[i] - position)))
        if distance < _ARRIVED:
            if len(self._way[i]) > 1:
                self._way[i].pop(0)
            self._aim(i)
        elif distance > _LOST:
            cell = self._errands.maze.at(position)
            if cell in self._ways:
                self._plan(i, cell)


@cache
def _all_ways(maze: Layout) -> dict[Cell, dict[Cell, list[Cell]]]:
    free = maze.cells()
    return {start: shortest_ways(start, free) for start in free}


LONGEST_LEG = 3
"""A leg of the wandering point ends at most this many cells away."""
_REACHED = 0.3
"""Metres within which the point has reached a way-point."""
_STIFFNESS = 2.0
"""Action per metre of distance to the way-point."""
_DAMPING = 0.3
"""Action per m/s of speed."""
_POINT_NOISE = 0.5
"""Standard deviation of the noise on the point's actions."""


class PointWanders:
    """The point in its maze: each leg takes the shortest way to a random cell nearby, wherever that leads.

    Starts are random too. Some episodes happen upon the goal but few show the whole way from the task's start to it, so
    a policy has to put the way together from pieces.
    """

    def __init__(self, n: int) -> None:
        # gymnasium-robotics takes a second to import, and no other task needs it
        from diffcps.envs import pointmaze

        self._maze = pointmaze.MAZE
        self._ways = _all_ways(self._maze)
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * n
        self._cell: list[Cell] = [pointmaze.START_CELL] * n
        self._way: list[list[Cell]] = [[] for _ in range(n)]

    def begin(self, i: int, generator: np.random.Generator) -> dict[str, Any] | None:
        """Start an episode in a random free cell other than the goal's."""
        self._generators[i] = generator
        starts = self._maze.cells(".S")
        self._cell[i], self._way[i] = starts[generator.integers(len(starts))], []
        return {"start": self._maze.centre(self._cell[i])}

    def act(self, simulations: Simulations, active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions ``[n, 2]`` of a noisy proportional-derivative controller for the ``active`` points."""
        observations = simulations.observations
        actions = np.zeros((len(observations), 2), np.float32)
        for i in np.flatnonzero(active):
            position, velocity = observations[i, :2], observations[i, 2:]
            pull = _STIFFNESS * (self._next(int(i), position) - position) - _DAMPING * velocity
            actions[i] = np.clip(pull + _POINT_NOISE * self._generators[i].standard_normal(2), -1, 1)
        return actions

    def _next(self, i: int, position: NDArray[np.float32]) -> Floats:
        way = self._way[i]
        if way and np.linalg.norm(self._maze.centre(way[0]) - position) < _REACHED:
            self._cell[i] = way.pop(0)
        if not way:
            legs = [leg for leg in self._ways[self._cell[i]].values() if 0 < len(leg) <= LONGEST_LEG]
            way = self._way[i] = list(legs[self._generators[i].integers(len(legs))])
        return self._maze.centre(way[0])
