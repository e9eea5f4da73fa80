"""The measure ``density``: a policy's distribution on a bandit, over cells of a grid, against the behaviour's."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps.algorithms.chain import ChainPolicy
from diffcps.algorithms.diffusion import Denoiser
from diffcps.algorithms.gaussian import GaussianPolicy
from diffcps.algorithms.student import Teacher
from diffcps.config import Actor
from diffcps.tasks.bandits import Bandit, bandit
from diffcps.training.measures import TAUGHT, beside_student
from diffcps.training.measures.cells import middles, mixture_masses
from diffcps.training.measures.maps import map_masses
from diffcps.training.measures.quadrature import chain_masses
from diffcps.training.measures.subject import Subject
from diffcps.training.policy import actions_at_once

FLOOR = {1: 1e-250, 2: 1e-30}
"""By the number of dimensions: a cell's mass under the policy counts as at least so much in KL(π_b ‖ μ). Below, the
quadrature has no digits."""
BEHAVIOUR_FLOOR = 1e-15
"""A cell's mass under the behaviour counts as at least so much in KL(μ ‖ π_b), which off the support would be infinite."""
_CELLS = {1: (200, 4000), 2: (4, 320)}
"""By the number of dimensions: cells in the length over which the behaviour changes, and most cells along an axis."""


@dataclass(frozen=True, eq=False)
class OnGrid:
    """A bandit on a grid of cells."""

    edges: tuple[Tensor, ...]
    """Along each axis, from −bound to bound."""
    masses: NDArray[np.float64]
    """``[C_1, …]``, the behaviour's."""
    middles: NDArray[np.float64]
    """``[C_1, …, d]``."""
    values: NDArray[np.float64]
    """``[C_1, …]``, at the middles."""
    off_support: NDArray[np.bool_]
    """``[C_1, …]``, at the middles."""


@functools.lru_cache(maxsize=8)
def behaviour(name: str) -> OnGrid:
    """The bandit of that name on its grid.

    In two dimensions a cell is a quarter as wide as the length over which the behaviour's density changes, in one a two
    hundredth. A KL over cells is smaller than the true one by about w²/24 · E (∂ log π_b/μ)² for each dimension: for a
    Gaussian of std s against one of .8 s, 5e-4 nats at w = s/4.
    """
    found = bandit(name)
    part, most = _CELLS[found.action_size]
    count = min(round(2.0 * found.bound * part / found.resolution), most)
    edge = np.linspace(-found.bound, found.bound, count + 1)
    masses = found.cell_masses([edge] * found.action_size)
    edges = (torch.from_numpy(edge),) * found.action_size
    centres = middles(edges)
    return OnGrid(
        edges=edges,
        masses=masses / masses.sum(),
        middles=centres,
        values=found.value(centres),
        off_support=np.asarray(found.off_support(centres)),
    )


def take(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``; every column follows from the masses of the cells.

    ``kl`` is KL(π_b ‖ μ), infinite for a policy without a density. Where the policy has less than ``FLOOR`` in a cell that the
    behaviour takes, the true value is larger than this one. ``std_j`` is the standard deviation of the actions' dimension j.
    Beside a student, ``average_kl`` and ``student_kl`` are the divergences of the averaged chain and of the student.
    """
    assert subject.task.bandit is not None
    own = behaviour(subject.task.bandit)
    masses = policy_masses(subject, own.edges, subject.config.evaluation.actor).numpy()
    row = columns(subject.bandit, own, masses, singular=subject.config.value("policy") == "deterministic")
    for actor in TAUGHT if beside_student(subject.config) else ():
        masses = policy_masses(subject, own.edges, actor).numpy()
        row[f"{actor}_kl"] = divergence(own.masses, masses, FLOOR[masses.ndim])
    return row


def columns(found: Bandit, own: OnGrid, masses: NDArray[np.float64], singular: bool = False) -> dict[str, float]:
    """The columns for cell masses ``[C_1, …]`` of a policy; ``singular``: it has no density."""
    mean = np.tensordot(masses, own.middles, masses.ndim)
    variance = np.tensordot(masses, np.square(own.middles - mean), masses.ndim)
    row = {
        "kl": np.inf if singular else divergence(own.masses, masses, FLOOR[masses.ndim]),
        "kl_reverse": divergence(masses, own.masses, BEHAVIOUR_FLOOR),
        "off_support": float(masses[own.off_support].sum()),
        "expected_value": float((masses * own.values).sum()),
        **{f"std_{j}": float(value) for j, value in enumerate(np.sqrt(variance))},
    }
    if found.modes is not None and found.mode_weights is not None:
        nearest = nearest_mode(found, own.middles)
        count = len(found.modes)
        weights = np.bincount(nearest.ravel(), masses.ravel(), count)
        supported = np.bincount(nearest.ravel(), np.where(own.off_support, 0.0, masses).ravel(), count)
        row |= {f"mode_{m}": float(weight) for m, weight in enumerate(weights)}
        row["mode_recall"] = float((supported >= SHARE * found.mode_weights).mean())
    return row


def divergence(p: NDArray[np.float64], q: NDArray[np.float64], floor: float) -> float:
    """Σ p log p/q in nats over cells, with q at least ``floor``."""
    taken = p > 0
    return float((p[taken] * (np.log(p[taken]) - np.log(np.maximum(q[taken], floor)))).sum())


def policy_masses(subject: Subject, edges: tuple[Tensor, ...], actor: Actor) -> Tensor:
    """The probability ``[C_1, …]`` that the policy acts in each cell; beyond the bounds it is moved onto them.

    In closed form for Gaussians, by quadrature for a chain or a student. Raises ``NotFiniteError`` when the policy gives no
    numbers.
    """
    policy, device, algorithm = subject.cloner.policy, subject.cloner.device, subject.cloner
    observation = subject.observed(torch.zeros(1, subject.task.observation_size, device=device))[None]
    if actor == "student":
        reach = _student(algorithm, subject.policy.parameters, observation)
        return map_masses(reach, algorithm.problem.max_action, edges)
    weights = subject.weights_of(actor)
    if isinstance(policy, GaussianPolicy):
        parts = policy.parts(weights.layers, observation)
        log_weights, means, stds = (part[0, 0].double().cpu() for part in parts)
        return mixture_masses(log_weights, means, stds, edges)
    assert isinstance(policy, ChainPolicy)
    denoise = _in_float64(policy.denoiser(weights, observation), device)
    noisy = subject.config.value("last_step_noise") and subject.config.value("covariance") != "posterior"
    return chain_masses(
        denoise,
        policy.schedule.to(torch.device("cpu")),
        max_action=policy.max_action,
        last_step_noise=noisy,
        edges=edges,
        heartbeat=subject.heartbeat,
    )


def _student(
    algorithm: Teacher[Any], parameters: Mapping[str, Tensor], observation: Tensor
) -> Callable[[Tensor], Tensor]:
    """A student in float32 as a map of noise ``[N, d]`` to actions ``[N, d]`` in float64 on the CPU."""
    student, device = algorithm.student, algorithm.device
    assert student is not None
    layers = student.mlp.layout.layers(parameters["student"])

    def mapped(noise: Tensor) -> Tensor:
        parts = []
        for part in noise.float().split(actions_at_once(device)):
            states = observation.expand(-1, len(part), -1)
            parts.append(student.limit * student.reach(layers, states, part[None].to(device))[0].double().cpu())
        return torch.cat(parts)

    return mapped


def _in_float64(denoise: Denoiser, device: torch.device) -> Denoiser:
    """A policy's denoiser ``[1, N, d]`` in float32 for points ``[N, d]`` in float64 on the CPU."""

    def wrapped(points: Tensor, step: int) -> tuple[Tensor, Tensor]:
        parts = []
        for part in points.float().split(actions_at_once(device)):
            noise, variance = denoise(part[None].to(device), step)
            parts.append([value[0].double().cpu() for value in (noise, variance.expand_as(noise))])
        return torch.cat([noise for noise, _ in parts]), torch.cat([variance for _, variance in parts])

    return wrapped


# Which modes of a bandit a policy has ---------------------------------------------------------------------------------


SHARE = 0.1
"""A mode is recalled by a policy that gives its support at least this part of what the behaviour gives it."""


def nearest_mode(found: Bandit, actions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the mode nearest to each action, ``[..., d] -> [...]``."""
    from scipy.spatial import KDTree  # half a second, which a trial without measures need not spend

    _, nearest = KDTree(found.modes).query(actions)
    return np.asarray(nearest, dtype=np.int64)


def sample_recall(found: Bandit, actions: NDArray[np.float64]) -> float:
    """Share of the modes that samples ``[n, d]`` recall."""
    assert found.modes is not None
    assert found.mode_weights is not None
    on = actions[~found.off_support(actions)]
    counts = np.bincount(nearest_mode(found, on), minlength=len(found.modes))
    return float((counts >= SHARE * found.mode_weights * len(actions)).mean())
