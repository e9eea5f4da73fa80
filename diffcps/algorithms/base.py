"""The contract of an algorithm: what the platform asks of it, and the words in which it answers.

An algorithm is one file with a dataclass of its settings and a subclass of ``Algorithm``. It says its networks by name, its
kinds of gradient step with their noise and metrics, its stages, its update, and how it acts. Memory, operations, checkpoints,
columns of ``metrics.csv`` and names in MLflow follow from that. Shapes: K members, B transitions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms import rewards, streams
from diffcps.algorithms.adam import Adam
from diffcps.algorithms.settings import OFFICIAL, Changes, Learning, TaskFacts
from diffcps.algorithms.value_nets import Critic
from diffcps.config import Actor, RunConfig
from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.algorithms.pack import Pack

Metrics = dict[str, Tensor]
"""Numbers of a gradient step by name, each ``[K]`` and detached."""
StepNoise = Mapping[str, Tensor]
"""The random numbers of a gradient step by name; ``rows`` ``[K, B]`` are those of the data set that make the batch."""


# Networks -------------------------------------------------------------------------------------------------------------


class Module(Protocol):
    """A network without its parameters: it knows where they start."""

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """``[K, P]``: parameters of each member, drawn from its own (CPU) generator."""


@dataclass(frozen=True)
class Copy:
    """Parameters that follow a network: copy ← (1 − rate) copy + rate network."""

    rate: Sequence[float]
    """For each member: 0 stays, 1 is the network itself."""
    every: int | None = None
    """Moves after every so many gradient steps; ``None``: where ``update`` calls ``Pack.move``."""
    start: int = 0
    """The first step after which it moves."""


@dataclass(frozen=True)
class Network:
    """A network of a pack and how it learns."""

    module: Module
    learning_rate: str | None = "learning_rate"
    """The setting that is the learning rate of its optimiser; ``None``: it does not learn."""
    copies: Mapping[str, Copy] = field(default_factory=dict)
    """Name -> a copy that follows it, equal to it at first."""
    optimiser: type[Adam] = Adam
    decay_steps: int | None = None
    """The learning rate falls to 0 along a cosine over so many updates; ``None``: it is constant."""


# Gradient steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Transitions of each member, or of the whole data set where the axes ``[K, B]`` are one, ``[N]``."""

    observations: Tensor
    """``[K, B, o]``."""
    actions: Tensor
    """``[K, B, a]``."""
    rewards: Tensor
    """``[K, B]``."""
    next_observations: Tensor
    """``[K, B, o]``."""
    terminals: Tensor
    """``[K, B]``, 1 where the episode ended for good."""
    more: dict[str, Tensor] = field(default_factory=dict)
    """Columns of the algorithm's own, ``[K, B, …]``."""
    of_member: dict[str, Tensor] = field(default_factory=dict)
    """Of a whole data set: columns that differ between the members, ``[K, N, …]``. In a batch they are in ``more``."""

    def rows(self, rows: Tensor, more: Sequence[str] = ()) -> "Batch":
        """The rows ``[K, B]`` of a data set, with those further columns."""
        columns = {name: value[rows] for name, value in vars(self).items() if name not in ("more", "of_member")}
        member = torch.arange(len(rows), device=rows.device)[:, None]
        own = {name: self.of_member[name][member, rows] for name in more if name in self.of_member}
        return Batch(**columns, more={name: self.more[name][rows] for name in more if name not in own} | own)


@dataclass(frozen=True)
class StepKind:
    """One kind of gradient step."""

    batch: int
    """B, transitions of each member."""
    metrics: tuple[str, ...]
    """Names of what ``update`` gives. Some are read elsewhere: ``q_value`` and ``policy_q`` (whether Q explodes),
    ``behaviour_loss``, ``lambda``, ``constraint``, ``target_kl`` and ``violation`` (criteria and diagnosis)."""
    noise: Mapping[str, streams.Noise] = field(default_factory=dict)
    """Name -> random numbers, of a kind in ``streams``. Their values depend on the order of the names."""
    reads: tuple[str, ...] = ()
    """Columns of ``Batch.more`` and ``Batch.of_member`` that it reads."""

    def draw(self, key: Tensor, step: Tensor, span: Tensor) -> dict[str, Tensor]:
        """The random numbers of a gradient step: a pure function of it and, for each member, of its key and its number of rows.

        Args:
            key: of each member's stream, ``[K, 2]``.
            step: an integer tensor.
            span: each member's rows of the data set, the first and how many: integers ``[K, 2]``.
        """
        return streams.draw({"rows": streams.Rows(self.batch, span), **self.noise}, key, step)


@dataclass(frozen=True)
class Stage:
    """A part of a training in which the same kinds of step repeat."""

    cycle: tuple[str, ...]
    """Step s is of kind ``cycle[s % len(cycle)]``."""
    until: int | None = None
    """The step before which it ends; ``None``: with the training."""

    @classmethod
    def in_shares(cls, cycles: Sequence[tuple[str, ...]], shares: Sequence[float], steps: int) -> "tuple[Stage, ...]":
        """Stages of these cycles, each with its share of a training of so many steps, and at least one of them."""
        ends = [0]
        for number, share in enumerate(shares[:-1], start=1):
            wanted = ends[-1] + max(1, round(share * steps))
            ends.append(min(wanted, steps - len(shares) + number))
        return tuple(cls(cycle, until) for cycle, until in zip(cycles, [*ends[1:], None], strict=True))


def require_stages(trial: RunConfig, count: int) -> None:
    """Raise ``UserError`` where a trial has fewer steps than its algorithm has stages."""
    if trial.steps < count:
        raise UserError(f"steps = {trial.steps}: {trial.algorithm} has {count} stages here, and each needs a step.")


# The algorithm --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is learned: sizes, and the length of the training."""

    observation_size: int
    action_size: int
    max_action: float
    """Actions are in ±max_action."""
    steps: int
    """Gradient steps of the trial."""


class Inert(NamedTuple):
    """Why a setting makes no difference."""

    effect: Literal["no effect", "hardly any effect"]
    why: str
    """Half a sentence, with the numbers; the same for all values of the setting."""
    steps: float = math.inf
    """Length of the trial from which on its value would make a difference."""


class Acting(Protocol):
    """What acts: an algorithm by its own rule, or a student in its place."""

    draws: int
    """D, normal numbers for each number of an action."""

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """See ``Algorithm.act``."""


S = TypeVar("S", bound=Learning)


class Algorithm(Generic[S]):
    """An algorithm for one pack: networks and equations. Parameters and all else that changes are in a ``Pack``.

    What runs in a gradient step waits for no result and draws no number, so it can be compiled or captured. Settings that
    differ between members come as ``pack.values``, ``[K]``; ``config`` is for those that all members share.
    """

    settings: ClassVar[type[Learning]]
    """The dataclass of its settings."""
    profiles: ClassVar[Mapping[str, Callable[[RunConfig], Changes]]] = OFFICIAL
    """Name -> what a profile changes of a trial that has the settings of its task."""
    chooses: ClassVar[bool] = True
    """Whether ``act`` can choose among several candidates."""
    unit_actions: ClassVar[bool] = False
    """Whether the actions of a batch are in units of their bound."""
    edge: ClassVar[float] = 0.0
    """The data's actions are kept this far from their bound, in units of it."""
    acting: ClassVar[tuple[str, ...]] = ("actor",)
    """Tensors and settings of a pack that acting and measuring need, where the pack has them."""
    averages: ClassVar[bool] = False
    """Whether there is an averaged policy, which can act too. Then a student can learn along with the policies."""
    has_density: ClassVar[bool] = False
    """Whether measures can compute its policy's distribution. It is then a ``bc.Cloner``."""
    judge: ClassVar[str | None] = None
    """The parameters of ``critic`` that a finished policy keeps, among ``acting``, and the measure ``critic`` reads; ``None``: no
    such critic is measured."""
    critic: Critic
    """Its critic, if it has one."""
    rounded: ClassVar[tuple[str, ...]] = ()
    """Metrics that rounding may decide, e.g. whether a bound is violated: compiled steps may give others than eager ones."""

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        self.members = members
        self.config: S = members[0]
        """Settings of the first member, for what the members share."""
        self.problem = problem
        self.device = device
        self.draws = 0
        """D, normal numbers for each number of an action when acting."""
        self.networks: dict[str, Network] = {}
        """The networks by name. A member's initial weights are drawn in this order."""
        self.columns: dict[str, tuple[int, ...]] = {}
        """Columns that it adds to the data set: name -> shape of a row. They are zeros until ``prepare`` or ``fill``."""
        self.member_columns: dict[str, tuple[int, ...]] = {}
        """The same for columns that differ between the members."""
        self.kinds: dict[str, StepKind] = {}
        """The kinds of gradient step by name."""
        self.stages: tuple[Stage, ...] = ()
        """The stages in order; each ends later than the one before it, and the last with the training."""

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The published settings for a task; by default those of the DiffCPS paper that the algorithm has."""
        return {"settings": cls.settings.among(task.settings)}

    @classmethod
    def actors(cls, settings: S) -> Mapping[Actor, str]:
        """Policies that can act -> the tensor of the pack that holds their parameters."""
        online: dict[Actor, str] = {"online": "actor"}
        return online | {"average": "average"} if cls.averages else online

    def acting_as(self, actor: Actor) -> Acting:
        """What acts when this policy does, with its parameters as ``actor``."""
        return self

    @classmethod
    def check(cls, trial: RunConfig, settings: S) -> None:
        """Raise ``UserError`` where a member's settings do not fit the trial."""

    @classmethod
    def check_training(cls, trial: RunConfig, settings: S) -> None:
        """Raise ``UserError`` where only a finished policy can have a member's settings."""

    @classmethod
    def inert(cls, trial: RunConfig, settings: S) -> Mapping[str, Inert]:
        """Settings of a member that make no difference, or hardly any, in this trial."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What training changes besides networks and copies: running means and the like at their start, ``[K, …]``."""
        return {}

    def prepare(self, pack: "Pack", data: Batch) -> Batch:
        """The data set as steps read it, from the data set as it was recorded; may set constants of the pack.

        Called once, before the first step or before a checkpoint is loaded. By default rewards get the transform that the
        settings name, and actions what ``unit_actions`` and ``edge`` say.
        """
        actions = data.actions / self.problem.max_action if self.unit_actions else data.actions
        if self.edge:
            limit = (1.0 - self.edge) * self.batch_bound
            actions = actions.clamp(-limit, limit)
        transform: Any = getattr(self.config, "reward_transform", "none")
        return replace(data, actions=actions, rewards=rewards.transformed(transform, data))

    def observed(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """What the networks see of the environment's observations ``[K, B, o]``; by default the same.

        Call it before you give observations to ``act`` or to a network. Those of a batch are already as networks see them.
        """
        return observations

    def update(self, pack: "Pack", batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place."""
        raise NotImplementedError

    def finish(self, stage: int, pack: "Pack") -> None:
        """Called between the last step of a stage and the first of the next one; may change the pack.

        What is evaluated or saved at the end of a stage is the pack before this.
        """

    def fill(self, stage: int, pack: "Pack", data: Batch, key: Tensor, heartbeat: Callable[[], None]) -> None:
        """Called before the first step of a stage: fill columns of ``data.more`` and ``data.of_member``, in place.

        When training resumes it is called for each stage so far, in order. Columns are no part of a checkpoint, so those of
        the newest stage must follow from the data, from networks that learn no more, and from random numbers of ``key``. They
        are columns of one data set, so a trial of an algorithm that has this method never shares a pack with another trial.

        Args:
            stage: the stage that begins.
            pack: where ``finish`` left it, or as a checkpoint has it.
            data: the data set.
            key: ``[K, 2]``, keys of streams that no gradient step draws from.
            heartbeat: to be called now and then by what takes long.
        """

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Choose actions.

        Args:
            parameters: those of ``acting``, with the policy that acts as ``actor``; of all members or of some.
            observations: ``[K, B, o]``, as ``observed``.
            noise: ``[D, K, B·N, a]`` standard normal, for N candidates of each observation, side by side.
            uniform: ``[K, B, N]`` on (0, 1), to choose a candidate with.

        Returns:
            ``[K, B, a]``.
        """
        raise NotImplementedError

    # What follows from the above

    @property
    def product(self) -> torch.dtype | None:
        """The type to which hidden layers round their products; see ``nn.linear``."""
        return torch.bfloat16 if self.config.precision == "bf16" else None

    @property
    def shape(self) -> dict[str, Any]:
        """Depth and type of products of its networks, for ``nn.Mlp``, ``value_nets.Critic`` and their like."""
        return {"layers": self.config.hidden_layers, "product": self.product}

    @property
    def batch_bound(self) -> float:
        """The bound of actions in a batch."""
        return 1.0 if self.unit_actions else self.problem.max_action

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the kinds."""
        return tuple(dict.fromkeys(name for kind in self.reachable for name in self.kinds[kind].metrics))

    @cached_property
    def reachable(self) -> tuple[str, ...]:
        """The kinds of step that a training takes."""
        taken = {name for stage in self.stages for name in stage.cycle}
        return tuple(name for name in self.kinds if name in taken)

    @cached_property
    def periodic(self) -> dict[str, Copy]:
        """The copies that move after every so many steps."""
        copies = {name: copy for network in self.networks.values() for name, copy in network.copies.items()}
        return {name: copy for name, copy in copies.items() if copy.every is not None}

    def stage_at(self, step: int) -> int:
        """The stage of gradient step ``step``, counted from 0."""
        later = (number for number, stage in enumerate(self.stages) if stage.until is None or step < stage.until)
        return next(later, len(self.stages) - 1)

    def kind_at(self, step: int) -> str:
        """The kind of gradient step ``step``."""
        cycle = self.stages[self.stage_at(step)].cycle
        return cycle[step % len(cycle)]

    def move_copies(self, pack: "Pack", step: int) -> None:
        """Move the copies that are due after gradient step ``step``."""
        for name, copy in self.periodic.items():
            if copy.every and step >= copy.start and step % copy.every == 0:
                pack.move(name)


def detached(metrics: Mapping[str, Tensor]) -> Metrics:
    """The same numbers without their gradients."""
    return {name: value.detach() for name, value in metrics.items()}


def values_of(members: Sequence[Any], name: str) -> list[float]:
    """A setting of each member; NaN for ``None``."""
    return [math.nan if getattr(member, name) is None else getattr(member, name) for member in members]
