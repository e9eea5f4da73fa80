"""A chain with a noise net of its own and the variance of the forward process, of an algorithm that may have a student."""

from typing import Protocol

from torch import Tensor

from diffcps.algorithms.base import Module
from diffcps.algorithms.diffusion import Denoiser, Schedule, carry
from diffcps.algorithms.nn import Layers, Layout
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.student import S, Teacher


class NoiseModel(Module, Protocol):
    """ε_θ(a_t, t, s), whose first layer is a sum of what action, step and observation give; see ``nn.NoiseNet``."""

    layout: Layout

    def time(self, layers: Layers) -> Tensor:
        """What each step gives, ``[K, T, H]``."""

    def observe(self, layers: Layers, observations: Tensor) -> Tensor:
        """What observations give, ``[K, B, H]``."""

    def __call__(self, layers: Layers, actions: Tensor, observed: Tensor) -> Tensor:
        """Predicted noise of noisy actions ``[K, B·n, a]``."""


class ForwardChain(Teacher[S]):
    """Its averaged policy is called ``average``. A subclass sets ``noise_net`` and ``schedule``."""

    noise_net: NoiseModel
    schedule: Schedule

    def denoiser(self, parameters: Tensor, observations: Tensor) -> Denoiser:
        """ε_θ and β at observations ``[K, B, o]``, for noisy actions ``[K, B·n, a]`` in units of their bound."""
        layers = self.noise_net.layout.layers(parameters)
        time, observed = self.noise_net.time(layers), self.noise_net.observe(layers, observations)

        def denoise(current: Tensor, step: int) -> tuple[Tensor, Tensor]:
            return self.noise_net(layers, current, observed + time[:, step : step + 1]), self.schedule.beta[step]

        return denoise

    def carry(self, pack: Pack, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``Teacher.carry``; the clean action that the noise implies is kept within the bound."""
        return carry(self.denoiser(pack["average"], observations), self.schedule, noise, 1.0)
