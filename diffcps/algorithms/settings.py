"""Groups of settings that algorithms share, without torch; the ``Settings`` of an algorithm inherits those that it uses."""

import ast
import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, Literal, Protocol

from diffcps.config import RunConfig
from diffcps.config.plain import Plain, hints, require, setting
from diffcps.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]
PolicyClass = Literal["diffusion", "gaussian", "mixture", "deterministic"]
Covariance = Literal["posterior", "forward", "calibrated", "interpolated", "learned"]
Constraint = Literal["behaviour_loss", "elbo", "iwae", "renyi"]
Dual = Literal["released", "projected", "softplus", "pi", "augmented"]
Constrained = Literal["online", "average"]
Students = Literal["none", "one-step"]
RewardTransform = Literal["none", "minus_one", "antmaze", "ten_five", "times_100", "return_range"]

REWARD_SCALES = {
    "none": (1.0, 0.0), "minus_one": (1.0, -1.0), "antmaze": (4.0, -2.0), "ten_five": (10.0, -5.0), "times_100": (100.0, 0.0),
}  # fmt: skip
"""Reward transform -> scale and shift; that of ``return_range`` depends on the data."""
SAME_STATE = 1e-6
"""Largest distance between a next observation and the observation of the next row within a trajectory."""


class TaskFacts(Protocol):
    """What an algorithm may know of a task to choose its settings."""

    @property
    def name(self) -> str:
        """E.g. ``hopper-medium-v2``."""

    @property
    def benchmark(self) -> str:
        """E.g. ``locomotion`` or ``antmaze``."""

    @property
    def episode_limit(self) -> int:
        """Environment steps after which an episode is cut off; 1: a bandit."""

    @property
    def goal_rewards(self) -> bool:
        """Whether its rewards are 1 at the goal and 0 elsewhere."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The hyper-parameters of the DiffCPS paper for this task, by the names of settings."""


Changes = Mapping[str, Any]
"""Fields of a trial that an algorithm changes: ``settings`` and ``evaluation`` as dictionaries, ``steps`` as a number."""


def published(table: str, task: TaskFacts) -> dict[str, Any]:
    """The settings of a task in ``published/TABLE.csv`` beside this file; empty when it is not there.

    A row serves every version of a data set: authors used one version or another of the same mazes. Expert data alone, which
    none of them used, get the row of medium-expert.
    """
    text = (resources.files(__package__) / "published" / f"{table}.csv").read_text(encoding="utf-8")
    stem = re.sub(r"(?<!medium)-expert$", "-medium-expert", task.name.rpartition("-v")[0])
    rows = [row for row in csv.DictReader(text.splitlines()) if row.pop("task") == stem]
    return {name: ast.literal_eval(value) for row in rows for name, value in row.items()}


EVALUATIONS = {"locomotion": (5_000, 10), "antmaze": (50_000, 100)}
"""Benchmark of D4RL -> gradient steps from one evaluation to the next, and its episodes, where an algorithm has no other."""


def d4rl(
    task: TaskFacts,
    settings: Mapping[str, Any],
    steps: int,
    evaluations: Mapping[str, tuple[int, int]] = EVALUATIONS,
) -> dict[str, Any]:
    """These settings (see ``unless_bandit``), and on the benchmarks of ``evaluations`` so many steps and these evaluations."""
    changes: dict[str, Any] = {"settings": unless_bandit(task, settings)}
    if task.benchmark in evaluations:
        every, episodes = evaluations[task.benchmark]
        changes |= {"steps": steps, "evaluation": {"every": every, "episodes": episodes}}
    return changes


def unless_bandit(task: TaskFacts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """These settings; on a bandit, where values are rewards, a discount of 0 alone."""
    return {"discount": 0.0} if task.episode_limit == 1 else dict(settings)


OFFICIAL: dict[str, Callable[[RunConfig], Changes]] = {"official": lambda trial: {}}
"""The profile that every algorithm has: its published settings."""


@dataclass(frozen=True)
class Settings(Plain):
    """The settings of one member of a pack.

    Real numbers may differ between the members, except those marked ``pack``; all else is the same in a pack. The groups below
    extend this class alone: of two bases with the same setting a dataclass takes the first one's default, even an inherited one.
    """

    @classmethod
    def names(cls) -> list[str]:
        """Every setting of the algorithm."""
        return [item.name for item in fields(cls)]

    @classmethod
    def of_member(cls) -> list[str]:
        """Those that may differ between the members of a pack."""
        real = [item.name for item in fields(cls) if hints(cls)[item.name] in (float, float | None)]
        shared = {item.name for item in fields(cls) if item.metadata.get("pack")}
        return [name for name in real if name not in shared]

    @classmethod
    def of_acting(cls) -> list[str]:
        """Those that change nothing but how a trained policy acts, so that they can be changed after training."""
        return [item.name for item in fields(cls) if item.metadata.get("acting")]

    @classmethod
    def symbols(cls) -> dict[str, str]:
        """Setting -> its symbol, for those that have one."""
        return {item.name: item.metadata["symbol"] for item in fields(cls) if item.metadata.get("symbol")}

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that are settings of this algorithm."""
        return {name: value for name, value in values.items() if name in cls.names()}

    @classmethod
    def check_pack(cls, members: Sequence["Settings"]) -> None:
        """Raise ``UserError`` naming a setting in which the members differ and may not."""
        for name in set(cls.names()) - set(cls.of_member()):
            values = [getattr(member, name) for member in members]
            if any(value != values[0] for value in values):
                raise UserError(f"{name} is the same for all members of a pack; here it is {values}.")


@dataclass(frozen=True)
class Learning(Settings):
    """What the settings of every algorithm extend: the platform reads ``hidden_size`` and ``precision``.

    Of other settings it reads, where an algorithm has them, ``discount``, ``reward_transform``, ``lambda_max``, ``policy``,
    ``covariance``, ``last_step_noise``, ``diffusion_steps``, ``student`` and ``constraint``: give these names to nothing else.
    """

    batch_size: int = setting(256, "a positive whole number")
    """Transitions in one gradient step of one member."""
    hidden_size: int = setting(256, "a positive whole number")
    """Width of the hidden layers of every network."""
    hidden_layers: int = setting(3, "a positive whole number")
    """Hidden layers of the policy's network and of each critic."""
    precision: Precision = "fp32"
    """Arithmetic of matrix products: ``fp32``; ``tf32``, whose factors have 10 bits on a GPU and which is fp32 elsewhere; or, of
    hidden layers, ``bf16`` (faster, coarser)."""
    learning_rate: float = setting(3e-4, "a positive number")
    """Adam's learning rate for the policy."""


@dataclass(frozen=True)
class WithCritic(Settings):
    """What learning a critic takes."""

    critic_learning_rate: float = setting(3e-4, "a positive number")
    """Adam's learning rate for the critic."""
    discount: float = setting(0.99, "between 0 and 1")
    """γ, the discount of future rewards."""
    target_rate: float = setting(0.005, "between 0 and 1")
    """τ, the Polyak rate of the target critic."""
    reward_transform: RewardTransform = "none"
    """The rewards that the critic learns from, r being those of the data: ``none`` r, ``minus_one`` r − 1, ``antmaze``
    4 (r − 0.5), ``ten_five`` 10 r − 5, ``times_100`` 100 r, ``return_range`` 1000 r / (largest − smallest return)."""

    @classmethod
    def check_pack(cls, members: Sequence[Settings]) -> None:
        """See ``Settings.check_pack``. A step with discount 0 may draw no next action, so all members have it, or none."""
        super().check_pack(members)
        discounts = [member.discount for member in members if isinstance(member, WithCritic)]
        if 0.0 in discounts and any(discounts):
            raise UserError(f"discount is 0 for all members of a pack or for none; here it is {discounts}.")


@dataclass(frozen=True)
class Average(Settings):
    """A policy that follows the online one as an exponential moving average (EMA)."""

    ema_decay: float = setting(0.995, "between 0 and 1")
    """Decay of the averaged policy. Where there is a critic, its target actions are those of this policy."""
    ema_every: int = setting(5, "a positive whole number")
    """The averaged policy moves every so many steps."""
    ema_start: int = setting(1000, "a whole number, zero or more")
    """The averaged policy stays at its initial copy before this step."""

    @property
    def average_settles(self) -> float:
        """Gradient steps after which less than a hundredth of the averaged policy is its initial copy."""
        forgotten = 1.0 - self.ema_decay
        return self.ema_start + 5.0 * self.ema_every / forgotten if forgotten else math.inf


@dataclass(frozen=True)
class Chain(Settings):
    """A diffusion chain over actions."""

    diffusion_steps: int = setting(5, "a positive whole number", symbol="T", search="5,10,15,20")
    """T, the number of steps of the diffusion chain."""
    beta_min: float = setting(0.1, "a positive number", pack=True)
    """Smallest rate of the variance-preserving noise schedule."""
    beta_max: float = setting(10.0, "a positive number", pack=True)
    """Largest rate of the variance-preserving noise schedule."""
    time_embedding: int = setting(16, "a positive whole number")
    """Size of the sinusoidal embedding of the diffusion step (even)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        even = self.time_embedding % 2 == 0 and self.time_embedding > 2
        require(even, "time_embedding", self.time_embedding, "an even number of at least 4")
        require(self.beta_max >= self.beta_min, "beta_max", self.beta_max, f"at least beta_min ({self.beta_min})")


@dataclass(frozen=True)
class AnyPolicy(Chain):
    """A policy of any class, and how well it fits an action: its behaviour loss, or a bound on −log μ(a|s)."""

    policy: PolicyClass = "diffusion"
    """Class of the policy: a ``diffusion`` chain, a ``gaussian``, a ``mixture`` of Gaussians, or ``deterministic``."""
    mixture_components: int = setting(8, "a positive whole number")
    """Gaussians in a ``mixture`` policy."""
    covariance: Covariance = "posterior"
    """Reverse variance of the chain. ``posterior``: β̃ (as released). ``forward``: β. ``calibrated``: β̃ + c L, one for each
    step. ``interpolated``: between β̃ and β, by the network. ``learned``: β̃ + c r(a, t, s), by the network."""
    last_step_noise: bool = False
    """Whether actions take the noise of the last step of the chain."""
    constraint: Constraint = "behaviour_loss"
    """How well a policy fits the data: the ``behaviour_loss`` L, or the cross-entropy to the behaviour in nats, estimated
    from above by the weighted ``elbo``, the ``iwae`` or the ``renyi`` bound. DiffCPS keeps it below κ."""
    constraint_samples: int = setting(8, "a positive whole number")
    """Paths through the chain for each action in the ``iwae`` and ``renyi`` bounds."""
    renyi_order: float = setting(0.5, "between 0 and 1", pack=True)
    """Order α of the ``renyi`` bound, from 0 (the IWAE) to 1 (the ELBO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = self.constraint in ("iwae", "renyi", "elbo")
        if self.policy == "diffusion" and bounds and self.covariance == "posterior":
            raise UserError(
                f"constraint {self.constraint!r} needs a chain with a density, and with covariance 'posterior' the last "
                "step has none. Take covariance 'calibrated', 'forward', 'interpolated' or 'learned'."
            )
        if self.policy != "diffusion" and (self.covariance != "posterior" or self.last_step_noise):
            raise UserError(
                f"covariance and last_step_noise belong to a diffusion policy; this one is {self.policy!r}."
            )
        if self.policy != "diffusion" and self.constraint in ("iwae", "renyi"):
            raise UserError(
                f"constraint {self.constraint!r} bounds a diffusion policy; a {self.policy} has 'elbo', exactly."
            )
        if self.policy == "deterministic" and self.constraint != "behaviour_loss":
            raise UserError("a deterministic policy has no density: take constraint 'behaviour_loss'.")


@dataclass(frozen=True)
class WithStudent(Settings):
    """What a student of a chain takes; see ``student``."""

    student: Students = "none"
    """``one-step``: a network beside the chain that learns to reach in one step where the chain carries the same noise. It is
    evaluated beside the policy and can act in its place; the chain learns nothing from it."""


@dataclass(frozen=True)
class WithRaisedStudent(WithStudent):
    """What a student takes where there is a critic."""

    student_value: float = setting(0.003, "zero or more")
    """Weight of the critic's value in the student's loss, beside its squared distance to the chain in units of the action bound;
    0: it only imitates."""


@dataclass(frozen=True)
class Cloning(WithStudent, AnyPolicy, Average, Learning):
    """Behaviour cloning with a policy of any class, by which ``bc`` learns and others may begin."""

    policy_freq: int = setting(2, "a positive whole number")
    """The policy (and λ) is updated every so many steps."""
    grad_norm: float = setting(9.0, "a positive number")
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""
    normalise: bool = False
    """Observations get mean 0 and deviation 1 over the data set, when learning and when acting."""
    cosine_decay: bool = False
    """Learning rates of policy and critic fall to 0 along a cosine over the trial; those of multipliers and student stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        taught = self.student == "none" or self.policy == "diffusion"
        require(taught, "student", self.student, f"'none' beside a {self.policy} policy, which acts in one step itself")


@dataclass(frozen=True)
class Improving(WithRaisedStudent, Cloning, WithCritic):
    """A policy of any class that a critic improves, after some steps of cloning if wanted."""

    max_q_backup: bool = False
    """Back up the largest value over several next actions (the paper's choice for most AntMaze tasks)."""
    max_q_candidates: int = setting(10, "a positive whole number")
    """Next actions per transition that a max-Q backup draws."""
    critic_norm: bool = False
    """A layer norm after each activation of the critic, which bounds how its values grow where there are no data."""
    behaviour_steps: int = setting(0, "a whole number, zero or more")
    """Gradient steps of behaviour cloning before the policy is improved; ``slack`` measures from their end."""
