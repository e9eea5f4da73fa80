"""Adam and gradient-norm clipping for a pack: each member has its own moments, learning rate and norm."""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    @classmethod
    def create(cls, parameters: Tensor, learning_rate: Tensor) -> "Adam":
        """A fresh optimiser for ``parameters`` ``[K, P]`` with learning rates ``[K]``."""
        count = torch.zeros((), dtype=torch.float64, device=parameters.device)
        zeros = torch.zeros_like(parameters)
        return cls(zeros, zeros.clone(), count, learning_rate[:, None].to(parameters))

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """Update ``parameters`` in place."""
        decay_first, decay_second, epsilon = 0.9, 0.999, 1e-8
        self.count += 1
        self.first.lerp_(gradient, 1.0 - decay_first)
        self.second.mul_(decay_second).addcmul_(gradient, gradient, value=1.0 - decay_second)
        scale_first = 1.0 - decay_first**self.count
        scale_second = (1.0 - decay_second**self.count).sqrt()
        # lr (m / scale_first) / (√v / scale_second + ε), with the scalars gathered: two passes over the parameters less
        rate = self.learning_rate * (scale_second / scale_first).to(self.learning_rate)
        denominator = self.second.sqrt().add_(epsilon * scale_second)
        parameters.addcdiv_(self.first * rate, denominator, value=-1.0)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold."""
        return {"first": self.first, "second": self.second, "count": self.count}


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each member's gradient ``[K, P]`` to an L2 norm of at most ``max_norm`` ``[K]``; returns it and the norms ``[K]``."""
    norm = torch.linalg.vector_norm(gradient, dim=1)
    return gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)[:, None], norm
