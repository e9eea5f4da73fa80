"""Tasks: environment, data, reference scores and settings by name; the paper's numbers; the bandits.

Here is what a task is; ``registry`` has them by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.config import EvaluationConfig, Physics, ScoreKind, TaskDefinition, Values

Robot = Literal["hopper", "halfcheetah", "walker2d", "ant"]
"""Robots that have shipped behaviour policies."""
Level = Literal["medium", "medium-replay", "medium-expert", "expert"]
"""D4RL's words for the policies that recorded a data set: in ``medium-replay`` all of a training up to the medium one."""
Goals = Literal["own", "play", "diverse"]
"""D4RL's protocols of AntMaze: the task's own start and goal, goals chosen by hand (``play``), any free cell (``diverse``)."""


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
    """Rows of D4RL's own file, to within a hundredth; rows that are collected unless another number is asked for."""
    d4rl_file: str | None = None
    """Name of its D4RL HDF5 file."""
    d4rl_folder: str = ""
    """Folder of that file on D4RL's host."""
    goal_rewards: bool = False
    """Whether its rewards are 1 at the goal and 0 elsewhere."""
    score: ScoreKind = "normalised"
    """What a score is."""
    terminals_end: bool = True
    """Whether a terminal ends a trajectory of its data. In D4RL's AntMaze the ant walks on after the goal."""
    physics: Physics = "modern"
    """The simulator its own data were recorded under."""
    robot: Robot | None = None
    """Robot with shipped policies, which make its collected data."""
    level: Level = "medium"
    """Which of the robot's policies make them."""
    maze: str = ""
    """Name of the maze that this project simulates for it; empty outside mazes."""
    goals: Goals | None = None
    """Where the robot is sent in the maze while its data are collected; ``None`` where it is not sent anywhere."""
    bandit: str | None = None
    """Name of the bandit that it is (``diffcps.tasks.bandits``); behaviour and optimum of bandits are known exactly."""
    max_action: float = 1.0
    """Actions lie in [−max_action, max_action]."""
    steps: int = 2_000_000
    """Gradient steps of the full-length trial."""
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

    @property
    def benchmark(self) -> str:
        """Its domain without a version: ``locomotion``, ``antmaze``, …; empty where there is no domain."""
        return self.domain.partition(" ")[0]

    def normalised_score(self, returns: ArrayLike) -> NDArray[np.float64]:
        """100·(R − random)/(expert − random), elementwise; never apply it to a standard deviation."""
        span = self.expert_return - self.random_return
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.random_return) / span

    def behaviour_score(self, dataset: Mapping[str, Any]) -> float:
        """Normalised score of the data's own trajectories by ``environment.json``'s facts on them; nan if it is not known."""
        value = dataset.get("behaviour_return")
        return float("nan") if value is None else float(self.normalised_score(value))
