"""The registry of tasks.

A task is an environment, a data set, reference scores, a reward transform, an episode limit, and hyper-parameters. One
entry here holds everything that the platform knows about ``hopper-medium-v2``: other modules ask the entry and never
look at a task's name. Tasks that a person makes from Minari data sets are files of the same facts (``TaskDefinition``) in
``$DIFFCPS_HOME/tasks``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.config import (
    EvaluationConfig,
    Physics,
    RewardTransform,
    RunConfig,
    ScoreKind,
    TaskDefinition,
    Values,
    home,
)
from diffcps.errors import UserError, nearest
from diffcps.tasks import bandits, paper

Robot = Literal["hopper", "halfcheetah", "walker2d", "ant"]
"""Robots that have shipped behaviour policies."""


@dataclass(frozen=True)
class Environment:
    """The environment of a task, as Gymnasium makes it."""

    id: str
    """Gymnasium's id."""
    entry_point: str = ""
    """``module:callable`` that makes it."""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the callable. With ``goal_seed`` among them, the environment keeps one goal, drawn from that seed."""
    physics: tuple[Physics, ...] = ()
    """The body masses that this project can simulate it with; empty where another package steps it."""
    specification: str = ""
    """Gymnasium's specification (JSON) from the data set that recorded it; it then replaces all of the above."""


@dataclass(frozen=True)
class Task:
    """One entry of the registry."""

    name: str
    domain: str
    """Reports average scores within a domain: ``locomotion``, ``antmaze v0``, …; empty: its scores are never averaged."""
    environment: Environment
    """What policies are evaluated in."""
    observation_size: int
    action_size: int
    random_return: float
    """Return that counts as a score of 0."""
    expert_return: float
    """Return that counts as a score of 100."""
    episode_limit: int
    """Environment steps after which an episode is cut off."""
    sources: tuple[str, ...]
    """Where its data can come from (names of ``diffcps.data.library.SOURCES``), the first being the default."""
    rows: int = 50_000
    """Rows of D4RL's own file, up to ``ROW_TOLERANCE``; rows that are collected unless another number is asked for."""
    d4rl_file: str | None = None
    """Name of its D4RL HDF5 file."""
    d4rl_folder: str = ""
    """Folder of that file on D4RL's host."""
    reward_transform: RewardTransform = "none"
    """``antmaze`` learns from 4 (r − 0.5); scores always use the untransformed rewards."""
    score: ScoreKind = "normalised"
    """What a score is."""
    terminals_end: bool = True
    """Whether a terminal ends a trajectory of its data. In D4RL's AntMaze the ant walks on after the goal."""
    physics: Physics = "modern"
    """The simulator its own data were recorded under."""
    robot: Robot | None = None
    """Robot whose shipped policies make its collected data."""
    bandit: str | None = None
    """Name of the bandit that it is (``diffcps.tasks.bandits``); behaviour and optimum of bandits are known exactly."""
    max_action: float = 1.0
    """Actions lie in [−max_action, max_action]."""
    steps: int = 2_000_000
    """Gradient steps of the full-length run."""
    settings: Values = Values()
    """The paper's hyper-parameters for it, by the names of settings; each algorithm takes those that it has."""
    evaluation: EvaluationConfig = EvaluationConfig()
    demo: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings in which its demonstration differs from that of other tasks."""
    ablation: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    """The values of λ-clip in the ablation (the paper's figures 4 and 5)."""
    in_paper: bool = False
    """Whether the paper's Table 1 has a row of this name."""
    paper_note: str = ""
    """What to say beside the paper's numbers for it."""
    second_version: bool = False
    """Whether it is D4RL's second version of a task of the paper, with other data and other goals."""
    definition: TaskDefinition | None = None
    """The definition of a task that is not built in."""

    def normalised_score(self, returns: ArrayLike) -> NDArray[np.float64]:
        """100·(R − random)/(expert − random), elementwise; never apply it to a standard deviation."""
        span = self.expert_return - self.random_return
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.random_return) / span


_ANTMAZE_FILES = {
    "antmaze-umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "antmaze-umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "antmaze-medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "antmaze-medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "antmaze-large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "antmaze-large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
_SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "antmaze": (29, 8)}
_REPLAY_ROWS = {"halfcheetah": 202_000, "hopper": 402_000, "walker2d": 302_000}
_TITLES = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "umaze": "UMaze"}
ROW_TOLERANCE = 0.01
"""Relative difference from ``Task.rows`` up to which a file can be D4RL's own; a part of it has nearly the same statistics."""
_BOTH: tuple[Physics, ...] = ("d4rl", "modern")


def _paper_task(row: dict[str, str], references: dict[str, tuple[float, float]]) -> Task:
    """One row of the paper's Table 3 as a task."""
    name = row["task"]
    family = name.split("-")[0]
    observation_size, action_size = _SIZES[family]
    random_return, expert_return = references[family]
    return Task(
        name=name,
        **(_antmaze(name) if family == "antmaze" else _locomotion(name, family)),
        observation_size=observation_size,
        action_size=action_size,
        random_return=random_return,
        expert_return=expert_return,
        sources=("d4rl", "minari", "collected"),
        reward_transform="antmaze" if row["reward_tune"] == "cql_antmaze" else "none",
        physics="d4rl",
        steps=1000 * int(row["epochs"]),
        settings=Values(
            {
                "diffusion_steps": int(row["T"]),
                "policy_freq": int(row["policy_freq"]),
                "max_q_backup": row["max_q_backup"] == "true",
                "learning_rate": float(row["lr"]),
                "lambda_init": float(row["lambda_init"]),
                "lambda_clip": float(row["lambda_clip"]),
                "target_kl": float(row["target_kl"]),
                "grad_norm": float(row["grad_norm"]),
            }
        ),
        evaluation=EvaluationConfig(episodes=int(row["eval_episodes"])),
        in_paper=True,
    )


def _locomotion(name: str, family: str) -> dict[str, Any]:
    """The facts of ``hopper-medium-v2`` and the like."""
    level = name.removeprefix(f"{family}-").removesuffix("-v2")
    rows = {"medium-replay": _REPLAY_ROWS[family], "medium-expert": 2_000_000}
    return {
        "domain": "locomotion",
        "environment": Environment(
            f"diffcps/{_TITLES[family]}-v4", f"diffcps.envs.locomotion:{_TITLES[family]}", physics=_BOTH
        ),
        "episode_limit": 1000,
        "rows": rows.get(level, 1_000_000),
        "d4rl_file": f"{family}_{level.replace('-', '_')}-v2.hdf5",
        "d4rl_folder": "gym_mujoco_v2",
        "robot": family,
    }


def _antmaze(name: str) -> dict[str, Any]:
    """The facts of ``antmaze-umaze-v0`` and the like."""
    maze = name.split("-")[1]
    return {
        "domain": "antmaze v0",
        # two names, because Gymnasium calls version 0 of a name out of date whenever it makes one
        "environment": Environment(
            f"diffcps/AntMazeFixedGoal_{_TITLES.get(maze, maze.title())}-v0",
            "diffcps.envs.antmaze:AntMaze",
            {"maze": maze, "goal_seed": 0},
            _BOTH,
        ),
        "episode_limit": 700 if maze == "umaze" else 1000,
        "rows": 1_000_000,
        "d4rl_file": f"Ant_maze_{_ANTMAZE_FILES[name.removesuffix('-v0')]}_sparse.hdf5",
        "d4rl_folder": "ant_maze_new",
        "terminals_end": False,
        "robot": "ant",
        "ablation": (0.1, 0.2, 0.3, 0.4, 0.5),
        "paper_note": "AntMaze on v0",
    }


def _expert_task(task: Task) -> Task:
    """D4RL's expert data alone, which the paper does not use, with the settings of medium-expert."""
    file = str(task.d4rl_file).replace("medium_expert", "expert")
    name = task.name.replace("medium-expert", "expert")
    return replace(task, name=name, d4rl_file=file, rows=1_000_000, in_paper=False)


def _second_version(task: Task) -> Task:
    """D4RL's AntMaze v2: time-outs in step with the resets, and a new goal in every episode. The paper uses v0."""
    environment = task.environment
    return replace(
        task,
        name=task.name.replace("-v0", "-v2"),
        domain="antmaze v2",
        environment=replace(
            environment,
            id=environment.id.replace("FixedGoal", "").replace("-v0", "-v2"),
            arguments={"maze": environment.arguments["maze"]},
        ),
        d4rl_file=str(task.d4rl_file).replace("_sparse.hdf5", "_sparse_fixed.hdf5"),
        d4rl_folder="ant_maze_v2",
        in_paper=False,
        second_version=True,
    )


def _bandit_task(name: str) -> Task:
    """A bandit of ``diffcps.tasks.bandits`` as a task. The discount is 0, except for the ring, whose trials came first."""
    known = bandits.bandit(name)
    return Task(
        name=f"bandit-{name}",
        domain="bandit",
        environment=Environment("diffcps/Bandit-v0", "diffcps.envs.bandits:BanditEnv", {"name": name}),
        observation_size=1,
        action_size=known.action_size,
        random_return=0.0,
        expert_return=known.highest_value,
        episode_limit=1,
        sources=("collected",),
        rows=50_000 if name == "ring" else known.rows,
        bandit=name,
        max_action=known.bound,
        steps=20_000,
        settings=Values(
            {"lambda_clip": 0.3, "target_kl": 0.05} | ({} if name == "ring" else {"discount": 0.0, "policy_freq": 1})
        ),
        evaluation=EvaluationConfig(every=1000, episodes=500, candidates=1),
        # a policy step costs next to nothing here, and with T = 5 samples of the ring stay too narrow for a demo
        demo={
            "steps": 2000,
            "rows": 5000,
            "hidden_size": 64,
            "diffusion_steps": 15,
            "policy_freq": 1,
            "episodes": 200,
            "candidates": 1,
        },
    )


def _registry() -> dict[str, Task]:
    references = {
        row["environment"]: (float(row["random_return"]), float(row["expert_return"]))
        for row in paper.rows("reference_scores")
    }
    tasks = [_paper_task(row, references) for row in paper.rows("hyperparameters")]
    tasks += [_expert_task(task) for task in tasks if "medium-expert" in task.name]
    tasks += [_second_version(task) for task in tasks if task.robot == "ant"]
    tasks.append(
        Task(
            name="pointmaze-umaze",
            domain="pointmaze",
            environment=Environment(
                "diffcps/PointMaze_UMaze-v0", "diffcps.envs.pointmaze:PointMaze", physics=("modern",)
            ),
            observation_size=4,
            action_size=2,
            random_return=0.0,
            expert_return=1.0,
            episode_limit=300,
            sources=("collected",),
            reward_transform="antmaze",
            steps=200_000,
            settings=Values({"lambda_clip": 0.3, "target_kl": 0.2, "grad_norm": 2.0}),
            evaluation=EvaluationConfig(every=10_000, episodes=20),
            demo={"learning_rate": 1e-3, "episodes": 20},
        )
    )
    tasks += [_bandit_task(name) for name in bandits.NAMED]
    return {task.name: task for task in tasks}


TASKS = _registry()


def get_task(name: str) -> Task:
    """The task of that name: a built-in one, or one of ``task_folder()``.

    Raises ``UserError`` naming the nearest one when there is none, and the file when it does not define a task.
    """
    file = task_folder() / f"{name}.json"
    if name not in TASKS and re.fullmatch(r"[A-Za-z0-9_.-]+", name) and file.is_file():
        return from_definition(read_definition(file))
    return _built_in(name)


def task_of(config: RunConfig) -> Task:
    """The task of a trial, from its configuration alone. Raises ``UserError`` when it has no definition and is not built in."""
    return from_definition(config.definition) if config.definition is not None else _built_in(config.task)


def task_folder() -> Path:
    """The folder of the tasks that are not built in, one JSON file each; it need not exist."""
    return home() / "tasks"


def defined() -> list[str]:
    """Names of the tasks that are not built in, in alphabetical order."""
    return sorted(file.stem for file in task_folder().glob("minari-*.json"))


def read_definition(file: Path) -> TaskDefinition:
    """The content of a task's file. Raises ``UserError`` naming the file when it is not what such a file must be."""
    mend = "Repair it, or delete it and run `diffcps data minari ID` again."
    try:
        definition = TaskDefinition.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{file} does not define a task: {error} {mend}") from error
    if definition.name != file.stem:
        raise UserError(f"{file} defines a task of another name, {definition.name!r}. {mend}")
    return definition


def from_definition(definition: TaskDefinition) -> Task:
    """The task that a definition describes."""
    return Task(
        name=definition.name,
        domain="",
        environment=Environment(
            json.loads(definition.environment_spec)["id"], specification=definition.environment_spec
        ),
        observation_size=definition.observation_size,
        action_size=definition.action_size,
        random_return=definition.random_return,
        expert_return=definition.expert_return,
        episode_limit=definition.episode_limit,
        sources=("minari",),
        reward_transform=definition.reward_transform,
        score=definition.score,
        terminals_end=definition.score != "success",
        max_action=definition.max_action,
        steps=definition.steps,
        settings=definition.settings,
        evaluation=definition.evaluation,
        definition=definition,
    )


def _built_in(name: str) -> Task:
    if name not in TASKS:
        family = re.fullmatch(r"bandit-((?:mixture|normal)-.+)", name)
        if family is not None:
            return _bandit_task(family[1])
        known = [*sorted(TASKS), *(f"bandit-{pattern}" for pattern in bandits.PATTERNS), *defined()]
        near = nearest(name, known) or "."
        raise UserError(f"no task is called {name!r}{near} Known tasks: {', '.join(known)}.")
    return TASKS[name]
