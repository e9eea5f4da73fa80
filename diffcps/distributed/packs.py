"""Members too many for one pack: how many fit into a worker's memory, and several packs that take turns as one.

Members are independent, so training them in one pack or in several gives the same numbers; only what a gradient step
holds for a moment is then held for fewer of them at a time.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from diffcps.config import RunConfig
from diffcps.distributed.shares import joined_arrays, joined_state, share_of_state, shares
from diffcps.errors import UserError
from diffcps.evaluation import Evaluator, Rollouts
from diffcps.flops import components, networks
from diffcps.learner import Learner
from diffcps.measures.taking import Measured, Measurer
from diffcps.policy import Policy
from diffcps.tasks import Task

_GIB = 2**30
_HEADROOM = 0.8
"""How much of a worker's memory may be planned for: what is below is an estimate."""
_BASE = 1.0 * _GIB
"""The process itself with its libraries; on a GPU, CUDA's own."""


def resident_bytes(config: RunConfig, task: Task) -> int:
    """What a member always takes: networks, averages, targets, Adam's moments, each also in a copy for a checkpoint."""
    time, policy, head = networks(config.algorithm, task.observation_size, task.action_size)
    actor, critic = (sum((fan_in + 1) * fan_out for fan_in, fan_out in sizes) for sizes in ((*time, *policy), head))
    cloned = actor if config.algorithm.held_policy == "average" and config.algorithm.behaviour_steps else 0
    return 2 * 4 * (4 * (actor + 2 * critic) + cloned)


def working_bytes(config: RunConfig, task: Task) -> int:
    """What a member takes for a moment: the larger of a policy step and a max-Q backup, and a choice of actions.

    A policy step keeps the activations of T chain steps, of what explains the data's actions and of both critic heads:
    four tensors a layer, measured; besides them the gradients.
    """
    algorithm = config.algorithm
    row = 4 * algorithm.hidden_size
    layers = 4 * algorithm.hidden_layers
    paths = algorithm.constraint_samples if algorithm.constraint in ("iwae", "renyi") else 0
    runs = algorithm.diffusion_steps * (1 + paths) + 1 + 2 * components(algorithm)
    step = layers * row * algorithm.batch_size * runs + resident_bytes(config, task) // 4
    backup = 8 * row * algorithm.batch_size * (algorithm.max_q_candidates if algorithm.max_q_backup else 1)
    acting = 8 * row * config.evaluation.episodes * config.evaluation.candidates
    return max(step, backup) + acting  # a captured step keeps its memory while others act


def fitting(config: RunConfig, members: int, task: Task, rows: int, memory: float | None) -> list[slice]:
    """The members of a worker in as few packs as fit, as equal as can be.

    Args:
        config: the trial.
        members: how many of its members this worker trains.
        task: its task.
        rows: transitions of its data set.
        memory: bytes that the worker may use, on the device where it learns; ``None`` for no limit.

    Raises:
        UserError: not even packs of one fit; says how much is lacking and what to change.
    """
    if memory is None:
        return shares(members, 1)
    data = 4 * rows * (2 * task.observation_size + task.action_size + 2)
    resident, working = resident_bytes(config, task), working_bytes(config, task)
    left = _HEADROOM * memory - _BASE - data - members * resident
    size = math.floor(left / working)
    if size < 1:
        wanted = (_BASE + data + members * resident + working) / _HEADROOM
        raise UserError(
            f"{members} seeds of {task.name} need at least {wanted / _GIB:.1f} GiB ({data / _GIB:.1f} for the data, "
            f"{members * resident / _GIB:.1f} for networks and optimisers, {working / _GIB:.2f} for a step of one "
            f"seed) and this worker has {memory / _GIB:.1f}. Share them among more workers with --workers-per-trial, "
            "let fewer trials share a machine or GPU (--cpus-per-trial, --gpus-per-trial), or ask for fewer --seeds."
        )
    return shares(members, -(-members // size))


def worker_memory(device: torch.device, share: float, ram: float | None) -> float | None:
    """Bytes that a worker may use where it learns: its share of the GPU, or of the machine's RAM."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory * min(1.0, share))
    return ram


class Packs:
    """Several learners as one ``training.Trainee``: each takes its steps in turn, and one state holds them all.

    Args:
        learners: one a pack, in the order of their members.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = learners
        bounds = [0]
        for learner in learners:
            bounds.append(bounds[-1] + learner.members)
        self.slices = [slice(*bound) for bound in itertools.pairwise(bounds)]

    @property
    def step(self) -> int:
        """Steps that all have taken."""
        return self.learners[-1].step

    @property
    def members(self) -> int:
        """How many policies learn here."""
        return self.slices[-1].stop

    def update(self, steps: int, tick: Callable[[], None] | None = None) -> dict[str, torch.Tensor]:
        """Every pack takes ``steps`` gradient steps; returns the mean of each metric over them, ``[members]``."""
        parts = [learner.update(steps, tick) for learner in self.learners]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def policy(self) -> list[Policy]:
        """A snapshot of each pack for acting."""
        return [learner.policy() for learner in self.learners]

    def state_dict(self) -> dict[str, Any]:
        """The state of all, the same as one learner of all members would have."""
        return dict(joined_state([learner.state_dict() for learner in self.learners]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ``UserError`` when the state is of other members or networks."""
        for learner, own in zip(self.learners, self.slices, strict=True):
            learner.load_state_dict(share_of_state(state, own))


class Judges:
    """Judges the policies of ``Packs``: one evaluator a pack."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self.evaluators = evaluators

    def __call__(self, policies: Sequence[Policy], index: int, episodes: int) -> Rollouts:
        """Roll out all members, pack after pack."""
        pairs = zip(self.evaluators, policies, strict=True)
        return Rollouts(**joined_arrays([vars(evaluator(policy, index, episodes)) for evaluator, policy in pairs]))

    def close(self) -> None:
        """Close the environments."""
        for evaluator in self.evaluators:
            evaluator.close()


class Gauges:
    """Measures the policies of ``Packs``: one measurer a pack."""

    def __init__(self, measurers: Sequence[Measurer]) -> None:
        self.measurers = measurers

    def __call__(self, policies: Sequence[Policy], index: int, last: bool) -> Measured:
        """Measure all members, pack after pack."""
        pairs = zip(self.measurers, policies, strict=True)
        values, samples = zip(*(measurer(policy, index, last) for measurer, policy in pairs), strict=True)
        return Measured(joined_arrays(values), joined_arrays(samples))
