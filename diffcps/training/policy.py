"""A frozen copy of a pack's policies, for acting."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps.algorithms.base import Algorithm
from diffcps.config import Actor

CANDIDATES_AT_ONCE_CPU = 512
"""Candidates of one member that a CPU works on at a time: a hidden layer's activations, half a megabyte, stay in the
core's own cache, and their memory is used again without going back to the system. Thousands at a time halve the rate."""
CANDIDATES_AT_ONCE_GPU = 2**17
"""Candidates of all members that a GPU works on at a time, which only bounds memory: some 130 MB a hidden layer."""


def actions_at_once(device: torch.device) -> int:
    """Actions that a network is best asked about at a time, on a device."""
    return CANDIDATES_AT_ONCE_CPU if device.type == "cpu" else CANDIDATES_AT_ONCE_GPU


class Policy:
    """A frozen copy of a pack's policies for acting, which learning does not change."""

    def __init__(self, algorithm: Algorithm[Any], parameters: dict[str, Tensor]) -> None:
        self.algorithm = algorithm
        self.parameters = parameters

    @property
    def members(self) -> int:
        """K."""
        return self.parameters["actor"].shape[0]

    @property
    def networks(self) -> dict[str, Tensor]:
        """The parameters that learning changes: all but settings."""
        settings = self.algorithm.settings.of_member()
        return {name: value for name, value in self.parameters.items() if name not in settings}

    def with_networks(self, networks: dict[str, Tensor]) -> "Policy":
        """The same settings with other networks, from any device."""
        device = self.algorithm.device
        return Policy(self.algorithm, self.parameters | {name: value.to(device) for name, value in networks.items()})

    def member(self, number: int) -> "Policy":
        """One of them, as a pack of one."""
        return Policy(self.algorithm, {name: value[number : number + 1] for name, value in self.parameters.items()})

    def with_setting(self, name: str, value: int | float | str) -> "Policy":
        """The same networks, acting with another value of a setting that only acting reads."""
        old = self.algorithm
        members = [member.replaced(**{name: value}) for member in old.members]
        own = {name: torch.full_like(self.parameters[name], float(value))} if name in self.parameters else {}
        return Policy(type(old)(members, old.problem, old.device), self.parameters | own)

    @torch.no_grad()
    def act(
        self,
        observations: Sequence[NDArray[np.float32]],
        generators: Sequence[torch.Generator],
        candidates: int,
        actor: Actor = "online",
    ) -> list[NDArray[np.float32]]:
        """Actions for each member's own observations.

        Args:
            observations: for member k an array ``[B_k, o]``; the B_k may differ, also be zero.
            generators: one generator a member, on the model's device; member k draws from its own only.
            candidates: actions drawn per state, of which one is chosen.
            actor: which policy acts, one of ``Algorithm.actors``.

        Returns:
            For each member an array ``[B_k, a]`` within the action bounds.
        """
        algorithm, acting = self.algorithm, self.algorithm.acting_as(actor)
        device, size = algorithm.device, algorithm.problem.action_size
        parameters = self.parameters | {"actor": self.parameters[algorithm.actors(algorithm.config)[actor]]}
        counts = [len(rows) for rows in observations]
        longest = max(counts)
        states = torch.zeros(self.members, longest, observations[0].shape[1])
        noise = torch.zeros(acting.draws, self.members, longest * candidates, size, device=device)
        uniform = torch.full((self.members, longest, candidates), 0.5, device=device)
        for k, (rows, generator) in enumerate(zip(observations, generators, strict=True)):
            states[k, : counts[k]] = torch.as_tensor(rows)
            drawn = noise[:, k, : counts[k] * candidates]
            drawn.copy_(torch.randn(drawn.shape, generator=generator, device=device))
            uniform[k, : counts[k]].uniform_(generator=generator)
        uniform.clamp_(1e-7, 1.0 - 1e-7)  # a draw of exactly 0 or 1 has no finite Gumbel value
        states = states.to(device)

        actions = torch.zeros(self.members, longest, size, device=device)
        for members, first, last in _pieces(device.type, counts, candidates):
            own = {name: value[members] for name, value in parameters.items()}
            actions[members, first:last] = acting.act(
                own,
                observations=algorithm.observed(own, states[members, first:last]),
                noise=noise[:, members, first * candidates : last * candidates],
                uniform=uniform[members, first:last],
            )
        chosen = actions.cpu().numpy()
        return [chosen[k, :count] for k, count in enumerate(counts)]


def _pieces(device: str, counts: Sequence[int], candidates: int) -> Iterator[tuple[slice, int, int]]:
    """What is computed together: members, and rows from the first to before the last.

    A CPU takes one member after the other: nothing is computed for padding, and a member's actions do not depend on the
    other members, not even in the last bit. A GPU takes all members at once: it waits for launches, not for sums.
    """
    if device == "cpu":
        limit, groups = CANDIDATES_AT_ONCE_CPU, [(slice(k, k + 1), count) for k, count in enumerate(counts)]
    else:
        limit, groups = CANDIDATES_AT_ONCE_GPU // len(counts), [(slice(None), max(counts))]
    rows = max(1, limit // candidates)
    for members, count in groups:
        for first in range(0, count, rows):
            yield members, first, min(first + rows, count)
