"""The distribution of a map of standard normal noise over cells, in one and two dimensions: that of a one-step student.

Noise is divided into boxes of known mass. The images of a box's corners span a box of actions, over which its mass is spread
evenly. A box with an image of more than ``_CELLS`` cells is halved along each axis, as often as its mass is worth it. So no cell
between two corners stays empty, however steep the map is. All in float64 on the CPU.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffcps.training.measures.cells import TAIL, Nodes, points, spread_masses
from diffcps.training.measures.quadrature import NotFiniteError

_SIDE = 0.1
"""Side of the largest boxes of noise."""
_CELLS = {1: 0.5, 2: 2.0}
"""By the number of dimensions: cells that the image of a box may span along an axis."""
_LEAST = {1: 1e-30, 2: 1e-8}
"""Boxes of less mass are not halved."""
_HALVINGS = {1: 16, 2: 6}
"""How often a box is halved at most."""


def map_masses(reach: Callable[[Tensor], Tensor], max_action: float, edges: Sequence[Tensor]) -> Tensor:
    """The probability that a map carries standard normal noise into each cell.

    Args:
        reach: actions ``[N, d]`` of noise ``[N, d]``, in float64; clamped to ±max_action here.
        max_action: the bound of an action.
        edges: of the cells along each of the d = 1 or 2 axes, equally spaced; the outermost cells take what is beyond them.

    Returns:
        ``[C_1]`` or ``[C_1, C_2]``, float64; the sum is 1.

    Raises:
        NotFiniteError: the map gives no numbers.
    """
    size = len(edges)
    cell = torch.tensor([float(edge[1] - edge[0]) for edge in edges], dtype=torch.float64)
    far = math.sqrt(2.0 * TAIL[size])
    count = math.ceil(2.0 * far / _SIDE)
    axis = torch.linspace(-far, far, count + 1, dtype=torch.float64)
    low, high = points([axis[:-1]] * size), points([axis[1:]] * size)
    corners = points([torch.tensor([0.0, 1.0], dtype=torch.float64)] * size)
    result = torch.zeros([len(edge) - 1 for edge in edges], dtype=torch.float64)
    for halving in range(_HALVINGS[size] + 1):
        mass = _masses(low, high, far)
        at = low[:, None] + corners * (high - low)[:, None]
        reached = reach(at.flatten(0, 1)).clamp(-max_action, max_action).view_as(at)
        if not reached.isfinite().all():
            raise NotFiniteError("the student gives no numbers")
        least, most = reached.amin(dim=1), reached.amax(dim=1)
        wide = ((most - least) > _CELLS[size] * cell).any(dim=1) & (mass > _LEAST[size])
        if halving == _HALVINGS[size]:
            wide[:] = False
        ready = Nodes(0.5 * (least + most)[~wide], (most - least)[~wide], mass[~wide], boxes=True)
        result += spread_masses(ready, edges)
        half = 0.5 * (high - low)[wide, None]
        low = (low[wide, None] + corners * half).flatten(0, 1)
        high = low + half.expand(-1, len(corners), -1).flatten(0, 1)
        if not len(low):
            break
    return result


def _masses(low: Tensor, high: Tensor, far: float) -> Tensor:
    """The mass ``[N]`` of boxes ``[N, d]`` of noise; those at ±far take what is beyond."""
    low = torch.where(low <= -far, -math.inf, low)
    high = torch.where(high >= far, math.inf, high)
    # from the nearer tail: differences of numbers near one would have no digits
    right = low > 0
    first, second = torch.where(right, -high, low), torch.where(right, -low, high)
    below = [0.5 * torch.special.erfc(-edge / math.sqrt(2.0)) for edge in (first, second)]
    return (below[1] - below[0]).prod(dim=1)
