"""Acting, the same for all algorithms: candidates from the policy, and a choice among them by value."""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffcps.algorithms.model import Model


def sample_actions(
    model: Model, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor
) -> Tensor:
    """Act: draw N candidates per state from the policy and choose one by softmax over the target critic.

    Args:
        model: the networks.
        parameters: ``actor`` ``[K, P]``, ``target`` ``[K, 2 P]``, and ``step_losses`` ``[K, T]`` where the covariance is
            calibrated.
        observations: ``[K, B, o]``.
        noise: ``[D, K, B·N, a]`` standard normal.
        uniform: ``[K, B, N]`` on (0, 1); the choice is a Gumbel maximum, softmax at temperature 1 on min(Q1', Q2').

    Returns:
        ``[K, B, a]``.
    """
    candidates = uniform.shape[-1]
    actor = model.policy.layout.layers(parameters["actor"])
    actions = model.actions(actor, observations, noise, parameters.get("step_losses"))
    if candidates == 1:
        return actions
    values = model.critic(model.critic.layers(parameters["target"]), observations, actions).amin(dim=1)
    gumbel = -torch.log(-torch.log(uniform))
    chosen = (values.unflatten(-1, (-1, candidates)) + gumbel).argmax(dim=-1)
    choice = chosen[..., None, None].expand(-1, -1, 1, actions.shape[-1])
    return actions.unflatten(1, (-1, candidates)).gather(2, choice).squeeze(2)
