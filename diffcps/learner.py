"""The engine: owns all mutable training state of a pack and steps it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps.algorithms import diffcps
from diffcps.config import AlgorithmConfig, MemberConfig
from diffcps.errors import UserError
from diffcps.policy import Policy


class Dataset(Protocol):
    """Transitions in float32."""

    @property
    def observations(self) -> NDArray[np.float32]:
        """``[N, o]``."""

    @property
    def actions(self) -> NDArray[np.float32]:
        """``[N, a]``."""

    @property
    def rewards(self) -> NDArray[np.float32]:
        """``[N]``, as learned from."""

    @property
    def next_observations(self) -> NDArray[np.float32]:
        """``[N, o]``."""

    @property
    def terminals(self) -> NDArray[np.float32]:
        """``[N]``, 1 where the episode ended for good."""


class Learner:
    """Trains a pack of K members on one data set that lives on the device.

    Each member has its own random stream, seeded by its own seed, so what it learns does not depend on its company.

    Args:
        config: what the pack shares.
        members: what its members do not share.
        dataset: transitions, rewards already transformed.
        max_action: actions lie in ±max_action.
        device: where everything lives.
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        members: Sequence[MemberConfig],
        dataset: Dataset,
        max_action: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.config = config
        self.step = 0
        tensors = {
            name: torch.as_tensor(getattr(dataset, name), dtype=torch.float32, device=self.device)
            for name in ("observations", "actions", "rewards", "next_observations", "terminals")
        }
        self.data = diffcps.Batch(**tensors)
        self.rows = len(tensors["actions"])
        self.model = diffcps.Model(
            config, tensors["observations"].shape[1], tensors["actions"].shape[1], max_action, self.device
        )
        initial = [torch.Generator().manual_seed(_stream(m.seed, 0)) for m in members]
        self.pack = diffcps.Pack.create(self.model, members, initial)
        self.generators = [torch.Generator(self.device).manual_seed(_stream(m.seed, 1)) for m in members]

    @property
    def members(self) -> int:
        """K."""
        return len(self.generators)

    def update(self, steps: int, tick: Callable[[], None] | None = None) -> dict[str, Tensor]:
        """Take ``steps`` gradient steps; returns the mean of each metric over them, ``[K]``, on the device.

        ``tick`` is called after each step, so that a caller can show progress while many are under way.
        """
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for _ in range(steps):
            indices, draws = self._draw()
            batch = diffcps.Batch(**{name: value[indices] for name, value in vars(self.data).items()})
            for name, value in diffcps.update(self.model, self.pack, batch, draws, self.step).items():
                sums[name] = sums[name] + value if name in sums else value
                counts[name] = counts.get(name, 0) + 1
            self.step += 1
            if tick is not None:
                tick()
        return {name: total / counts[name] for name, total in sums.items()}

    def _draw(self) -> tuple[Tensor, diffcps.Draws]:
        """Row indices ``[K, B]`` and all randomness of the next step, each member's from its own generator."""
        config, size, members = self.config, self.model.action_size, self.members
        batch, chain = config.batch_size, config.diffusion_steps
        targets = batch * (config.max_q_candidates if config.max_q_backup else 1)
        policy_step = self.step % config.policy_freq == 0
        lengths = [chain * targets * size] + ([batch * size, chain * batch * size] if policy_step else [])

        normal = torch.empty(members, sum(lengths), device=self.device)
        indices = torch.empty(members, batch, dtype=torch.int64, device=self.device)
        step = torch.empty_like(indices)
        coin = torch.empty(members, dtype=torch.int64, device=self.device)
        for k, generator in enumerate(self.generators):
            indices[k].random_(0, self.rows, generator=generator)
            normal[k].normal_(generator=generator)
            if policy_step:
                step[k].random_(0, chain, generator=generator)
                coin[k : k + 1].random_(0, 2, generator=generator)

        def chains(part: Tensor, rows: int) -> Tensor:
            return part.view(members, chain, rows, size).transpose(0, 1)

        parts = normal.split(lengths, dim=1)
        if not policy_step:
            return indices, diffcps.Draws(chains(parts[0], targets))
        noise = parts[1].view(members, batch, size)
        return indices, diffcps.Draws(chains(parts[0], targets), step, noise, chains(parts[2], batch), coin == 1)

    def policy(self) -> Policy:
        """A snapshot of what acting needs: the online policies and the target critics."""
        return Policy(self.model, {"actor": self.pack.actor.clone(), "target": self.pack.target.clone()})

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if nothing had happened; tensors and integers only."""
        return {
            "step": self.step,
            "device": self.device.type,
            "pack": {name: value.clone() for name, value in self.pack.state().items()},
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ``UserError`` when the state is of another pack or kind of device."""
        if state["device"] != self.device.type:
            raise UserError(
                f"this checkpoint was made on {state['device']} and cannot go on on {self.device.type}: the two have "
                f"different random streams. Go on on {state['device']}, or start anew in another results folder."
            )
        own = self.pack.state()
        wrong = [n for n, v in own.items() if n not in state["pack"] or state["pack"][n].shape != v.shape]
        if wrong or len(state["generators"]) != self.members:
            raise UserError(f"this checkpoint is of another pack or network: {', '.join(wrong) or 'members'} differ.")
        for name, value in own.items():
            value.copy_(state["pack"][name])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
        self.step = int(state["step"])


def _stream(seed: int, purpose: int) -> int:
    """A seed for one purpose (0 initial weights, 1 training) of one member; streams of different purposes differ."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> 1)
