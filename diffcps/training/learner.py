"""The learner: owns everything that training changes in a pack, and takes gradient steps through an engine."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms import streams
from diffcps.algorithms.base import Algorithm, Batch
from diffcps.algorithms.pack import Pack
from diffcps.config import RunConfig
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.checkpoint import LearnerState
from diffcps.training.engine import EngineKind, Work, build
from diffcps.training.policy import Policy
from diffcps.training.workers import joined_state, share_of_state

WHOLE = slice(None)
"""All members."""


@dataclass(frozen=True)
class Part:
    """Members of a pack that are of one trial, and the data that they learn from."""

    config: RunConfig
    dataset: Batch | Transitions
    """Transitions as they were recorded."""
    own: slice = field(default_factory=lambda: WHOLE)  # a slice cannot be hashed before Python 3.12
    """Which of the trial's members; by default all."""

    @property
    def seeds(self) -> list[int]:
        """Of these members."""
        return [member.seed for member in self.config.members[self.own]]


def on_device(dataset: Batch | Transitions, device: torch.device) -> Batch:
    """The recorded columns in float32 on a device; those that are there already are not copied."""

    def column(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    return Batch(
        observations=column(dataset.observations),
        actions=column(dataset.actions),
        rewards=column(dataset.rewards),
        next_observations=column(dataset.next_observations),
        terminals=column(dataset.terminals),
        more={},
    )


class Learner:
    """Trains a pack of K members, each on its trial's data, which are kept on the device.

    Each member has its own random stream, a function of its seed and the step, so what it learns does not depend on the
    other members, nor on the device.

    Args:
        parts: the members and their data. Those of several trials need the same algorithm, sizes and settings of a pack.
        max_action: actions lie in ±max_action.
        device: where everything lives.
        engine: how a gradient step is run; the attribute of this name tells which one is used and why.
        pool: memory pool for CUDA graphs, to share with packs that take turns with this one.
        heartbeat: called now and then while columns of the data set are filled, which may take hours.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        max_action: float,
        device: torch.device | str = "cpu",
        engine: EngineKind = "eager",
        pool: Any = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        device = torch.device(device)
        self._heartbeat = heartbeat
        self.step = 0
        self._taken: dict[str, int] = {}
        self.filling = False
        """Whether it fills the columns of a stage, which can take longer than the stage's gradient steps."""
        begun = [_begun(part, max_action, device) for part in parts]
        self._of_parts = [algorithm for algorithm, _, _ in begun]
        self.algorithm = _of_all(self._of_parts)
        self.pack: Pack = joined_state([pack for _, pack, _ in begun])
        seeds = [seed for part in parts for seed in part.seeds]
        span = _spans([(len(algorithm.members), len(data.actions)) for algorithm, _, data in begun])
        self.work = Work(
            pack=self.pack,
            data=joined_state([data for _, _, data in begun]),
            span=span.to(device),
            key=streams.keys(seeds, purpose=streams.LEARNING).to(device),
            step=torch.zeros((), dtype=torch.int64, device=device),
            sums=torch.zeros(len(self.algorithm.metrics), len(seeds), device=device),
        )
        self._filling_key = streams.keys(seeds, purpose=streams.FILLING).to(device)
        self._fill(0)
        self.engine = build(self.algorithm, self.work, engine, pool)

    @property
    def members(self) -> int:
        """K."""
        return len(self.work.key)

    def members_of(self, part: int) -> slice:
        """The members of a part."""
        before = sum(len(algorithm.members) for algorithm in self._of_parts[:part])
        return slice(before, before + len(self._of_parts[part].members))

    def update(self, steps: int, after_step: Callable[[], None] | None = None) -> dict[str, Tensor]:
        """Take ``steps`` gradient steps, up to the end of the row; returns each metric's mean over the row, ``[K]``.

        ``after_step`` is called after each step, so that a caller can show progress or keep the state: a learner that
        resumes from that state ends the row with the same means.
        """
        algorithm = self.algorithm
        taken = self._taken = dict.fromkeys(algorithm.kinds, 0) | self._taken
        for _ in range(steps):
            self.begin_stage(after_step)
            kind = algorithm.kind_at(self.step)
            self.engine.take(kind)
            algorithm.move_copies(self.pack, self.step)
            taken[kind] += 1
            self.step += 1
            if after_step is not None:
                after_step()
        found = {}
        for name, total in zip(algorithm.metrics, self.work.sums, strict=True):
            count = sum(number for kind, number in taken.items() if name in algorithm.kinds[kind].metrics)
            if count:
                found[name] = total / count
        self._taken = {}
        self.work.sums.zero_()
        return found

    def begin_stage(self, heartbeat: Callable[[], None] | None = None) -> None:
        """Where a stage has ended, go over to the next one, once.

        ``update`` does so before the first step of a stage: what acts, or is saved, between two stages is of the old one.
        """
        stage = self.algorithm.stage_at(self.step)
        if stage > self._stage:
            self.filling = True
            self.algorithm.finish(self._stage, self.pack)
            self._fill(stage, heartbeat)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics that ``update`` can give."""
        return self.algorithm.metrics

    def policy(self, part: int = 0) -> Policy:
        """A snapshot of what acting and measuring need of a part."""
        needed = self.pack.some(self.algorithm.acting)
        return Policy(self._of_parts[part], share_of_state(needed, self.members_of(part)))

    def state_dict(self, own: slice = WHOLE) -> LearnerState:
        """Everything needed to resume: step, pack tensors by name, and the steps of each kind taken in the unfinished row.

        The first axis of a tensor is the members; tensors without dimensions are the same for all. So packs can be cut and
        joined. ``own`` are the members whose state it is.
        """
        return {"step": self.step, "taken": dict(self._taken), "pack": share_of_state(self._state(), own)}

    def load_state_dict(self, state: LearnerState, own: slice = WHOLE) -> None:
        """The inverse of ``state_dict``, for the members ``own``; those of all members must be of one step.

        Raises ``UserError`` when the state is of another pack, network or version.
        """
        mine, saved = _views(self._state(), own), state["pack"]
        wrong = [name for name, value in mine.items() if name not in saved or saved[name].shape != value.shape]
        if wrong:
            raise UserError(f"this checkpoint is of another pack, network or version: {', '.join(wrong)} differ.")
        for name, value in mine.items():
            value.copy_(saved[name])
        self.step, self._taken = int(state["step"]), dict(state["taken"])
        self.work.step.fill_(self.step)
        for stage in range(self.algorithm.stage_at(max(0, self.step - 1)) + 1):
            self._fill(stage)

    def _fill(self, stage: int, heartbeat: Callable[[], None] | None = None) -> None:
        """Fill the columns of a stage that begins."""
        self.filling = True
        with torch.no_grad():
            self.algorithm.fill(
                stage, self.pack, self.work.data, key=self._filling_key, heartbeat=heartbeat or self._heartbeat
            )
        self._stage, self.filling = stage, False

    def _state(self) -> dict[str, Tensor]:
        # the sums of the unfinished row, members first
        return {**self.pack.state(), "key": self.work.key, "sums": self.work.sums.T}


def _begun(part: Part, max_action: float, device: torch.device) -> tuple[Algorithm[Any], Pack, Batch]:
    """The algorithm, fresh members and the prepared data of a part."""
    recorded = on_device(part.dataset, device)
    rows, observation_size = recorded.observations.shape
    sizes = observation_size, recorded.actions.shape[1], max_action
    algorithm = algorithms.build(part.config, sizes, device, part.own)
    seeds = part.seeds
    more = {name: torch.zeros(rows, *size, device=device) for name, size in algorithm.columns.items()}
    of_member = {
        name: torch.zeros(len(seeds), rows, *size, device=device) for name, size in algorithm.member_columns.items()
    }
    pack = Pack.create(algorithm, [torch.Generator().manual_seed(_seed(seed)) for seed in seeds])
    return algorithm, pack, algorithm.prepare(pack, replace(recorded, more=more, of_member=of_member))


def _of_all(parts: Sequence[Algorithm[Any]]) -> Algorithm[Any]:
    """The algorithm for the members of all parts. Raises ``UserError`` where they cannot be in one pack."""
    first, *others = parts
    if not others:
        return first
    members = [member for part in parts for member in part.members]
    type(members[0]).check_pack(members)
    return type(first)(members, first.problem, first.device)


def _spans(parts: Sequence[tuple[int, int]]) -> Tensor:
    """The first row of each member and how many it has, ``[K, 2]``, where each part has so many members and rows."""
    begins = itertools.accumulate((rows for _, rows in parts), initial=0)
    spans = [[begin, rows] for begin, (members, rows) in zip(begins, parts, strict=False) for _ in range(members)]
    return torch.tensor(spans, dtype=torch.int64)


def _views(state: dict[str, Tensor], own: slice) -> dict[str, Tensor]:
    """The members ``own`` of tensors, in place; tensors without dimensions as they are."""
    return {name: value[own] if value.dim() else value for name, value in state.items()}


def _seed(seed: int) -> int:
    """The seed of a member's initial weights, far from that of its training."""
    return int(np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)[0] >> 1)
