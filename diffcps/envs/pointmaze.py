"""PointMaze as an offline-learning task: gymnasium-robotics' point and U-maze, one start, one goal, sparse reward.

The maze, the point and its dynamics are those of ``PointMaze_UMaze-v3``. Three things of that environment are left out:
goals and starts drawn over all cells with ±.25 of noise, episodes that continue after success, and observations in a
dictionary together with the goal.
"""

import contextlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import ArrayLike, NDArray

from diffcps.envs.simulations import Floats, Layout, Moves, Simulated, reached

# Importing gymnasium-robotics prints a note about hand-manipulation environments that are not used here.
with contextlib.redirect_stderr(io.StringIO()):
    import gymnasium_robotics
    from gymnasium_robotics.envs.maze.maps import U_MAZE
    from gymnasium_robotics.envs.maze.maze_v4 import Maze
    from gymnasium_robotics.envs.maze.point import PointEnv

Cell = tuple[int, int]
"""(row, column) in the maze's map."""

START_CELL: Cell = (1, 1)
GOAL_CELL: Cell = (3, 1)
"""The other end of the U: 6 m of corridor from the start."""
START_NOISE = 0.1
"""The start is uniform within ± this many metres of its cell's centre, along each axis."""
GOAL_RADIUS = 0.45
"""The goal is reached within this distance, in metres."""
MAX_SPEED = 5.0
"""gymnasium-robotics limits the speed along each axis to this many m/s before every step."""

FREE_CELLS: tuple[Cell, ...] = tuple((r, c) for r, row in enumerate(U_MAZE) for c, cell in enumerate(row) if cell != 1)


def cell_centre(cell: Cell) -> NDArray[np.float64]:
    """(x, y) in metres of the centre of a cell, [2]; the maze's centre is the origin and y grows upwards."""
    rows, columns = len(U_MAZE), len(U_MAZE[0])
    return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])


@lru_cache
def _compile() -> mujoco.MjModel:
    """The compiled model, shared by every environment of this process: stepping only reads it."""
    point = Path(gymnasium_robotics.__file__).parent / "envs" / "assets" / "point" / "point.xml"
    _, file = Maze.make_maze(str(point), U_MAZE, maze_size_scaling=1, maze_height=0.4)
    model = mujoco.MjModel.from_xml_path(file)
    Path(file).unlink()
    model.site("target").pos[:2] = cell_centre(GOAL_CELL)
    return model


def _free_cell(options: dict[str, Any], key: str, default: Cell) -> Cell:
    cell = tuple(options.get(key, default))
    if cell not in FREE_CELLS:
        raise ValueError(f"{key} = {cell}: it must be one of the free cells {FREE_CELLS}")
    return cell


class PointMaze(Simulated, PointEnv):
    """The point in the U-maze: observation [4] float64 (x, y, vx, vy), action [2] in [−1, 1].

    The reward is 1 within ``GOAL_RADIUS`` of the goal, which ends the episode, and 0 elsewhere. ``reset`` takes the
    options ``start_cell`` and ``goal_cell``, for collecting data with other starts and goals than the task's own.
    """

    goal: Floats
    """(x, y) of the goal in metres, [2]."""

    def __init__(self, **kwargs: Any) -> None:
        self.goal = cell_centre(GOAL_CELL)
        self._start = cell_centre(START_CELL)
        super().__init__(**kwargs)

    def layout(self) -> Layout:
        """See ``Simulated.layout``."""
        walls = [(r, c) for r, row in enumerate(U_MAZE) for c, cell in enumerate(row) if cell == 1]
        return Layout(
            cell=1.0,
            walls=np.array([cell_centre(cell) for cell in walls]),
            free=np.array([cell_centre(cell) for cell in FREE_CELLS]),
            start=cell_centre(START_CELL),
            goal=cell_centre(GOAL_CELL),
            goal_radius=GOAL_RADIUS,
            y_up=True,
        )

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = _compile()
        return model, mujoco.MjData(model)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start a new episode at rest. Raises ``ValueError`` for a cell that is not free or an unknown option."""
        options = options or {}
        if unknown := set(options) - {"start_cell", "goal_cell"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}: there are 'start_cell' and 'goal_cell'")
        self._start = cell_centre(_free_cell(options, "start_cell", START_CELL))
        self.goal = cell_centre(_free_cell(options, "goal_cell", GOAL_CELL))
        observation, info = super().reset(seed=seed)
        return observation, {**info, "goal": self.goal.copy()}

    def reset_model(self) -> NDArray[np.float64]:
        """The chosen start with its noise, from ``np_random``."""
        start = self._start + self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        self.set_state(start, np.zeros(2))
        return self._get_obs()[0]

    def step(  # type: ignore[override]
        self, action: ArrayLike
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One control step of .01 s; actions beyond ±1 and speeds beyond ``MAX_SPEED`` are clipped."""
        observation, *_ = super().step(np.asarray(action, dtype=np.float64))
        success = bool(reached(observation, self.goal, GOAL_RADIUS))
        return observation, float(success), success, False, {"success": success}

    def prepare_many(self, batch: Batch, active: NDArray[np.bool_]) -> None:
        """Limit speeds, as gymnasium-robotics does before each step by setting the state."""
        qvel = batch.bind("qvel")
        qvel[active] = np.clip(qvel[active], -MAX_SPEED, MAX_SPEED)
        batch.forward(active)

    def reward_many(self, moves: Moves) -> tuple[Floats, NDArray[np.bool_]]:
        """Reward 1 at the goal, which ends the episode."""
        success = reached(moves.qpos, moves.goals, GOAL_RADIUS)
        return success.astype(np.float64), success
