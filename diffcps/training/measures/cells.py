"""Sums of kernels over quadrature nodes, written on a grid of points or as the masses of rectangular cells.

A kernel is diagonal, so in two dimensions a sum over nodes is one matrix product Aᵀ diag(w) B, with A and B the kernels
along the two axes and w the mass of each node. All in float64 on the CPU.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

NARROWEST = 1e-9
"""A kernel is at least this wide."""
TAIL = {1: 600.0, 2: 50.0}
"""By the number of dimensions: a density is followed down to e^−TAIL of its largest value. What is below is zero."""
_TILE = 4.0
"""Kernels with means within so many of their standard deviations are summed together."""
_AT_ONCE = 2**20
"""Numbers of a kernel that are worked on at a time: 8 MB."""


@dataclass(frozen=True)
class Nodes:
    """N kernels, each a Gaussian or a box."""

    mean: Tensor
    """``[N, d]``, d = 1 or 2."""
    width: Tensor
    """``[N, d]``: standard deviations, or the sides of boxes, which are the step from one node's mean to the next."""
    mass: Tensor
    """``[N]``."""
    boxes: bool = False

    def above(self, threshold: float) -> "Nodes":
        """Those with more mass than ``threshold``."""
        keep = self.mass > threshold
        return Nodes(self.mean[keep], self.width[keep], self.mass[keep], self.boxes)


def points(axes: Sequence[Tensor]) -> Tensor:
    """``[N, d]``: the nodes of a rectangular grid, the last axis fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def middles(edges: Sequence[Tensor]) -> NDArray[np.float64]:
    """``[C_1, …, C_d, d]``: the middle of each cell."""
    each = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    return points(each).view(*map(len, each), len(each)).numpy()


def density_at(nodes: Nodes, axes: Sequence[Tensor]) -> Tensor:
    """The density ``[N_1, …, N_d]`` at the points of a grid; the kernels are Gaussians.

    Only as far as a kernel is above e^−TAIL: so kernels are summed tile by tile, each over its own part of the grid.
    """
    result = torch.zeros([len(axis) for axis in axes], dtype=torch.float64)
    reach = math.sqrt(2.0 * TAIL[len(axes)])
    for tile in _tiles(nodes):
        low = (tile.mean - reach * tile.width).amin(dim=0)
        high = (tile.mean + reach * tile.width).amax(dim=0)
        here = tuple(
            slice(int(torch.searchsorted(axis, a)), int(torch.searchsorted(axis, b, right=True)))
            for axis, a, b in zip(axes, low, high, strict=True)
        )
        near = [axis[part] for axis, part in zip(axes, here, strict=True)]
        result[here] += _summed(tile, functools.partial(_gaussians, tile, near), [len(axis) for axis in near])
    return result


def _gaussians(nodes: Nodes, axes: Sequence[Tensor], part: slice, j: int) -> Tensor:
    """Along axis j, of a part of the nodes, at the points of that axis."""
    std = nodes.width[part, j : j + 1]
    scaled = (axes[j] - nodes.mean[part, j : j + 1]).div_(std)
    return scaled.square_().mul_(-0.5).exp_().div_(std * math.sqrt(2.0 * math.pi))


def _tiles(nodes: Nodes) -> Iterator[Nodes]:
    """The nodes by tiles of the plane of means."""
    key = torch.zeros(len(nodes.mass), dtype=torch.int64)
    for mean, std in zip(nodes.mean.T, nodes.width.amax(dim=0), strict=True):
        index = ((mean - mean.amin()) / (_TILE * std)).long()
        key = key * (int(index.max()) + 1) + index
    order = key.argsort(stable=True)
    _, counts = torch.unique_consecutive(key[order], return_counts=True)
    for chosen in order.split(counts.tolist()):
        yield Nodes(nodes.mean[chosen], nodes.width[chosen], nodes.mass[chosen])


def cell_masses(nodes: Nodes, edges: Sequence[Tensor]) -> Tensor:
    """The mass ``[C_1, …, C_d]`` of each cell. The outermost cells take what is beyond them."""
    counts = [len(edge) - 1 for edge in edges]
    if nodes.boxes:
        return _deposited(nodes, edges).view(counts)
    inner = [edge[1:-1] for edge in edges]

    def kernel(part: slice, j: int) -> Tensor:
        scaled = (inner[j] - nodes.mean[part, j : j + 1]).div_(nodes.width[part, j : j + 1].clamp(min=NARROWEST))
        # tails, from the left below zero and from the right above it, keep the digits that differences of the CDF lose
        above = (scaled >= 0).double()
        tails = torch.special.erfc(scaled.abs_().mul_(math.sqrt(0.5))).mul_(0.5)
        signed = pad(tails * (1.0 - 2.0 * above), (1, 1))
        return signed.diff(dim=1) + (pad(above, (0, 1), value=1.0) - pad(above, (1, 0)))

    return _summed(nodes, kernel, counts)


def spread_masses(boxes: Nodes, edges: Sequence[Tensor]) -> Tensor:
    """The mass ``[C_1, …, C_d]`` of each cell, of boxes of any size with their mass spread evenly."""
    wide = (boxes.width > torch.tensor([float(edge[1] - edge[0]) for edge in edges])).any(dim=1)
    narrow, rest = (
        Nodes(boxes.mean[chosen], boxes.width[chosen], boxes.mass[chosen], boxes=True) for chosen in (~wide, wide)
    )
    inner = [edge[1:-1] for edge in edges]
    low = rest.mean - 0.5 * rest.width

    def kernel(part: slice, j: int) -> Tensor:
        below = (
            (inner[j] - low[part, j : j + 1]).div_(rest.width[part, j : j + 1].clamp(min=NARROWEST)).clamp_(0.0, 1.0)
        )
        return pad(pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=1)

    return cell_masses(narrow, edges) + _summed(rest, kernel, [len(edge) - 1 for edge in edges])


def mixture_masses(log_weights: Tensor, means: Tensor, stds: Tensor, edges: Sequence[Tensor]) -> Tensor:
    """The mass of each cell under Gaussians of log weights ``[M]``, means and standard deviations ``[M, d]``.

    The outermost cells take what is beyond them. Where all standard deviations are zero, each is in one cell.
    """
    return cell_masses(Nodes(means, stds, log_weights.exp(), boxes=not bool(stds.any())), edges)


def _summed(nodes: Nodes, kernel: Callable[[slice, int], Tensor], counts: Sequence[int]) -> Tensor:
    """Σ over nodes of mass × kernel along the first axis × kernel along the second."""
    result = torch.zeros(counts[0], counts[1] if len(counts) > 1 else 1, dtype=torch.float64)
    rows = max(1, _AT_ONCE // max(counts))
    for start in range(0, len(nodes.mass), rows):
        part = slice(start, start + rows)
        weighted = nodes.mass[part, None]
        if len(counts) > 1:
            weighted = kernel(part, 1).mul_(weighted)
        result.addmm_(kernel(part, 0).T, weighted)
    return result.view(tuple(counts))


def _deposited(nodes: Nodes, edges: Sequence[Tensor]) -> Tensor:
    """The mass of each cell, flat, from boxes cut to a cell's size: each is in two cells along an axis at most."""
    shares = [(torch.zeros(len(nodes.mass), dtype=torch.int64), nodes.mass)]
    for j, edge in enumerate(edges):
        inner, last = edge[1:-1].contiguous(), len(edge) - 2
        side = nodes.width[:, j].clamp(min=NARROWEST, max=float(edge[1] - edge[0]))
        low = nodes.mean[:, j] - 0.5 * side
        first = torch.bucketize(low, inner, right=True)
        part = ((inner[first.clamp(max=last - 1)] - low) / side).clamp(max=1.0)
        part = torch.where(first == last, 1.0, part)
        second = (first + 1).clamp(max=last)
        shares = [
            (index * (last + 1) + cell, mass * weight)
            for index, mass in shares
            for cell, weight in ((first, part), (second, 1.0 - part))
        ]
    total = math.prod(len(edge) - 1 for edge in edges)
    return torch.stack([torch.bincount(index, mass, total) for index, mass in shares]).sum(dim=0)
