"""A trial: its task, its data, its algorithm, its pack, and how it is evaluated."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from diffcps.config.plain import Plain, Value, Values, require, require_number, setting
from diffcps.errors import UserError, nearest

if TYPE_CHECKING:
    from typing import Self

Physics = Literal["d4rl", "modern"]
ScoreKind = Literal["normalised", "success", "return"]
Actor = Literal["online", "average", "student"]
ALGORITHM = "diffcps"
"""The algorithm where none is named."""


@dataclass(frozen=True)
class EvaluationConfig(Plain):
    """How policies are evaluated."""

    every: int = setting(50_000, "a positive whole number")
    """Gradient steps between evaluations."""
    episodes: int = setting(10, "a whole number, zero or more")
    """Episodes per member and evaluation; 0: policies are not evaluated, and the environment is not made."""
    candidates: int = setting(50, "a positive whole number")
    """Actions sampled per state at evaluation; the algorithm picks or combines them. 1: the policy's own action."""
    final_episodes: int | None = setting(None, "a positive whole number")
    """Episodes per member at the last evaluation; ``none``: as many as at the others."""
    actor: Actor = "online"
    """Which policy acts: the ``online`` one, its moving ``average``, or its one-step ``student``."""

    def episodes_at(self, last: bool) -> int:
        """Episodes per member at the last evaluation, or at one before it."""
        final = self.final_episodes if last and self.final_episodes is not None else self.episodes
        return final if self.episodes else 0


@dataclass(frozen=True)
class DataConfig(Plain):
    """The data set of a trial."""

    source: str = "d4rl"
    """Source of the data: one of the task's sources."""
    rows: int = setting(50_000, "a positive whole number")
    """Transitions to collect, for a source that makes its data; else those of the published data set."""
    seed: int = setting(0, "a whole number, zero or more")
    """Seed of the collection, for a source that makes its data, and of the choice of trajectories to hold out."""
    hold_out: float = setting(0.0, "between 0 and 1")
    """Share of the data (whole trajectories) held out from training, for the measures `fqe` and `critic`."""


@dataclass(frozen=True)
class TaskDefinition(Plain):
    """A task that is not built in: a Minari data set and the environment recorded with it."""

    name: str
    """Name of the task; begins with ``minari-``."""
    minari_id: str
    """Minari's id of the data set."""
    environment_spec: str
    """Gymnasium's specification (JSON) of the environment in which policies are evaluated."""
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
    steps: int = 2_000_000
    """Gradient steps of the full-length trial."""
    settings: Values = Values()
    """Settings of algorithms in which the task differs from their defaults; each takes those that it has."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How policies are evaluated."""

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
class Member(Plain):
    """One policy of a pack."""

    seed: int = setting(0, "a whole number, zero or more")
    """Seeds the initial weights and all random streams of this member."""
    settings: Values = Values()
    """Settings in which it differs from the pack."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # one 32-bit word: the random streams of longer seeds could run into those of another seed
        require(self.seed < 2**32, "seed", self.seed, f"at most {2**32 - 1}")


@dataclass(frozen=True)
class RunConfig(Plain):
    """One trial: a task, an algorithm with its settings, and a pack of members.

    It holds plain values only and can be stored and read without the algorithm; ``diffcps.algorithms.complete`` fills in
    its defaults and checks the values. ``settings`` are those of the first member and the others keep what differs from
    them, so trials that compute the same are equal.
    """

    task: str
    """Name of the task."""
    members: tuple[Member, ...] = (Member(),)
    """The pack."""
    steps: int = setting(2_000_000, "a positive whole number")
    """Gradient steps."""
    algorithm: str = ALGORITHM
    """Name of the algorithm."""
    settings: Values = Values()
    """Every setting of the algorithm by name."""
    profile: str = "official"
    """``official``: the published settings. Other profiles are those of the algorithm, for DiffCPS ``principled`` and
    ``robust``. A profile says where the settings come from; every one of them can still be changed."""
    physics: Physics = "d4rl"
    """``d4rl`` evaluates with the body masses of MuJoCo ≤ 2.1.1, under which D4RL was recorded; ``modern`` with today's."""
    data: DataConfig = DataConfig()
    """The data set."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How policies are evaluated."""
    log_every: int = setting(1000, "a positive whole number")
    """Gradient steps between rows of ``metrics.csv``; each row is the mean over them."""
    checkpoint_minutes: float = setting(5.0, "a positive number")
    """Minutes between checkpoints: each is written with the first row after them, and there is always one at the end."""
    keep_best: bool = False
    """Whether the networks of each member's best evaluation are kept, too, beside the newest."""
    keep_checkpoints: int = setting(0, "a whole number, zero or more")
    """How many evaluations, the newest, keep their networks, to choose among later."""
    definition: TaskDefinition | None = None
    """The task itself where it is not built in, so that a worker or a report needs nothing else to know it."""
    measures: tuple[str, ...] = ()
    """Names of measures: what is measured of each policy besides its score, at every evaluation."""
    acting: tuple[str, ...] = ()
    """Other ways to act, such as `candidates=1`: the final policies are also evaluated in each, in the same episodes."""
    symbols: Values = Values()
    """Setting -> its symbol, for the settings by which people tell trials of the algorithm apart. Changes no result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.task), "task", self.task, "the name of a task")
        require(bool(self.algorithm), "algorithm", self.algorithm, "the name of an algorithm")
        require(bool(self.profile), "profile", self.profile, "the name of a profile")
        if self.definition is not None:
            require(
                self.definition.name == self.task, "task", self.task, f"as in its definition, {self.definition.name!r}"
            )
        kept = not self.keep_best or self.evaluation.episodes > 0
        require(kept, "keep_best", self.keep_best, "off where policies are not evaluated")
        require(len(self.members) >= 1, "seeds", len(self.members), "at least 1")
        self._order_settings()
        seeds = [m.seed for m in self.members]
        if len(set(self.members)) != len(seeds):
            raise UserError(f"two members of the pack are the same (seeds {seeds}): give each its own seed.")

    def _order_settings(self) -> None:
        """Make the first member's settings those of the pack, and keep what differs from them in the other members.

        A setting that some members do not have (they take a default) stays with those that have it.
        """
        found = [{**self.settings, **member.settings} for member in self.members]
        pack = Values({name: value for name, value in found[0].items() if all(name in own for own in found)})
        members = []
        for member, own in zip(self.members, found, strict=True):
            differs = {name: value for name, value in own.items() if name not in pack or value != pack[name]}
            members.append(Member(member.seed, Values(differs)))
        object.__setattr__(self, "settings", pack)
        object.__setattr__(self, "members", tuple(members))

    def value(self, name: str, member: int | None = None) -> Any:
        """A setting of the pack or, if ``member`` is given, of that member; ``None`` where the algorithm has none.

        Its name is that of the algorithm (``target_kl``), one of ``OWN``, or dotted (``evaluation.every``).
        """
        part, _, last = name.rpartition(".")
        if part:
            return getattr(getattr(self, part), last)
        if name in OWN:
            return len(self.members) if name == "seeds" else getattr(self, name)
        own = {} if member is None else self.members[member].settings
        return own.get(name, self.settings.get(name))

    def values(self, name: str) -> tuple[Any, ...]:
        """A setting of each member."""
        return tuple(self.value(name, k) for k in range(len(self.members)))

    @property
    def compared(self) -> tuple[str, ...]:
        """Names, as for ``value``, of the settings that reports compare: of algorithm and evaluation, and ``hold_out``."""
        return (*self.settings, *(f"evaluation.{name}" for name in vars(self.evaluation)), "data.hold_out")

    def with_settings(self, **changes: Value) -> "Self":
        """A copy in which these settings have these values, in all members. Raises ``UserError`` for an unknown name."""
        for name, value in changes.items():
            if name not in self.settings:
                near = nearest(name, self.settings) or "."
                raise UserError(f"{self.algorithm} has no setting {name!r}{near}")
            if isinstance(self.settings[name], float) and type(value) is int:
                changes[name] = float(value)
        members = tuple(
            member.replaced(settings={n: v for n, v in member.settings.items() if n not in changes})
            for member in self.members
        )
        return self.replaced(settings={**self.settings, **changes}, members=members)

    def changed(self, changes: Mapping[str, Any]) -> "Self":
        """A copy in which these settings have these values, in all members; they are named as for ``value``.

        Raises ``UserError`` for a setting that the algorithm does not have.
        """
        own: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {"data": {}, "evaluation": {}, "": {}}
        for name, value in changes.items():
            part, _, last = name.rpartition(".")
            (own if name in OWN else parts[part])[last] = value
        if "seeds" in own:
            own["members"] = tuple(Member(seed) for seed in range(own.pop("seeds")))
        trial = self.with_settings(**parts[""])
        data, evaluation = trial.data.replaced(**parts["data"]), trial.evaluation.replaced(**parts["evaluation"])
        return trial.replaced(data=data, evaluation=evaluation, **own)

    @property
    def variant(self) -> tuple[str, ...]:
        """Profile and class of the policy, where they are not the usual ones: they name a trial beside its algorithm."""
        named = (self.profile, "official"), (self.value("policy"), "diffusion")
        return tuple(str(value) for value, usual in named if value not in (None, usual))

    @property
    def method(self) -> str:
        """What is compared: the algorithm with its ``variant``."""
        return " ".join([self.algorithm, *self.variant])

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps of the evaluations of which a complete trial keeps the policies, ascending; the last is its end."""
        every = self.evaluation.every
        steps = [*range(every, self.steps, every), self.steps]
        return tuple(steps[-max(1, self.keep_checkpoints) :])

    @cached_property
    def key(self) -> str:
        """A readable name plus a hash of everything that determines the result.

        Run folder, checkpoint and MLflow run are found by it, so starting the same trial again is resuming it.
        What ``KEEPING`` names is left out: it changes what is kept, never what is learned.
        """
        values = {name: value for name, value in self.to_dict().items() if name not in (*KEEPING, "symbols")}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
        parts = [self.task, self.algorithm, *self.variant]
        for name, symbol in self.symbols.items():
            value = self.value(name)
            word = re.sub(r"[^A-Za-z0-9]", "", str(symbol)) or name.rpartition("_")[2]
            parts.append(f"{word}{value:.4g}" if isinstance(value, float) else f"{word}{value}")
        return re.sub(r"[^A-Za-z0-9_.-]", "-", "_".join([*parts, digest]))


KEEPING = "checkpoint_minutes", "keep_best", "keep_checkpoints"
"""Settings that say what is kept of a trial. They may change when it is resumed."""
OWN = "algorithm", "profile", "seeds", "steps", "physics", "log_every", *KEEPING, "measures", "acting"
"""Names of the settings of a trial itself; ``seeds`` is their number."""
