"""Trials: put together from their settings, their data and run folders, and trained to their ends in this process.

This room knows no storage, no MLflow and no Ray. Whoever starts a trial hands in the run folder, a function that reads the
data, the sinks, and the other workers.
"""

import gc
import time
from collections.abc import Callable, Hashable, Sequence

from diffcps.errors import UserError
from diffcps.runs.alike import alike
from diffcps.training import cost
from diffcps.training.attempt import Assignment, Attempt
from diffcps.training.process import Machine
from diffcps.training.together import Together, in_fitting_parts
from diffcps.training.watchdog import Watchdog
from diffcps.training.workers import Workers


def run(
    trials: Sequence[Assignment],
    machine: Machine,
    *,
    workers: Workers | None = None,
    requested_at: float | None = None,
    checkpoint_clock: Callable[[], float] = time.monotonic,
    stuck_after: float | None = None,
) -> None:
    """Train trials to their ends, each from its newest checkpoint if it has one. Those that have ended are left as they are.

    Trials that are ``alike`` and continue from the same step train as one pack, if the memory holds them all. One that fails
    does not end the others.

    Args:
        trials: what to train.
        machine: what this process may use.
        workers: the workers that share the members of a single trial; by default this one trains all.
        requested_at: ``time.time()`` at which the trials were requested, by default now.
        checkpoint_clock: see ``Together``.
        stuck_after: seconds without movement after which this process ends itself; by default never.

    Raises:
        TakenOverError: another process has claimed a folder.
        UserError: a data set is missing or broken, a folder belongs to another trial, the memory is too small, or a
            measure does not fit.

    Any other error comes before these, and all of them when the other trials have ended.
    """
    workers, asked = workers or Workers(), time.time() if requested_at is None else requested_at
    attempts = [Attempt(given, workers) for given in trials]
    for attempt in attempts:
        attempt.open()
    begun = [attempt for attempt in attempts if attempt.error is None and not attempt.folder.done]
    if begun:
        # the others wait for the first worker at every row, and it for them: one watchdog is enough. It writes into the folder of
        # the trial that ends last: those that have ended are left as they are
        with Watchdog(stuck_after if workers.first else None, begun[-1].folder.trace) as watchdog:
            for number, part in enumerate(_parts(begun, machine)):
                if number:
                    asked = time.time()
                    gc.collect()  # the packs of the part before make room
                Together(part, machine, watchdog, requested_at=asked, checkpoint_clock=checkpoint_clock).run()
    errors = [attempt.error for attempt in attempts if attempt.error is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, UserError)), errors[0])


def _parts(attempts: Sequence[Attempt], machine: Machine) -> list[Sequence[Attempt]]:
    """The trials whose data can be read, those together that train as one pack; the parts train one after the other."""
    groups: dict[Hashable, list[Attempt]] = {}
    for attempt in attempts:
        with attempt.recorded():
            attempt.read()
            engine = cost.choose(attempt.config, machine.device).engine
            groups.setdefault((alike(attempt.config), engine), []).append(attempt)
    parts: list[Sequence[Attempt]] = []
    for group in groups.values():
        try:
            parts += [part for same in _from_one_step(group) for part in in_fitting_parts(same, machine)]
        except Exception as error:
            for attempt in group:
                attempt.fail(error)
    return parts


def _from_one_step(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """The trials that continue from the same step, the most first.

    A kill may have come between the checkpoints of two of them. Then those that are ahead go back to the one before, if the
    others have that.
    """
    steps = {attempt.step for attempt in attempts}
    if len(steps) > 1:
        common = set.intersection(*(attempt.folder.checkpoint_steps for attempt in attempts))
        for attempt in attempts:
            if common and attempt.step > max(common):
                attempt.go_back(max(common))
    found: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.step, []).append(attempt)
    return sorted(found.values(), key=len, reverse=True)
