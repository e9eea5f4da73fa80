"""What a trial costs, counted and in seconds, and which engine pays for it."""

import functools
import math
import statistics
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from diffcps import algorithms
from diffcps.algorithms.base import Algorithm, Batch, Stage
from diffcps.algorithms.pack import Pack
from diffcps.config import Member, RunConfig
from diffcps.tasks.registry import task_of
from diffcps.training.engine import EngineKind, Work, draw, learn

COMPILE_FROM_SECONDS = 0.2
"""For each operation that is compiled, of eager steps on one core. On a CPU compiling T = 5 takes a minute and saves a quarter
of the time of wide networks, and half of narrow ones', so it has paid twice after some ten minutes."""
COMPILE_FROM_STEPS = 100_000
"""On a GPU a captured step's time goes to reading and writing activations; compiling, a minute or two, saves about a
millisecond of it a step."""


@dataclass(frozen=True)
class Choice:
    """An engine and the reason for it, for a person."""

    engine: EngineKind
    reason: str

    @property
    def preparing(self) -> str:
        """What comes before the first step, in a word."""
        return "compiling" if self.engine == "compiled" else "starting"


def choose(config: RunConfig, device: torch.device) -> Choice:
    """The engine for a trial: a function of its settings and the kind of device alone, so a resumed trial's is the same."""
    if device.type == "cuda":
        if config.steps >= COMPILE_FROM_STEPS:
            return Choice("compiled", "compiled and captured as a CUDA graph")
        return Choice("graph", "captured as a CUDA graph, for the trial is too short to repay compiling")
    operations = sum(kind.operations for kind in counted(config).kinds.values())
    if eager_seconds(config) >= COMPILE_FROM_SECONDS * operations:
        return Choice("compiled", "compiled")
    return Choice("eager", "one operation after the other, for the trial is too short to repay compiling")


def eager_seconds(config: RunConfig, step: int | None = None) -> float:
    """Seconds that the first ``step`` steps of a trial, or all, take eagerly on one core; on other machines in proportion.

    Matrix products at 119 GFLOP/s; elementwise work, which grows with a network's width where products grow with its square;
    and 9 µs for each operation, however small. Within a third of what was measured for T = 5 and 40, widths 64 to 256, one to
    eight members (2-core AMD EPYC).
    """
    costs, work = counted(config).kinds, (1.0 + 160.0 / config.value("hidden_size")) * len(config.members) / 119e9

    def seconds(cycle: Sequence[str]) -> float:
        return statistics.fmean(9e-6 * costs[kind].operations + work * costs[kind].flops for kind in cycle)

    return over_stages(config, [seconds(stage.cycle) for stage in counted(config).stages], step)


def over_stages(config: RunConfig, each: Sequence[float], step: int | None = None) -> float:
    """The sum over the first ``step`` steps of a trial, or all, of what a step of its stage is worth; ``each`` for each stage."""
    begin, end, total = 0, config.steps if step is None else step, 0.0
    for stage, value in zip(counted(config).stages, each, strict=True):
        until = end if stage.until is None else min(stage.until, end)
        total += max(0, until - begin) * value
        begin = max(begin, until)
    return total


def counted(config: RunConfig) -> "Counted":
    """What a trial takes; independent of its members."""
    return _counted(_one(config))


def acting_cost(config: RunConfig, observations: int, candidates: int) -> "Cost":
    """What acting takes: so many observations of one member, with so many candidates each."""
    algorithm, pack = _fresh(_one(config))
    states = torch.zeros(1, observations, algorithm.problem.observation_size)
    parameters = pack.some(algorithm.acting)
    parameters["actor"] = parameters[algorithm.actors(algorithm.config)[config.evaluation.actor]]
    acting = algorithm.acting_as(config.evaluation.actor)
    noise = torch.zeros(acting.draws, 1, observations * candidates, algorithm.problem.action_size)
    with torch.no_grad(), _Counter() as counter:
        acting.act(parameters, states, noise, torch.zeros(1, observations, candidates))
    return counter.cost


def filling_flops(config: RunConfig) -> list[float]:
    """Floating-point operations for a row of the data and a member, before the first step of each stage: see ``fill``."""
    algorithm, pack = _fresh(_one(config))
    rows = 10
    data, found = _rows(algorithm, rows), []
    for stage in range(len(algorithm.stages)):
        with torch.no_grad(), _Counter() as counter:
            algorithm.fill(stage, pack, data, key=torch.zeros(1, 2, dtype=torch.int64), heartbeat=lambda: None)
        found.append(counter.flops / rows)
    return found


def prepared_bytes(config: RunConfig, rows: int) -> int:
    """What every pack keeps of a data set beside the recorded one: columns that ``prepare`` changes or adds."""
    algorithm, pack = _fresh(_one(config))
    recorded = _rows(algorithm, 10)
    kept = {value.untyped_storage().data_ptr() for value in vars(recorded).values() if isinstance(value, torch.Tensor)}
    prepared = algorithm.prepare(pack, recorded)
    columns = [value for value in vars(prepared).values() if isinstance(value, torch.Tensor)]
    columns += prepared.more.values()
    own = [value for value in columns if value.untyped_storage().data_ptr() not in kept]
    return sum(value.numel() * value.element_size() for value in own) // 10 * rows


def member_column_bytes(config: RunConfig, rows: int) -> int:
    """What every member adds to a data set."""
    algorithm, _ = _fresh(_one(config))
    return 4 * rows * sum(math.prod(size) for size in algorithm.member_columns.values())


# Counted by running the functions themselves for one member on zeros ----------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a computation takes."""

    flops: int
    """Floating-point operations of matrix products, 2·m·n·k each."""
    operations: int
    """Calls of torch's operations."""
    peak_bytes: int
    """The most memory that it takes at a time, beside what was there before."""
    kernels: int
    """Those operations that compute; the others are views."""
    moved_bytes: int
    """What kernels read and write, if each reads its inputs and writes its outputs once."""


class Counted(NamedTuple):
    """What a trial takes, counted of one member."""

    kinds: dict[str, Cost]
    """Each kind of gradient step."""
    stages: tuple[Stage, ...]
    state_bytes: int
    """All that training changes."""


_NO_WORK = torch.ops.aten._unsafe_view.default, torch.ops.aten.detach.default
"""Views that torch does not call so."""


class _Counter(TorchDispatchMode):
    """Counts what runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.operations = self.bytes = self.peak = self.kernels = self.moved = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @property
    def cost(self) -> Cost:
        """The counts so far."""
        return Cost(self.flops, self.operations, self.peak, kernels=self.kernels, moved_bytes=self.moved)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Counting needs nothing of the compiler, whose import takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(value.untyped_storage()) for value in tree_leaves(args) if isinstance(value, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        self.operations += 1
        if not (func.is_view or func in _NO_WORK):
            self.kernels += 1
            touched = [value for value in tree_leaves((args, kwargs, found)) if isinstance(value, torch.Tensor)]
            self.moved += sum(value.numel() * value.element_size() for value in touched)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor):
                self._hold(value.untyped_storage(), before)
        return found

    def _hold(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        if storage in self._known or id(storage) in before:  # a view, or changed in place
            return
        size = storage.nbytes()
        self._known.add(storage)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.bytes -= size


@functools.lru_cache(maxsize=1024)
def _one(config: RunConfig) -> RunConfig:
    """A trial of its first member, with all that its computation depends on.

    It is kept, because every status that a trial writes asks for it six times, and checking all settings takes a millisecond.
    """
    return config.replaced(members=(Member(0),), checkpoint_minutes=1.0, measures=())


def _fresh(config: RunConfig) -> tuple[Algorithm[Any], Pack]:
    """The algorithm and a pack of a trial, on the CPU."""
    task = task_of(config)
    sizes = task.observation_size, task.action_size, task.max_action
    algorithm = algorithms.build(config, sizes, torch.device("cpu"))
    return algorithm, Pack.create(algorithm, [torch.Generator()])


def _rows(algorithm: Algorithm[Any], rows: int) -> Batch:
    """A data set without content; its rewards differ, as those of a real one do."""

    def column(*size: int) -> torch.Tensor:
        return torch.zeros(rows, *size)

    return Batch(
        observations=column(algorithm.problem.observation_size),
        actions=column(algorithm.problem.action_size),
        rewards=torch.arange(float(rows)),
        next_observations=column(algorithm.problem.observation_size) + 1.0,
        terminals=column(),
        more={name: column(*size) for name, size in algorithm.columns.items()},
        of_member={name: column(*size)[None] for name, size in algorithm.member_columns.items()},
    )


@functools.lru_cache(maxsize=1024)
def _counted(config: RunConfig) -> Counted:
    algorithm, pack = _fresh(config)
    work = Work(
        pack=pack,
        data=_rows(algorithm, 1000),
        span=torch.tensor([[0, 1000]]),
        key=torch.zeros(1, 2, dtype=torch.int64),
        step=torch.zeros((), dtype=torch.int64),
        sums=torch.zeros(len(algorithm.metrics), 1),
    )
    kinds = {}
    for kind in algorithm.reachable:
        with _Counter() as counter:
            learn(algorithm, work, draw(algorithm, work, kind), kind)
        kinds[kind] = counter.cost
    state = sum(value.numel() * value.element_size() for value in pack.state().values())
    return Counted(kinds, algorithm.stages, state)
