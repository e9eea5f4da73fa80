"""The workers of a trial: each trains a share of its members, and they meet at rows.

Members are independent of each other, so how they are shared changes nothing but the rounding of arithmetic. A learner's state
has the member axis first in every tensor; what has no axis is the same for all.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from diffcps.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = timedelta(hours=24)
"""A worker may wait that long for the others' evaluation. Ray notices a dead worker, within seconds."""


def shares(members: int, parts: int) -> list[slice]:
    """``members`` in ``parts`` contiguous shares, of sizes that differ by at most one."""
    bounds = [members * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def joined_arrays(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Arrays ``[members of a share, …]`` of every share, in order, as arrays ``[K, …]``."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joined_state(parts: Sequence[Any]) -> Any:
    """One learner's state from those of all shares, in order; also one pack from several, and one data set.

    Raises ``ValueError`` when they do not fit together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {name: joined_state([part[name] for part in parts]) for name in first}
    if is_dataclass(first) and not isinstance(first, type):
        own = {field.name: joined_state([getattr(part, field.name) for part in parts]) for field in fields(first)}
        return replace(first, **own)
    if isinstance(first, torch.Tensor) and first.dim() > 0:
        return torch.cat(list(parts))
    if any(bool(part != first) for part in parts):
        raise ValueError(f"the shares of a trial differ in what must be the same: {parts}")
    return first


def share_of_state(state: Any, own: slice) -> Any:
    """The state of the members ``own``, as copies, from the whole pack's: the inverse of ``joined_state``."""
    if isinstance(state, dict):
        return {name: share_of_state(value, own) for name, value in state.items()}
    if isinstance(state, torch.Tensor):
        return (state[own] if state.dim() else state).clone()
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

    def join_state(self, state: T) -> T:
        """The learner's state of the whole pack, from every worker's; only the first worker may use the result."""
        if self.count == 1:
            return state
        own = on_cpu(state)
        self.collect(None)  # a worker that has failed says so here, before any state is sent
        parts: list[Any] | None = [None] * self.count if self.first else None
        self._call(torch.distributed.gather_object, own, parts)
        return cast("T", joined_state(parts)) if parts is not None else state

    def own_state(self, state: T) -> T:
        """This worker's share of the learner's state of the whole pack."""
        return cast("T", share_of_state(state, self.own))

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


def on_cpu(state: Any) -> Any:
    """The state with its tensors on the CPU, for a message."""
    if isinstance(state, dict):
        return {name: on_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state
