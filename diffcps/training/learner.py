"""The engine: owns all mutable training state of a pack and steps it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms import streams
from diffcps.algorithms.model import Batch, Model, Part, part_at, parts
from diffcps.algorithms.pack import Pack
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.training.engine import Kind, Work, average_policy, build, metrics
from diffcps.training.policy import Policy


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

    Each member has its own random stream, a function of its seed and the step, so what it learns does not depend on its
    company, nor on the device.

    Args:
        trial: the algorithm, its settings and the members.
        dataset: transitions, rewards already transformed.
        max_action: actions lie in ±max_action.
        device: where everything lives.
        engine: how a gradient step is run; ``steps`` tells what it came to and why.
        pool: memory pool for CUDA graphs, to share with packs that take turns with this one.
        own: the members that it trains; by default all.
    """

    def __init__(
        self,
        trial: RunConfig,
        dataset: Dataset,
        max_action: float,
        device: torch.device | str = "cpu",
        engine: Kind = "eager",
        pool: Any = None,
        own: slice = slice(None),
    ) -> None:
        self.device = torch.device(device)
        self.step = 0
        tensors = {
            name: torch.as_tensor(getattr(dataset, name), dtype=torch.float32, device=self.device)
            for name in ("observations", "actions", "rewards", "next_observations", "terminals")
        }
        self.data = Batch(**tensors)
        self.model = Model(
            trial.algorithm,
            algorithms.settings(trial)[own],
            observation_size=tensors["observations"].shape[1],
            action_size=tensors["actions"].shape[1],
            max_action=max_action,
            device=self.device,
        )
        self.config = self.model.config
        seeds = [member.seed for member in trial.members[own]]
        initial = [torch.Generator().manual_seed(_seed(seed)) for seed in seeds]
        self.pack = Pack.create(self.model, initial)
        self.work = Work(
            pack=self.pack,
            data=self.data,
            key=streams.keys(seeds, purpose=1).to(self.device),
            step=torch.zeros((), dtype=torch.int64, device=self.device),
            sums=torch.zeros(len(metrics(self.model)), len(seeds), device=self.device),
        )
        self.steps = build(self.model, self.work, engine, pool)

    @property
    def members(self) -> int:
        """K."""
        return len(self.work.key)

    def update(self, steps: int, tick: Callable[[], None] | None = None) -> dict[str, Tensor]:
        """Take ``steps`` gradient steps; returns the mean of each metric over them, ``[K]``, on the device.

        ``tick`` is called after each step, so that a caller can show progress while many are under way.
        """
        taken: dict[Part, int] = dict.fromkeys(parts(self.config), 0)
        self.work.sums.zero_()
        for _ in range(steps):
            part = part_at(self.config, self.step)
            self.steps.take(part)
            average_policy(self.model, self.pack, self.step)
            taken[part] += 1
            self.step += 1
            if tick is not None:
                tick()
        given, names = algorithms.get(self.model.algorithm).METRICS, metrics(self.model)
        counts = {name: sum(n for part, n in taken.items() if name in given[part]) for name in names}
        sums = dict(zip(names, self.work.sums, strict=True))
        return {name: sums[name] / count for name, count in counts.items() if count}

    def policy(self) -> Policy:
        """A snapshot of what acting and measuring need."""
        return Policy(self.model, {name: value.clone() for name, value in self.pack.acting().items()})

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if nothing had happened: ``step``, and ``pack``, tensors by name.

        They have the members first, those without dimensions are the same for all, so packs can be cut and joined.
        """
        return {"step": self.step, "pack": {name: value.clone() for name, value in self._state().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ``UserError`` when the state is of another pack or network."""
        own, saved = self._state(), state["pack"]
        wrong = [name for name, value in own.items() if name not in saved or saved[name].shape != value.shape]
        if wrong:
            raise UserError(f"this checkpoint is of another pack or network: {', '.join(wrong)} differ.")
        for name, value in own.items():
            value.copy_(saved[name])
        self.step = int(state["step"])
        self.work.step.fill_(self.step)

    def _state(self) -> dict[str, Tensor]:
        return {**self.pack.state(), "key": self.work.key}


def _seed(seed: int) -> int:
    """The seed of a member's initial weights, far from that of its training."""
    return int(np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)[0] >> 1)
