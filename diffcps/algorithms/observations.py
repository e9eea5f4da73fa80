"""Observations with mean 0 and deviation 1 over the data set, when learning and when acting."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from diffcps.algorithms.base import Algorithm, Batch
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Learning

SMALLEST_STD = 1e-3
"""Added to the deviation of an observation before it is divided by."""
FACTS = "mean", "std"
"""Tensors that acting needs."""
S = TypeVar("S", bound=Learning)


class Normalised(Algorithm[S]):
    """Put before an algorithm's other bases; ``FACTS`` belong to its ``acting``."""

    @property
    def normalises(self) -> bool:
        """Whether observations are normalised; by default always."""
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Besides the others: mean and deviation of the data's observations, ``[K, o]``; ``prepare`` sets them."""
        if not self.normalises:
            return super().tensors()
        empty = torch.zeros(len(self.members), self.problem.observation_size, device=self.device)
        return {**super().tensors(), "mean": empty, "std": empty + 1.0}

    def prepare(self, pack: Pack, data: Batch) -> Batch:
        """As otherwise, with normalised observations."""
        data = super().prepare(pack, data)
        if not self.normalises:
            return data
        std, mean = torch.std_mean(data.observations.double(), dim=0, correction=0)
        pack["mean"].copy_(mean.expand_as(pack["mean"]))
        pack["std"].copy_((std + SMALLEST_STD).expand_as(pack["std"]))
        mean, std = pack["mean"][0], pack["std"][0]
        return replace(
            data,
            observations=(data.observations - mean) / std,
            next_observations=(data.next_observations - mean) / std,
        )

    def observed(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """What the networks see of observations ``[K, B, o]``."""
        if not self.normalises:
            return observations
        return (observations - parameters["mean"][:, None]) / parameters["std"][:, None]
