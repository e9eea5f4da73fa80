"""Denoising diffusion over actions: schedules, noising, the reverse chain, its variance, bounds on its likelihood.

Steps are counted 0..T−1 here, as the network sees them; step i stands for t = i + 1 of the equations. Arrays over steps
have length T. "behaviour loss" is L = mean (ε − ε_θ)².
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardtanh


@dataclass(frozen=True)
class Schedule:
    """A noise schedule and what follows from it; every field is a tensor of length T."""

    beta: Tensor
    """β_t, the variance added at each step."""
    alpha_bar: Tensor
    """ᾱ_t = Π (1 − β), the signal left after step t."""
    signal_root: Tensor
    """√ᾱ_t, of the rounded ᾱ_t."""
    noise_root: Tensor
    """√(1 − ᾱ_t), of the rounded ᾱ_t."""
    posterior_variance: Tensor
    """β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t), the variance of q(a_{t−1} | a_t, a_0)."""
    mean_of_start: Tensor
    """Weight of a_0 in the mean of q(a_{t−1} | a_t, a_0)."""
    mean_of_current: Tensor
    """Weight of a_t in that mean."""
    covariance_coefficient: Tensor
    """c_t = (√((1−ᾱ_t)/α_t) − √(1−ᾱ_{t−1}−β̃_t))²: the optimal reverse variance is β̃_t + c_t L_t (Analytic-DPM)."""

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta)

    def roots_at(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ) of a step, or of each of several."""
        return self.signal_root[step], self.noise_root[step]

    def to(self, device: torch.device) -> "Schedule":
        """The same on ``device``."""
        return Schedule(**{name: value.to(device) for name, value in vars(self).items()})


def variance_preserving(steps: int, beta_min: float, beta_max: float, dtype: torch.dtype = torch.float32) -> Schedule:
    """β_i = 1 − exp(−β_min/T − ½ (β_max − β_min)(2i − 1)/T²), i = 1..T, worked out in double precision."""
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    beta = 1.0 - torch.exp(-beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * i - 1) / steps**2)
    alpha = 1.0 - beta
    alpha_bar = torch.cumprod(alpha, dim=0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    posterior = beta * (1.0 - previous) / (1.0 - alpha_bar)
    rest = (1.0 - previous - posterior).clamp(min=0.0)
    signal_root, noise_root = roots(alpha_bar.to(dtype))
    fields = {
        "beta": beta,
        "alpha_bar": alpha_bar,
        "signal_root": signal_root,
        "noise_root": noise_root,
        "posterior_variance": posterior,
        "mean_of_start": beta * previous.sqrt() / (1.0 - alpha_bar),
        "mean_of_current": (1.0 - previous) * alpha.sqrt() / (1.0 - alpha_bar),
        "covariance_coefficient": (((1.0 - alpha_bar) / alpha).sqrt() - rest.sqrt()) ** 2,
    }
    return Schedule(**{name: value.to(dtype) for name, value in fields.items()})


def roots(signal: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 − ᾱ), the weights of a clean action and of noise in a noisy one."""
    return signal.sqrt(), (1.0 - signal).sqrt()


def add_noise(schedule: Schedule, actions: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """a_t = √ᾱ_t a_0 + √(1 − ᾱ_t) ε for actions and noise ``[..., a]`` and integer steps ``[...]``."""
    return schedule.signal_root[step].unsqueeze(-1) * actions + schedule.noise_root[step].unsqueeze(-1) * noise


def one_hot(step: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """``[..., T]`` of integer steps ``[...]``: 1 at the step and 0 elsewhere.

    A product with it picks what belongs to each step, as a gather would. But on a GPU the gradient of a gather adds up in no
    fixed order.
    """
    return (step[..., None] == torch.arange(steps, device=step.device)).to(dtype)


def bounded(actions: Tensor, max_action: float) -> Tensor:
    """Actions clamped to ±max_action. The gradient takes one operation, where that of ``clamp`` takes five."""
    return hardtanh(actions, -max_action, max_action)


def implied_start(weights: tuple[Tensor, Tensor], current: Tensor, noise: Tensor, max_action: float) -> Tensor:
    """The a_0 that predicted noise ``[..., a]`` implies at a_t, clamped: (a_t − √(1 − ᾱ_t) ε)/√ᾱ_t.

    ``weights`` are both roots, in the order of ``roots``.
    """
    of_start, of_noise = weights
    return bounded((current - of_noise * noise) / of_start, max_action)


Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""``(a_t [..., a], step) -> predicted noise [..., a] and reverse variance``, the variance of a shape that broadcasts."""


def reverse_mean(schedule: Schedule, current: Tensor, step: int | Tensor, noise: Tensor, max_action: float) -> Tensor:
    """Mean of p(a_{t−1} | a_t) for predicted noise ``[..., a]``: of q(a_{t−1} | a_t, a_0) at the a_0 that it implies, clamped.

    ``step`` is one for all, or integers of a shape that broadcasts to the actions.
    """
    start = implied_start(schedule.roots_at(step), current, noise, max_action)
    return schedule.mean_of_start[step] * start + schedule.mean_of_current[step] * current


def reverse_chain(denoise: Denoiser, schedule: Schedule, noise: Tensor, max_action: float) -> Tensor:
    """Sample actions by running the chain from pure noise to a_0, differentiably.

    Args:
        denoise: the noise net with its reverse variance.
        schedule: the noise schedule, T steps.
        noise: ``[T, ..., a]`` standard normal draws: the start, then one for each step but the last. With one more,
            ``[T + 1, ..., a]``, the last step is noisy too.
        max_action: the predicted a_0 is clamped to ±max_action at every step, and so is the result.

    Returns:
        ``[..., a]``.
    """
    current = noise[0]
    for step in reversed(range(schedule.steps)):
        predicted, variance = denoise(current, step)
        current = reverse_mean(schedule, current, step, predicted, max_action)
        draw = schedule.steps - step
        if draw < len(noise):
            current = current + variance.sqrt() * noise[draw]
    return bounded(current, max_action)


def carry(denoise: Denoiser, schedule: Schedule, noise: Tensor, max_action: float) -> Tensor:
    """Where the chain carries noise ``[..., a]`` without drawing anything on the way: its probability flow in T steps.

    a_{t−1} = √ᾱ_{t−1} â_0 + √(1 − ᾱ_{t−1}) ε̂ with â_0 the clean action that the predicted noise implies, clamped, and ε̂ the
    noise that â_0 implies (DDIM with η = 0: Song, Meng and Ermon, 2021, equation 12). Where the chain of the smallest steps has a
    distribution of actions, so has this map of normal noise. The mean of the chain would not do: it ends in a single action.
    """
    current = noise
    for step in reversed(range(schedule.steps)):
        of_start, of_noise = weights = schedule.roots_at(step)
        start = implied_start(weights, current, denoise(current, step)[0], max_action)
        if step == 0:
            return start
        left = (current - of_start * start) / of_noise
        of_start, of_noise = schedule.roots_at(step - 1)
        current = of_start * start + of_noise * left
    return current


# Bounds on the log-likelihood -----------------------------------------------------------------------------------------
#
# How likely a diffusion policy makes an action: bounds on −log μ(a|s) of the discrete chain itself, in nats. The chain draws
# a_T ~ N(0, 1) and a_{t−1} ~ N(mean, variance) for t = T..1. Its density needs an integral over the path a_{1:T}, which is
# bounded by weighing paths drawn from the forward process q(a_{1:T} | a_0): with log w = log p(a_{0:T}) −
# log q(a_{1:T} | a_0), the ELBO is E log w, the IWAE log mean w, and Rényi's bounds are between them. The final clamp to the
# action bounds is left out: the actions of a data set are within them.


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
        and the two densities of a step, which nearly cancel, are side by side.
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
