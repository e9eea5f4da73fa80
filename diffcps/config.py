"""Every setting of a run, its default, and the rule it must satisfy.

These frozen dataclasses are the only home of a default. Each checks itself when it is made, turns into a plain
dictionary and back, and refuses unknown keys, so a configuration that exists is a configuration that can run.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from diffcps.errors import UserError, nearest

if TYPE_CHECKING:
    from typing import Self

Physics = Literal["d4rl", "modern"]
DataSource = Literal["d4rl", "minari", "collected"]
RewardTransform = Literal["none", "antmaze"]
ScoreKind = Literal["normalised", "success", "return"]
Precision = Literal["fp32", "bf16"]


def home() -> Path:
    """Where the project keeps what it makes outside of results: ``$DIFFCPS_HOME``, by default ``~/.diffcps``."""
    return Path(os.environ.get("DIFFCPS_HOME") or "~/.diffcps").expanduser().absolute()


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """The annotated types of a class's fields; a sweep of a thousand trials asks for them many thousand times."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise UserError(f"{name} = {value!r}: it must be {rule}.")


def _require_number(owner: object, rule: str, *names: str) -> None:
    """Check numeric fields of ``owner`` by a rule written as one of the phrases below (NaN satisfies none of them)."""
    checks = {
        "a positive whole number": lambda v: v >= 1,
        "a whole number, zero or more": lambda v: v >= 0,
        "a positive number": lambda v: v > 0 and math.isfinite(v),
        "a finite number": math.isfinite,
        "zero or more": lambda v: v >= 0 and math.isfinite(v),
        "between 0 and 1": lambda v: 0 <= v <= 1,
    }
    for name in names:
        _require(checks[rule](getattr(owner, name)), name, getattr(owner, name), rule)


class _Plain:
    """Checks the type of every setting, turns a dataclass into a plain dictionary and back; unknown keys are errors."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            _require_type(name, hint, value)
            if hint is float:
                # 0, 0.0 and -0.0 are one setting and must give one key
                object.__setattr__(self, name, float(value) + 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (tuples become lists), ready for JSON."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """The inverse of ``to_dict``. Raises ``UserError`` naming an unknown key, a missing one or a wrong type."""
        _require(isinstance(values, Mapping), cls.__name__, values, "a group of settings")
        hints = _hints(cls)
        for key in values:
            if key not in hints:
                raise UserError(f"{cls.__name__} has no setting {key!r}{nearest(str(key), hints) or '.'}")
        try:
            return cls(**{key: _revive(hints[key], value) for key, value in values.items()})
        except (TypeError, OverflowError) as error:
            raise UserError(f"{cls.__name__}: {error}") from error

    def replaced(self, **changes: Any) -> "Self":
        """A copy with the given fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[type-var]


def _require_type(name: str, hint: Any, value: Any) -> None:
    """Refuse a value that is not of the annotated type; a whole number will do for a real one, a boolean for neither."""
    plain: dict[type, tuple[str, Any]] = {
        int: ("a whole number", int),
        float: ("a number", (int, float)),
        bool: ("true or false", bool),
        str: ("text", str),
    }
    if hint in plain:
        rule, kind = plain[hint]
        _require(isinstance(value, kind) and (hint is bool or not isinstance(value, bool)), name, value, rule)
    elif get_origin(hint) is UnionType:  # of one type and None
        if value is not None:
            _require_type(name, get_args(hint)[0], value)
    elif get_origin(hint) is Literal:
        _require(value in get_args(hint), name, value, f"one of {', '.join(map(repr, get_args(hint)))}")
    elif get_origin(hint) is tuple:
        _require(isinstance(value, tuple), name, value, "a list")
        for item in value:
            _require_type(name, get_args(hint)[0], item)
    else:
        _require(isinstance(value, hint), name, value, f"a {hint.__name__}")


def _revive(hint: Any, value: Any) -> Any:
    """A value of JSON as the annotated type; one that does not fit is left for the check of types to refuse."""
    if get_origin(hint) is UnionType and value is not None:
        return _revive(get_args(hint)[0], value)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return hint.from_dict(value)  # type: ignore[union-attr]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_revive(get_args(hint)[0], item) for item in value)
    return value


@dataclass(frozen=True)
class AlgorithmConfig(_Plain):
    """What the whole pack shares, because it changes the computation itself."""

    diffusion_steps: int = 5
    """T, the number of steps of the diffusion chain."""
    beta_min: float = 0.1
    """Smallest rate of the variance-preserving noise schedule."""
    beta_max: float = 10.0
    """Largest rate of the variance-preserving noise schedule."""
    hidden_size: int = 256
    """Width of the three hidden layers of the noise net and of each critic."""
    time_embedding: int = 16
    """Size of the sinusoidal embedding of the diffusion step (even)."""
    batch_size: int = 256
    """Transitions in one gradient step of one member."""
    discount: float = 0.99
    """γ, the discount of future rewards."""
    target_rate: float = 0.005
    """τ, the Polyak rate of the target critic, applied every step."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the twin critic."""
    lambda_learning_rate: float = 3e-5
    """Adam's learning rate for the multiplier λ."""
    lambda_max: float = 100.0
    """Upper clip of λ where the policy's loss uses it."""
    policy_freq: int = 2
    """The policy and λ are updated every so many steps."""
    precision: Precision = "fp32"
    """Arithmetic of the hidden layers' matrix products, nearly all there is: ``fp32``, or ``bf16`` (faster, coarser)."""
    max_q_backup: bool = False
    """Back up the largest value over several next actions (the paper's choice for most AntMaze tasks)."""
    max_q_candidates: int = 10
    """Next actions per transition that a max-Q backup draws."""
    ema_decay: float = 0.995
    """Decay of the averaged policy that gives the target actions."""
    ema_every: int = 5
    """The averaged policy moves every so many steps."""
    ema_start: int = 1000
    """The averaged policy stays at its initial copy before this step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = "diffusion_steps", "hidden_size", "batch_size", "policy_freq", "max_q_candidates", "ema_every"
        _require_number(self, "a positive whole number", *positive, "time_embedding")
        _require(
            self.time_embedding % 2 == 0 and self.time_embedding > 2,
            "time_embedding",
            self.time_embedding,
            "an even number of at least 4",
        )
        _require_number(self, "a whole number, zero or more", "ema_start")
        _require_number(self, "a positive number", "beta_min", "beta_max", "critic_learning_rate", "lambda_max")
        _require_number(self, "zero or more", "lambda_learning_rate")
        _require_number(self, "between 0 and 1", "discount", "target_rate", "ema_decay")
        _require(self.beta_max >= self.beta_min, "beta_max", self.beta_max, f"at least beta_min ({self.beta_min})")


@dataclass(frozen=True)
class MemberConfig(_Plain):
    """What may differ between the members of one pack; inside the learner each becomes a tensor of length K."""

    seed: int = 0
    """Seeds this member's initial weights and all of its random streams."""
    learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""
    lambda_init: float = 1.0
    """λ before the first step."""
    lambda_clip: float = 0.0
    """Lower clip of λ where the policy's loss uses it (the paper's λ_clip)."""
    target_kl: float = 0.05
    """κ, the bound on the behaviour loss that λ enforces."""
    grad_norm: float = 9.0
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_number(self, "a whole number, zero or more", "seed")
        # one 32-bit word: the random streams of longer seeds could run into another seed's
        _require(self.seed < 2**32, "seed", self.seed, f"at most {2**32 - 1}")
        _require_number(self, "a positive number", "learning_rate", "grad_norm")
        _require_number(self, "zero or more", "lambda_init", "lambda_clip", "target_kl")


@dataclass(frozen=True)
class EvaluationConfig(_Plain):
    """How policies are judged."""

    every: int = 50_000
    """Gradient steps between evaluations."""
    episodes: int = 10
    """Episodes per member and evaluation."""
    candidates: int = 50
    """Actions drawn per state, of which one is chosen by softmax over the target critic; 1 takes the policy's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_number(self, "a positive whole number", "every", "episodes", "candidates")


@dataclass(frozen=True)
class DataConfig(_Plain):
    """Which data set a task is learned from."""

    source: DataSource = "d4rl"
    """``d4rl`` reads the task's D4RL file; ``minari`` the Minari data set that the file was imported as, or that the
    task was made from; ``collected`` uses data made on the spot by the behaviour policies that ship with the project
    (for the bandit and PointMaze tasks the only source there is)."""
    rows: int = 50_000
    """Transitions to collect (``collected`` only)."""
    seed: int = 0
    """Seed of the collection (``collected`` only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_number(self, "a positive whole number", "rows")
        _require_number(self, "a whole number, zero or more", "seed")


@dataclass(frozen=True)
class TaskDefinition(_Plain):
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
        _require(named, "name", self.name, "'minari-' and letters, digits, dots, dashes and underscores")
        _require(bool(self.minari_id), "minari_id", self.minari_id, "the id of a Minari data set")
        _require_number(self, "a positive whole number", "observation_size", "action_size", "episode_limit", "steps")
        _require_number(self, "a positive number", "max_action")
        _require_number(self, "a finite number", "random_return", "expert_return")
        above = self.expert_return > self.random_return
        _require(above, "expert_return", self.expert_return, f"above random_return ({self.random_return})")
        try:
            spec = json.loads(self.environment_spec)
        except ValueError as error:
            raise UserError(f"environment_spec is no JSON: {error}.") from error
        _require(isinstance(spec, dict) and bool(spec.get("id")), "environment_spec", spec, "a group with an 'id'")


@dataclass(frozen=True)
class RunConfig(_Plain):
    """One trial: a task, a configuration, and its seeds as one pack."""

    task: str
    """Name of the task."""
    members: tuple[MemberConfig, ...] = (MemberConfig(),)
    """The pack."""
    steps: int = 2_000_000
    """Gradient steps."""
    profile: Literal["official"] = "official"
    """``official`` is what the paper's released program does, its oddities included."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.task), "task", self.task, "the name of a task")
        if self.definition is not None:
            _require(
                self.definition.name == self.task, "task", self.task, f"as in its definition, {self.definition.name!r}"
            )
        _require(len(self.members) >= 1, "seeds", len(self.members), "at least 1")
        seeds = [m.seed for m in self.members]
        if len(set(self.members)) != len(seeds):
            raise UserError(f"two members of the pack are the same (seeds {seeds}): give each its own seed.")
        _require_number(self, "a positive whole number", "steps", "log_every")
        _require_number(self, "a positive number", "checkpoint_minutes")

    def to_dict(self) -> dict[str, Any]:
        """See ``_Plain.to_dict``. A built-in task has no definition, so none is written: its keys stay what they were."""
        values = super().to_dict()
        if self.definition is None:
            del values["definition"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """See ``_Plain.from_dict``. A setting of earlier versions that never changed a result is passed over."""
        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if name != "checkpoint_every"}
        return super().from_dict(values)

    @property
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
