"""How far a trial has come in this process, and how it spends its time."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder, last_and_best
from diffcps.runs.status import StatusFile
from diffcps.training.evaluation import Rollouts
from diffcps.training.keeping import Kept
from diffcps.training.measures.subject import Measured
from diffcps.training.packs import Share
from diffcps.training.policy import Policy
from diffcps.training.workers import Workers

PURPOSES = "start", "learning", "waiting", "evaluation", "checkpoint", "tracking", "repeated"
"""How a trial spends its time: until its first step (processes, imports, data), gradient steps, waiting for the trial's
other workers or for those that share its pack, waiting for evaluations, writing the run folder, sinks, and work repeated after
kills."""


class Clock:
    """Seconds that a trial has spent, by purpose; survives a resume inside the checkpoint.

    Args:
        spent: what the checkpoint says, empty without one.
        seen: what the newest status says; a kill may have come long after the checkpoint.
        requested_at: ``time.time()`` at which this attempt was requested.
    """

    def __init__(self, spent: Mapping[str, float], seen: Mapping[str, float], requested_at: float) -> None:
        self.spent = dict.fromkeys(PURPOSES, 0.0) | dict(spent)
        lost = {name: max(0.0, seen.get(name, 0.0) - self.spent[name]) for name in PURPOSES}
        # the start is not repeated work: every attempt has one
        start = lost.pop("start")
        self.spent["repeated"] += sum(lost.values())
        self.spent["start"] += start + max(0.0, time.time() - requested_at)
        self.mark = time.monotonic()

    def charge(self, purpose: str) -> float:
        """Add the time since the last call to ``purpose`` and return it, in seconds."""
        now = time.monotonic()
        elapsed, self.mark = now - self.mark, now
        self.spent[purpose] += elapsed
        return elapsed


Shown = dict[str, NDArray[Any]]
"""What sinks are shown of a step: values ``[K]`` by name."""


class Sink(Protocol):
    """Shows metrics somewhere else. The run folder is the record and is always written; a sink is a view."""

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """Show values ``[K]`` of one step; after a resume a step may come again, with the same values."""

    def close(self, pruned: str = "") -> object:
        """Show what is still waiting, and why the trial was ended early; called once, also when the trial has failed."""


Results = tuple[Rollouts | None, Measured]
"""Of an evaluation: episodes, where there are any, and what was measured."""
Start = Callable[[Callable[[], Results]], "Future[Results]"]
"""Begins an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that has begun."""

    step: int
    policies: Sequence[Policy]
    results: "Future[Results]"


@dataclass
class Course:
    """What every part of the loop works on: the way of a trial to its end, in this process."""

    config: RunConfig
    share: Share
    folder: RunFolder
    workers: Workers
    begin_evaluation: Start
    sinks: Sequence[Sink]
    diverged: Callable[[Shown], str]
    """Given the metrics of a row: why the trial has diverged; empty if it has not."""
    clock: Clock
    scores: list[list[float]]
    """Of every evaluation so far, ``[evaluations, K]``."""
    kept: Kept
    pruned: str = ""
    """Why an earlier attempt pruned the trial; empty if it did not."""
    evaluation: Evaluation | None = None
    """The newest, until its results are written."""
    unshown: list[tuple[int, Shown]] = field(default_factory=list)
    """Rows that sinks are still to be shown: the one of ``evaluation``, and those since, with their steps."""
    news: list[dict[str, float]] = field(default_factory=list)
    """What is still to be reported of evaluations."""

    @property
    def next_row(self) -> int:
        """The next step at which a row is written."""
        every = self.config.log_every, self.config.evaluation.every
        return min(self.config.steps, *(n * (self.share.step // n + 1) for n in every))

    @property
    def evaluation_due(self) -> bool:
        """Whether the row of this step has an evaluation."""
        step = self.share.step
        return step % self.config.evaluation.every == 0 or step == self.config.steps

    @property
    def summary(self) -> StatusFile:
        """``last`` and ``best`` score so far, mean over members; empty before the first evaluation."""
        if not self.scores:
            return {}
        last, best = last_and_best(np.array(self.scores))
        return {"last": last, "best": best}
