"""The behaviour in the maze: wander from cell to cell, wherever that leads, without knowing the task's goal.

Each leg takes the shortest way, found by breadth-first search over the free cells, to a random cell nearby; a noisy
proportional-derivative controller follows its way-points. Starts are random too. Some episodes happen upon the goal but
few show the whole way from the task's start to it, so a policy has to put the way together from pieces.
"""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffcps.envs.pointmaze import FREE_CELLS, GOAL_CELL, Cell, cell_centre

LONGEST_LEG = 3
"""A leg ends at most this many cells away."""
_REACHED = 0.3
"""Metres within which a way-point counts as reached."""
_STIFFNESS = 2.0
"""Action per metre of distance to the way-point."""
_DAMPING = 0.3
"""Action per m/s of speed."""
_NOISE = 0.5
"""Standard deviation of the action noise."""


def shortest_ways(start: Cell) -> dict[Cell, list[Cell]]:
    """The shortest way from ``start`` to every free cell: the cells after ``start``, the last one included."""
    ways: dict[Cell, list[Cell]] = {start: []}
    waiting = deque([start])
    while waiting:
        row, column = cell = waiting.popleft()
        for near in (row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1):
            if near in FREE_CELLS and near not in ways:
                ways[near] = [*ways[cell], near]
                waiting.append(near)
    return ways


class WaypointController:
    """Chooses random legs and follows them. All of its randomness comes from ``generator``."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._ways = {cell: shortest_ways(cell) for cell in FREE_CELLS}
        self._cell = FREE_CELLS[0]
        self._way: list[Cell] = []

    def reset(self, env: gymnasium.Env[Any, Any], seed: int | None) -> NDArray[np.floating]:
        """Start an episode in a random free cell other than the goal's; returns its first observation [4]."""
        starts = [cell for cell in FREE_CELLS if cell != GOAL_CELL]
        self._cell, self._way = starts[self._generator.integers(len(starts))], []
        return env.reset(seed=seed, options={"start_cell": self._cell})[0]

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action [2] at (x, y, vx, vy), clipped to ±1."""
        position, velocity = observation[:2], observation[2:]
        if self._way and np.linalg.norm(cell_centre(self._way[0]) - position) < _REACHED:
            self._cell = self._way.pop(0)
        if not self._way:
            ways = [way for way in self._ways[self._cell].values() if 0 < len(way) <= LONGEST_LEG]
            self._way = list(ways[self._generator.integers(len(ways))])
        pull = _STIFFNESS * (cell_centre(self._way[0]) - position) - _DAMPING * velocity
        noise = _NOISE * self._generator.standard_normal(2)
        return np.clip(pull + noise, -1, 1).astype(np.float32)
