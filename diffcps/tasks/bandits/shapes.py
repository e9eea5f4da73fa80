"""The named distributions: centres, curves, and the reward along them. All are within ±1."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray

from diffcps.tasks.bandits.base import Bandit, FloatArray
from diffcps.tasks.bandits.blurred import Blurred

_Curve = Callable[[FloatArray], FloatArray]
"""Points ``[n, 2]`` at parameters ``[n]`` from 0 to 1."""
_PANEL = 3.0
"""Largest length of curve, in standard deviations of the blur, that one Gauss–Legendre rule covers."""
_RULE = leggauss(10)
"""Nodes and weights of that rule on −1 … 1: integrates a Gaussian over ``_PANEL`` to 1e-11."""


def corners() -> Blurred:
    """Four corners (Diffusion-QL): two good, one better, one worthless; rewards N(mean, ½)."""
    centres = 0.8 * np.array([[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    values = np.array([3.0, 0.0, 1.5, 5.0])
    return Blurred("corners", centres, values, std=0.05, bound=1.1, reward_std=0.5, separate=True)


def ring_clean() -> Blurred:
    """The unit circle, blurred evenly by .02; every action on it has value 1."""
    return _curves("ring-clean", [_circle(1.0)], [(1.0, 1.0)], 0.02)


def swissroll() -> Blurred:
    """A spiral of one and a half turns; the reward rises from its inner to its outer end."""
    return _curves("swissroll", [lambda t: _spiral(1.5 * np.pi + 3 * np.pi * t, 4.5 * np.pi)], [(0.0, 1.0)], 0.02)


def eight_gaussians() -> Blurred:
    """Eight Gaussians on a circle; the reward rises around it."""
    angles = np.arange(8) * np.pi / 4
    centres = 0.8 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return Blurred("8gaussians", centres, np.arange(8) / 7, std=0.05, bound=1.1, separate=True)


def moons() -> Blurred:
    """Two interlocking half circles. The value rises along the lower one from 0 to ½ and along the upper one from ½ to 1."""

    def upper(t: FloatArray) -> FloatArray:
        return 0.6 * np.stack([np.cos(np.pi * t) - 0.5, np.sin(np.pi * t) - 0.25], axis=-1)

    return _curves("moons", [lambda t: -upper(t), upper], [(0.0, 0.5), (0.5, 1.0)], 0.03)


def rings() -> Blurred:
    """Four concentric circles, with probabilities proportional to their lengths; inner circles have higher values."""
    radii = np.array([0.25, 0.5, 0.75, 1.0])
    values = [(1.0 - i / 3, 1.0 - i / 3) for i in range(4)]
    return _curves("rings", [_circle(radius) for radius in radii], values, std=0.02, shares=radii / radii.sum())


def two_spirals() -> Blurred:
    """Two spirals from one centre. Outwards, the value rises along one from ½ to 1 and falls along the other to 0."""

    def arm(sign: float) -> _Curve:
        return lambda t: sign * _spiral(0.5 * np.pi + 2.5 * np.pi * t, 3 * np.pi)

    return _curves("2spirals", [arm(1.0), arm(-1.0)], [(0.5, 1.0), (0.5, 0.0)], 0.02)


def mixture(components: int, dimensions: int) -> Blurred:
    """Equally likely Gaussians with centres that fill the cube evenly; a function of (components, dimensions) alone.

    The centres are at least 12 standard deviations apart. The values 0 … 1 are assigned in a fixed random order.
    """
    from scipy.spatial.distance import pdist
    from scipy.stats import qmc

    points = qmc.Halton(dimensions, scramble=False).random(64 * components + 1)[1:]
    # each next centre is the point farthest from those before it
    chosen = [0]
    distance = np.full(len(points), np.inf)
    for _ in range(components - 1):
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    centres = 1.6 * points[chosen] - 0.8
    nearest = float(pdist(centres).min()) if components > 1 else 1.2
    order = np.random.default_rng([components, dimensions]).permutation(components)
    values = order / max(components - 1, 1) if components > 1 else np.ones(1)
    name = f"mixture-{components}x{dimensions}"
    return Blurred(name, centres, values, std=min(0.05, nearest / 12), bound=1.1, separate=True)


def _circle(radius: float) -> _Curve:
    return lambda t: radius * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=-1)


def _spiral(angle: FloatArray, widest: float) -> FloatArray:
    return 0.95 * np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=-1) / widest


def _nodes(curve: _Curve, std: float) -> tuple[FloatArray, FloatArray]:
    """Parameters and weights ``[n]`` of a quadrature along the curve, exact for a blur of ``std``."""
    steps = np.linalg.norm(np.diff(curve(np.linspace(0.0, 1.0, 1001)), axis=0), axis=1)
    panels = math.ceil(1000 * steps.max() / (_PANEL * std))
    nodes, weights = _RULE
    t = (np.arange(panels)[:, None] + 0.5 * (1.0 + nodes)) / panels
    return t.ravel(), np.tile(0.5 * weights / panels, panels)


def _curves(
    name: str,
    curves: Sequence[_Curve],
    values: Sequence[tuple[float, float]],
    std: float,
    shares: FloatArray | None = None,
) -> Blurred:
    """A behaviour along curves, uniform in their parameter t from 0 to 1; ``values``: the values at t = 0 and t = 1."""
    shares = np.full(len(curves), 1.0 / len(curves)) if shares is None else shares
    parts = [_nodes(curve, std) for curve in curves]
    centres = np.concatenate([curve(t) for curve, (t, _) in zip(curves, parts, strict=True)])
    along = np.concatenate([first + (last - first) * t for (first, last), (t, _) in zip(values, parts, strict=True)])
    weights = np.concatenate([share * weight for share, (_, weight) in zip(shares, parts, strict=True)])

    def draw(n: int, rng: np.random.Generator) -> FloatArray:
        which, u = rng.choice(len(curves), n, p=shares), rng.random(n)
        found = np.empty((n, 2))
        for i, curve in enumerate(curves):
            found[which == i] = curve(u[which == i])
        return found

    return Blurred(name, centres, along, std=std, bound=1.2, weights=weights, draw=draw)


# The checkerboard: a uniform distribution over eight squares ----------------------------------------------------------


_SIDE = 0.5
_SQUARES = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
"""Column and row of each square of a 4 × 4 board on [−1, 1]²."""


class Checkerboard(Bandit):
    """Uniform on every second square of a 4 × 4 board. Values rise from 0 to 1, from left to right and bottom to top."""

    def __init__(self) -> None:
        super().__init__(
            "checkerboard",
            action_size=2,
            bound=1.1,
            highest_value=1.0,
            resolution=_SIDE / 10,
            modes=(_SQUARES + 0.5) * _SIDE - 1.0,
            mode_weights=np.full(len(_SQUARES), 1.0 / len(_SQUARES)),
        )
        self._values = np.full((4, 4), np.nan)
        self._values[tuple(_SQUARES.T)] = np.arange(8) / 7

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.sample``."""
        squares = _SQUARES[rng.integers(len(_SQUARES), size=n)]
        return (squares + rng.random((n, 2))) * _SIDE - 1.0

    def value(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.value``: the value of the square, 0 outside all squares."""
        value = self._square_value(actions)
        return np.where(np.isnan(value), 0.0, value)

    def off_support(self, actions: ArrayLike) -> NDArray[np.bool_]:
        """See ``Bandit.off_support``."""
        return np.isnan(self._square_value(actions))

    def log_density(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.log_density``."""
        return np.where(self.off_support(actions), -np.inf, -self.entropy)

    def cell_masses(self, edges: Sequence[FloatArray]) -> FloatArray:
        """See ``Bandit.cell_masses``: the areas that cells and squares share."""
        masses = np.zeros(tuple(len(edge) - 1 for edge in edges))
        for square in _SQUARES:
            low = square * _SIDE - 1.0
            x, y = (np.diff(np.clip(edge, low[i], low[i] + _SIDE)) for i, edge in enumerate(edges))
            masses += np.outer(x, y)
        return masses / (len(_SQUARES) * _SIDE**2)

    @property
    def entropy(self) -> float:
        """See ``Bandit.entropy``: the logarithm of the squares' area."""
        return math.log(len(_SQUARES) * _SIDE**2)

    def _square_value(self, actions: ArrayLike) -> FloatArray:
        """The value of the square that contains each action ``[..., 2]``; NaN outside all squares."""
        place = np.floor((np.asarray(actions, dtype=np.float64) + 1.0) / _SIDE).astype(int)
        inside = ((place >= 0) & (place < 4)).all(axis=-1)
        column, row = np.moveaxis(np.clip(place, 0, 3), -1, 0)
        return np.where(inside, self._values[column, row], np.nan)
