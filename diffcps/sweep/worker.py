"""What one trial does: in Ray Train workers, or in this process."""

import itertools
import logging
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch

from diffcps import data
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder, TakenOverError
from diffcps.storage import place as places
from diffcps.storage.place import Place
from diffcps.sweep.cluster import Resources
from diffcps.tasks.registry import task_of
from diffcps.tracking import MlflowSink, Tracker
from diffcps.training import cost, environment, loop, measures
from diffcps.training import members as member_tools
from diffcps.training.engine import Kind
from diffcps.training.evaluation import Evaluator
from diffcps.training.learner import Learner
from diffcps.training.measures.taking import Measurer
from diffcps.training.members import WorkerLostError, Workers, connect, disconnect, shares
from diffcps.training.watchdog import STUCK_SECONDS, Watchdog

logger = logging.getLogger(__name__)


def run_trial(
    config: RunConfig,
    place: Place,
    device: torch.device,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    company: Workers | None = None,
    threads: int = 1,
    memory: float | None = None,
    asked: float | None = None,
    stuck_after: float | None = None,
) -> None:
    """Train and judge one trial, from its newest checkpoint if it has one. Leaves the reason in its folder if it fails.

    A trial that is complete already is left as it is.

    Args:
        config: the trial.
        place: where its data and its run folder are.
        device: where it learns.
        report: called after each evaluation.
        progress: called with the status, about every two seconds.
        company: the workers that share its members; by default this process trains them all.
        threads: of this process, for stepping environments.
        memory: bytes that may be used on the device; members that would need more are trained in several packs.
        asked: ``time.time()`` at which it was asked for; by default now.
        stuck_after: seconds without any movement after which this process ends itself; by default never.

    Raises:
        TakenOverError: another process works on the trial since.
        UserError: the data set is missing or broken, the folder belongs to another trial, the memory is too little, or a
            measure does not fit.
    """
    asked = time.time() if asked is None else asked
    place = place.here()
    folder = place.working_folder(config, 0 if company is None else company.rank)
    first = company is None or company.first
    own = slice(0, len(config.members)) if company is None else company.own
    try:
        if first:
            folder.create(config)
            if not folder.complete:
                folder.take()
        else:
            folder.fetch()
    except UserError as error:
        if company is not None:
            company.leave(str(error), mistake=True)
        raise
    if folder.complete:
        return
    with ExitStack() as stack:
        try:
            task = measures.check(config)
            dataset = data.load(task, config.data, places.fetched(place, config).data_directories)
            places.check(place, config, dataset.info)
            if company is not None:
                company.agree("the data set", dataset.info.checksum)
            members = config.members[own]
            parts = member_tools.fitting(config, len(members), task, dataset.info.rows, memory)
            choice = cost.choose(config, device)
            learner = _learner(config, parts, own, dataset, device, choice.engine)
            kinds = [part.steps.kind for part in learner.learners]
            notes = [note for part in learner.learners for note in part.steps.notes]
            if company is not None:
                kinds, notes = (list(itertools.chain(*company.collect(said))) for said in (kinds, notes))
            facts = environment.describe(dataset.info, device)
            facts |= {
                "engine": {"asked": choice.engine, "used": ", ".join(sorted(set(kinds))), "reason": choice.reason},
                "workers": company.count if company else 1,
                "pack_sizes": [p.stop - p.start for p in parts],
            }
            if first:
                folder.record_environment(facts)
            # the others wait for the first at every row, and it for them: one that watches is enough
            watchdog = stack.enter_context(Watchdog(stuck_after if first else None, folder.fail))
            tick, shown = watchdog.beat, watchdog.following(progress)
            packed = [members[part] for part in parts]
            judges = member_tools.Judges(
                [Evaluator(task, config.physics, m, config.evaluation, threads, tick) for m in packed]
            )
            stack.callback(judges.close)
            gauges = member_tools.Gauges([Measurer(config, m, dataset, threads, tick) for m in packed])
            sinks: Sequence[MlflowSink] = ()
            if first and place.tracking_uri is not None:
                sinks = (MlflowSink(Tracker(place.tracking_uri, place.sweep), config, facts, folder),)
            loop.run(
                config,
                learner,
                judges,
                folder,
                sinks,
                report,
                shown,
                company,
                asked,
                list(dict.fromkeys(notes)),
                gauges if config.measures else None,
            )
        except Exception as error:
            _tell(error, folder if first else None, company)
            raise


def _tell(error: Exception, folder: RunFolder | None, company: Workers | None) -> None:
    """Say why the trial failed: in its folder, and to the other workers."""
    mistake = isinstance(error, UserError)
    reason = str(error) if mistake or isinstance(error, WorkerLostError) else f"{type(error).__name__}: {error}"
    details = "" if mistake else getattr(error, "details", None) or traceback.format_exc()
    if folder is not None and not isinstance(error, TakenOverError):
        try:
            folder.fail(reason, details)
        except (OSError, UserError) as again:
            logger.error("%s: %s; and its status cannot be written: %s", folder.path, reason, again)
    if company is not None:
        company.leave(f"{reason} (on {socket.gethostname()})", details, mistake)


def _learner(
    config: RunConfig, parts: Sequence[slice], own: slice, dataset: Any, device: torch.device, engine: Kind
) -> member_tools.Packs:
    """The learner of the members ``own``, one pack for each of ``parts``; all packs share the data on the device."""
    names = "observations", "actions", "rewards", "next_observations", "terminals"
    shared: Any = SimpleNamespace(**{name: torch.as_tensor(getattr(dataset, name), device=device) for name in names})
    action = task_of(config).max_action
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    return member_tools.Packs(
        [
            Learner(config, shared, action, device, engine, pool, slice(own.start + part.start, own.start + part.stop))
            for part in parts
        ]
    )


def train_worker(config: dict[str, Any], place: Place, resources: Resources, asked: float) -> None:
    """The Ray Train worker's function.

    Args:
        config: the trial, as plain values.
        place: where its data and its run folder are.
        resources: what this worker may use.
        asked: ``time.time()`` at which the trial was asked for.
    """
    trial = RunConfig.from_dict(config)
    # Ray shows a worker the GPU that it was given, and no other
    device = torch.device("cuda" if resources.gpus else "cpu")
    cost.prepare(resources.threads, device)
    memory = member_tools.worker_memory(device, resources.gpus, resources.memory)
    company = _company(trial) if resources.workers > 1 else None

    try:
        run_trial(trial, place, device, None, None, company, resources.threads, memory, asked, STUCK_SECONDS)
    except TakenOverError as error:
        logger.warning("%s This worker, which was thought dead, stops.", error)
    except UserError as error:
        # trying again would end the same way: the reason stands in the run folder, and Ray need not retry
        logger.error("%s: %s", trial.key, error)
    if company is not None:
        disconnect()


def _company(trial: RunConfig) -> Workers:
    """Find the other workers of the trial."""
    import ray.train
    import ray.util
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    address = None
    if rank == 0:
        with socket.create_server(("", 0)) as free:
            address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    connect(rank, count, str(broadcast_from_rank_zero(address)))
    return Workers(rank, count, shares(len(trial.members), count)[rank])
