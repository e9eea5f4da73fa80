"""AntMaze with D4RL's geometry, rules and physics, from Gymnasium's own ant.

D4RL's ant is Gymnasium's with a time step of .02 s, unit gears driven by ±30, and stiffer contacts. Its mazes are
boxes on 4 m cells; the start cell is at the origin and y grows with the row. Version 0 draws one goal when the
environment is made, version 2 a new one at every reset. The goal is never observed.
"""

from functools import lru_cache
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv, expand_model_path
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from diffcps.config import Physics
from diffcps.envs.physics import choose_physics
from diffcps.envs.simulations import Floats, InMaze, Layout, reached

CELL = 4.0
"""Side of a maze cell in metres."""
GOAL_RADIUS = 0.5
"""The goal is reached within this distance, in metres."""
GOAL_NOISE = CELL / 4, CELL / 8
"""Metres: what is added to x and y of the goal is uniform from 0 to the first, and again to the second."""
MAX_CONTROL = 30.0
"""Torque in N·m that an action of 1 commands."""

_MAPS = {
    "umaze": (
        "#####",
        "#S..#",
        "###.#",
        "#G..#",
        "#####",
    ),
    "medium": (
        "########",
        "#S.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "large": (
        "############",
        "#S...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
    "plane": ("S.G",),
}


def _maze(rows: tuple[str, ...]) -> Layout:
    """The start's cell is the origin."""
    (start,) = ((r, row.index("S")) for r, row in enumerate(rows) if "S" in row)
    return Layout(rows, CELL, start, goal_radius=GOAL_RADIUS, goal_spread=sum(GOAL_NOISE), y_up=False)


MAZES = {name: _maze(rows) for name, rows in _MAPS.items()}
"""D4RL's evaluation mazes, and a plane without walls, on which ants learn to walk."""


@lru_cache
def _compile(maze: Layout, physics: Physics) -> mujoco.MjModel:
    """The compiled model, shared by every environment of this process: stepping only reads it."""
    spec = mujoco.MjSpec.from_file(expand_model_path("ant.xml"))
    spec.option.timestep = 0.02
    for actuator in spec.actuators:
        actuator.gear[0] = 1.0
        actuator.ctrlrange[:] = -MAX_CONTROL, MAX_CONTROL
    for x, y in maze.centres("#"):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[x, y, CELL / 4],
            size=[CELL / 2, CELL / 2, CELL / 4],
            contype=1,
            conaffinity=1,
            rgba=[0.7, 0.5, 0.3, 1.0],
        )
    for geom in spec.geoms:
        geom.solimp[:3] = 0.8, 0.8, 0.01
    model = spec.compile()
    choose_physics(model, physics)
    return model


class AntMaze(InMaze, EzPickle):
    """The ant in a maze: observation [29] float64 (x, y, then the rest of qpos, then qvel), action [8] in [−1, 1].

    The reward is 1 within ``GOAL_RADIUS`` of the goal, which ends the episode, and 0 elsewhere, so a return is 0 or 1.
    Falling over ends nothing. ``maze`` is a key of ``MAZES``. With ``goal_seed`` the environment keeps one goal, drawn
    from that seed (version 0); without, every reset draws one (version 2).
    """

    metadata = MujocoEnv.metadata | {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 10,
    }

    def __init__(
        self, maze: str = "umaze", physics: Physics = "d4rl", goal_seed: int | None = None, **kwargs: Any
    ) -> None:
        EzPickle.__init__(self, maze, physics, goal_seed, **kwargs)
        self.maze, self._physics = MAZES[maze], physics
        self._fixed_goal = goal_seed is not None
        self.goal = self._draw_goal(np.random.default_rng(goal_seed))
        super().__init__(
            "ant.xml",
            frame_skip=5,
            observation_space=Box(-np.inf, np.inf, (29,), np.float64),
            default_camera_config={"distance": CELL * max(map(len, self.maze.rows))},
            **kwargs,
        )
        self.action_space = Box(-1.0, 1.0, (8,), np.float32)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = _compile(self.maze, self._physics)
        return model, mujoco.MjData(model)

    def _draw_goal(self, rng: np.random.Generator) -> NDArray[np.float64]:
        noise = sum(rng.uniform(0, width, 2) for width in GOAL_NOISE)
        return np.maximum(self.maze.centres("G")[0] + noise, 0)

    def _observe(self) -> NDArray[np.float64]:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def reset_model(self) -> NDArray[np.float64]:
        """The chosen start with its noise, and in version 2 a new goal, from ``np_random``."""
        if not self._fixed_goal:
            self.goal = self._draw_goal(self.np_random)
        qpos = self.init_qpos + self.np_random.uniform(-0.1, 0.1, self.model.nq)
        qpos[:2] += self._start
        qvel = self.init_qvel + 0.1 * self.np_random.standard_normal(self.model.nv)
        self.set_state(qpos, qvel)
        return self._observe()

    def step(  # type: ignore[override]
        self, action: ArrayLike
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One control step of .1 s; actions beyond ±1 are clipped."""
        self.data.ctrl[:] = self.control_many(np.clip(np.asarray(action, dtype=np.float64), -1, 1))
        mujoco.mj_step(self.model, self.data, nstep=self.frame_skip)
        success = bool(reached(self.data.qpos, self.goal, GOAL_RADIUS))
        if self.render_mode == "human":
            self.render()
        return self._observe(), float(success), success, False, {"success": success}

    def control_many(self, actions: NDArray[np.floating[Any]]) -> Floats:
        """Torques ``[..., 8]`` in N·m of actions ``[..., 8]`` within ±1."""
        return MAX_CONTROL * actions.astype(np.float64)
