"""Chains whose optimal noise net is known: actions that are normally distributed."""

from collections.abc import Callable

from torch import Tensor

from diffcps.algorithms.diffusion import Denoiser, Schedule


def calibrated_variance(schedule: Schedule, step_losses: Tensor) -> Tensor:
    """σ*_t² = β̃_t + c_t L_t, the optimal isotropic reverse variance, from each step's own behaviour loss ``[T]``."""
    return schedule.posterior_variance + schedule.covariance_coefficient * step_losses


def with_variance(noise_net: Callable[[Tensor, int], Tensor], variance: Tensor) -> Denoiser:
    """A noise net with one reverse variance for each step, ``[T]``."""
    return lambda actions, step: (noise_net(actions, step), variance[step])


def gaussian_noise_net(schedule: Schedule, std: float) -> Callable[[Tensor, int], Tensor]:
    """The exact noise net for actions N(0, std²): E[ε | a_t] = √(1−ᾱ_t) a_t / (ᾱ_t std² + 1 − ᾱ_t)."""

    def predict(actions: Tensor, step: int) -> Tensor:
        signal = schedule.alpha_bar[step]
        return (1.0 - signal).sqrt() * actions / (signal * std**2 + 1.0 - signal)

    return predict


def gaussian_step_losses(schedule: Schedule, std: float) -> Tensor:
    """``[T]``: the smallest behaviour loss possible at each step for actions N(0, std²): ᾱ s² / (ᾱ s² + 1 − ᾱ).

    Its mean over steps is the floor f_T(s) of the behaviour loss.
    """
    signal = schedule.alpha_bar * std**2
    return signal / (signal + 1.0 - schedule.alpha_bar)
