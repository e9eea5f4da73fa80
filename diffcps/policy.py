"""A frozen copy of a pack's policies, for acting."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps.algorithms import diffcps


class Policy:
    """A frozen copy of a pack's policies for acting; learning goes on without touching it."""

    def __init__(self, model: diffcps.Model, parameters: dict[str, Tensor]) -> None:
        self.model = model
        self.parameters = parameters

    @property
    def members(self) -> int:
        """K."""
        return self.parameters["actor"].shape[0]

    @torch.no_grad()
    def act(
        self, observations: Sequence[NDArray[np.float32]], generators: Sequence[torch.Generator], candidates: int
    ) -> list[NDArray[np.float32]]:
        """Actions for each member's own observations.

        Args:
            observations: for member k an array ``[B_k, o]``; the B_k may differ, also be zero.
            generators: one generator a member, on the model's device; member k draws from its own only.
            candidates: actions drawn per state, of which one is chosen.

        Returns:
            For each member an array ``[B_k, a]`` within the action bounds.
        """
        model, device = self.model, self.model.device
        longest = max(len(rows) for rows in observations)
        steps, size = model.schedule.steps, model.action_size
        states = torch.zeros(self.members, longest, observations[0].shape[1])
        noise = torch.zeros(self.members, longest * candidates, steps, size, device=device)
        uniform = torch.full((self.members, longest, candidates), 0.5, device=device)
        for k, (rows, generator) in enumerate(zip(observations, generators, strict=True)):
            count = len(rows)
            states[k, :count] = torch.as_tensor(rows)
            noise[k, : count * candidates].normal_(generator=generator)
            uniform[k, :count].uniform_(generator=generator)
        uniform.clamp_(1e-7, 1.0 - 1e-7)  # a draw of exactly 0 or 1 has no finite Gumbel value
        chains = noise.permute(2, 0, 1, 3)
        actions = diffcps.sample_actions(model, self.parameters, states.to(device), chains, uniform).cpu().numpy()
        return [actions[k, : len(rows)] for k, rows in enumerate(observations)]
