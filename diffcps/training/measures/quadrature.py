"""The distribution of a diffusion policy's actions by quadrature, in one and two dimensions.

The density of a_t is carried on a grid through the chain, p(a_{t−1}) = ∫ N(a_{t−1}; mean(a_t), σ²(a_t)) p(a_t) da_t. The
last step is written as the masses of rectangular cells, by differences of the normal CDF, or, where it is silent, as a
histogram. All in float64 on the CPU.

The error is that of the trapezoid rule, which falls like exp(−2π²/h²) for nodes h standard deviations of the integrand apart:
each grid is as fine as the kernel that wrote it and the kernel that is going to read it ask for.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffcps.algorithms.diffusion import Denoiser, Schedule, reverse_mean
from diffcps.training.measures.cells import NARROWEST, TAIL, Nodes, cell_masses, density_at, points

_CORE = 1e-8
"""Nodes with less than this part of the largest mass do not ask for a finer grid."""
_LAST = 1e-20
"""Nodes with less than this part of the largest mass do not count in a noisy last step."""
_FEWEST = 96
_MOST = {1: 4000, 2: 320}
"""Least and most intervals of a grid along one axis."""
_FINEST = {1: 40_000, 2: 1600}
"""Most intervals of a refined grid along one axis."""
_AT_ONCE = 2**18
"""Nodes of a refined grid that are worked on at a time: 2 MB for each number of a node."""


class NotFiniteError(ArithmeticError):
    """A policy's networks give no numbers: its training has diverged."""


def chain_masses(
    denoise: Denoiser,
    schedule: Schedule,
    max_action: float,
    last_step_noise: bool,
    edges: Sequence[Tensor],
    resolution: float = 1.0,
    heartbeat: Callable[[], None] | None = None,
) -> Tensor:
    """The probability that the chain of ``diffusion.reverse_chain`` ends in each cell.

    Args:
        denoise: noise net and reverse variance for noisy actions ``[N, d]`` in float64.
        schedule: T steps.
        max_action: the chain clamps its predicted a_0, and the action, to ±max_action.
        last_step_noise: whether the last step is noisy.
        edges: of the cells along each of the d = 1 or 2 axes, equally spaced; the outermost cells take what is beyond
            them.
        resolution: 2 doubles the number of nodes along each axis of every grid.
        heartbeat: called at each step of the chain.

    Returns:
        ``[C_1]`` or ``[C_1, C_2]``, float64; the sum differs from 1 by the error of the quadrature.

    Raises:
        NotFiniteError: the noise net gives no numbers.
    """
    size = len(edges)
    grid = _Grid(schedule, max_action, size, resolution)
    far = math.sqrt(2.0 * TAIL[size])
    axes = [grid.axis(-far, far, 1.0, schedule.steps - 1)] * size
    density = torch.exp(-0.5 * points(axes).square().sum(dim=-1)) / (2.0 * math.pi) ** (size / 2)
    for number in reversed(range(1, schedule.steps)):
        if heartbeat is not None:
            heartbeat()
        step = _Step(denoise, grid, number, axes=axes, density=density, cells=[0.0] * size, silent=False)
        axes = grid.after(step.coarse, number)
        density = step.summed(partial(density_at, axes=axes)).flatten()
    cells = [float(edge[1] - edge[0]) for edge in edges]
    step = _Step(denoise, grid, 0, axes=axes, density=density, cells=cells, silent=not last_step_noise)
    return step.summed(partial(cell_masses, edges=edges), _LAST if last_step_noise else 0.0)


@dataclass(frozen=True)
class _Grid:
    """How far a grid reaches and how close its nodes are."""

    schedule: Schedule
    max_action: float
    size: int
    """d."""
    resolution: float

    def axis(self, low: float, high: float, std: float, level: int) -> Tensor:
        """Nodes for a_t, t = level + 1, written by a kernel with standard deviation ``std``.

        .4 of the kernel's width apart, or a fifth of the length over which the predicted a_0 goes from zero to the bound,
        (1 − ᾱ)/(√ᾱ·bound), if that is less.
        """
        signal = float(self.schedule.alpha_bar[level])
        spacing = min(0.4 * std, 0.2 * (1.0 - signal) / (math.sqrt(signal) * self.max_action))
        count = min(max((high - low) / max(spacing, NARROWEST), _FEWEST), _MOST[self.size])
        return torch.linspace(low, high, round(self.resolution * count) + 1, dtype=torch.float64)

    def after(self, nodes: Nodes, step: int) -> list[Tensor]:
        """The grid that the kernel of ``step`` writes to: as far as its density is above e^−TAIL."""
        height = (nodes.mass / nodes.mass.max()).log()
        # each node's kernel, itself so much lower, need not be followed as far
        reach = (2.0 * (TAIL[self.size] + height).clamp(min=0.0)).sqrt()[:, None] * nodes.width
        here = height > -TAIL[self.size]
        low, high = (nodes.mean - reach)[here].amin(dim=0), (nodes.mean + reach)[here].amax(dim=0)
        std = nodes.width[height > math.log(_CORE)].amin(dim=0)
        return [self.axis(float(low[j]), float(high[j]), float(std[j]), step - 1) for j in range(self.size)]


class _Step:
    """The kernel of one step of the chain at every node of a grid, or of a finer one if its means are too far apart there.

    Neighbours' means may be half a kernel's width apart, or half a cell if that is more. On the finer grid the noise, the
    variance and the density are interpolated by cubic splines: they are smooth, and the network is not asked again.
    """

    def __init__(
        self,
        denoise: Denoiser,
        grid: _Grid,
        number: int,
        axes: Sequence[Tensor],
        density: Tensor,
        cells: Sequence[float],
        silent: bool,
    ) -> None:
        self.grid, self.number, self.axes, self.silent = grid, number, axes, silent
        self.least = math.exp(-TAIL[grid.size])
        noise, variance = denoise(points(axes), number)
        variance = variance.expand_as(noise)
        if not (noise.isfinite().all() and variance.isfinite().all()):
            raise NotFiniteError("the noise net gives no numbers")
        # of variance and density the logarithms: ratios of neighbours vary less than the numbers themselves. What counts
        # as zero is even, for a spline would overshoot at a leap
        logs = variance.clamp(min=NARROWEST**2).log(), density.clamp(min=density.max() * self.least).log()[:, None]
        self.fields = torch.cat([noise, *logs], dim=-1).view(*map(len, axes), -1)
        self.coarse = self._nodes(axes, self.fields)
        most = round(_FINEST[grid.size] * grid.resolution) // (max(map(len, axes)) - 1)
        self.factor = min(self._wanted(cells), max(1, most))

    def summed(self, function: Callable[[Nodes], Tensor], threshold: float = 0.0) -> Tensor:
        """The sum of ``function`` over parts of the nodes, of those with more than ``threshold`` of the largest density."""
        least = max(threshold, 2.0 * self.least) * float(self.coarse.mass.max()) / self.factor**self.grid.size
        return torch.stack([function(nodes.above(least)) for nodes in self._parts()]).sum(dim=0)

    def _parts(self) -> Iterator[Nodes]:
        from scipy.interpolate import (
            make_interp_spline,
        )  # most of a second, which a trial without measures need not spend

        if self.factor == 1:
            yield self.coarse
            return
        fine = [
            torch.linspace(float(axis[0]), float(axis[-1]), self.factor * (len(axis) - 1) + 1, dtype=torch.float64)
            for axis in self.axes
        ]
        across = make_interp_spline(self.axes[0].numpy(), self.fields.numpy(), k=3, axis=0)
        rows = max(2, _AT_ONCE // math.prod(len(axis) for axis in fine[1:]))
        for first in fine[0].tensor_split(-(-len(fine[0]) // rows)):
            values = across(first.numpy())
            for number in range(1, self.grid.size):
                along = make_interp_spline(self.axes[number].numpy(), values, k=3, axis=number)
                values = along(fine[number].numpy())
            yield self._nodes([first, *fine[1:]], torch.from_numpy(values))

    def _nodes(self, axes: Sequence[Tensor], fields: Tensor) -> Nodes:
        """``fields`` ``[N_1, …, 2d + 1]``: noise, log variance, log density."""
        size = self.grid.size
        noise, variance, density = fields.flatten(0, -2).split([size, size, 1], dim=-1)
        mean = reverse_mean(self.grid.schedule, points(axes), self.number, noise, self.grid.max_action)
        area = math.prod(float(axis[1] - axis[0]) for axis in axes)
        width = _steps(mean.view(*fields.shape[:-1], size)) if self.silent else (0.5 * variance).exp()
        return Nodes(mean, width, density.squeeze(-1).exp() * area, boxes=self.silent)

    def _wanted(self, cells: Sequence[float]) -> int:
        """How many times closer the nodes must be."""
        shape = self.fields.shape[:-1]
        mass, mean = self.coarse.mass.view(shape), self.coarse.mean.view(*shape, -1)
        core = mass > _CORE * mass.max()
        width = torch.tensor(cells, dtype=torch.float64).expand_as(mean)
        if not self.silent:
            width = torch.maximum(width, self.coarse.width.view_as(mean))
        wanted = 1.0
        for axis, count in enumerate(shape):
            jump = mean.diff(dim=axis).abs() / width.narrow(axis, 0, count - 1)
            here = core.narrow(axis, 0, count - 1)
            wanted = max(wanted, 2.0 * float(jump[here].amax()) if here.any() else 1.0)
        return math.ceil(wanted)


def _steps(mean: Tensor) -> Tensor:
    """``[N, d]``: how far the means ``[N_1, …, d]`` of neighbouring nodes are apart."""
    squares = torch.zeros_like(mean)
    for axis in range(mean.ndim - 1):
        (slope,) = torch.gradient(mean, dim=axis)
        squares += slope.square()
    return squares.sqrt().flatten(0, -2)
