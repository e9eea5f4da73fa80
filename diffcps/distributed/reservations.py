"""Gives back what a trial has reserved for its workers when the process that reserved it is gone.

Ray keeps a placement group for as long as the whole sweep lives, whatever became of the controller that asked for it: each
one that dies would take a worker's CPUs and GPU with it, until the sweep stands still. Ray Train's own remedy is one more
process a trial, which asks the dashboard whether the controller lives: it ends for good when once it gets no answer (and
it gets none where several clusters run on one machine), and it knows nothing of groups that still wait for a machine.
Here the groups of a trial carry its name, and its next driver removes those of its predecessors.

A sweep whose own process dies ends with all that it has reserved, but for what a controller asks for in the very moment in
which Ray clears up: that stays for as long as the cluster. Every driver removes such groups too.
"""

import secrets
from typing import Any

import ray
from ray._private.state import jobs
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
)
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

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
