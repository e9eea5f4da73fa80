"""The packs of a worker: as few as fit into its memory. They take their steps in turn, as one pack of all members would.

Several packs need less memory, for the temporary tensors of a gradient step are then of fewer members at a time. A pack may
hold members of several trials, and a trial may have members in several packs: ``Share`` is what a trial sees of them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.checkpoint import LearnerState
from diffcps.tasks.registry import Task
from diffcps.training import cost
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.learner import Learner
from diffcps.training.measures.subject import Measured, Measurer
from diffcps.training.policy import Policy
from diffcps.training.workers import joined_arrays, joined_state, share_of_state, shares

_GIB = 2**30
_HEADROOM = 0.8
"""Share of a worker's memory that may be planned for; the sizes below are estimates."""
_BASE = 1.0 * _GIB
"""The process itself with its libraries; on a GPU, CUDA's own."""

T = TypeVar("T")


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


def fitting(
    config: RunConfig, members: int, task: Task, *, rows: int, memory: float | None, copied: bool = False
) -> list[slice]:
    """The members of a worker in as few packs as fit, of sizes that differ by at most one.

    Args:
        config: the trial, or one of those that train together.
        members: how many members this worker trains.
        task: its task.
        rows: transitions of its data set, or of all.
        memory: bytes that the worker may use on the device where it learns; ``None`` for no limit.
        copied: whether packs join data sets, and so keep copies of them.

    Raises:
        UserError: not even packs of one member fit; says how much is missing and what to change.
    """
    if memory is None:
        return shares(members, 1)
    data = (2 if copied else 1) * 4 * rows * (2 * task.observation_size + task.action_size + 2)
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
    """Several packs of one worker as one learner: each takes its steps in turn."""

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)

    @property
    def step(self) -> int:
        """Steps that all packs have taken."""
        return self.learners[-1].step

    @property
    def can_save(self) -> bool:
        """Whether a checkpoint can be written between two rows: several packs take turns."""
        return len(self.learners) == 1 and not self.learners[0].filling

    def update(self, steps: int, after_step: Callable[[], None] | None = None) -> dict[str, torch.Tensor]:
        """Every pack takes ``steps`` gradient steps; returns the mean of each metric over them, ``[members]``."""
        parts = [learner.update(steps, after_step) for learner in self.learners]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Piece:
    """Members of a trial that are in one pack, with what evaluates and measures them."""

    learner: Learner
    part: int
    """Which part of the learner they are."""
    evaluator: Evaluator
    measurer: Measurer

    @property
    def own(self) -> slice:
        """Which members of the learner they are."""
        return self.learner.members_of(self.part)


class Share:
    """What a trial sees of the packs in which its members train."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)

    @property
    def learners(self) -> list[Learner]:
        """The packs that it has members in."""
        return [piece.learner for piece in self.pieces]

    @property
    def step(self) -> int:
        """Steps that all its members have taken."""
        return self.learners[-1].step

    @property
    def filling(self) -> bool:
        """See ``Learner.filling``."""
        return any(learner.filling for learner in self.learners)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics that gradient steps can give."""
        return self.learners[0].metrics

    def policies(self, networks: dict[str, Any] | None = None) -> list[Policy]:
        """A snapshot of each piece for acting, by other ``networks`` of all members if they are given."""
        newest = [piece.learner.policy(piece.part) for piece in self.pieces]
        if networks is None:
            return newest
        return [policy.with_networks(own) for policy, own in zip(newest, self._cut(networks), strict=True)]

    def evaluate(self, policies: Sequence[Policy], index: int, episodes: int) -> Rollouts:
        """Roll out all members, piece after piece."""
        pairs = zip(self.pieces, policies, strict=True)
        return Rollouts(**joined_arrays([vars(piece.evaluator(policy, index, episodes)) for piece, policy in pairs]))

    def measure(self, policies: Sequence[Policy], index: int, last: bool) -> Measured:
        """Measure all members, piece after piece."""
        pairs = zip(self.pieces, policies, strict=True)
        values, samples = zip(*(piece.measurer(policy, index, last) for piece, policy in pairs), strict=True)
        return Measured(joined_arrays(values), joined_arrays(samples))

    def state_dict(self) -> LearnerState:
        """The state of its members, the same as that of one learner of all of them."""
        return cast("LearnerState", joined_state([piece.learner.state_dict(piece.own) for piece in self.pieces]))

    def load_state_dict(self, state: LearnerState) -> None:
        """The inverse of ``state_dict``. Raises ``UserError`` when the state is of other members or networks."""
        for piece, own in zip(self.pieces, self._cut(state), strict=True):
            piece.learner.load_state_dict(own, piece.own)

    def _cut(self, state: T) -> Iterator[T]:
        """The state of each piece from that of all members."""
        sizes = [len(range(piece.learner.members)[piece.own]) for piece in self.pieces]
        for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
            yield share_of_state(state, slice(begin, end))

    def close(self) -> None:
        """Close the environments."""
        for piece in self.pieces:
            piece.evaluator.close()


def cut(sizes: Sequence[int], packs: Sequence[slice]) -> Iterator[list[tuple[int, slice]]]:
    """Which trials, and which of their members, each pack holds, where members of trials of these sizes stand in a row."""
    bounds = list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))
    for pack in packs:
        yield [
            (number, slice(max(pack.start, begin) - begin, min(pack.stop, end) - begin))
            for number, (begin, end) in enumerate(bounds)
            if max(pack.start, begin) < min(pack.stop, end)
        ]
