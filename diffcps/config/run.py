"""A trial: its task, its data, its pack, and how it is judged."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from diffcps.config.algorithm import Actor, AlgorithmConfig, MemberConfig
from diffcps.config.plain import Plain, require, require_number
from diffcps.errors import UserError

if TYPE_CHECKING:
    from typing import Self

Physics = Literal["d4rl", "modern"]
RewardTransform = Literal["none", "antmaze"]
ScoreKind = Literal["normalised", "success", "return"]
Profile = Literal["official", "principled"]


@dataclass(frozen=True)
class EvaluationConfig(Plain):
    """How policies are judged."""

    every: int = 50_000
    """Gradient steps between evaluations."""
    episodes: int = 10
    """Episodes per member and evaluation."""
    candidates: int = 50
    """Actions drawn per state, of which one is chosen by softmax over the target critic; 1 takes the policy's own."""
    final_episodes: int | None = None
    """Episodes per member at the last evaluation; ``None``: as many as at the others."""
    actor: Actor = "online"
    """Which policy acts: the ``online`` one, or its moving ``average``."""

    later: ClassVar[frozenset[str]] = frozenset({"final_episodes", "actor"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "every", "episodes", "candidates")
        if self.final_episodes is not None:
            require_number(self, "a positive whole number", "final_episodes")

    def episodes_at(self, last: bool) -> int:
        """Episodes per member at the last evaluation, or at one before it."""
        return self.final_episodes if last and self.final_episodes is not None else self.episodes


@dataclass(frozen=True)
class DataConfig(Plain):
    """The data set of a trial."""

    source: str = "d4rl"
    """Where it comes from: one of the task's sources."""
    rows: int = 50_000
    """Transitions to collect, for a source that makes its data."""
    seed: int = 0
    """Seed of the collection, for a source that makes its data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "rows")
        require_number(self, "a whole number, zero or more", "seed")


@dataclass(frozen=True)
class TaskDefinition(Plain):
    """A task that is not built in: a Minari data set and the environment recorded with it."""

    name: str
    """Name of the task; begins with ``minari-``."""
    minari_id: str
    """Minari's id of the data set."""
    environment_spec: str
    """Gymnasium's specification (JSON) of the environment that policies are judged in."""
    observation_size: int
    """Numbers in a flattened observation."""
    action_size: int
    """Numbers in an action."""
    max_action: float
    """Actions lie in [−max_action, max_action]."""
    episode_limit: int
    """Environment steps after which an episode is cut off."""
    random_return: float
    """Return that counts as a score of 0."""
    expert_return: float
    """Return that counts as a score of 100."""
    score: ScoreKind
    """``normalised`` by the reference scores in the data set; ``success``: percent of episodes that reach the goal,
    which ends them; ``return``: there are no reference scores, and a score is the plain return."""
    reward_transform: RewardTransform = "none"
    """``antmaze`` learns from 4 (r − 0.5)."""
    steps: int = 2_000_000
    """Gradient steps of the full-length run."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """What a pack shares."""
    member: MemberConfig = MemberConfig()
    """What each member has."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How policies are judged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = re.fullmatch(r"minari-[A-Za-z0-9_.-]+", self.name) is not None
        require(named, "name", self.name, "'minari-' and letters, digits, dots, dashes and underscores")
        require(bool(self.minari_id), "minari_id", self.minari_id, "the id of a Minari data set")
        require_number(self, "a positive whole number", "observation_size", "action_size", "episode_limit", "steps")
        require_number(self, "a positive number", "max_action")
        require_number(self, "a finite number", "random_return", "expert_return")
        above = self.expert_return > self.random_return
        require(above, "expert_return", self.expert_return, f"above random_return ({self.random_return})")
        try:
            spec = json.loads(self.environment_spec)
        except ValueError as error:
            raise UserError(f"environment_spec is no JSON: {error}.") from error
        require(isinstance(spec, dict) and bool(spec.get("id")), "environment_spec", spec, "a group with an 'id'")


@dataclass(frozen=True)
class RunConfig(Plain):
    """One trial: a task, a configuration, and its seeds as one pack."""

    task: str
    """Name of the task."""
    members: tuple[MemberConfig, ...] = (MemberConfig(),)
    """The pack."""
    steps: int = 2_000_000
    """Gradient steps."""
    profile: Profile = "official"
    """``official`` is what the paper's released program does, its oddities included; ``principled`` calibrates covariance
    and κ, projects λ, and is judged by its last checkpoint. It names where the settings below come from."""
    physics: Physics = "d4rl"
    """``d4rl`` evaluates with the body masses of MuJoCo ≤ 2.1.1, under which D4RL was recorded; ``modern`` with today's."""
    data: DataConfig = DataConfig()
    """The data set."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """What the pack shares."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How it is judged."""
    log_every: int = 1000
    """Gradient steps between rows of ``metrics.csv``; each row is the mean over them."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints: each is written with the first row after them, and there is always one at the end."""
    definition: TaskDefinition | None = None
    """The task itself where it is not built in, so that a worker or a report needs nothing else to know it."""
    measures: tuple[str, ...] = ()
    """What is measured of each policy besides its score, at every evaluation; names of ``diffcps.training.measures``."""

    later: ClassVar[frozenset[str]] = frozenset({"definition", "measures"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.task), "task", self.task, "the name of a task")
        if self.definition is not None:
            require(
                self.definition.name == self.task, "task", self.task, f"as in its definition, {self.definition.name!r}"
            )
        require(len(self.members) >= 1, "seeds", len(self.members), "at least 1")
        seeds = [m.seed for m in self.members]
        if len(set(self.members)) != len(seeds):
            raise UserError(f"two members of the pack are the same (seeds {seeds}): give each its own seed.")
        require_number(self, "a positive whole number", "steps", "log_every")
        require_number(self, "a positive number", "checkpoint_minutes")
        if self.algorithm.algorithm == "bc" and self.evaluation.candidates > 1:
            raise UserError("behaviour cloning learns no values to choose among candidates with: candidates must be 1.")
        if any(member.slack is not None for member in self.members):
            least = 4 * self.algorithm.policy_freq
            behaviour = self.algorithm.behaviour_steps
            require(behaviour >= least, "behaviour_steps", behaviour, f"at least {least}, from which slack can set κ")
            fewer = f"fewer than the {self.steps} steps, or κ would hold nothing"
            require(behaviour < self.steps, "behaviour_steps", behaviour, fewer)
            if self.algorithm.held_policy == "average":
                settled = self.algorithm.average_settles
                enough = (
                    f"at least {settled:.0f}, five memories of the averaged policy after ema_start, to hold the average"
                )
                require(behaviour >= settled, "behaviour_steps", behaviour, enough)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """See ``Plain.from_dict``. A setting of earlier versions that never changed a result is passed over."""
        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if name != "checkpoint_every"}
        return super().from_dict(values)

    @cached_property
    def key(self) -> str:
        """A readable name plus a hash of everything that determines the result.

        Run folder, checkpoint and MLflow run are found by it, so starting the same trial again is resuming it.
        ``checkpoint_minutes`` is left out: it changes what a kill costs, never what is learned.
        """
        values = self.to_dict()
        del values["checkpoint_minutes"]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
        first = self.members[0]
        name = f"{self.task}_T{self.algorithm.diffusion_steps}_clip{first.lambda_clip:g}_kl{first.target_kl:.4g}"
        return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{name}_{digest}")
