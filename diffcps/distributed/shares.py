"""The members of a trial shared out among its workers, or among several packs of one worker.

Members are independent of each other, so it is only bookkeeping: which members are whose, and putting together what each
has. A learner's state has the member axis first in every tensor; what has no axis is the same for all.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from diffcps.errors import UserError

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=24)
"""A worker may wait that long for the others' evaluation; that one is dead is Ray's to see, and it takes it seconds."""


def shares(members: int, parts: int) -> list[slice]:
    """``members`` in ``parts`` contiguous shares as equal as can be; none is empty unless there are too few members."""
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
        raise ValueError(f"the shares of a trial have come apart: {parts}")
    return first


def share_of_state(state: Any, own: slice) -> Any:
    """The state of the members ``own``, as copies, from the whole pack's: the inverse of ``joined_state``."""
    if isinstance(state, dict):
        return {name: share_of_state(value, own) for name, value in state.items()}
    if isinstance(state, torch.Tensor) and state.dim() > 0:
        return state[own].clone()
    return state


class WorkerLostError(Exception):
    """Another worker of the trial has gone without a word, or said why it failed; ``details`` is its traceback."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class Workers:
    """A ``training.Company`` of Ray Train workers that talk through ``torch.distributed``, on CPUs, at rows only.

    Everything goes in one kind of message, which can also be the news of a failure: so a worker that fails may ``leave``
    at any moment, and whatever the others do next, they learn of it.

    Args:
        rank: this worker's place in the order of shares.
        count: how many workers there are.
        own: its members.
    """

    def __init__(self, rank: int, count: int, own: slice) -> None:
        self.rank, self.count, self.own = rank, count, own
        self._lost = False

    @property
    def first(self) -> bool:
        """Whether this worker keeps the run folder."""
        return self.rank == 0

    def agree(self, what: str, value: object) -> None:
        """Wait for all. Raises ``UserError`` when they differ: their machines do not see the same files."""
        values = self._exchange(value)
        if any(other != values[0] for other in values):
            raise UserError(
                f"the workers of this trial differ in {what}: {', '.join(map(str, values))}. Every node must see the same "
                "results folder and the same data."
            )

    def collect(self, value: object) -> list[Any]:
        """Every worker's value, in order, for every worker."""
        return self._exchange(value)

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every worker's arrays put together, for every worker."""
        return joined_arrays(self._exchange(dict(arrays)))

    def decide(self, value: bool) -> bool:
        """What the first worker says, for every worker."""
        return bool(self._exchange(value)[0])

    def join_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The whole pack's state at the first; the others get their own back."""
        own = _on_cpu(state)
        self._exchange(None)  # whoever has failed says so here, and no state is on its way then
        parts: list[Any] | None = [None] * self.count if self.first else None
        self._spoken(torch.distributed.gather_object, own, parts)
        return joined_state(parts) if parts is not None else state

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """This worker's members of a whole pack's state."""
        return dict(share_of_state(state, self.own))

    def leave(self, reason: str, details: str = "", mistake: bool = False) -> None:
        """Tell the others, when they next meet, that this worker has failed; ``mistake`` for a ``UserError``."""
        if self._lost:
            return
        parts: list[Any] = [None] * self.count
        try:
            self._spoken(torch.distributed.all_gather_object, parts, (reason, details, mistake))
        except WorkerLostError as error:
            logger.warning("nobody is left to be told of this failure: %s", error)

    def _exchange(self, value: object) -> list[Any]:
        """Every worker's value. Raises the reason of one that has left."""
        parts: list[Any] = [None] * self.count
        self._spoken(torch.distributed.all_gather_object, parts, value if value is None else [value])
        for rank, part in enumerate(parts):
            if isinstance(part, tuple):
                self._lost = True
                reason, details, mistake = part
                if mistake:
                    raise UserError(reason)
                raise WorkerLostError(f"worker {rank + 1} of {len(parts)}: {reason}", details)
        return [part and part[0] for part in parts]

    def _spoken(self, collective: Any, *arguments: Any) -> None:
        """Call a collective; one that breaks leaves nobody to talk to."""
        try:
            collective(*arguments)
        except Exception as error:
            self._lost = True
            raise WorkerLostError(
                f"a worker of this trial died without a word (killed, or out of memory?): {error}"
            ) from error


def connect(rank: int, workers: int, address: str) -> None:
    """Let ``torch.distributed`` talk to the other workers; ``address`` is a free ``host:port`` of the first's machine."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://{address}", rank=rank, world_size=workers, timeout=_PATIENCE
    )


def disconnect() -> None:
    """End it."""
    torch.distributed.destroy_process_group()


def _on_cpu(state: Any) -> Any:
    """A state whose tensors are on the CPU, as messages are."""
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state
