"""Denoising diffusion over actions: schedules, noising, the reverse chain and its variance. No reinforcement learning.

Steps are counted 0..T−1 here, as the network sees them; step i stands for t = i + 1 of the equations. Arrays over steps
have length T. "behaviour loss" is L = mean (ε − ε_θ)².
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A noise schedule and what follows from it; every field is a tensor of length T."""

    beta: Tensor
    """β_t, the variance added at each step."""
    alpha_bar: Tensor
    """ᾱ_t = Π (1 − β), the signal left after step t."""
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
    fields = {
        "beta": beta,
        "alpha_bar": alpha_bar,
        "posterior_variance": posterior,
        "mean_of_start": beta * previous.sqrt() / (1.0 - alpha_bar),
        "mean_of_current": (1.0 - previous) * alpha.sqrt() / (1.0 - alpha_bar),
        "covariance_coefficient": (((1.0 - alpha_bar) / alpha).sqrt() - rest.sqrt()) ** 2,
    }
    return Schedule(**{name: value.to(dtype) for name, value in fields.items()})


def add_noise(schedule: Schedule, actions: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """a_t = √ᾱ_t a_0 + √(1 − ᾱ_t) ε for actions and noise ``[..., a]`` and integer steps ``[...]``."""
    signal = schedule.alpha_bar[step].unsqueeze(-1)
    return signal.sqrt() * actions + (1.0 - signal).sqrt() * noise


Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""``(a_t [..., a], step) -> predicted noise [..., a] and reverse variance``, the variance of a shape that broadcasts."""


def reverse_mean(schedule: Schedule, current: Tensor, step: int, noise: Tensor, max_action: float) -> Tensor:
    """Mean of p(a_{t−1} | a_t) for predicted noise ``[..., a]``: of q(a_{t−1} | a_t, a_0) at the a_0 that it implies, clamped."""
    signal = schedule.alpha_bar[step]
    start = (current - (1.0 - signal).sqrt() * noise) / signal.sqrt()
    start = start.clamp(-max_action, max_action)
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
    return current.clamp(-max_action, max_action)
