"""What a Ray Train worker does: bring the data and the run folders to this machine, and run the trials of a group."""

import gc
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import psutil
import torch

from diffcps import data
from diffcps.config import RunConfig
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder, TakenOverError
from diffcps.runs.plan import PruningRule
from diffcps.runs.pruning import behind, curve, evaluated_alike
from diffcps.runs.trial import read_trial
from diffcps.storage.location import Location
from diffcps.sweep.claim import run_folders
from diffcps.sweep.resources import Resources
from diffcps.tasks.registry import task_of
from diffcps.tracking import MlflowSink, Tracker
from diffcps.tracking.sink import THREAD
from diffcps.training.course import Sink
from diffcps.training.divergence import divergence_rule
from diffcps.training.facts import unused_gpu
from diffcps.training.loop import Prune
from diffcps.training.packs import worker_memory
from diffcps.training.process import Machine, prepare_process
from diffcps.training.trials import Assignment, run
from diffcps.training.views import views
from diffcps.training.watchdog import STUCK_SECONDS
from diffcps.training.workers import Workers, connect, disconnect, shares

logger = logging.getLogger(__name__)
GROWTH = 2**29
"""Bytes by which a worker's process may have grown since its first trial began, and still train another."""
LARGEST = 2**30
"""Bytes that it may have: those that the packs of a trial leave for all else (``packs.fitting``)."""


def train_worker(
    configs: Sequence[dict[str, Any]],
    location: Location,
    resources: Resources,
    requested_at: float,
    prune: PruningRule | None,
    objective: str,
    also: Sequence[str],
) -> bool:
    """The Ray Train worker's function. Returns whether its process may train another group of trials.

    Args:
        configs: the trials, as plain values; where several workers train, one.
        location: where their data and their run folders are.
        resources: what this worker may use.
        requested_at: ``time.time()`` at which the trials were requested.
        prune: how trials are ended early, if they are.
        objective: by which they are compared.
        also: where metrics are shown besides MLflow.
    """
    trials, location = [RunConfig.from_dict(config) for config in configs], location.on_this_machine()
    machine = _machine(resources)
    workers = _workers(trials[0]) if resources.workers > 1 else Workers()
    rank = workers.rank
    assigned = [_assignment(trial, location, rank, prune=prune, objective=objective, also=also) for trial in trials]
    try:
        run(assigned, machine, workers=workers, requested_at=requested_at, stuck_after=STUCK_SECONDS)
    except TakenOverError as error:
        logger.warning("%s This worker, which was thought dead, stops.", error)
    except UserError as error:
        # another attempt would end the same way, so Ray must not retry; the run folder has the reason
        logger.error("%s: %s", ", ".join(trial.key for trial in trials), error)
    if workers.count > 1:
        disconnect()
    return workers.count == 1 and _fresh([own.folder for own in assigned], machine.device)


def _assignment(
    trial: RunConfig, location: Location, rank: int, *, prune: PruningRule | None, objective: str, also: Sequence[str]
) -> Assignment:
    """The trial with its run folder, its data, its views and its rule for an early end; ``rank`` is this worker's."""
    folder = location.working_folder(trial.key, rank)

    def load() -> Transitions:
        dataset = data.load(task_of(trial), trial.data, location.data_folders(trial))
        location.check_data(trial, dataset.info)
        return dataset

    def sinks(environment: Mapping[str, Any]) -> Sequence[Sink]:
        found: list[Sink] = [*views(also, trial, folder.path)]
        if location.tracking_uri is not None:
            found.append(MlflowSink(Tracker(location.tracking_uri, location.sweep), trial, environment, folder))
        return found

    rule = _prune(trial, folder, location, rule=prune, objective=objective) if prune else None
    return Assignment(trial, folder, load, sinks=sinks, prune=rule)


def _machine(resources: Resources) -> Machine:
    """What a trial runs on. Raises ``UserError`` where it was given a GPU that torch cannot use."""
    _first_bytes()
    # Ray shows a worker the GPU that it was given, and no other
    device = torch.device("cuda" if resources.gpus else "cpu")
    if resources.gpus and (reason := unused_gpu()):
        raise UserError(f"{socket.gethostname()}: {reason}")
    prepare_process(resources.threads, device)
    memory = worker_memory(device, resources.gpus, resources.memory)
    return Machine(device, resources.threads, memory, beside=device.type == "cuda")


@cache
def _first_bytes() -> int:
    """Memory of this process when its first trial began."""
    return _bytes()


def _bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _fresh(folders: Sequence[RunFolder], device: torch.device) -> bool:
    """Whether this process can train another group of trials.

    No after a failed trial, on a GPU or with compiled code (both keep memory), after memory growth, or while MLflow's thread
    still sends rows.
    """
    if any(folder.status["state"] not in ("complete", "pruned") for folder in folders) or device.type != "cpu":
        return False
    gc.collect()
    if any(thread.name == THREAD for thread in threading.enumerate()):
        return False
    eager = all(folder.environment.get("engine", {}).get("used") == "eager" for folder in folders)
    return eager and _bytes() < min(_first_bytes() + GROWTH, LARGEST)


def _prune(
    trial: RunConfig, folder: RunFolder, location: Location, *, rule: PruningRule, objective: str
) -> Callable[[Transitions], Prune]:
    """What ends this trial early: its own divergence, and other trials of its task that do better.

    Its own rows are those of ``folder``, where it is trained: an object store has them only from its checkpoints on.
    """

    def made(dataset: Transitions) -> Prune:
        diverged = divergence_rule(trial, dataset)

        def reason(step: int, metrics: Mapping[str, Any]) -> str:
            if (why := diverged(metrics)) or rule == "divergence":
                return why
            location.refresh("runs")
            found = [read_trial(other.path) for other in run_folders(location) if other.path.name != trial.key]
            others = [one for one in found if one.stored and evaluated_alike(one.config, trial)]
            own = curve(read_trial(folder.path, trial), objective)
            planned = -(-trial.steps // trial.evaluation.every)
            return behind(rule, own, [curve(other, objective) for other in others], planned)

        return reason

    return made


def _workers(trial: RunConfig) -> Workers:
    """Connect to the other workers of the trial."""
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
