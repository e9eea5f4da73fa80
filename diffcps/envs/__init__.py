"""The environments that policies are evaluated in, by task: one at a time (``make``) or many at once (``make_vector``).

Importing this package registers those of the built-in tasks with Gymnasium.
"""

import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from diffcps.config import Physics
from diffcps.envs import recorded
from diffcps.envs.bandits import BanditEnv, BanditEnvironments
from diffcps.envs.simulations import Layout, OneByOne, Simulated, Simulations, VectorEnvironment
from diffcps.tasks.registry import TASKS, Task

__all__ = ["VectorEnvironment", "make", "make_vector", "maze", "plane", "register", "simulations", "specification"]


def register() -> None:
    """Register the environment of every built-in task with Gymnasium (again is harmless)."""
    for task in TASKS.values():
        if task.environment.id not in gymnasium.registry:
            gymnasium.registry[task.environment.id] = specification(task, None)


def specification(task: Task, physics: Physics | None, goal_seed: int = 0) -> EnvSpec:
    """Gymnasium's specification of a task's environment; the arguments are those of ``make``."""
    environment = task.environment
    if environment.specification:
        return recorded.read_spec(environment.specification)
    arguments = dict(environment.arguments)
    if physics is not None and len(environment.physics) > 1:
        arguments["physics"] = physics
    if "goal_seed" in arguments:
        arguments["goal_seed"] = goal_seed
    return EnvSpec(
        environment.id,
        environment.entry_point,
        max_episode_steps=task.episode_limit,
        # both checks would run in every step
        disable_env_checker=True,
        order_enforce=False,
        kwargs=arguments,
    )


register()


def make(task: Task, physics: Physics, goal_seed: int = 0) -> gymnasium.Env[Any, Any]:
    """The environment of a task, cut off at the task's episode limit, with flat observations.

    ``physics`` chooses the body masses of the locomotion and AntMaze environments. ``goal_seed`` gives AntMaze v0 the
    one goal that it keeps. Raises ``UserError`` when the environment cannot be made here, or not with that physics.
    """
    return recorded.flattened(recorded.made(specification(task, physics, goal_seed), task.episode_limit))


def make_vector(
    task: Task, physics: Physics, n: int, goal_seeds: Sequence[int] | None = None, threads: int = 1
) -> VectorEnvironment:
    """``n`` environments of a task, with one ``goal_seed`` each when ``goal_seeds`` gives them (``n`` of them).

    At most ``threads`` threads, the caller's among them, step the environments; results do not depend on it.
    """
    if n < 1:
        raise ValueError(f"n = {n}: at least one environment is needed")
    if threads < 1:
        raise ValueError(f"threads = {threads}: at least one is needed")
    if goal_seeds is not None and len(goal_seeds) != n:
        raise ValueError(f"{len(goal_seeds)} goal seeds for {n} environments")
    seeds = list(goal_seeds) if goal_seeds is not None and "goal_seed" in task.environment.arguments else [0] * n
    distinct = list(dict.fromkeys(seeds))
    environments = [make(task, physics, seed) for seed in distinct]
    rules = environments[0].unwrapped
    if isinstance(rules, Simulated):
        return Simulations(environments, [distinct.index(seed) for seed in seeds], task.episode_limit, threads)
    if isinstance(rules, BanditEnv):
        return BanditEnvironments(rules.bandit, n)
    return OneByOne([*environments, *(make(task, physics) for _ in range(n - len(environments)))])


def simulations(
    task: Task, physics: Physics, n: int, threads: int = 1, goal_seeds: Sequence[int] | None = None
) -> Simulations:
    """``make_vector`` for a task that this project simulates (``Task.environment.physics``)."""
    made = make_vector(task, physics, n=n, goal_seeds=goal_seeds, threads=threads)
    if not isinstance(made, Simulations):
        raise TypeError(f"{task.name} is not simulated by this project")
    return made


def maze(task: Task) -> Layout:
    """The maze of a task that this project simulates, as it is seen from above."""
    environment = make(task, task.environment.physics[0])
    found: Layout = environment.unwrapped.maze  # type: ignore[attr-defined]
    environment.close()
    return found


def plane(physics: Physics, n: int, threads: int = 1) -> Simulations:
    """``n`` of D4RL's ants on a plane without walls and without an episode limit, to learn walking on."""
    from diffcps.envs.antmaze import AntMaze

    return Simulations([AntMaze("plane", physics)], [0] * n, sys.maxsize, threads)
