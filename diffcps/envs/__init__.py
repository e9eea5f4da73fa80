"""The environments policies are judged in, by task: one at a time (``make``) or many at once (``make_vector``).

Importing this package registers them with gymnasium under the ids of ``ENVIRONMENTS``.
"""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium

from diffcps.config import Physics
from diffcps.envs import recorded
from diffcps.envs.bandits import BanditEnvironments
from diffcps.envs.simulations import Simulations
from diffcps.envs.vector import VectorEnvironment
from diffcps.errors import UserError, nearest
from diffcps.tasks.registry import Task

__all__ = [
    "ENVIRONMENTS",
    "Environment",
    "VectorEnvironment",
    "make",
    "make_vector",
    "plane",
    "register",
    "simulations",
]


class Environment(NamedTuple):
    """How one environment of the task registry is known to gymnasium."""

    id: str
    entry_point: str
    episode_limit: int
    arguments: Mapping[str, Any] = MappingProxyType({})
    has_physics: bool = False
    """Whether it takes ``physics``."""
    has_fixed_goal: bool = False
    """Whether it takes ``goal_seed``, from which its one goal is drawn."""


def _environments() -> dict[str, Environment]:
    table = {
        "hopper": Environment("diffcps/Hopper-v4", "locomotion:Hopper", 1000, has_physics=True),
        "halfcheetah": Environment("diffcps/HalfCheetah-v4", "locomotion:HalfCheetah", 1000, has_physics=True),
        "walker2d": Environment("diffcps/Walker2d-v4", "locomotion:Walker2d", 1000, has_physics=True),
        "pointmaze-umaze": Environment("diffcps/PointMaze_UMaze-v0", "pointmaze:PointMaze", 300),
        "bandit": Environment("diffcps/Bandit-v0", "bandits:BanditEnv", 1, {"name": "ring"}),
    }
    for maze, title, limit in ("umaze", "UMaze", 700), ("medium", "Medium", 1000), ("large", "Large", 1000):
        # Two names, for gymnasium would call version 0 of one name out of date whenever it is made.
        table[f"antmaze-{maze}-v0"] = Environment(
            f"diffcps/AntMazeFixedGoal_{title}-v0", "antmaze:AntMaze", limit, {"maze": maze, "goal_seed": 0}, True, True
        )
        table[f"antmaze-{maze}-v2"] = Environment(
            f"diffcps/AntMaze_{title}-v2", "antmaze:AntMaze", limit, {"maze": maze}, True
        )
    return table


ENVIRONMENTS = _environments()
"""Every environment by the name that a ``Task`` gives it; ``bandit`` is that of all bandits."""


def register() -> None:
    """Register every environment with gymnasium (again is harmless)."""
    for environment in ENVIRONMENTS.values():
        if environment.id not in gymnasium.registry:
            gymnasium.register(
                environment.id,
                f"{__name__}.{environment.entry_point}",
                max_episode_steps=environment.episode_limit,
                # Both would sit in the path of every step.
                disable_env_checker=True,
                order_enforce=False,
                kwargs=dict(environment.arguments),
            )


register()


def make(task: Task, physics: Physics, goal_seed: int = 0) -> gymnasium.Env[Any, Any]:
    """The environment of a task, cut off at the task's episode limit.

    ``physics`` chooses the body masses of the locomotion and AntMaze environments. ``goal_seed`` gives AntMaze v0 the
    one goal it keeps for life. Raises ``UserError`` for an environment or a physics that does not exist.
    """
    if task.definition is not None:
        return recorded.flattened(recorded.make(task.definition.environment_spec, task.episode_limit))
    if task.domain == "bandit":
        return gymnasium.make(ENVIRONMENTS["bandit"].id, name=task.environment)
    if task.environment not in ENVIRONMENTS:
        near = nearest(task.environment, ENVIRONMENTS)
        raise UserError(f"task {task.name!r}: no environment is called {task.environment!r}{near}")
    environment = ENVIRONMENTS[task.environment]
    arguments: dict[str, Any] = {"physics": physics} if environment.has_physics else {}
    if environment.has_fixed_goal:
        arguments["goal_seed"] = goal_seed
    return gymnasium.make(environment.id, max_episode_steps=task.episode_limit, **arguments)


def make_vector(
    task: Task, physics: Physics, n: int, goal_seeds: Sequence[int] | None = None, threads: int = 1
) -> VectorEnvironment:
    """``n`` environments of a task, with one ``goal_seed`` each when ``goal_seeds`` gives them (``n`` of them).

    At most ``threads`` threads, the caller's among them, step the environments; what they give does not depend on it.
    """
    if n < 1:
        raise ValueError(f"n = {n}: at least one environment is needed")
    if threads < 1:
        raise ValueError(f"threads = {threads}: at least one is needed")
    if goal_seeds is not None and len(goal_seeds) != n:
        raise ValueError(f"{len(goal_seeds)} goal seeds for {n} environments")
    if task.domain == "bandit":
        return BanditEnvironments(task.environment, n)
    if task.definition is not None:
        return recorded.RecordedEnvironments(task.definition.environment_spec, task.episode_limit, n)
    return simulations(task, physics, n, threads, goal_seeds)


def simulations(
    task: Task, physics: Physics, n: int, threads: int = 1, goal_seeds: Sequence[int] | None = None
) -> Simulations:
    """``make_vector`` for a task that MuJoCo simulates."""
    own = task.environment in ENVIRONMENTS and ENVIRONMENTS[task.environment].has_fixed_goal
    seeds = list(goal_seeds) if goal_seeds is not None and own else [0] * n
    distinct = list(dict.fromkeys(seeds))
    environments = [make(task, physics, seed) for seed in distinct]
    return Simulations(environments, [distinct.index(seed) for seed in seeds], task.episode_limit, threads)


def plane(physics: Physics, n: int, threads: int = 1) -> Simulations:
    """``n`` of D4RL's ants on a plane without walls and without an episode limit, to learn walking on."""
    from diffcps.envs.antmaze import AntMaze

    return Simulations([AntMaze("plane", physics)], [0] * n, sys.maxsize, threads)
