"""How often a trial may be interrupted: without end while it gets on, and a fair number of times where it does not.

Ray's own limits count over the whole life of a trial, so that a long one on machines that come and go must fail some day,
and one that dies at the same place again and again is tried as often as any other. Here what counts is interruptions in
a row, without a new checkpoint between them.
"""

import secrets
import time
from typing import Any, NamedTuple

import ray
from ray._private.state import jobs
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
)
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from diffcps.storage.place import Place

ITS_OWN = 5
"""Deaths in a row of a worker whose machine lives on: five times at one place is no accident."""
FROM_OUTSIDE = 20
"""The same where its machine or its driver is gone. Pre-emption may well strike several times before a checkpoint; yet a
trial that takes its machine down with it, by its memory perhaps, must come to an end too."""
_KEPT = 20
"""Interruptions that ``attempts.json`` tells of one by one; the newest."""
_LONGEST = 400
"""Characters of a cause."""
_PAUSE = 5.0
"""Seconds before Ray Train looks again whether there are machines for its workers."""


class Cause(NamedTuple):
    """What interrupted a trial."""

    outside: bool
    """Whether it came from outside: the machine or the driver is gone, and the worker only with it."""
    text: str


class Attempts(FailurePolicy):
    """Ray Train's failure policy for one trial, and the record of its interruptions in the run folder.

    It goes from the trial's driver to Train's controller on the same machine. A newer driver of the same trial, begun
    because this one was thought dead, takes the record over.

    Args:
        place: where the trial's record is, as this machine sees it.
        key: the trial's.
        launch: which start of the sweep this is; each begins with fresh attempts.
    """

    def __init__(self, place: Place, key: str, launch: str) -> None:
        super().__init__(FailureConfig(max_failures=-1))
        self.place, self.key, self.launch = place, key, launch
        self.driver = secrets.token_hex(4)

    def begin(self) -> bool:
        """A driver begins with the trial; whether it may. Not when its predecessors in this launch died too often."""
        folder = self.place.record(self.key)
        folder.path.mkdir(parents=True, exist_ok=True)
        record = folder.attempts
        again = record.get("launch") == self.launch
        fresh = {"launch": self.launch, "step": _saved(folder.status), "its_own": 0, "from_outside": 0}
        base = {"interruptions": 0, "newest": []} | record | ({} if again else fresh) | {"driver": self.driver}
        folder.record_attempts(base)
        return not again or self._goes_on(Cause(True, "its driver or Ray Train's controller died"))

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Called by Ray Train's controller when its workers have died, or cannot be started."""
        if _waits_for_machines(training_failed_error):
            time.sleep(_PAUSE)  # Ray would ask again at once, and keep a core busy with it
            return FailureDecision.RETRY
        self.place.refresh(f"runs/{self.key}")
        goes_on = self._goes_on(cause_of(training_failed_error))
        return FailureDecision.RETRY if goes_on else FailureDecision.RAISE

    def _goes_on(self, cause: Cause) -> bool:
        """Count an interruption. Whether to try again; if not, the reason stands in the status."""
        folder = self.place.record(self.key)
        record, status = folder.attempts, folder.status
        if record["driver"] != self.driver or status["state"] == "complete":
            return False
        step = _saved(status)
        if step != record["step"]:
            record |= {"step": step, "its_own": 0, "from_outside": 0}
        kind, limit = ("from_outside", FROM_OUTSIDE) if cause.outside else ("its_own", ITS_OWN)
        record[kind] += 1
        record["interruptions"] += 1
        event = {"time": time.time(), "step": status["step"], "from_outside": cause.outside, "cause": cause.text}
        record["newest"] = [*record["newest"], event][-_KEPT:]
        folder.record_attempts(record)
        if record[kind] < limit:
            return True
        # what the worker itself has said of its end is nearer to the truth than what Ray saw of it
        said = str(status.get("error", "")) if status["state"] == "failed" else cause.text
        where = f"its next checkpoint (the last is of step {step:,})" if step else "its first checkpoint"
        what = "it was interrupted" if cause.outside else "its worker died"
        folder.take()  # a worker that only hung must not come back and say that it is running
        folder.fail(f"{what} {limit} times in a row before {where}: {said}", str(status.get("details", "")))
        return False


def cause_of(error: BaseException) -> Cause:
    """What Ray says of the end of a trial's workers, in a sentence."""
    match error:
        case PreemptionError():
            return Cause(True, "its machine was taken away")
        case WorkerGroupError():
            causes = [cause_of(failure) for failure in error.worker_failures.values()]
            # with one worker gone, the others fail for want of it
            return min(causes, key=lambda cause: (not cause.outside, "of this trial" in cause.text))
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


def _saved(status: dict[str, Any]) -> int:
    """The step of the newest checkpoint."""
    return int(status.get("saved", 0))


def _waits_for_machines(error: TrainingFailedError) -> bool:
    waiting = InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, waiting)


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


def _trainer(attempts: "Attempts", reservations: "Reservations") -> type[Any]:
    """Ray Train's plainest trainer, which tries again as ``attempts`` says, without what no trial here uses.

    Not ``TorchTrainer``, which imports torch here and in the controller; the workers find each other by themselves. And
    without the callbacks that start a process for the shards of Ray data sets, and one for what ``reservations`` does:
    each process costs a core a second and the machine 100 MB, at the very time when the worker starts.
    """
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = DatasetsCallback, PlacementGroupCleanerCallback
            callbacks = super()._create_default_callbacks()
            return [*(each for each in callbacks if not isinstance(each, unused)), reservations]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            return super()._initialize_and_run_controller(**arguments | {"failure_policy": attempts})

    return Trainer


# Gives back what a trial has reserved for its workers when the process that reserved it is gone.

_OURS = "diffcps"
"""First part of the name of every group that is made here."""
_JOB_DIGITS = 8
"""Hexadecimal digits of the job, the process of a sweep, at the end of a group's identity."""


class Reservations(ControllerCallback):
    """Puts the name of a trial on every placement group that its controller makes.

    Args:
        name: of the trial, in the whole cluster.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{_OURS}:{name}"

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Called in the controller's process, which has this one trial."""
        name = self.name

        class NamedGroup(WorkerGroup):
            def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> PlacementGroupHandle:
                group = placement_group(
                    [worker_group_context.resources_per_worker] * worker_group_context.num_workers,
                    strategy=worker_group_context.placement_strategy,
                    bundle_label_selector=worker_group_context.label_selector,
                    name=f"{name}:{secrets.token_hex(4)}",
                )
                return DefaultPlacementGroupHandle(group)

        TrainController.worker_group_cls = NamedGroup

    def release(self) -> int:
        """Remove every group of the trial, and with it the processes in it, and those of sweeps whose process is dead.

        Returns how many there were.
        """
        dead = {job["JobID"] for job in jobs() if job["IsDead"]}
        left = [
            identity
            for identity, facts in placement_group_table().items()
            if facts["state"] != "REMOVED"
            and (
                facts["name"].startswith(f"{self.name}:")
                or (facts["name"].startswith(f"{_OURS}:") and identity[-_JOB_DIGITS:] in dead)
            )
        ]
        for identity in left:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))
        return len(left)
