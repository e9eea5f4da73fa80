"""Networks of one member of a pack as plain PyTorch modules in double precision, to write algorithms a second time with."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from diffcps.algorithms.base import Batch
from diffcps.training import engine
from diffcps.training.learner import Learner

Activation = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Linear layers with an activation between them, with the parameters of one row of a stack."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], row: int, activation: Activation) -> None:
        super().__init__()
        self.linears, self.activation = nn.ModuleList(), activation
        for weight, bias in layers:
            linear = nn.Linear(weight.shape[1], weight.shape[2], dtype=torch.float64)
            linear.weight.data, linear.bias.data = weight[row].T.double().clone(), bias[row, 0].double().clone()
            self.linears.append(linear)

    def forward(self, *parts: Tensor) -> Tensor:
        x = torch.cat(parts, dim=-1)
        for linear in self.linears[:-1]:
            x = self.activation(linear(x))
        return self.linears[-1](x)


class ResidualNet(nn.Module):
    """ε_θ(a, t, s) of IDQL's authors: learned waves of the step, blocks of dropout, layer norm and two layers."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], row: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(layers[0][1][row, 0].double().clone())
        self.time, self.main = Net(layers[1:3], row, nn.functional.silu), Net(layers[3:], row, nn.functional.silu)

    def forward(
        self, actions: Tensor, step: Tensor, observations: Tensor, kept: Tensor | None = None, rate: float = 0.0
    ) -> Tensor:
        """``kept`` ``[blocks, B, H]`` is what dropout keeps."""
        angles = 2 * torch.pi * step[:, None] * self.frequencies
        embedded = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))
        first, *blocks, last = self.main.linears
        x = first(torch.cat([actions, embedded, observations], dim=1))
        for number in range(len(blocks) // 2):
            given = x if kept is None else x * kept[number] / (1 - rate)
            normal = nn.functional.layer_norm(given, given.shape[1:], eps=1e-6)
            x = x + blocks[2 * number + 1](nn.functional.silu(blocks[2 * number](normal)))
        found: Tensor = last(nn.functional.silu(x))
        return found


def heads(learner: Learner, name: str, activation: Activation) -> nn.ModuleList:
    """The heads of a critic."""
    own: Any = learner.algorithm
    return nn.ModuleList(Net(own.critic.layers(learner.pack[name]), row, activation) for row in range(own.critic.heads))


def values(critic: Iterable[nn.Module], *parts: Tensor) -> Tensor:
    """``[heads, B]``."""
    return torch.stack([head(*parts).squeeze(-1) for head in critic])


def parameters_of(module: nn.Module) -> Tensor:
    """All in a row, in the order of a pack: each layer's weight ``[in, out]``, then its bias."""
    return torch.cat([p.detach().T.reshape(-1) if p.ndim == 2 else p.detach() for p in module.parameters()])


def next_batch(learner: Learner) -> tuple[Batch, dict[str, Tensor]]:
    """What the next step of a pack of one reads, without the member's axis, in double precision."""
    kind = learner.algorithm.kind_at(learner.step)
    noise = engine.draw(learner.algorithm, learner.work, kind)
    rows, data = noise["rows"][0], learner.work.data
    columns = {name: column[rows].double() for name, column in vars(data).items() if isinstance(column, Tensor)}
    more = data.more | {name: column[0] for name, column in data.of_member.items()}
    return Batch(**columns, more={name: column[rows].double() for name, column in more.items()}), noise


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, largest: float | None = None) -> None:
    """One step; a longer gradient than ``largest`` is scaled down to it."""
    optimiser.zero_grad()
    loss.backward()
    if largest is not None:
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], largest)
    optimiser.step()


def follow(copy: nn.Module, network: nn.Module, rate: float) -> None:
    for mine, theirs in zip(copy.parameters(), network.parameters(), strict=True):
        mine.data.lerp_(theirs.data, rate)


class ScoreNet(nn.Module):
    """The authors' network of SfBC and QGPO, as predicted noise: its blocks narrow, widen, and see time and observation."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], row: int) -> None:
        super().__init__()
        self.linears = Net(layers, row, nn.functional.silu).linears

    def forward(self, actions: Tensor, waves: Tensor, observations: Tensor) -> Tensor:
        silu, take = nn.functional.silu, iter(self.linears)
        time, seen = next(take)(waves), silu(next(take)(observations))
        embedded = silu(next(take)(torch.cat([seen, time], dim=1)))
        embedded = next(take)(embedded)

        def block(x: Tensor) -> Tensor:
            shift, first, second = next(take), next(take), next(take)
            hidden = silu(second(silu(first(x)) + shift(silu(embedded))))
            return hidden + (x if hidden.shape == x.shape else next(take)(x))

        one = block(actions)
        two = block(one)
        three = block(two)
        four = block(three)
        five = block(torch.cat([three, four], dim=1))
        six = block(torch.cat([two, five], dim=1))
        return next(take)(torch.cat([one, six], dim=1))


class EnergyNet(nn.Module):
    """An energy of noisy action, time and observation."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], row: int) -> None:
        super().__init__()
        self.embed = Net(layers[:1], row, nn.functional.silu)
        self.main = Net(layers[1:], row, nn.functional.silu)

    def forward(self, actions: Tensor, waves: Tensor, observations: Tensor) -> Tensor:
        return self.main(actions, self.embed(waves), observations).squeeze(-1)


def waves(frequencies: Tensor, time: Tensor) -> Tensor:
    angles = 2 * torch.pi * time[:, None] * frequencies.double()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def compare(learner: Learner, modules: dict[str, nn.Module]) -> None:
    """Every parameter, after some steps of Adam."""
    for name, module in modules.items():
        torch.testing.assert_close(
            learner.pack[name][0].double(), parameters_of(module), rtol=2e-4, atol=2e-5, msg=name
        )
