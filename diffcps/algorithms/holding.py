"""What λ holds, and at what: the constraint C of a policy and its bound κ, all ``[K]``."""

import torch
from torch import Tensor

from diffcps.algorithms.model import Batch, Draws, Model
from diffcps.algorithms.pack import Pack
from diffcps.nn import Layers


def held(model: Model, pack: Pack, batch: Batch, draws: Draws, constraint: Tensor) -> tuple[Tensor, Tensor]:
    """C and κ on this batch, constants.

    Of the online policies: ``constraint`` and κ. Of the averaged ones: C is what they explain by the same draws, and where a
    slack sets κ it is added to what the cloned policies explain by them. An estimate of C in nats by one diffusion step an
    action scatters by some 20 nats (four corners, T = 30), the difference of two such policies on the same draws by 2 to 6.
    """
    if model.config.held_policy == "online":
        return constraint.detach(), pack.bound(model)

    def explained(parameters: Tensor, step_losses: Tensor | None) -> Tensor:
        assert draws.step is not None
        assert draws.noise is not None
        layers: Layers = model.policy.layout.layers(parameters)
        rows = model.policy.explain(
            layers, batch.observations, batch.actions, draws.step, draws.noise, step_losses
        ).rows
        return rows.mean(dim=1)

    with torch.no_grad():
        reached = None if pack.cloned is None else explained(pack.cloned, pack.cloned_losses)
        return explained(pack.average, pack.step_losses), pack.bound(model, reached)
