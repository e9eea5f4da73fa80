"""How likely a diffusion policy makes an action: bounds on −log μ(a|s) of the discrete chain itself, in nats.

The chain draws a_T ~ N(0, 1) and a_{t−1} ~ N(mean, variance) for t = T..1. Its density needs an integral over the path
a_{1:T}, which is bounded by weighing paths drawn from the forward process q(a_{1:T} | a_0): with log w = log p(a_{0:T}) −
log q(a_{1:T} | a_0), the ELBO is E log w, the IWAE log mean w, and Rényi's bounds lie between. The final clamp to the
action bounds is left out: the actions of a data set lie within them.
"""

import math

import torch
from torch import Tensor

from diffcps.algorithms.diffusion import Denoiser, Schedule, reverse_mean

LOG_TAU = math.log(2.0 * math.pi)


def normal_log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, variance), summed over the last axis ``[..., a] -> [...]``."""
    return -0.5 * ((x - mean).square() / variance + variance.log() + LOG_TAU).sum(dim=-1)


def path_log_weights(
    denoise: Denoiser, schedule: Schedule, actions: Tensor, noise: Tensor, max_action: float
) -> Tensor:
    """log w of one path through the chain for each action.

    Args:
        denoise: the noise net with its reverse variance, above zero at every step.
        schedule: T steps.
        actions: a_0, ``[..., a]``.
        noise: ``[T, ..., a]`` standard normal; the first makes a_T, the others the steps from a_{t} to a_{t−1}.
        max_action: the bound to which the chain clamps its predicted a_0.

    Returns:
        ``[...]``. q is walked backwards, a_T ~ q(a_T | a_0) and a_{t−1} ~ q(a_{t−1} | a_t, a_0): the same paths as forwards,
        and the two densities of a step, which nearly cancel, stand side by side.
    """
    last = schedule.alpha_bar[-1]
    current = last.sqrt() * actions + (1.0 - last).sqrt() * noise[0]
    zero, one = torch.zeros_like(last), torch.ones_like(last)
    log_weight = normal_log_density(current, zero, one) - normal_log_density(noise[0], zero, one)
    log_weight = log_weight + 0.5 * actions.shape[-1] * (1.0 - last).log()
    for step in reversed(range(schedule.steps)):
        predicted, variance = denoise(current, step)
        mean = reverse_mean(schedule, current, step, predicted, max_action)
        if step == 0:
            following, log_q = actions, zero
        else:
            true_mean = schedule.mean_of_start[step] * actions + schedule.mean_of_current[step] * current
            true_variance = schedule.posterior_variance[step]
            following = true_mean + true_variance.sqrt() * noise[schedule.steps - step]
            log_q = normal_log_density(following, true_mean, true_variance)
        log_weight = log_weight + normal_log_density(following, mean, variance.expand_as(mean)) - log_q
        current = following
    return log_weight


def renyi_bound(log_weights: Tensor, order: float) -> Tensor:
    """The variational Rényi bound on log μ(a) from log w ``[..., S]`` (Li and Turner, 2016), ``[...]``.

    1/(1 − α) log mean w^(1−α): the IWAE at order α = 0, the ELBO as α → 1.
    """
    if order == 1.0:
        return log_weights.mean(dim=-1)
    power = 1.0 - order
    return (torch.logsumexp(power * log_weights, dim=-1) - math.log(log_weights.shape[-1])) / power


def prior_divergence(schedule: Schedule, actions: Tensor) -> Tensor:
    """KL(q(a_T | a_0) ‖ N(0, 1)) of actions ``[..., a]``, summed over dimensions: what the ELBO pays for its start."""
    last = schedule.alpha_bar[-1]
    return 0.5 * (last * actions.square() - last - (1.0 - last).log()).sum(dim=-1)


def step_divergence(schedule: Schedule, step: Tensor, squared_error: Tensor, variance: Tensor) -> Tensor:
    """What the ELBO pays at single steps, from the squared error of the predicted noise there.

    For t ≥ 2 it is KL(q(a_{t−1} | a_t, a_0) ‖ p(a_{t−1} | a_t)) = ½ Σ [(β̃ + c e²)/σ² − 1 + log σ²/β̃], for t = 1 it is
    −log p(a_0 | a_1) = ½ Σ [c e²/σ² + log 2πσ²]; without the clamp of the predicted a_0, which can only lower it.

    Args:
        schedule: T steps.
        step: integer steps ``[...]``, 0..T−1.
        squared_error: e² = (ε − ε_θ)², ``[..., a]``.
        variance: σ², of a shape that broadcasts to ``[..., a]``.

    Returns:
        ``[...]``.
    """
    posterior = schedule.posterior_variance
    constant = torch.where(posterior > 0, -1.0 - posterior.clamp(min=1e-30).log(), LOG_TAU)
    remainder, weight = posterior[step][..., None], schedule.covariance_coefficient[step][..., None]
    terms = (remainder + weight * squared_error) / variance + variance.log() + constant[step][..., None]
    return 0.5 * terms.sum(dim=-1)
