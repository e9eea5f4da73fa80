"""The members of a trial, shared among its workers and, within a worker, among several packs.

Members are independent of each other, so how they are shared changes no number. Several packs in a worker need less memory:
the temporary tensors of a gradient step are then of fewer members at a time. A learner's state has the member axis first in
every tensor; what has no axis is the same for all.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.tasks.registry import Task
from diffcps.training import cost
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.learner import Learner
from diffcps.training.measures.subject import Measured, Measurer
from diffcps.training.policy import Policy

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=24)
"""A worker may wait that long for the others' evaluation. Ray notices a dead worker, within seconds."""


def shares(members: int, parts: int) -> list[slice]:
    """``members`` in ``parts`` contiguous shares whose sizes differ by at most one."""
    bounds = [members * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def joined_arrays(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Arrays ``[members of a share, …]`` of every share, in order, as arrays ``[K, …]``."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joined_state(parts: Sequence[Any]) -> Any:
    """One learner's state from those of all shares, in order. Raises ``ValueError`` when they do not fit together."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: joined_state([part[name] for part in parts]) for name in first}
    if isinstance(first, torch.Tensor) and first.dim() > 0:
        return torch.cat(list(parts))
    if any(bool(part != first) for part in parts):
        raise ValueError(f"the shares of a trial differ in what must be the same: {parts}")
    return first


def share_of_state(state: Any, own: slice) -> Any:
    """The state of the members ``own``, as copies, from the whole pack's: the inverse of ``joined_state``."""
    if isinstance(state, dict):
        return {name: share_of_state(value, own) for name, value in state.items()}
    if isinstance(state, torch.Tensor) and state.dim() > 0:
        return state[own].clone()
    return state


class WorkerLostError(Exception):
    """Another worker of the trial has died, or has said why it failed; ``details`` is its traceback."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class Workers:
    """The workers that train one trial together, each a share of its members, as one of them sees the group.

    All of them call the same functions in the same order, at rows only; they talk through ``torch.distributed``, on CPUs.
    There is one kind of message, which can also announce a failure. So a worker that fails may ``leave`` at any moment, and
    the others learn of it in their next call. A group of one, the default, talks to nobody.

    Args:
        rank: this worker's index in the order of shares. The first one writes the run folder and shows the trial.
        count: how many workers there are.
        own: the members that this worker trains.
    """

    def __init__(self, rank: int = 0, count: int = 1, own: slice = slice(None)) -> None:
        self.rank, self.count, self.own = rank, count, own
        self.first = rank == 0
        self._lost = False

    def agree(self, what: str, value: object) -> None:
        """Wait for all. Raises ``UserError`` when a value differs, because the workers' machines see different files."""
        values = self.collect(value)
        if any(other != values[0] for other in values):
            raise UserError(
                f"the workers of this trial differ in {what}: {', '.join(map(str, values))}. Every node must see the same "
                "results folder and the same data."
            )

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every worker's arrays ``[its members, …]`` put together as ``[K, …]``, for every worker."""
        return joined_arrays(self.collect(dict(arrays)))

    def decide(self, value: bool) -> bool:
        """The first worker's value, for every worker."""
        return bool(self.collect(value)[0])

    def join_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The learner's state of the whole pack, from every worker's; only the first worker may use the result."""
        if self.count == 1:
            return state
        own = _on_cpu(state)
        self.collect(None)  # a worker that has failed says so here, before any state is sent
        parts: list[Any] | None = [None] * self.count if self.first else None
        self._call(torch.distributed.gather_object, own, parts)
        return joined_state(parts) if parts is not None else state

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """This worker's share of the learner's state of the whole pack."""
        return dict(share_of_state(state, self.own))

    def leave(self, reason: str, details: str = "", mistake: bool = False) -> None:
        """Tell the others, in their next call, that this worker has failed; ``mistake`` when the error is a ``UserError``."""
        if self._lost or self.count == 1:
            return
        parts: list[Any] = [None] * self.count
        try:
            self._call(torch.distributed.all_gather_object, parts, (reason, details, mistake))
        except WorkerLostError as error:
            logger.warning("no other worker is left to tell of this failure: %s", error)

    def collect(self, value: object) -> list[Any]:
        """Every worker's value, in order, for every worker. Raises what a worker that has left gave as its reason."""
        if self.count == 1:
            return [value]
        parts: list[Any] = [None] * self.count
        self._call(torch.distributed.all_gather_object, parts, value if value is None else [value])
        for rank, part in enumerate(parts):
            if isinstance(part, tuple):
                self._lost = True
                reason, details, mistake = part
                if mistake:
                    raise UserError(reason)
                raise WorkerLostError(f"worker {rank + 1} of {len(parts)}: {reason}", details)
        return [part and part[0] for part in parts]

    def _call(self, collective: Any, *arguments: Any) -> None:
        """Call a collective function; if it fails, another worker has died."""
        try:
            collective(*arguments)
        except Exception as error:
            self._lost = True
            raise WorkerLostError(
                f"a worker of this trial died without giving a reason (killed, or out of memory?): {error}"
            ) from error


def connect(rank: int, workers: int, address: str) -> None:
    """Connect to the other workers; ``address`` is a free ``host:port`` of the first worker's machine."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://{address}", rank=rank, world_size=workers, timeout=_PATIENCE
    )


def disconnect() -> None:
    """End the connection."""
    torch.distributed.destroy_process_group()


def _on_cpu(state: Any) -> Any:
    """The state with its tensors on the CPU, for a message."""
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state


_GIB = 2**30
_HEADROOM = 0.8
"""Share of a worker's memory that may be planned for; the sizes below are estimates."""
_BASE = 1.0 * _GIB
"""The process itself with its libraries; on a GPU, CUDA's own."""


def resident_bytes(config: RunConfig) -> int:
    """What a member always takes: all that training changes, also in a copy for a checkpoint."""
    return 2 * cost.counted(config).state_bytes


def working_bytes(config: RunConfig) -> int:
    """What a member takes for a moment: its largest gradient step, and a choice of actions.

    A captured step keeps its memory while policies act.
    """
    counts = [int(way.value) for way in algorithms.other_ways(config) if way.name == "candidates"]
    acting = cost.acting_cost(config, max(1, config.evaluation.episodes), max(config.evaluation.candidates, *counts, 1))
    return max(kind.peak_bytes for kind in cost.counted(config).kinds.values()) + acting.peak_bytes


def fitting(config: RunConfig, members: int, task: Task, *, rows: int, memory: float | None) -> list[slice]:
    """The members of a worker in as few packs as fit, of sizes that differ by at most one.

    Args:
        config: the trial.
        members: how many of its members this worker trains.
        task: its task.
        rows: transitions of its data set.
        memory: bytes that the worker may use on the device where it learns; ``None`` for no limit.

    Raises:
        UserError: not even packs of one member fit; says how much is missing and what to change.
    """
    if memory is None:
        return shares(members, 1)
    data = 4 * rows * (2 * task.observation_size + task.action_size + 2)
    prepared, working = cost.prepared_bytes(config, rows), working_bytes(config)
    resident, columns = resident_bytes(config), cost.member_column_bytes(config, rows)

    def wanted(packs: int) -> float:
        largest = -(-members // packs)
        return (_BASE + data + packs * prepared + members * (columns + resident) + largest * working) / _HEADROOM

    least = min(range(1, members + 1), key=wanted)
    if wanted(least) > memory:
        raise UserError(
            f"{members} seeds of {task.name} need at least {wanted(least) / _GIB:.1f} GiB "
            f"({(data + least * prepared + members * columns) / _GIB:.1f} for the data, "
            f"{members * resident / _GIB:.1f} for networks and optimisers, {working / _GIB:.2f} for a step of one "
            f"seed) and this worker has {memory / _GIB:.1f}. Share them among more workers with --workers-per-trial, "
            "let fewer trials share a machine or GPU (--cpus-per-trial, --gpus-per-trial), or ask for fewer --seeds."
        )
    return shares(members, next(packs for packs in range(1, members + 1) if wanted(packs) <= memory))


def worker_memory(device: torch.device, share: float, ram: float | None) -> float | None:
    """Bytes that a worker may use where it learns: its share of the GPU, or of the machine's RAM."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory * min(1.0, share))
    return ram


class Packs:
    """Several packs of one worker as one learner: each takes its steps in turn, and one state holds them all."""

    def __init__(self) -> None:
        self.learners: list[Learner] = []
        self._evaluators: list[Evaluator] = []
        self._measurers: list[Measurer] = []

    def add(self, learner: Learner, evaluator: Evaluator, measurer: Measurer) -> None:
        """Add a pack, with what evaluates and measures its members."""
        self.learners.append(learner)
        self._evaluators.append(evaluator)
        self._measurers.append(measurer)

    @property
    def step(self) -> int:
        """Steps that all packs have taken."""
        return self.learners[-1].step

    def update(self, steps: int, heartbeat: Callable[[], None] | None = None) -> dict[str, torch.Tensor]:
        """Every pack takes ``steps`` gradient steps; returns the mean of each metric over them, ``[members]``."""
        parts = [learner.update(steps, heartbeat) for learner in self.learners]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics that ``update`` can give."""
        return self.learners[0].metrics

    def policy(self) -> list[Policy]:
        """A snapshot of each pack for acting."""
        return [learner.policy() for learner in self.learners]

    def evaluate(self, policies: Sequence[Policy], index: int, episodes: int) -> Rollouts:
        """Roll out all members, pack after pack."""
        pairs = zip(self._evaluators, policies, strict=True)
        return Rollouts(**joined_arrays([vars(evaluator(policy, index, episodes)) for evaluator, policy in pairs]))

    def measure(self, policies: Sequence[Policy], index: int, last: bool) -> Measured:
        """Measure all members, pack after pack."""
        pairs = zip(self._measurers, policies, strict=True)
        values, samples = zip(*(measurer(policy, index, last) for measurer, policy in pairs), strict=True)
        return Measured(joined_arrays(values), joined_arrays(samples))

    def state_dict(self) -> dict[str, Any]:
        """The state of all packs, the same as that of one learner of all members."""
        return dict(joined_state([learner.state_dict() for learner in self.learners]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ``UserError`` when the state is of other members or networks."""
        bounds = itertools.accumulate((learner.members for learner in self.learners), initial=0)
        for learner, bound in zip(self.learners, itertools.pairwise(bounds), strict=True):
            learner.load_state_dict(share_of_state(state, slice(*bound)))

    def close(self) -> None:
        """Close the environments."""
        for evaluator in self._evaluators:
            evaluator.close()
