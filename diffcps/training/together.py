"""Trials that train as one pack: their loops take turns, and their gradient steps are taken at once.

Members do not depend on each other, so each trial learns what it would learn alone. Evaluations, rows and checkpoints are
each trial's own and come one after the other, all at the same steps.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from diffcps.errors import UserError
from diffcps.tasks.registry import task_of
from diffcps.training import cost
from diffcps.training.attempt import Attempt
from diffcps.training.beside import Beside
from diffcps.training.divergence import divergence_rule
from diffcps.training.evaluation import Evaluator
from diffcps.training.facts import describe
from diffcps.training.learner import Learner, Part, on_device
from diffcps.training.loop import Loop, Row
from diffcps.training.measures.subject import Measurer
from diffcps.training.packs import Packs, Piece, cut, fitting, working_bytes
from diffcps.training.process import Machine
from diffcps.training.status import STATUS_SECONDS
from diffcps.training.watchdog import Watchdog
from diffcps.training.workers import Workers, shares

_WORTH = 0.75
"""When no more than this share of a pack's members still learn, it is made anew without the others, which takes time."""
Evaluators = Callable[..., tuple[Evaluator, Measurer]]
"""Makes what evaluates and measures some members of a trial, like ``evaluators_of``."""


def evaluators_of(
    attempt: Attempt, own: slice, *, threads: int, heartbeat: Callable[[], None]
) -> tuple[Evaluator, Measurer]:
    """What evaluates and measures the members ``own`` of a trial."""
    config, members = attempt.config, attempt.config.members[own]
    helped: dict[str, Any] = {"threads": threads, "heartbeat": heartbeat}
    evaluator = Evaluator(task_of(config), config.physics, members, config.evaluation, **helped)
    held_out = attempt.held_out
    return evaluator, Measurer(config, members, attempt.dataset, evaluator=evaluator, held_out=held_out, **helped)


class Together:
    """Trains trials to their ends, as one pack where their memory allows, else in several that take turns.

    Args:
        attempts: what is trained: alike (``runs.alike``), and to be continued from the same step.
        machine: what this process may use.
        watchdog: sees every movement.
        requested_at: ``time.time()`` at which the trials were requested.
        checkpoint_clock: a clock in seconds, for the time between checkpoints; the first worker's counts.
        status_seconds: between two statuses while learning.
        evaluators: makes what evaluates and measures members of a trial.
    """

    def __init__(
        self,
        attempts: Sequence[Attempt],
        machine: Machine,
        watchdog: Watchdog,
        *,
        requested_at: float,
        checkpoint_clock: Callable[[], float] = time.monotonic,
        status_seconds: float = STATUS_SECONDS,
        evaluators: Evaluators = evaluators_of,
    ) -> None:
        self._attempts, self._machine, self._watchdog = list(attempts), machine, watchdog
        self._requested_at, self._clock, self._status_seconds = requested_at, checkpoint_clock, status_seconds
        self._evaluators, self._workers = evaluators, attempts[0].workers
        self._beside = Beside(machine.device, machine.beside and self._workers.count == 1)
        self._packs = Packs([])
        self._placed: list[Attempt] = []
        """The trials whose members are in ``_packs``, in that order; some may have ended."""

    def run(self) -> None:
        """Train them; one that fails has its error, and the others continue."""
        try:
            with self._recorded():
                self._place()
            for attempt in self._placed:
                with attempt.recorded():
                    self._begin(attempt)
            self._saved_at = self._clock()
            while running := self._running:
                if sum(map(_size, running)) <= _WORTH * sum(map(_size, self._placed)):
                    with self._recorded():
                        self._place()
                if self._running:
                    self._row()
        finally:
            try:
                self._stop(self._attempts)
                for attempt in self._attempts:
                    attempt.close()
            finally:
                self._beside.close()
            self._packs, self._placed = Packs([]), []

    @property
    def _running(self) -> list[Attempt]:
        """The trials that have neither ended nor failed."""
        return [attempt for attempt in self._attempts if attempt.error is None and not attempt.ended]

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Inside, an error is that of all trials."""
        try:
            yield
        except Exception as error:
            running = self._running
            self._stop(running)
            for attempt in running:
                attempt.fail(error)

    def _stop(self, attempts: Sequence[Attempt]) -> None:
        """Let none of them wait for the evaluations of the others, which nobody needs any more."""
        for attempt in attempts:
            attempt.stop()

    def _place(self) -> None:
        """Put the members of the running trials into as few packs as fit; what they have learned goes with them."""
        attempts, device = self._running, self._machine.device
        if self._workers.first:
            for attempt in attempts if not self._placed else ():
                attempt.folder.note_doing(cost.choose(attempt.config, device).preparing)
        self._beside.rest()  # whoever evaluates uses the pieces of packs
        states = [attempt.take_out() for attempt in attempts]
        if self._placed:
            self._packs, self._placed = Packs([]), []
            gc.collect()  # the packs of before make room for the new ones
        data = [on_device(attempt.dataset, device) for attempt in attempts]
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        learners: list[Learner] = []
        pieces: list[list[Piece]] = [[] for _ in attempts]
        with ExitStack() as unless_placed:
            for held in cut([_size(attempt) for attempt in attempts], _fitting(attempts, self._machine)):
                held_members = [(number, _within(self._workers.own, part)) for number, part in held]
                learner = Learner(
                    [Part(attempts[number].config, data[number], own) for number, own in held_members],
                    task_of(attempts[0].config).max_action,
                    device,
                    engine=cost.choose(attempts[0].config, device).engine,
                    pool=pool,
                    heartbeat=self._watchdog.heartbeat,
                )
                learners.append(learner)
                for part_number, (number, own) in enumerate(held_members):
                    heartbeat = attempts[number].beating(self._watchdog.heartbeat)
                    evaluator, measurer = self._evaluators(
                        attempts[number], own, threads=self._machine.threads, heartbeat=heartbeat
                    )
                    unless_placed.callback(evaluator.close)
                    pieces[number].append(Piece(learner, part_number, evaluator, measurer))
            unless_placed.pop_all()
        self._packs, self._placed = Packs(learners), attempts
        for attempt, found, state in zip(attempts, pieces, states, strict=True):
            attempt.place(found, state)
            said = _gathered([piece.learner.engine.notes for piece in found], self._workers)
            attempt.notes += [note for note in said if note not in attempt.notes]

    def _begin(self, attempt: Attempt) -> None:
        """Begin the loop of a trial, up to its first row."""
        given, workers = attempt.given, self._workers
        assert attempt.share is not None
        facts = self._facts(attempt)
        if workers.first:
            attempt.folder.record_environment(facts)
        prune = given.prune(attempt.dataset) if given.prune and workers.first else None
        loop = Loop(
            attempt.config,
            attempt.share,
            attempt.folder,
            attempt.state,
            workers=workers,
            begin_evaluation=partial(attempt.begin_evaluation, self._beside.start),
            sinks=given.sinks(facts) if given.sinks and workers.first else (),
            prune=prune,
            diverged=divergence_rule(attempt.config, attempt.dataset),
            report=given.report,
            progress=self._watchdog.following(given.progress),
            notes=attempt.notes,
            requested_at=self._requested_at,
            status_seconds=self._status_seconds,
        )
        attempt.state = None
        attempt.begin(loop)

    def _facts(self, attempt: Attempt) -> dict[str, Any]:
        """The content of ``environment.json``."""
        assert attempt.share is not None
        learners, choice = attempt.share.learners, cost.choose(attempt.config, self._machine.device)
        used = _gathered([[learner.engine.kind] for learner in learners], self._workers)
        facts = describe(task_of(attempt.config), attempt.dataset.info, self._machine.device)
        if attempt.held_out is not None:
            facts["dataset"]["held_out"] = len(attempt.held_out)
        if others := [other.config.key for other in self._placed if other is not attempt]:
            facts["together"] = {"with": others, "members": sum(map(_size, self._placed))}
        return facts | {
            "engine": {"asked": choice.engine, "used": ", ".join(sorted(used)), "reason": choice.reason},
            "workers": self._workers.count,
            "pack_sizes": [learner.members for learner in learners],
        }

    def _row(self) -> None:
        """Every trial learns up to its next row, writes it, and saves if that is due."""
        metrics: dict[str, NDArray[Any]] = {}
        with self._recorded():
            metrics = self._learn()
        bounds = itertools.pairwise(itertools.accumulate(map(_size, self._placed), initial=0))
        for attempt, (begin, end) in zip(self._placed, bounds, strict=True):
            if attempt.row is not None:
                with attempt.recorded():
                    attempt.write({name: values[begin:end] for name, values in metrics.items()})
        running = self._running
        now, every = self._clock(), 60 * self._attempts[0].config.checkpoint_minutes
        checkpoint_due = now - self._saved_at >= every or any(attempt.folder.asked_to_save for attempt in running)
        if checkpoint_due:
            self._saved_at = now
        for attempt in running:
            with attempt.recorded():
                attempt.go_on(checkpoint_due)

    def _learn(self) -> dict[str, NDArray[Any]]:
        """The gradient steps up to the next row, of all members; the mean of each metric over them, by name."""
        rows = self._rows()
        (steps,) = {row.steps for _, row in rows}
        end = self._packs.step + steps
        for _, row in rows:
            row.begin()
        found = self._packs.update(steps, lambda: self._look_around(end))
        metrics = {name: value.cpu().numpy() for name, value in found.items()}  # a GPU has ended its work only now
        for _, row in self._rows():
            row.end()
        return metrics

    def _rows(self) -> list[tuple[Attempt, Row]]:
        """The trials that wait for gradient steps."""
        return [(attempt, attempt.row) for attempt in self._placed if attempt.row is not None]

    def _look_around(self, end: int) -> None:
        """Between two gradient steps of a row that ends after step ``end``: show the trials, and save them if one is asked to.

        All are saved at the same step, or they could not continue as one pack. Raises the error of the last trial to fail.
        """
        if not any(row.status_due for _, row in self._rows()):
            return
        for attempt, row in self._rows():
            with attempt.recorded():
                row.show()
        # not after the last step of a row: a resume from there would skip writing the row
        if self._packs.can_save and self._packs.step < end and any(row.asked_to_save for _, row in self._rows()):
            for attempt, row in self._rows():
                with attempt.recorded():
                    row.save()
        failed = [attempt.error for attempt in self._placed if attempt.error is not None]
        if len(failed) == len(self._placed):
            raise failed[-1]


def in_fitting_parts(attempts: Sequence[Attempt], machine: Machine) -> list[Sequence[Attempt]]:
    """The trials in parts to be trained one after the other: those that make the fewest packs, or, if none fit, one by one."""
    best, fewest = [attempts[share] for share in shares(len(attempts), len(attempts))], math.inf
    for count in range(1, len(attempts) + 1):
        if fewest <= count:  # more parts cannot be fewer packs
            break
        parts = [attempts[share] for share in shares(len(attempts), count)]
        with suppress(UserError):
            packs = sum(len(_fitting(part, machine)) for part in parts)
            best, fewest = (parts, packs) if packs < fewest else (best, fewest)
    return best


def _fitting(attempts: Sequence[Attempt], machine: Machine) -> list[slice]:
    """The members of these trials in as few packs as fit. Raises ``UserError`` when they cannot be trained at a time."""
    # trials that are alike may act otherwise, which takes more memory or less
    acting = {(attempt.config.evaluation, attempt.config.acting): attempt.config for attempt in attempts}
    first, *others = acting.values()
    return fitting(
        max(first, *others, key=working_bytes) if others else first,
        sum(map(_size, attempts)),
        task_of(attempts[0].config),
        rows=sum(attempt.dataset.info.rows for attempt in attempts),
        memory=machine.memory,
        copied=len(attempts) > 1,
    )


def _size(attempt: Attempt) -> int:
    """How many of its members this worker trains."""
    return len(attempt.config.members[attempt.workers.own])


def _within(outer: slice, inner: slice) -> slice:
    """The slice of a sequence that is ``inner`` of its part ``outer``."""
    begin = outer.start or 0
    return slice(begin + inner.start, begin + inner.stop)


def _gathered(lists: Sequence[Sequence[str]], workers: Workers) -> list[str]:
    """What the packs of all workers say, each text once."""
    said = workers.collect(list(itertools.chain(*lists)))
    return list(dict.fromkeys(itertools.chain(*said)))
