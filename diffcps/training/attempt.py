"""One attempt at a trial: its run folder, its data and checkpoint, its loop, and what is written of an error."""

import logging
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.data.hold_out import parted
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.checkpoint import Checkpoint, LearnerState
from diffcps.runs.folder import RunFolder, TakenOverError
from diffcps.runs.status import Progress
from diffcps.tasks.registry import task_of
from diffcps.training.beside import StoppedError
from diffcps.training.checks import check
from diffcps.training.course import Results, Sink, Start
from diffcps.training.loop import Loop, Prune, Row
from diffcps.training.packs import Piece, Share
from diffcps.training.watchdog import reason
from diffcps.training.workers import WorkerLostError, Workers, on_cpu

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A trial that this process is to train, and what it needs for that."""

    config: RunConfig
    """The trial."""
    folder: RunFolder
    """Its run folder; if the trial fails, its status says why."""
    load: Callable[[], Transitions]
    """Reads the data set, once the folder is claimed."""
    sinks: Callable[[Mapping[str, Any]], Sequence[Sink]] | None = None
    """Makes the sinks from the content of ``environment.json``; called in the first worker only."""
    prune: Callable[[Transitions], Prune] | None = None
    """Makes, from what is learned from, the function that may end the trial early; called in the first worker only."""
    report: Callable[[dict[str, float]], None] | None = None
    """See ``loop.Loop``."""
    progress: Progress | None = None
    """See ``loop.Loop``."""


class Attempt:
    """A trial on its way in this process.

    Args:
        given: what to train, and what that needs.
        workers: the workers that share its members.
    """

    def __init__(self, given: Assignment, workers: Workers) -> None:
        self.given, self.workers = given, workers
        self.config, self.folder = given.config, given.folder
        self.notes: list[str] = []
        """Sentences about this attempt, for the status; those added while it trains are in the next one."""
        self.error: Exception | None = None
        """Why it has failed."""
        self._data: Transitions | None = None
        self.held_out: Transitions | None = None
        """What is not learned from, if any."""
        self.state: Checkpoint | None = None
        """The checkpoint to continue from."""
        self.share: Share | None = None
        self._loop: Loop | None = None
        self.ended = False
        """Whether it has been trained to its end."""
        self._evaluation: Future[Results] | None = None
        self._stopped = False

    @property
    def dataset(self) -> Transitions:
        """What is learned from, between ``read`` and ``close``."""
        assert self._data is not None
        return self._data

    @property
    def step(self) -> int:
        """From which it continues."""
        return int(self.state["learner"]["step"]) if self.state else 0

    def go_back(self, step: int) -> None:
        """Continue from an earlier checkpoint, of this step, instead of the newest."""
        self.folder.drop_checkpoints(after=step)
        self.state, _ = self.folder.load_checkpoint()

    def open(self) -> None:
        """Make the run folder, or find it, and claim it; workers other than the first only read it.

        A folder that cannot be written, or is another trial's, ends the attempt.
        """
        if stacks := self.folder.stuck:
            logger.warning("%s: the attempt before this one was ended:\n%s", self.folder.path, stacks)
            self.notes.append(
                f"an earlier attempt was ended because {reason(stacks)}; the log has the stack of every thread."
            )
        try:
            if not self.workers.first:
                self.folder.fetch()
                return
            self.folder.create(self.config)
            if not self.folder.done:
                self.folder.claim()
        except UserError as error:  # the folder may be another trial's: nothing is written there
            self.error = error
            self.workers.leave(str(error), mistake=True)

    def read(self) -> None:
        """Read data and the newest checkpoint; the status says so meanwhile."""
        check(self.config)
        if self.workers.first:
            self.folder.note_doing("reading data")
        dataset = self.given.load()
        self.workers.agree("the data set", dataset.info.checksum)
        self._data = dataset
        if (fraction := self.config.data.hold_out) > 0:
            ends = task_of(self.config).terminals_end
            self._data, self.held_out = parted(dataset, fraction, self.config.data.seed, ends)
        self.state, complaints = self.folder.load_checkpoint()
        self.notes += complaints

    def take_out(self) -> LearnerState | None:
        """Take its members out of the packs that they are in; what they have learned, on the CPU, or ``None``."""
        if self.share is None:
            return None
        state = on_cpu(self.share.state_dict())
        self.share.close()
        self.share.pieces = []
        return cast("LearnerState", state)

    def place(self, pieces: Sequence[Piece], state: LearnerState | None) -> None:
        """Its members are in these pieces of packs from now on, with what they have learned, if anything."""
        if self.share is None:
            self.share = Share(pieces)
        self.share.pieces = list(pieces)
        if state is not None:
            self.share.load_state_dict(state)

    @property
    def row(self) -> Row | None:
        """The gradient steps that it waits for."""
        return self._loop.row if self._loop is not None else None

    def begin(self, loop: Loop) -> None:
        """Begin its loop, which may have ended already."""
        self._loop = loop
        self._close_if_ended()

    def write(self, metrics: Mapping[str, NDArray[Any]]) -> None:
        """See ``Loop.write``."""
        assert self._loop is not None
        self._loop.write(metrics)

    def go_on(self, checkpoint_due: bool) -> None:
        """See ``Loop.go_on``."""
        assert self._loop is not None
        self._loop.go_on(checkpoint_due)
        self._close_if_ended()

    def _close_if_ended(self) -> None:
        if self.row is None:
            self.ended = True
            self.close()

    def begin_evaluation(self, start: Start, work: Callable[[], Results]) -> "Future[Results]":
        """Begin an evaluation of its policies."""
        self._evaluation = start(work)
        return self._evaluation

    def beating(self, heartbeat: Callable[[], None]) -> Callable[[], None]:
        """The heartbeat for what evaluates its policies; it raises ``StoppedError`` once the attempt is stopped."""

        def beat() -> None:
            if self._stopped:
                raise StoppedError
            heartbeat()

        return beat

    def stop(self) -> None:
        """End the evaluation under way at its next heartbeat."""
        self._stopped = True

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, an error ends this attempt: see ``fail``."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Write into the run folder why the trial failed, tell the other workers, and keep the error."""
        if self.error is not None:
            return
        self.error = error
        mistake = isinstance(error, UserError)
        why = str(error) if mistake or isinstance(error, WorkerLostError) else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        details = "" if mistake else getattr(error, "details", None) or trace
        if self.workers.first and not isinstance(error, TakenOverError):
            try:
                self.folder.fail(why, details)
            except (OSError, UserError) as again:
                logger.error("%s: %s; and its status cannot be written: %s", self.folder.path, why, again)
        self.workers.leave(f"{why} (on {socket.gethostname()})", details, mistake)
        self.close()

    def close(self) -> None:
        """End the loop, with its sinks, and close the environments; what fails in that is logged. Drops data and checkpoint."""
        self.stop()
        if self._evaluation is not None and not self._evaluation.cancel():
            wait([self._evaluation])  # only then its environments may be closed
        self._evaluation = None
        closing = self._loop, self.share
        self._loop = self.share = self.state = self._data = self.held_out = None
        for each in closing:
            try:
                if each is not None:
                    each.close()
            except Exception:
                logger.exception("%s: it cannot be closed", self.folder.path)
