"""PointMaze as an offline-learning task: gymnasium-robotics' point and U-maze, one start, one goal, sparse reward.

The maze, the point and its dynamics are those of ``PointMaze_UMaze-v3``. Three things of that environment are left out:
goals and starts drawn over all cells with ±.25 of noise, episodes that continue after success, and observations in a
dictionary together with the goal.
"""

import contextlib
import io
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import ArrayLike, NDArray

from diffcps.envs.antmaze import MAZES
from diffcps.envs.simulations import InMaze, reached

# Importing gymnasium-robotics prints a note about hand-manipulation environments that are not used here.
with contextlib.redirect_stderr(io.StringIO()):
    import gymnasium_robotics
    from gymnasium_robotics.envs.maze.maze_v4 import Maze
    from gymnasium_robotics.envs.maze.point import PointEnv

MAZE = replace(MAZES["umaze"], cell=1.0, origin=(2, 2), goal_radius=0.45, goal_spread=0.0, y_up=True)
(START_CELL,), (GOAL_CELL,) = MAZE.cells("S"), MAZE.cells("G")
"""The two ends of the U, 6 m of corridor from each other."""
START_NOISE = 0.1
"""The start is uniform within ± this many metres of its cell's centre, along each axis."""
MAX_SPEED = 5.0
"""gymnasium-robotics limits the speed along each axis to this many m/s before every step."""


@lru_cache
def _compile() -> mujoco.MjModel:
    """The compiled model, shared by every environment of this process: stepping only reads it."""
    point = Path(gymnasium_robotics.__file__).parent / "envs" / "assets" / "point" / "point.xml"
    walls = [[int(cell == "#") for cell in row] for row in MAZE.rows]
    _, file = Maze.make_maze(str(point), walls, maze_size_scaling=1, maze_height=0.4)
    model = mujoco.MjModel.from_xml_path(file)
    Path(file).unlink()
    model.site("target").pos[:2] = MAZE.centre(GOAL_CELL)
    return model


class PointMaze(InMaze, PointEnv):
    """The point in the U-maze: observation [4] float64 (x, y, vx, vy), action [2] in [−1, 1].

    The reward is 1 within 0.45 m of the goal, which ends the episode, and 0 elsewhere.
    """

    maze = MAZE
    goal = MAZE.centre(GOAL_CELL)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = _compile()
        return model, mujoco.MjData(model)

    def reset_model(self) -> NDArray[np.float64]:
        """The chosen start with its noise, from ``np_random``; at rest."""
        start = self._start + self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        self.set_state(start, np.zeros(2))
        return self._get_obs()[0]

    def step(  # type: ignore[override]
        self, action: ArrayLike
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One control step of .01 s; actions beyond ±1 and speeds beyond ``MAX_SPEED`` are clipped."""
        observation, *_ = super().step(np.asarray(action, dtype=np.float64))
        success = bool(reached(observation, self.goal, MAZE.goal_radius))
        return observation, float(success), success, False, {"success": success}

    def prepare_many(self, batch: Batch, active: NDArray[np.bool_]) -> None:
        """Limit speeds, as gymnasium-robotics does before each step by setting the state."""
        qvel = batch.bind("qvel")
        qvel[active] = np.clip(qvel[active], -MAX_SPEED, MAX_SPEED)
        batch.forward(active)
