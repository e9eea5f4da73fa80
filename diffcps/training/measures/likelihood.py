"""The measure ``likelihood``: how likely a policy makes actions of its data set, in nats, and the behaviour loss.

Everything is a cross-entropy −log μ(a|s), summed over dimensions and averaged over rows, or a bound on it from above.
"""

import math

import numpy as np
import torch
from torch import Tensor

from diffcps.algorithms import streams
from diffcps.algorithms.chain import ChainPolicy
from diffcps.algorithms.diffusion import add_noise, path_log_weights, renyi_bound
from diffcps.training.measures import PATHS, has_paths
from diffcps.training.measures.quadrature import NotFiniteError
from diffcps.training.measures.subject import Subject
from diffcps.training.policy import actions_at_once

ROWS = 500
"""Rows of the data set, at most; the same at every evaluation and for every seed."""
LOSS_DRAWS = 16
"""Noises for each row and diffusion step in the behaviour loss."""


def take(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``.

    ``elbo`` and ``iwae_K`` bound −log μ of the chain by paths through it (``algorithms.diffusion``), all from the same 256
    paths a row; ``gap`` = elbo − iwae_256 ≥ 0 says how loose the ELBO is. ``cross_entropy`` is −log μ of a policy with a
    density in closed form, and iwae_256 of a chain; ``cross_entropy_excess`` = cross_entropy − H(π_b) estimates
    KL(π_b ‖ μ) on a bandit, as the mean of log π_b − log μ where the behaviour has a density, which has less spread. The
    ``_error`` is the standard error over rows. ``loss_step_t`` is the mean of (ε − ε_θ)² at step t = 0 … T − 1, ``loss`` = L
    their mean. A chain whose last step is silent (covariance ``posterior``) has no density, and only losses.
    """
    states, actions = rows(subject)
    row: dict[str, float] = {}
    policy = subject.cloner.policy
    if not isinstance(policy, ChainPolicy):
        nothing = torch.empty(0, device=actions.device)
        surprise = (
            policy.fit(subject.weights, states[None], actions[None], step=nothing, noise=nothing).rows[0].double()
        )
        return _summary(subject, actions, surprise)
    if has_paths(subject.config):
        weights = log_weights(subject, policy, states, actions)
        bounds = {paths: -_mean_bound(weights, paths) for paths in PATHS}
        row = _summary(subject, actions, bounds[PATHS[-1]])
        row["elbo"] = -float(weights.mean())
        row |= {f"iwae_{paths}": float(bound.mean()) for paths, bound in bounds.items()}
        row["gap"] = row["elbo"] - row[f"iwae_{PATHS[-1]}"]
    losses = step_losses(subject, policy, states, actions)
    return row | {"loss": float(losses.mean())} | {f"loss_step_{t}": float(loss) for t, loss in enumerate(losses)}


def rows(subject: Subject) -> tuple[Tensor, Tensor]:
    """What networks see ``[R, o]`` and actions ``[R, a]`` of the rows that are looked at, on the policy's device."""
    data, device = subject.dataset, subject.policy.algorithm.device
    rng = np.random.default_rng([subject.config.data.seed, streams.LIKELIHOOD])
    chosen = np.sort(rng.choice(len(data), min(ROWS, len(data)), replace=False))
    observations, actions = (torch.from_numpy(array[chosen]) for array in (data.observations, data.actions))
    return subject.observed(observations.to(device)), actions.to(device)


def log_weights(subject: Subject, policy: ChainPolicy, states: Tensor, actions: Tensor) -> Tensor:
    """log w of 256 paths for each row, ``[R, 256]``, float64."""
    generator, paths = subject.generator("paths"), PATHS[-1]
    found, at_once = [], max(1, actions_at_once(actions.device) // paths)
    for state, action in zip(states.split(at_once), actions.split(at_once), strict=True):
        subject.heartbeat()
        repeated = action.repeat_interleave(paths, dim=0)[None]
        shape = policy.schedule.steps, *repeated.shape
        noise = torch.randn(shape, generator=generator, device=repeated.device)
        denoise = policy.denoiser(subject.weights, state[None])
        weights = path_log_weights(denoise, policy.schedule, repeated, noise, max_action=policy.max_action)
        found.append(weights.view(-1, paths).double())
    weights = torch.cat(found)
    if not weights.isfinite().all():
        raise NotFiniteError("the chain's densities are no numbers")
    return weights


def step_losses(subject: Subject, policy: ChainPolicy, states: Tensor, actions: Tensor) -> Tensor:
    """Mean of (ε − ε_θ)² at each diffusion step over rows, noises and dimensions, ``[T]``, float64."""
    generator = subject.generator("loss")
    repeated = actions.repeat_interleave(LOSS_DRAWS, dim=0)[None]
    denoise = policy.denoiser(subject.weights, states[None])
    losses = []
    for step in range(policy.schedule.steps):
        subject.heartbeat()
        noise = torch.randn(repeated.shape, generator=generator, device=repeated.device)
        noisy = add_noise(policy.schedule, repeated, torch.full(repeated.shape[:-1], step, device=noise.device), noise)
        predicted, _ = denoise(noisy, step)
        losses.append((noise - predicted).double().square().mean())
    return torch.stack(losses)


def _mean_bound(weights: Tensor, paths: int) -> Tensor:
    """The IWAE of so many paths for each row, ``[R]``: the mean over all groups of that size."""
    return renyi_bound(weights.unflatten(1, (-1, paths)), 0.0).mean(dim=1)


def _summary(subject: Subject, actions: Tensor, surprise: Tensor) -> dict[str, float]:
    """Columns from −log μ of each row ``[R]``."""
    row = dict(zip(("cross_entropy", "cross_entropy_error"), _mean(surprise), strict=True))
    if subject.task.bandit is not None:
        found = subject.bandit
        density = torch.from_numpy(found.log_density(actions.double().cpu().numpy()))
        known = bool(density.isfinite().all())
        excess = surprise.cpu() + density if known else surprise.cpu() - found.entropy
        row |= dict(zip(("cross_entropy_excess", "cross_entropy_excess_error"), _mean(excess), strict=True))
    return row


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
