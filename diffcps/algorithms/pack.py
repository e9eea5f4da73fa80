"""A pack: all of K members that training changes, and the settings in which they may differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcps.algorithms.adam import Adam, clip_by_norm
from diffcps.algorithms.base import Algorithm, values_of
from diffcps.algorithms.nn import Layers, gradient


@dataclass
class Follower:
    """A copy of a network."""

    network: str
    rate: Tensor
    """``[K, 1]``."""


@dataclass
class Pack:
    """The members' parameters, copies, optimisers, running means and settings."""

    tensors: dict[str, Tensor]
    """Parameters of networks and copies ``[K, P]``, then what else the algorithm keeps, by name."""
    adams: dict[str, Adam]
    """Network -> its optimiser."""
    followers: dict[str, Follower]
    """Copy -> what it follows."""
    values: dict[str, Tensor]
    """Settings that may differ between the members, by name, ``[K]``; NaN where a member has ``None``."""

    @classmethod
    def create(cls, algorithm: Algorithm[Any], generators: Sequence[torch.Generator]) -> "Pack":
        """Fresh members. Member k's weights come from ``generators[k]`` (CPU), so they do not depend on other members."""
        device = algorithm.device

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.get_default_dtype(), device=device)

        names = algorithm.settings.of_member()
        pack = cls({}, {}, {}, {name: column(values_of(algorithm.members, name)) for name in names})
        for name, network in algorithm.networks.items():
            parameters = network.module.initial(generators).to(device)
            pack.tensors[name] = parameters
            for copy, rule in network.copies.items():
                pack.tensors[copy] = parameters.clone()
                pack.followers[copy] = Follower(name, column(rule.rate)[:, None])
            if network.learning_rate is not None:
                rate = pack.values[network.learning_rate]
                pack.adams[name] = network.optimiser.create(parameters, rate, network.decay_steps)
        pack.tensors |= algorithm.tensors()
        return pack

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name; the very tensors, not copies."""
        moments = {
            f"{name}_adam.{key}": value for name, adam in self.adams.items() for key, value in adam.state().items()
        }
        return self.tensors | moments

    def some(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors and settings of these names, where the pack has them."""
        known = self.tensors | self.values
        return {name: known[name] for name in names if name in known}

    def descend(self, name: str, loss: Tensor, leaves: Layers, clip: bool = False) -> Tensor:
        """One step of a network's optimiser down the gradient of ``loss`` ``[K]``; returns the gradients' norms ``[K]``.

        ``leaves`` are the parameters that the loss was computed with. With ``clip``, longer gradients than the setting
        ``grad_norm`` are scaled down to it; the heads of a network count as one gradient.
        """
        parameters = self.tensors[name]
        slope = gradient(loss, leaves).view_as(parameters)
        if clip:
            slope, norm = clip_by_norm(slope, self.values["grad_norm"])
        else:
            norm = torch.linalg.vector_norm(slope, dim=1)
        self.adams[name].step(parameters, slope)
        return norm

    def restart(self, name: str, copy: str) -> None:
        """Set a network to a copy, and its optimiser to the start."""
        self.tensors[name].copy_(self.tensors[copy])
        for value in self.adams[name].state().values():
            value.zero_()

    def move(self, copy: str) -> None:
        """Move a copy towards its network."""
        follower = self.followers[copy]
        self.tensors[copy].lerp_(self.tensors[follower.network], follower.rate)
