"""Everything of Ray that is not its public interface, and so the reason why pyproject.toml pins Ray to a minor release.

What is private, and why it is needed:

* ``FailurePolicy``: Ray Train's public limits count failures over the whole life of a trial. A long trial on machines that
  come and go must reach any such limit.
* ``_internal.exceptions``: the cause of a failure, which decides which limit it counts towards.
* ``TrainController`` and ``_initialize_and_run_controller``: to run the controller in the trial's driver, which waits anyway.
  In a process of its own it starts three seconds later, and takes three seconds of a core and 150 MB.
* ``WorkerGroup`` and ``Worker``: to name the placement groups of a trial, and to keep its worker for the driver's next trial.
* ``FixedScalingPolicy``: to leave out its messages to Ray's autoscaler, which go through one more process. A placement group
  that waits for machines calls for them by itself.
* ``DatasetsCallback`` and ``PlacementGroupCleanerCallback``: to leave them out. Each starts a process per trial, at the very
  time when the worker starts.
* ``ray._private.state.actors`` and ``jobs``: which drivers, and which sweeps' processes, are dead. The public way asks the
  dashboard, which does not answer where several clusters run on one machine.
* ``_memory`` of ``ray.init``: Ray looks at the memory of the machine, not at what a control group leaves this process.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import actors, jobs
from ray.exceptions import RayActorError, RayError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
)
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from diffcps.sweep import limits
from diffcps.sweep.retries import Cause, Retries

_LONGEST = 400
"""Characters of a cause."""
_PAUSE = 5.0
"""Seconds before Ray Train looks again for machines for its workers."""
_OURS = "diffcps"
"""First part of the name of every placement group made here."""
RESERVED_SECONDS = 30.0
"""How long a worker waits at most for its driver's next trial. Meanwhile it holds its CPUs, which another driver may want."""
_LEAST_STORE = 80 * 2**20
"""Bytes; Ray takes no less than 75 MB."""
_MOST_STORE = 10**10
"""Bytes; Ray refuses more where ``/dev/shm`` is smaller."""
_JOB_DIGITS = 8
"""The last hexadecimal digits of a placement group's id are those of its job, the process of a sweep."""


def local_size() -> dict[str, Any]:
    """Arguments of ``ray.init`` for a cluster within the limits of this process."""
    size: dict[str, Any] = {"num_cpus": limits.cores()}
    if (memory := limits.memory()) is not None:
        # the shares that Ray gives its store and its workers of a machine's memory, with less for the store, which is hardly used
        size |= {
            "object_store_memory": min(max(_LEAST_STORE, int(0.1 * memory)), _MOST_STORE),
            "_memory": int(0.6 * memory),
        }
    return size


class TrialWorkers(WorkerGroup):
    """The workers of a trial; ``trainer`` says which."""

    groups: "PlacementGroups"
    another: Callable[[], bool]
    reserved: "Reserved | None" = None

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            if self.reserved is not None:  # from some point on Train itself would leave it behind
                self.reserved.end()
            raise

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> PlacementGroupHandle:
        bundles = [worker_group_context.resources_per_worker] * worker_group_context.num_workers
        self.reserved = RESERVE.take(bundles)
        if self.reserved is not None:
            return self.reserved.group
        self.groups.release()  # a worker that dies while it starts leaves its group behind
        group = placement_group(bundles, worker_group_context.placement_strategy, name=self.groups.new())
        return DefaultPlacementGroupHandle(group)

    def _create_workers(self, *arguments: Any, **more: Any) -> list[Worker]:
        if self.reserved is None:
            return super()._create_workers(*arguments, **more)
        return self._assign_worker_ranks([self.reserved.again()], 0, None, None)

    def shutdown(self) -> None:
        """Also called when all has gone well: then the worker may wait for the driver's next trial."""
        status, state = self.get_latest_poll_status(), self._worker_group_state
        answers = list(status.worker_statuses.values()) if status is not None else []
        well = len(answers) == 1 and not answers[0].running and not answers[0].error and answers[0].return_value
        if state is None or not well or not self.another() or someone_waits(placement_group_table()):
            super().shutdown()
            return
        for callback in self._callbacks:
            callback.before_worker_group_shutdown(self)
        ray.kill(state.sync_actor)
        self._clear_state()
        for callback in self._callbacks:
            callback.after_worker_group_shutdown(self._worker_group_context)
        RESERVE.keep(Reserved(state.workers[0], state.placement_group_handle))


def trainer(
    retries: Retries, groups: "PlacementGroups", another: Callable[[], bool] = lambda: False
) -> type[DataParallelTrainer]:
    """Ray Train's plainest trainer, which tries again as ``retries`` say and names its groups by ``groups``.

    ``TorchTrainer`` would import torch here; the workers connect to each other by themselves. A worker is
    kept for the driver's next trial if its function returns true and ``another`` says that there will be one.
    """

    class Own(TrialWorkers):
        pass

    Own.groups, Own.another = groups, staticmethod(another)

    class Controller(TrainController):
        worker_group_cls = Own

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = DatasetsCallback, PlacementGroupCleanerCallback
            return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            scaling = _Unannounced(self.scaling_config)  # type: ignore[arg-type]  # the class of version 2, as Ray checks
            controller = Controller(**arguments | {"scaling_policy": scaling, "failure_policy": RetryPolicy(retries)})
            try:
                asyncio.run(controller.run())
            finally:
                if workers := controller.get_worker_group():  # Train itself gave up: its last resort ends no worker
                    workers.shutdown()
            return controller.get_result()

    return Trainer


@dataclass(frozen=True)
class Reserved:
    """A worker between two trials, and the placement group that it runs in."""

    worker: Worker
    group: PlacementGroupHandle

    def again(self) -> Worker:
        """The worker, as if it were new."""
        known = self.worker
        return Worker(
            known.actor,
            known.metadata,
            known.resources,
            placement_group_bundle_index=known.placement_group_bundle_index,
        )

    def answers(self) -> bool:
        """Whether its process lives and can be reached."""
        try:
            ray.get(self.worker.actor.get_metadata.remote(), timeout=RESERVED_SECONDS)
        except RayError:  # it has died in one of several ways, or does not answer in time
            return False
        return True

    def end(self) -> None:
        """End the process and give its CPUs back."""
        try:
            ray.kill(self.worker.actor)
        finally:
            self.group.shutdown()


class Reserve:
    """Keeps a driver's worker between two trials: its process has imported all that a trial needs.

    A driver that dies takes its worker with it, but not the placement group; see ``PlacementGroups``.
    """

    def __init__(self, seconds: float = RESERVED_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._kept: Reserved | None = None

    def keep(self, worker: Reserved) -> None:
        """Keep a worker for so many seconds."""
        with self._lock:
            before, self._kept = self._kept, worker
        if before is not None:
            before.end()
        timer = threading.Timer(self.seconds, self._end, (worker,))
        timer.daemon = True
        timer.start()

    def take(self, bundles: Sequence[Mapping[str, float]]) -> Reserved | None:
        """The worker, if it has these resources and answers; any other is ended."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return None
        fits = False
        try:
            fits = [kept.worker.resources] == list(bundles) and kept.answers()
        finally:
            if not fits:
                kept.end()
        return kept if fits else None

    def _end(self, worker: Reserved) -> None:
        with self._lock:
            if self._kept is not worker:
                return
            self._kept = None
        worker.end()


RESERVE = Reserve()
"""Of this process, a driver."""


class _Unannounced(FixedScalingPolicy):
    """A fixed number of workers, of which the autoscaler is told nothing."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called when a trial begins."""

    def _maybe_send_resource_request(self) -> None:
        pass


class RetryPolicy(FailurePolicy):
    """What Ray Train's controller asks when workers have died or cannot be started: ``Retries`` decide.

    Args:
        retries: of the trials.
        pause: seconds before Ray Train looks again for machines for its workers.
    """

    def __init__(self, retries: Retries, pause: float = _PAUSE) -> None:
        super().__init__(FailureConfig(max_failures=-1))
        self.retries, self.pause = retries, pause

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Called by the controller. Waiting for machines is no interruption."""
        if _waits_for_machines(training_failed_error):
            time.sleep(self.pause)  # Ray would ask again at once, and keep a core busy
            return FailureDecision.RETRY
        again = self.retries.again(cause_of(training_failed_error))
        return FailureDecision.RETRY if again else FailureDecision.RAISE


def cause_of(error: BaseException) -> Cause:
    """What Ray says about the end of a trial's workers, in a sentence."""
    match error:
        case PreemptionError():
            return Cause(True, "its machine was taken away")
        case WorkerGroupError():
            causes = [cause_of(failure) for failure in error.worker_failures.values()]
            # when one worker is gone, the others fail because they miss it
            return min(causes, key=lambda cause: (not cause.external, "of this trial" in cause.text))
        case ControllerError():
            failure = error.controller_failure
            began = isinstance(failure, WorkerGroupStartupFailedError)
            return cause_of((failure.__cause__ if began else None) or failure)
        case WorkerHealthCheckFailedError():
            return cause_of(error.health_check_failure)
        case WorkerHealthCheckTimeoutError():
            cause = Cause(False, "it did not answer any more: stopped, or hung")
        case RayActorError():
            text = str(error)
            words = "its process ended without a word: killed, out of memory, or crashed" if _SILENT in text else text
            cause = Cause(error.preempted or _NODE in text, _short(words.partition(_DEAD)[2] or words))
        case _:
            cause = Cause(False, _short(f"{type(error).__name__}: {error}"))
    return cause


_DEAD, _NODE, _SILENT = "The actor is dead because ", "its node has died", "connection error code 2. End of file"


def _waits_for_machines(error: TrainingFailedError) -> bool:
    waiting = InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, waiting)


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


class PlacementGroups:
    """Names the placement groups of a trial, and removes those that a dead driver left behind.

    Ray keeps a placement group for as long as the sweep's process lives, even when the driver that made it is dead:
    each dead driver would take a worker's CPUs and GPU with it, until the sweep hangs. Ray Train's own remedy is one
    more process per trial, which asks the dashboard whether the driver lives. It ends for good the first time it gets
    no answer, and it does not know groups that still wait for a machine.

    A driver may use the group of its last trial, so the groups of all dead drivers are removed, whatever their trial.

    When a sweep's own process dies, it loses all its groups, except one that a driver makes at the very moment when Ray
    cleans up: that group stays as long as the cluster. Every driver removes such groups too.

    Args:
        name: of the trial, unique in the cluster.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{_OURS}:{name}"

    def new(self) -> str:
        """A name for one more group of the trial, which ends in the driver's id."""
        driver = ray.get_runtime_context().get_actor_id() or ""
        return f"{self.name}:{secrets.token_hex(4)}:{driver}"

    def release(self) -> None:
        """Remove the groups that dead drivers left behind, with the processes in them."""
        dead = {job["JobID"] for job in jobs() if job["IsDead"]}
        for identity in left_behind(placement_group_table(), self.name, dead, _is_dead):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))


def someone_waits(table: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a trial of any sweep waits for room, given every placement group of the cluster."""
    return any(
        facts["name"].startswith(f"{_OURS}:") and facts["state"] in ("PENDING", "RESCHEDULING")
        for facts in table.values()
    )


def _is_dead(driver: str) -> bool:
    known = actors(driver)
    return bool(known) and known["State"] == "DEAD"


def left_behind(
    table: Mapping[str, Mapping[str, Any]], name: str, dead_jobs: Collection[str], is_dead: Callable[[str], bool]
) -> list[str]:
    """Ids of the placement groups of the trial ``name``, and of those of dead drivers and of sweeps with a dead process.

    Args:
        table: id -> ``name`` and ``state`` of every placement group of the cluster.
        name: as ``PlacementGroups`` gives it.
        dead_jobs: ids of the processes that have ended.
        is_dead: whether the driver of this id has ended.
    """
    ours = {
        identity: facts["name"]
        for identity, facts in table.items()
        if facts["state"] != "REMOVED" and facts["name"].startswith(f"{_OURS}:")
    }
    dead = {driver for driver in {own.rpartition(":")[2] for own in ours.values()} if driver and is_dead(driver)}
    return [
        identity
        for identity, own in ours.items()
        if own.startswith(f"{name}:") or identity[-_JOB_DIGITS:] in dead_jobs or own.rpartition(":")[2] in dead
    ]
