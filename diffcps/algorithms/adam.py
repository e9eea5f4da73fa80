"""Adam and gradient-norm clipping for a pack: each member has its own moments, learning rate and norm."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DECAYS = 0.9, 0.999
"""Adam's decays of the running means of a gradient and of its square."""
_SETTLED = 20_000
"""Updates after which the bias corrections of Adam are 1."""


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015) on a ``[K, P]`` tensor, with torch's default decays and no weight decay."""

    first: Tensor
    """Running mean of the gradient, ``[K, P]``."""
    second: Tensor
    """Running mean of its square, ``[K, P]``."""
    count: Tensor
    """Updates so far; a tensor, so that a step never waits for the host."""
    learning_rate: Tensor
    """``[K, 1]``."""
    decay_steps: int | None = None
    """The learning rate falls to 0 along a cosine over so many updates; ``None``: it is constant."""

    @classmethod
    def create(cls, parameters: Tensor, learning_rate: Tensor, decay_steps: int | None = None) -> "Adam":
        """A fresh optimiser for ``parameters`` ``[K, P]`` with learning rates ``[K]``."""
        count = torch.zeros((), dtype=torch.float64, device=parameters.device)
        zeros = torch.zeros_like(parameters)
        rate = learning_rate[:, None].to(parameters)
        return cls(zeros, zeros.clone(), count, rate, decay_steps=decay_steps)

    @staticmethod
    def farthest(updates: int) -> float:
        """Distance, in learning rates, that no number can exceed in so many updates with any gradients.

        By Cauchy and Schwarz update t is at most √(Σ wᵢ² / uᵢ), where wᵢ and uᵢ are the weights of gradient i in the
        bias-corrected means of the gradient and of its square. A steady gradient moves by 1 an update, one that grows
        by a ninth an update by up to 7.27.
        """
        first, second = DECAYS
        ratio = first * first / second
        t = torch.arange(1, min(updates, _SETTLED) + 1, dtype=torch.float64)
        squares = (1 - first) ** 2 / (1 - second) * (1 - ratio**t) / (1 - ratio)
        most = squares.sqrt() * (1 - second**t).sqrt() / (1 - first**t)
        return float(most.sum()) + max(0, updates - _SETTLED) * math.sqrt((1 - first) ** 2 / (1 - second) / (1 - ratio))

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """Update ``parameters`` in place."""
        (decay_first, decay_second), epsilon = DECAYS, 1e-8
        self.count += 1
        self.first.lerp_(gradient, 1.0 - decay_first)
        self.second.mul_(decay_second).addcmul_(gradient, gradient, value=1.0 - decay_second)
        scale_first = 1.0 - decay_first**self.count
        scale_second = (1.0 - decay_second**self.count).sqrt()
        # lr (m / scale_first) / (√v / scale_second + ε), with the scalars gathered: two passes over the parameters less
        rate = self.learning_rate * (scale_second / scale_first).to(self.learning_rate)
        if self.decay_steps is not None:
            rate = rate * self._decayed(self.count - 1, self.decay_steps)
        denominator = self.second.sqrt().add_(epsilon * scale_second)
        parameters.addcdiv_(self.first * rate, denominator, value=-1.0)

    def scheduled(self) -> Tensor:
        """The learning rate ``[K, 1]`` of the next update."""
        if self.decay_steps is None:
            return self.learning_rate
        return self.learning_rate * self._decayed(self.count, self.decay_steps)

    def _decayed(self, updates: Tensor, decay_steps: int) -> Tensor:
        """What is left of the learning rate after so many updates: from 1 to 0 along a cosine."""
        done = (updates / decay_steps).clamp(max=1.0)
        return (0.5 + 0.5 * (math.pi * done).cos()).to(self.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold."""
        return {"first": self.first, "second": self.second, "count": self.count}


WEIGHT_DECAY = 1e-4
"""Of ``AdamW``."""


class AdamW(Adam):
    """Adam with a decay of all parameters beside it (Loshchilov and Hutter, 2019), of 1e-4 times the learning rate."""

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """See ``Adam.step``."""
        parameters.mul_(1.0 - WEIGHT_DECAY * self.scheduled())
        super().step(parameters, gradient)


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each member's gradient ``[K, P]`` to an L2 norm of at most ``max_norm`` ``[K]``; returns it and the norms ``[K]``."""
    norm = torch.linalg.vector_norm(gradient, dim=1)
    return gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)[:, None], norm
