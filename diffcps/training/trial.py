"""One trial: put together from its settings, its data and a run folder, and trained to its end in this process.

This room knows no storage, no MLflow and no Ray. Whoever starts a trial hands in the run folder, a function that reads the
data, the sinks, and the other workers.
"""

import itertools
import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from diffcps.config import RunConfig
from diffcps.data.holding import parted
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder, TakenOverError
from diffcps.tasks.registry import task_of
from diffcps.training import cost, loop
from diffcps.training.checks import check
from diffcps.training.evaluation import Evaluator
from diffcps.training.facts import describe
from diffcps.training.learner import Learner, on_device
from diffcps.training.loop import Prune, Sink
from diffcps.training.measures.subject import Measurer
from diffcps.training.packs import Packs, fitting
from diffcps.training.process import prepare_process
from diffcps.training.watchdog import Watchdog, reason
from diffcps.training.workers import WorkerLostError, Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    device: torch.device
    """Where it learns."""
    threads: int = 1
    """For stepping environments."""
    memory: float | None = None
    """Bytes on the device; members that need more are trained in several packs. ``None``: no limit."""

    @classmethod
    def prepared(cls) -> "Machine":
        """The GPU if there is one, else the CPU with torch's number of threads; set up for learning."""
        machine = cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.get_num_threads())
        prepare_process(machine.threads, machine.device)
        return machine


def run(
    config: RunConfig,
    folder: RunFolder,
    load: Callable[[], Transitions],
    machine: Machine,
    *,
    workers: Workers | None = None,
    sinks: Callable[[Mapping[str, Any]], Sequence[Sink]] | None = None,
    prune: Callable[[Transitions], Prune] | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    requested_at: float | None = None,
    checkpoint_clock: Callable[[], float] = time.monotonic,
    stuck_after: float | None = None,
) -> None:
    """Train one trial to its end, from its newest checkpoint if it has one. A trial that has ended is left as it is.

    Args:
        config: the trial.
        folder: its run folder; if the trial fails, its status says why.
        load: reads the data set, once the folder is claimed.
        machine: what this process may use.
        workers: the workers that share the members; by default this one trains all.
        sinks: makes the sinks from the content of ``environment.json``; called in the first worker only.
        prune: makes, from what is learned from, the function that may end the trial early; called in the first worker only.
        report, progress, requested_at, checkpoint_clock: see ``loop.run``.
        stuck_after: seconds without movement after which this process ends itself; by default never.

    Raises:
        TakenOverError: another process has claimed the folder.
        UserError: the data set is missing or broken, the folder belongs to another trial, the memory is too small, or a
            measure does not fit.
    """
    workers, requested_at = workers or Workers(), time.time() if requested_at is None else requested_at
    notes = _open(folder, config, workers)
    if folder.ended:
        return
    # the others wait for the first worker at every row, and it for them: one watchdog is enough
    with Watchdog(stuck_after if workers.first else None, folder.trace) as watchdog, _recorded(folder, workers):
        parts = _read(config, load, workers, folder=folder, device=machine.device)
        with closing(_packs(config, parts, machine, workers=workers, heartbeat=watchdog.heartbeat)) as packs:
            facts = _facts(config, packs, parts, machine=machine, workers=workers)
            if workers.first:
                folder.record_environment(facts)
            loop.run(
                config,
                packs,
                folder,
                workers=workers,
                sinks=sinks(facts) if sinks and workers.first else (),
                prune=prune(parts[0]) if prune and workers.first else None,
                report=report,
                progress=watchdog.following(progress),
                notes=[*notes, *_gathered([learner.engine.notes for learner in packs.learners], workers)],
                requested_at=requested_at,
                checkpoint_clock=checkpoint_clock,
            )


def _last_attempt(folder: RunFolder) -> list[str]:
    """A sentence if a watchdog ended the attempt before this one."""
    if not (stacks := folder.stuck):
        return []
    logger.warning("%s: the attempt before this one was ended:\n%s", folder.path, stacks)
    return [f"an earlier attempt was ended because {reason(stacks)}; the log has the stack of every thread."]


def _open(folder: RunFolder, config: RunConfig, workers: Workers) -> list[str]:
    """Make the run folder, or find it, and claim it; workers other than the first only read it. Returns notes for the status."""
    notes = _last_attempt(folder)
    try:
        if not workers.first:
            folder.fetch()
            return notes
        folder.create(config)
        if not folder.ended:
            folder.claim()
        return notes
    except UserError as error:
        workers.leave(str(error), mistake=True)
        raise


@contextmanager
def _recorded(folder: RunFolder, workers: Workers) -> Iterator[None]:
    """Write into the folder why the trial failed, and tell the other workers."""
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, UserError)
        why = str(error) if mistake or isinstance(error, WorkerLostError) else f"{type(error).__name__}: {error}"
        details = "" if mistake else getattr(error, "details", None) or traceback.format_exc()
        if workers.first and not isinstance(error, TakenOverError):
            try:
                folder.fail(why, details)
            except (OSError, UserError) as again:
                logger.error("%s: %s; and its status cannot be written: %s", folder.path, why, again)
        workers.leave(f"{why} (on {socket.gethostname()})", details, mistake)
        raise


def _read(
    config: RunConfig, load: Callable[[], Transitions], workers: Workers, *, folder: RunFolder, device: torch.device
) -> tuple[Transitions, Transitions | None]:
    """The data to learn from and those to hold out, the same for all workers; the status says what is done meanwhile."""
    check(config)
    if workers.first:
        folder.begin("reading data")
    dataset = load()
    workers.agree("the data set", dataset.info.checksum)
    if workers.first:
        folder.begin(cost.choose(config, device).preparing)
    if not config.data.hold_out:
        return dataset, None
    return parted(dataset, config.data.hold_out, config.data.seed, task_of(config).terminals_end)


def _packs(
    config: RunConfig,
    parts: tuple[Transitions, Transitions | None],
    machine: Machine,
    *,
    workers: Workers,
    heartbeat: Callable[[], None],
) -> Packs:
    """This worker's members in as few packs as fit into its memory; all packs share the data on the device."""
    task, device = task_of(config), machine.device
    dataset, held_out = parts
    own = range(len(config.members))[workers.own]
    shared = on_device(dataset, device)
    engine = cost.choose(config, device).engine
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    packs = Packs()
    for part in fitting(config, len(own), task, rows=dataset.info.rows, memory=machine.memory):
        share = slice(own[part].start, own[part].stop)
        members = config.members[share]
        helped: dict[str, Any] = {"threads": machine.threads, "heartbeat": heartbeat}
        evaluator = Evaluator(task, config.physics, members, config.evaluation, **helped)
        packs.add(
            Learner(
                config,
                shared,
                task.max_action,
                device=device,
                engine=engine,
                pool=pool,
                own=share,
                heartbeat=heartbeat,
            ),
            evaluator,
            Measurer(config, members, dataset, evaluator=evaluator, held_out=held_out, **helped),
        )
    return packs


def _facts(
    config: RunConfig,
    packs: Packs,
    parts: tuple[Transitions, Transitions | None],
    *,
    machine: Machine,
    workers: Workers,
) -> dict[str, Any]:
    """The content of ``environment.json``."""
    dataset, held_out = parts
    choice = cost.choose(config, machine.device)
    used = _gathered([[learner.engine.kind] for learner in packs.learners], workers)
    facts = describe(task_of(config), dataset.info, machine.device)
    if held_out is not None:
        facts["dataset"]["held_out"] = len(held_out)
    return facts | {
        "engine": {"asked": choice.engine, "used": ", ".join(sorted(used)), "reason": choice.reason},
        "workers": workers.count,
        "pack_sizes": [learner.members for learner in packs.learners],
    }


def _gathered(lists: Sequence[Sequence[str]], workers: Workers) -> list[str]:
    """What the packs of all workers say, each text once."""
    said = workers.collect(list(itertools.chain(*lists)))
    return list(dict.fromkeys(itertools.chain(*said)))
