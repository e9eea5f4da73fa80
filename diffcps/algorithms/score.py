"""The behaviour model that SfBC and QGPO share: its noise net in continuous time, how it learns, and its samples.

The network is that of the authors' programs: blocks of two layers that narrow and widen again, the first ones' outputs handed
to the last ones, and in each block a part that depends on time and observation. Time enters as waves of random frequencies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from diffcps.algorithms import sde, streams
from diffcps.algorithms.base import Batch, Metrics, Network, Problem, StepKind, StepNoise, require_stages
from diffcps.algorithms.nn import Layers, Layout, linear
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Learning, WithStudent
from diffcps.algorithms.streams import Normal, Uniform
from diffcps.algorithms.student import Teacher
from diffcps.config import RunConfig
from diffcps.config.plain import require, setting

METRICS = "behaviour_loss", "actor_grad_norm"
FREQUENCY = 30.0
"""Standard deviation of the frequencies of the time's waves."""
ROWS_AT_ONCE = 512
"""Observations whose samples' noise is drawn together; the noise depends on it."""
IN_CACHE = 64
"""Of these, how many get their samples together on a CPU: their activations fit into its cache."""


@dataclass(frozen=True)
class ScoreSettings(WithStudent, Learning):
    """A behaviour model that learns before all else, and its samples."""

    behaviour_batch_size: int = setting(4096, "a positive whole number")
    """Transitions in one gradient step of the behaviour model."""
    behaviour_share: float = setting(0.5, "between 0 and 1", pack=True)
    """Share of the training in which the behaviour model learns, at its beginning."""
    learning_rate: float = setting(1e-4, "a positive number")
    """Adam's learning rate for the behaviour model."""
    time_embedding: int = setting(32, "a positive whole number")
    """Size of the embedding of the diffusion time (even), and of that of the observation."""
    diffusion_steps: int = setting(15, "a positive whole number", symbol="T", search="5,10,15,20")
    """How often the solver calls the network for an action."""
    support: int = setting(16, "a positive whole number")
    """Actions of the behaviour model for each observation of the data, drawn once, over which values are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.time_embedding % 2 == 0, "time_embedding", self.time_embedding, "an even number")
        require(self.hidden_size % 2 == 0, "hidden_size", self.hidden_size, "an even number")
        require(self.behaviour_share < 1.0, "behaviour_share", self.behaviour_share, "less than 1")


S = TypeVar("S", bound=ScoreSettings)


@dataclass(frozen=True)
class Frequencies:
    """Random frequencies of a member's own ``[K, size]``, which do not learn."""

    size: int

    def initial(self, generators: Sequence[torch.Generator]) -> Tensor:
        """See ``base.Module``."""
        return torch.stack([FREQUENCY * torch.randn(self.size, generator=own) for own in generators])


def waves(frequencies: Tensor, time: Tensor) -> Tensor:
    """sin and cos of 2π t times each frequency: ``[K, B, 2 F]`` for frequencies ``[K, F]`` and times ``[K, B]``."""
    angles = math.tau * time[..., None] * frequencies[:, None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ScoreNet:
    """ε_θ(a, t, s) for all members at once. With a width H its blocks are 2 H, H, H/2, H/2, H and 2 H wide.

    What observation and time give to the blocks is worked out once for all actions of an observation.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden: int, embedding: int, product: torch.dtype | None = None
    ) -> None:
        self.product = product
        wide, half = 2 * hidden, hidden // 2
        self.blocks = (
            (action_size, wide), (wide, hidden), (hidden, half), (half, half), (2 * half, hidden), (2 * hidden, wide),
        )  # fmt: skip
        sizes = [(embedding, embedding), (observation_size, embedding)]
        sizes += [(2 * embedding, 4 * embedding), (4 * embedding, 4 * embedding)]
        for inputs, outputs in self.blocks:
            sizes += [(4 * embedding, outputs), (inputs, outputs), (outputs, outputs)]
            sizes += [(inputs, outputs)] * (inputs != outputs)
        self.layout = Layout((*sizes, (2 * wide, action_size)))

    def observe(self, layers: Layers, observations: Tensor, features: Tensor) -> list[Tensor]:
        """What observations ``[K, B, o]`` and ``waves`` ``[K, B or 1, E]`` give to each block, ``[K, B, its width]``."""
        seen = silu(linear(observations, layers[1]))
        time = linear(features, layers[0]).expand(-1, seen.shape[1], -1)
        embedded = linear(silu(linear(torch.cat([seen, time], dim=2), layers[2])), layers[3])
        active = silu(embedded)
        return [linear(active, layers[first], self.product) for first in self._starts()]

    def __call__(self, layers: Layers, actions: Tensor, observed: Sequence[Tensor]) -> Tensor:
        """Predicted noise ``[K, B·n, a]`` for noisy actions ``[K, B·n, a]``, n of them for each observation."""
        kept: list[Tensor] = []
        x = actions
        for number, first in enumerate(self._starts()):
            if number >= 4:
                x = torch.cat([kept[6 - number], x], dim=2)
            x = self._block(layers, first, x, observed[number])
            kept.append(x)
        return linear(torch.cat([kept[0], x], dim=2), layers[-1])

    def _block(self, layers: Layers, first: int, x: Tensor, observed: Tensor) -> Tensor:
        inputs, outputs = x.shape[2], layers[first + 2][0].shape[2]
        hidden = silu(linear(x, layers[first + 1], self.product))
        rows = observed.shape[1]
        hidden = (hidden.unflatten(1, (rows, -1)) + observed.unsqueeze(2)).flatten(1, 2)
        hidden = silu(linear(hidden, layers[first + 2], self.product))
        return hidden + (x if inputs == outputs else linear(x, layers[first + 3], self.product))

    def _starts(self) -> list[int]:
        """Where the layers of each block begin."""
        found, first = [], 4
        for inputs, outputs in self.blocks:
            found.append(first)
            first += 3 + (inputs != outputs)
        return found


def soft_value(values: Tensor, sharpness: Tensor) -> Tensor:
    """Σ softmax(α Q) Q over the last axis, for Q ``[K, N, M]`` and α ``[K]``."""
    return ((sharpness[:, None, None] * values).softmax(dim=-1) * values).sum(dim=-1)


class Scored(Teacher[S]):
    """A behaviour model that learns first; a subclass adds what learns from its samples."""

    averages = False
    unit_actions = True

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, size = self.config, problem.action_size
        sizes = problem.observation_size, size, config.hidden_size, config.time_embedding
        self.noise_net = ScoreNet(*sizes, product=self.product)
        self.networks = {
            "actor": Network(self.noise_net.layout),
            "frequencies": Network(Frequencies(config.time_embedding // 2), learning_rate=None),
        }
        rows = config.behaviour_batch_size
        self.kinds = {"behaviour": StepKind(rows, METRICS, {"noise": Normal((rows, size)), "time": Uniform((rows,))})}
        self.draws = 1
        self.times = sde.times(config.diffusion_steps)
        self.time_row = torch.tensor([self.times], device=device)
        self.sigmas = sde.signal_and_noise(torch.tensor(self.times, dtype=torch.float64))[1].tolist()

    @classmethod
    def stages_of(cls, settings: S) -> int:
        """How many stages a training has."""
        raise NotImplementedError

    @classmethod
    def check(cls, trial: RunConfig, settings: S) -> None:
        """See ``Algorithm.check``."""
        require_stages(trial, cls.stages_of(settings))

    def clone(self, pack: Pack, batch: Batch, noise: StepNoise, *, earliest: float) -> Metrics:
        """One step of the behaviour model down mean_b Σ (ε − ε_θ)², at times uniform between ``earliest`` and 1."""
        leaves = self.noise_net.layout.leaves(pack["actor"])
        time = earliest + (1.0 - earliest) * noise["time"]
        observed = self.noise_net.observe(leaves, batch.observations, waves(pack["frequencies"], time))
        predicted = self.noise_net(leaves, sde.add_noise(batch.actions, time, noise["noise"]), observed)
        errors = (noise["noise"] - predicted).square()
        norm = pack.descend("actor", errors.sum(dim=2).mean(dim=1), leaves)
        return {"behaviour_loss": errors.detach().mean(dim=(1, 2)), "actor_grad_norm": norm}

    def denoiser(
        self, layers: Layers, frequencies: Tensor, observations: Tensor, guide: sde.Predictor | None = None
    ) -> sde.Predictor:
        """The noise net at the times of a solution, less σ_t times what ``guide(a_t, t)`` adds to the score."""
        parts = self.noise_net.observe(layers, *self.at_times(observations, frequencies))
        seen = zip(*map(self.by_time, parts), strict=True)
        known = dict(zip(self.times, zip(seen, self.sigmas, strict=True), strict=True))

        def predict(x: Tensor, time: float) -> Tensor:
            observed, sigma = known[time]
            found = self.noise_net(layers, x, observed)
            return found if guide is None else found - sigma * guide(x, time)

        return predict

    def at_times(self, observations: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Every observation at every one of ``times``, and the times' waves: ``[K, T·B, o]`` and ``[K, T·B, E]``, time by time.

        What a network makes of them is worked out once for a whole solution.
        """
        count, rows = len(self.times), observations.shape[1]
        features = waves(frequencies, self.time_row).unsqueeze(2).expand(-1, -1, rows, -1)
        return observations.unsqueeze(1).expand(-1, count, -1, -1).flatten(1, 2), features.flatten(1, 2)

    def by_time(self, found: Tensor) -> tuple[Tensor, ...]:
        """``[K, B, …]`` for each of ``times``, of what was worked out ``at_times``."""
        return found.unflatten(1, (len(self.times), -1)).unbind(1)

    def draw_support(
        self,
        pack: Pack,
        key: Tensor,
        observations: Tensor,
        sample: Callable[[Layers, Tensor, Tensor, Tensor], Tensor],
        into: Tensor,
        *,
        stream: int,
        heartbeat: Callable[[], None],
    ) -> None:
        """Fill ``into`` ``[K, N, M, a]`` with actions of the behaviour model for observations ``[N, o]``.

        ``sample`` gives actions from (layers, frequencies, observations, noise). Two streams have different noise. Members take
        turns, so that no digit depends on the other members.
        """
        count, size = into.shape[2:]
        piece = IN_CACHE if observations.device.type == "cpu" else ROWS_AT_ONCE
        chunks = -(-len(observations) // ROWS_AT_ONCE)
        for member in range(len(key)):
            own = slice(member, member + 1)
            layers, frequencies = self.noise_net.layout.layers(pack["actor"][own]), pack["frequencies"][own]
            for chunk in range(chunks):
                rows = slice(chunk * ROWS_AT_ONCE, (chunk + 1) * ROWS_AT_ONCE)
                states = observations[rows]
                number = torch.tensor(chunk + stream * chunks, device=key.device)
                wanted = len(states) * count * size
                noise = streams.normals(streams.words(key[own], number, wanted + wanted % 2))[:, :wanted]
                pieces = states.split(piece), noise.view(-1, size).split(piece * count)
                found = [
                    sample(layers, frequencies, own[None], drawn[None]) for own, drawn in zip(*pieces, strict=True)
                ]
                into[member, rows] = torch.cat(found, dim=1).view(len(states), count, size)
                heartbeat()
