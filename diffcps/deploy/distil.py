"""A one-step student of a policy that has been trained without one: its chain is frozen, and only states are needed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms import critics
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.student import Student, Teacher
from diffcps.data.transitions import Transitions
from diffcps.deploy.saved import SavedPolicy
from diffcps.errors import UserError

BATCH = 256
"""States, and noise, of a step."""
_SEED = 0
"""Of the student's initial weights, and of all that is drawn."""
_SHOWN = 100
"""Steps between two calls of ``progress``, and over which the distance is averaged at the end."""


class Distilled(NamedTuple):
    """A policy with a student, and how well that has learned."""

    policy: SavedPolicy
    distance: float
    """Mean squared distance to where the chain carries the same noise, in units of the action bound, at the end."""


def distil(
    policy: SavedPolicy,
    data: Transitions,
    steps: int = 20_000,
    *,
    progress: Callable[[int, float], None] = lambda step, distance: None,
) -> Distilled:
    """Train a student of the policy's chain, of its average where it has one (``algorithms.student``), on states of a data set.

    Where its algorithm has a critic, the student also raises that critic's value, with the weight ``student_value``.

    Args:
        policy: of an algorithm that can have a student; one that it has already is replaced.
        data: with the states to learn on; as a rule those on which the policy was trained.
        steps: gradient steps, each on ``BATCH`` states with fresh noise.
        progress: called every hundred steps with the step and the distance.

    Raises:
        UserError: the algorithm has no chain that a student could follow, or the data's states have another size.
    """
    pack, algorithm = _with_fresh_student(policy)
    student, device = algorithm.student, algorithm.device
    assert isinstance(student, Student)
    if data.observations.shape[1] != policy.card.observation_size:
        raise UserError(
            f"states of {data.observations.shape[1]} numbers: the policy for {policy.card.run.task} takes "
            f"{policy.card.observation_size}."
        )
    states = torch.as_tensor(data.observations, dtype=torch.float32, device=device)
    generator = torch.Generator(device).manual_seed(_SEED)
    distances = torch.zeros(steps, device=device)
    for step in range(steps):
        chosen = torch.randint(len(states), (BATCH,), generator=generator, device=device)
        observations = algorithm.observed(pack.tensors, states[chosen][None])
        noise = torch.randn(1, BATCH, policy.card.action_size, generator=generator, device=device)
        with torch.no_grad():
            goal = algorithm.carry(pack, observations, noise)
        metrics = student.learn(pack, observations, noise, goal, value=_value(algorithm, pack.tensors, observations))
        distances[step] = metrics["student_distance"][0]
        if (step + 1) % _SHOWN == 0:
            progress(step + 1, float(distances[max(0, step + 1 - _SHOWN) : step + 1].mean()))
    networks = {name: pack[name] for name in algorithm.acting if name in pack.tensors}
    card = replace(policy.card, run=algorithms.complete(policy.card.run.changed({"student": "one-step"})))
    return Distilled(SavedPolicy(card, networks, device), float(distances[-_SHOWN:].mean()))


def _with_fresh_student(policy: SavedPolicy) -> tuple[Pack, Teacher[Any]]:
    """A pack of one with the policy's networks and a fresh student. Raises ``UserError`` where it can have none."""
    card = policy.card
    if "student" not in card.run.settings:
        raise UserError(
            f"{card.run.algorithm} cannot have a student. Those that can: "
            f"{', '.join(name for name in algorithms.names() if 'student' in algorithms.get(name).settings.names())}."
        )
    config = algorithms.complete(card.run.changed({"student": "one-step"}))
    sizes = card.observation_size, card.action_size, card.max_action
    algorithm = algorithms.build(config, sizes, policy.policy.algorithm.device)
    assert isinstance(algorithm, Teacher)
    pack = Pack.create(algorithm, [torch.Generator().manual_seed(_SEED)])
    for name, value in policy.networks.items():
        if name != "student":
            pack[name].copy_(value)
    return pack, algorithm


def _value(
    algorithm: Teacher[Any], parameters: Mapping[str, Tensor], observations: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """The loss that falls as the critic's value of an action rises; ``None`` without a critic of this policy."""
    if "student_value" not in algorithm.settings.names():
        return None
    layers = algorithm.critic.layers(parameters[algorithm.student_critic])
    return critics.value_loss(algorithm.critic, layers, observations)
