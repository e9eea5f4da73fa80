"""The built-in tasks: those of the paper, its data sets' relatives, the mazes and the bandits."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcps.config import EvaluationConfig, Physics, Values
from diffcps.tasks import Environment, Task, bandits, paper

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
_OGBENCH = Path(__file__).with_name("ogbench.csv")
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
                "reward_transform": {"none": "none", "cql_antmaze": "antmaze"}[row["reward_tune"]],
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
        "level": level,
    }


def _antmaze(name: str) -> dict[str, Any]:
    """The facts of ``antmaze-umaze-v0`` and the like."""
    _, maze, *goals, _ = name.split("-")
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
        "goal_rewards": True,
        "terminals_end": False,
        "robot": "ant",
        "level": "expert",
        "maze": maze,
        "goals": goals[0] if goals else "own",
        "ablation": (0.1, 0.2, 0.3, 0.4, 0.5),
        "paper_note": "AntMaze on v0",
    }


def _expert_task(task: Task) -> Task:
    """D4RL's expert data alone, which the paper does not use, with the settings of medium-expert."""
    file = str(task.d4rl_file).replace("medium_expert", "expert")
    name = task.name.replace("medium-expert", "expert")
    return replace(task, name=name, level="expert", d4rl_file=file, rows=1_000_000, in_paper=False)


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
            arguments={"maze": task.maze},
        ),
        d4rl_file=str(task.d4rl_file).replace("_sparse.hdf5", "_sparse_fixed.hdf5"),
        d4rl_folder="ant_maze_v2",
        in_paper=False,
        second_version=True,
    )


_BANDIT_DEMO = {
    "rows": 5000, "hidden_size": 64, "episodes": 200, "candidates": 1,
    # a policy step costs next to nothing here, and with T = 5 samples of the ring stay too narrow
    "steps": 2000, "diffusion_steps": 15, "policy_freq": 1,
}  # fmt: skip
_CORNERS_DEMO = _BANDIT_DEMO | {
    # κ is a little above what cloning reaches with so many steps of the chain; λ begins above its answer and finds it in time
    "steps": 2500, "diffusion_steps": 8, "target_kl": 0.21, "lambda_clip": 0.0, "lambda_init": 20.0, "lambda_learning_rate": 0.03,
    "measures": ["actions"],
}  # fmt: skip


def _bandit_task(name: str) -> Task:
    """A bandit of ``diffcps.tasks.bandits`` as a task. The discount is 0, except for the ring: its trials came first."""
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
        demo=_CORNERS_DEMO if name == "corners" else _BANDIT_DEMO,
    )


def _point_maze() -> Task:
    """A point in D4RL's small maze, for minutes on a CPU."""
    return Task(
        name="pointmaze-umaze",
        domain="pointmaze",
        environment=Environment("diffcps/PointMaze_UMaze-v0", "diffcps.envs.pointmaze:PointMaze", physics=("modern",)),
        observation_size=4,
        action_size=2,
        random_return=0.0,
        expert_return=1.0,
        episode_limit=300,
        sources=("collected",),
        steps=200_000,
        goal_rewards=True,
        maze="umaze",
        settings=Values({"lambda_clip": 0.3, "target_kl": 0.2, "grad_norm": 2.0, "reward_transform": "antmaze"}),
        evaluation=EvaluationConfig(every=10_000, episodes=20),
        demo={"learning_rate": 1e-3, "episodes": 20},
    )


def _pendulum() -> Task:
    """Gymnasium's pendulum."""
    return Task(
        name="pendulum-swingup",
        domain="pendulum",
        environment=Environment("Pendulum-v1", "gymnasium.envs.classic_control.pendulum:PendulumEnv"),
        observation_size=3,
        action_size=1,
        max_action=2.0,
        # of random actions, over 500 episodes; about the cost of a good swing-up
        random_return=-1213.0,
        expert_return=-150.0,
        episode_limit=200,
        sources=("collected",),
        rows=12_000,
        steps=50_000,
        settings=Values({"lambda_clip": 0.3, "target_kl": 0.2, "discount": 0.95}),
        evaluation=EvaluationConfig(every=2500, episodes=20),
        # with λ's published rate it would not move in so few steps
        demo={
            "steps": 3000,
            "hidden_size": 64,
            "episodes": 20,
            "evaluate_every": 600,
            "target_kl": 0.3,
            "lambda_clip": 0.0,
            "lambda_learning_rate": 3e-3,
        },
    )


def tasks() -> list[Task]:
    """Every built-in task that has an entry of its own, in the order in which tasks are listed."""
    references = {
        row["environment"]: (float(row["random_return"]), float(row["expert_return"]))
        for row in paper.rows("reference_scores")
    }
    found = [_paper_task(row, references) for row in paper.rows("hyperparameters")]
    found += [_expert_task(task) for task in found if task.level == "medium-expert"]
    found += [_second_version(task) for task in found if task.maze]
    found += [_point_maze(), _pendulum()]
    found += [_bandit_task(name) for name in bandits.NAMED]
    return found


@dataclass(frozen=True)
class Family:
    """Tasks that are made from their names when they are asked for."""

    patterns: tuple[str, ...]
    """What their names look like."""
    make: Callable[[str], Task | None]
    """The task of a name; ``None`` when it is not one of the family."""
    names: tuple[str, ...] = ()
    """All of their names, where there is an end of them."""


def _bandit_of(name: str) -> Task | None:
    found = re.fullmatch(r"bandit-((?:mixture|normal)-.+)", name)
    return _bandit_task(found[1]) if found is not None else None


def _ogbench() -> dict[str, Task]:
    """OGBench's single-task data sets. DiffCPS has no published settings for them; these are those of PointMaze here."""
    found = {}
    for row in csv.DictReader(_OGBENCH.read_text(encoding="utf-8").splitlines()):
        for kind in row["kinds"].split():
            for which in ("singletask", *(f"singletask-task{number}" for number in range(1, 6))):
                name, environment = f"{row['environment']}-{kind}-{which}-v0", f"{row['environment']}-{which}-v0"
                found[name] = Task(
                    name=name,
                    domain=f"ogbench {row['environment']}-{kind}",
                    environment=Environment(environment, "diffcps.data.ogbench:SingleTask", {"name": environment}),
                    observation_size=int(row["observations"]),
                    action_size=int(row["actions"]),
                    random_return=0.0,
                    expert_return=1.0,
                    episode_limit=int(row["episode_limit"]),
                    sources=("ogbench",),
                    score="success",
                    terminals_end=False,
                    steps=1_000_000,
                    settings=Values({"lambda_clip": 0.3, "target_kl": 0.2, "grad_norm": 2.0}),
                    evaluation=EvaluationConfig(every=100_000, episodes=10, final_episodes=50),
                )
    return found


_OGBENCH_TASKS = _ogbench()

FAMILIES = (
    Family(tuple(f"bandit-{pattern}" for pattern in bandits.PATTERNS), _bandit_of),
    Family(("OGBench's …-singletask-v0 and …-singletask-taskN-v0",), _OGBENCH_TASKS.get, tuple(_OGBENCH_TASKS)),
)
