"""The registry of tasks.

A task is an environment, a data set, reference scores, a reward transform, an episode limit, and the hyper-parameters
that the paper gives it. Everything the platform knows about ``hopper-medium-v2`` is one entry here. A person's own tasks,
made from Minari data sets, are files of the same facts (``TaskDefinition``) in ``$DIFFCPS_HOME/tasks``.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.config import (
    AlgorithmConfig,
    DataConfig,
    DataSource,
    EvaluationConfig,
    MemberConfig,
    Physics,
    RewardTransform,
    RunConfig,
    ScoreKind,
    TaskDefinition,
    home,
)
from diffcps.errors import UserError, nearest
from diffcps.tasks import bandits, paper
from diffcps.tasks.bandits import bandit

Domain = Literal["locomotion", "antmaze", "pointmaze", "bandit", "recorded"]
Robot = Literal["hopper", "halfcheetah", "walker2d", "ant"]
"""Who makes collected data with a policy of its own."""


@dataclass(frozen=True)
class Task:
    """One entry of the registry."""

    name: str
    domain: Domain
    environment: str
    """What is stepped: ``hopper``, ``halfcheetah``, ``walker2d``, ``antmaze-umaze``, …, ``pointmaze-umaze``, a bandit's name; or
    ``recorded:`` and the id of the environment in ``definition``."""
    observation_size: int
    action_size: int
    random_return: float
    """Return that counts as a score of 0."""
    expert_return: float
    """Return that counts as a score of 100."""
    episode_limit: int
    """Environment steps after which an episode is cut off."""
    sources: tuple[DataSource, ...]
    """Where its data can come from, the first being the default."""
    d4rl_file: str | None = None
    """Name of its D4RL HDF5 file."""
    reward_transform: RewardTransform = "none"
    """``antmaze`` learns from 4 (r − 0.5); scores always use the untransformed rewards."""
    physics: Physics = "modern"
    """The simulator its own data were recorded under."""
    max_action: float = 1.0
    """Actions lie in [−max_action, max_action]."""
    steps: int = 2_000_000
    """Gradient steps of the full-length run."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    member: MemberConfig = MemberConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    in_paper: bool = False
    """Whether the paper's Table 1 has a row of this name."""
    definition: TaskDefinition | None = None
    """What it was made from where it is not built in."""

    @property
    def terminals_end(self) -> bool:
        """Whether a terminal ends a trajectory of its data; D4RL's ants, and recorded mazes, go on after the goal."""
        return self.domain != "antmaze" and self.score != "success"

    @property
    def score(self) -> ScoreKind:
        """What a score of it is; other than ``normalised`` only for tasks that are not built in."""
        return self.definition.score if self.definition is not None else "normalised"

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


def _paper_task(row: dict[str, str], references: dict[str, tuple[float, float]]) -> Task:
    """One row of the paper's Table 3 as a task."""
    name = row["task"]
    family = name.split("-")[0]
    antmaze = family == "antmaze"
    stem = name.rsplit("-", 1)[0]
    size = stem.split("-")[1]
    if antmaze:
        file = f"Ant_maze_{_ANTMAZE_FILES[stem]}_sparse.hdf5"
    else:
        file = f"{family}_{stem.removeprefix(family + '-').replace('-', '_')}-v2.hdf5"
    observation_size, action_size = _SIZES[family]
    random_return, expert_return = references[family]
    return Task(
        name=name,
        domain="antmaze" if antmaze else "locomotion",
        environment=f"antmaze-{size}-v0" if antmaze else family,
        observation_size=observation_size,
        action_size=action_size,
        random_return=random_return,
        expert_return=expert_return,
        episode_limit=(700 if size == "umaze" else 1000) if antmaze else 1000,
        sources=("d4rl", "minari", "collected"),
        d4rl_file=file,
        reward_transform="antmaze" if row["reward_tune"] == "cql_antmaze" else "none",
        physics="d4rl",
        steps=1000 * int(row["epochs"]),
        algorithm=AlgorithmConfig(
            diffusion_steps=int(row["T"]),
            policy_freq=int(row["policy_freq"]),
            max_q_backup=row["max_q_backup"] == "true",
        ),
        member=MemberConfig(
            learning_rate=float(row["lr"]),
            lambda_init=float(row["lambda_init"]),
            lambda_clip=float(row["lambda_clip"]),
            target_kl=float(row["target_kl"]),
            grad_norm=float(row["grad_norm"]),
        ),
        evaluation=EvaluationConfig(episodes=int(row["eval_episodes"])),
        in_paper=True,
    )


def _expert_task(task: Task) -> Task:
    """D4RL's expert data alone, which the paper does not use, with the settings of medium-expert."""
    file = str(task.d4rl_file).replace("medium_expert", "expert")
    return replace(task, name=task.name.replace("medium-expert", "expert"), d4rl_file=file, in_paper=False)


def _second_version(task: Task) -> Task:
    """D4RL's AntMaze v2: data whose time-outs are in step with the resets, and a new goal in every episode.

    The paper's numbers are of v0, and never stand beside it.
    """
    return replace(
        task,
        name=task.name.replace("-v0", "-v2"),
        environment=task.environment.replace("-v0", "-v2"),
        d4rl_file=str(task.d4rl_file).replace("_sparse.hdf5", "_sparse_fixed.hdf5"),
        in_paper=False,
    )


def _bandit_task(name: str) -> Task:
    """A bandit of ``diffcps.tasks.bandits`` as a task; there is nothing to look ahead to, but for the ring, which came first."""
    known = bandits.bandit(name)
    return Task(
        name=f"bandit-{name}",
        domain="bandit",
        environment=name,
        observation_size=1,
        action_size=known.action_size,
        random_return=0.0,
        expert_return=known.highest_value,
        episode_limit=1,
        sources=("collected",),
        max_action=known.bound,
        steps=20_000,
        algorithm=AlgorithmConfig() if name == "ring" else AlgorithmConfig(discount=0.0, policy_freq=1),
        member=MemberConfig(lambda_init=1.0, lambda_clip=0.3, target_kl=0.05, grad_norm=9.0),
        evaluation=EvaluationConfig(every=1000, episodes=500, candidates=1),
    )


def _registry() -> dict[str, Task]:
    references = {
        row["environment"]: (float(row["random_return"]), float(row["expert_return"]))
        for row in paper.rows("reference_scores")
    }
    tasks = [_paper_task(row, references) for row in paper.rows("hyperparameters")]
    tasks += [_expert_task(task) for task in tasks if "medium-expert" in task.name]
    tasks += [_second_version(task) for task in tasks if task.domain == "antmaze"]
    tasks.append(
        Task(
            name="pointmaze-umaze",
            domain="pointmaze",
            environment="pointmaze-umaze",
            observation_size=4,
            action_size=2,
            random_return=0.0,
            expert_return=1.0,
            episode_limit=300,
            sources=("collected",),
            reward_transform="antmaze",
            steps=200_000,
            member=MemberConfig(lambda_init=1.0, lambda_clip=0.3, target_kl=0.2, grad_norm=2.0),
            evaluation=EvaluationConfig(every=10_000, episodes=20),
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
        domain="recorded",
        environment=f"recorded:{json.loads(definition.environment_spec)['id']}",
        observation_size=definition.observation_size,
        action_size=definition.action_size,
        random_return=definition.random_return,
        expert_return=definition.expert_return,
        episode_limit=definition.episode_limit,
        sources=("minari",),
        reward_transform=definition.reward_transform,
        max_action=definition.max_action,
        steps=definition.steps,
        algorithm=definition.algorithm,
        member=definition.member,
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


ROW_TOLERANCE = 0.01
"""Relative; a smaller part of D4RL's data has nearly the same statistics but is another data set."""

_ANTMAZE_ROWS = 1_000_000
_REPLAY_ROWS = {"halfcheetah": 202_000, "hopper": 402_000, "walker2d": 302_000}


def d4rl_rows(task: Task) -> int:
    """Rows of D4RL's own file for the task, up to ``ROW_TOLERANCE``."""
    if task.domain == "antmaze":
        return _ANTMAZE_ROWS
    if "medium-replay" in task.name:
        return _REPLAY_ROWS[task.environment]
    return 2_000_000 if "medium-expert" in task.name else 1_000_000


def usual_rows(task: Task) -> int:
    """Rows to collect where nobody says how many: D4RL's own number, a bandit's own, or some."""
    # trials of the ring are known by keys with the general number
    if task.domain == "bandit" and task.environment != "ring":
        return bandit(task.environment).rows
    return d4rl_rows(task) if task.d4rl_file else DataConfig().rows
