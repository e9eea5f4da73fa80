"""Groups of settings that algorithms share, without torch; the ``Settings`` of an algorithm inherits those that it uses."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from diffcps.config import RunConfig
from diffcps.config.plain import Plain, hints, require, require_number
from diffcps.errors import UserError

Precision = Literal["fp32", "bf16"]
PolicyClass = Literal["diffusion", "gaussian", "mixture", "deterministic"]
Covariance = Literal["posterior", "forward", "calibrated", "interpolated", "learned"]
Constraint = Literal["behaviour_loss", "elbo", "iwae", "renyi"]
Dual = Literal["released", "projected", "softplus", "pi", "augmented"]


class TaskFacts(Protocol):
    """What an algorithm may know of a task to choose its settings."""

    @property
    def name(self) -> str:
        """E.g. ``hopper-medium-v2``."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The hyper-parameters of the DiffCPS paper for this task, by the names of settings."""


Changes = Mapping[str, Any]
"""Fields of a trial that an algorithm changes: ``settings`` and ``evaluation`` as dictionaries, ``steps`` as a number."""


OFFICIAL: dict[str, Callable[[RunConfig], Changes]] = {"official": lambda trial: {}}
"""The profile that every algorithm has: its published settings."""


def of_pack(default: float) -> Any:
    """A real number that all members of a pack share, because arrays common to all are made from it."""
    return field(default=default, metadata={"pack": True})


@dataclass(frozen=True)
class Settings(Plain):
    """The settings of one member of a pack.

    Real numbers may differ between the members, except those marked ``of_pack``; all else is the same in a pack.
    """

    @classmethod
    def names(cls) -> list[str]:
        """Every setting of the algorithm."""
        return [item.name for item in fields(cls)]

    @classmethod
    def of_member(cls) -> list[str]:
        """Those that may differ between the members of a pack."""
        real = [item.name for item in fields(cls) if hints(cls)[item.name] in (float, float | None)]
        shared = {item.name for item in fields(cls) if "pack" in item.metadata}
        return [name for name in real if name not in shared]

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
    """What every learner of networks has."""

    batch_size: int = 256
    """Transitions in one gradient step of one member."""
    hidden_size: int = 256
    """Width of the hidden layers of every network."""
    hidden_layers: int = 3
    """Hidden layers of the policy's network and of each critic."""
    precision: Precision = "fp32"
    """Arithmetic of the matrix products of hidden layers: ``fp32``, or ``bf16`` (faster, coarser)."""
    learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "batch_size", "hidden_size", "hidden_layers")
        require_number(self, "a positive number", "learning_rate")


@dataclass(frozen=True)
class Critic(Settings):
    """What learning a critic takes."""

    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the twin critic."""
    discount: float = 0.99
    """γ, the discount of future rewards. With 0 no next action is drawn."""
    target_rate: float = 0.005
    """τ, the Polyak rate of the target critic, applied every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive number", "critic_learning_rate")
        require_number(self, "between 0 and 1", "discount", "target_rate")

    @classmethod
    def check_pack(cls, members: Sequence[Settings]) -> None:
        """See ``Settings.check_pack``. A discount of zero changes what a step draws, so it is of all members or of none."""
        super().check_pack(members)
        discounts = [member.discount for member in members if isinstance(member, Critic)]
        if 0.0 in discounts and any(discounts):
            raise UserError(f"discount is 0 for all members of a pack or for none; here it is {discounts}.")


@dataclass(frozen=True)
class Average(Settings):
    """A policy that follows the online one as an exponential moving average (EMA)."""

    ema_decay: float = 0.995
    """Decay of the averaged policy that gives the target actions."""
    ema_every: int = 5
    """The averaged policy moves every so many steps."""
    ema_start: int = 1000
    """The averaged policy stays at its initial copy before this step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "ema_every")
        require_number(self, "a whole number, zero or more", "ema_start")
        require_number(self, "between 0 and 1", "ema_decay")

    @property
    def average_settles(self) -> float:
        """Gradient steps after which less than a hundredth of the averaged policy is its initial copy."""
        forgotten = 1.0 - self.ema_decay
        return self.ema_start + 5.0 * self.ema_every / forgotten if forgotten else math.inf


@dataclass(frozen=True)
class Chain(Settings):
    """A diffusion chain over actions."""

    diffusion_steps: int = 5
    """T, the number of steps of the diffusion chain."""
    beta_min: float = of_pack(0.1)
    """Smallest rate of the variance-preserving noise schedule."""
    beta_max: float = of_pack(10.0)
    """Largest rate of the variance-preserving noise schedule."""
    time_embedding: int = 16
    """Size of the sinusoidal embedding of the diffusion step (even)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "diffusion_steps", "time_embedding")
        even = self.time_embedding % 2 == 0 and self.time_embedding > 2
        require(even, "time_embedding", self.time_embedding, "an even number of at least 4")
        require_number(self, "a positive number", "beta_min", "beta_max")
        require(self.beta_max >= self.beta_min, "beta_max", self.beta_max, f"at least beta_min ({self.beta_min})")


@dataclass(frozen=True)
class AnyPolicy(Chain):
    """A policy of any class, and how well it fits an action: its behaviour loss, or a bound on −log μ(a|s)."""

    policy: PolicyClass = "diffusion"
    """Class of the policy: a ``diffusion`` chain, a ``gaussian``, a ``mixture`` of Gaussians, or ``deterministic``."""
    mixture_components: int = 8
    """Gaussians in a ``mixture`` policy."""
    covariance: Covariance = "posterior"
    """Reverse variance of the chain. ``posterior``: β̃ (as released). ``forward``: β. ``calibrated``: β̃ + c L, one for each
    step. ``interpolated``: between β̃ and β, by the network. ``learned``: β̃ + c r(a, t, s), by the network."""
    last_step_noise: bool = False
    """Whether actions take the noise of the last step of the chain."""
    constraint: Constraint = "behaviour_loss"
    """How well a policy fits the data: the ``behaviour_loss`` L, or the cross-entropy to the behaviour in nats, estimated
    from above by the weighted ``elbo``, the ``iwae`` or the ``renyi`` bound. DiffCPS holds it at κ."""
    constraint_samples: int = 8
    """Paths through the chain for each action in the ``iwae`` and ``renyi`` bounds."""
    renyi_order: float = of_pack(0.5)
    """Order α of the ``renyi`` bound, from 0 (the IWAE) to 1 (the ELBO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "mixture_components", "constraint_samples")
        require_number(self, "between 0 and 1", "renyi_order")
        self._check_class()

    def _check_class(self) -> None:
        """Refuse settings that do not fit the class of the policy."""
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
class Cloning(AnyPolicy, Average, Learning):
    """Behaviour cloning with a policy of any class, by which ``bc`` learns and others may begin."""

    policy_freq: int = 2
    """The policy (and λ) is updated every so many steps."""
    grad_norm: float = 9.0
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "policy_freq")
        require_number(self, "a positive number", "grad_norm")


@dataclass(frozen=True)
class Improving(Cloning, Critic):
    """A policy of any class that a critic improves, after some steps of cloning if wanted."""

    max_q_backup: bool = False
    """Back up the largest value over several next actions (the paper's choice for most AntMaze tasks)."""
    max_q_candidates: int = 10
    """Next actions per transition that a max-Q backup draws."""
    behaviour_steps: int = 0
    """Gradient steps of behaviour cloning before the policy is improved; ``slack`` measures from their end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a positive whole number", "max_q_candidates")
        require_number(self, "a whole number, zero or more", "behaviour_steps")
