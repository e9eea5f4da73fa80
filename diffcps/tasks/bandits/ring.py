"""The ring in the paper's figures: actions on the ring have reward 1, others 0.

The behaviour is a = (cos θ + u, sin θ + u) with θ uniform and one shared u ~ U(0, .05): a unit circle, smeared along
the diagonal. Its support is the union of the unit circles with centres on the segment from (0, 0) to (.05, .05).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.tasks.bandits.base import Bandit, FloatArray

SMEAR = 0.05
"""Largest shift u of the circle along both axes."""
TOLERANCE = 0.05
"""Actions within this distance of the ring's support have reward 1."""
_ANGLES = 131_072
"""Nodes of the quadrature over θ."""


def distance_to_ring(actions: ArrayLike) -> NDArray[np.float64]:
    """Exact distance of points [..., 2] to the ring's support, [...].

    The distance of a point to one circle is |ρ − 1|, with ρ its distance to the circle's centre. Along the segment of
    centres, ρ takes every value between its smallest (at the projection onto the segment) and its largest (at an end).
    If 1 is in this range the point is on the support; else the nearer end of the range gives the distance.
    """
    points = np.asarray(actions, dtype=np.float64)
    along = np.clip(points.mean(axis=-1), 0, SMEAR)
    nearest = np.linalg.norm(points - along[..., None], axis=-1)
    farthest = np.maximum(np.linalg.norm(points, axis=-1), np.linalg.norm(points - SMEAR, axis=-1))
    return np.maximum(0, np.maximum(nearest - 1, 1 - farthest))


class Ring(Bandit):
    """See above. The shared shift gives a density with poles along the two lines where the circles touch their envelope."""

    def __init__(self) -> None:
        super().__init__("ring", action_size=2, bound=1.1, highest_value=1.0, resolution=SMEAR / 4, rows=5000)

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.sample``."""
        angle = rng.uniform(0, 2 * np.pi, n)
        shift = rng.uniform(0, SMEAR, n)
        return np.stack([np.cos(angle) + shift, np.sin(angle) + shift], axis=-1)

    def value(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.value``: 1 within ``TOLERANCE`` of the support, 0 elsewhere."""
        return (distance_to_ring(actions) <= TOLERANCE).astype(np.float64)

    def off_support(self, actions: ArrayLike) -> NDArray[np.bool_]:
        """Farther than ``TOLERANCE`` from the support."""
        return distance_to_ring(actions) > TOLERANCE

    def log_density(self, actions: ArrayLike) -> FloatArray:
        """log of Σ 1/(2π · SMEAR · |∂ρ/∂u|) over the shifts u whose circle passes through the action, ρ its radius there.

        With s = a₁ + a₂, the circles through a have 2u² − 2su + |a|² − 1 = 0, and |∂ρ/∂u| = |2u − s| = √(s² − 2(|a|² − 1)).
        """
        points = np.asarray(actions, dtype=np.float64)
        total = points.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(total**2 - 2.0 * (np.square(points).sum(axis=-1) - 1.0))
            shifts = (np.stack([total - root, total + root]) / 2.0).astype(np.float64)
            circles = ((shifts >= 0) & (shifts <= SMEAR)).sum(axis=0)
            return np.log(np.where(circles > 0, circles / (2.0 * np.pi * SMEAR * root), 0.0))

    def cell_masses(self, edges: Sequence[FloatArray]) -> FloatArray:
        """See ``Bandit.cell_masses``: exact in the shift, by the midpoint rule in the angle, with errors below 1e-8.

        At one angle the action moves along a diagonal. A cell's share is the part of that diagonal between its edges.
        """
        bins = [np.asarray(edge, dtype=np.float64) for edge in edges]
        masses = np.zeros(tuple(len(edge) - 1 for edge in bins))
        for angle in np.split((np.arange(_ANGLES) + 0.5) * (2 * np.pi / _ANGLES), 8):
            x, y = np.cos(angle), np.sin(angle)
            ends = np.broadcast_to([0.0, SMEAR], (len(angle), 2))
            shift = np.sort(np.concatenate([_crossings(bins[0], x), _crossings(bins[1], y), ends], axis=1), axis=1)
            middle = 0.5 * (shift[:, 1:] + shift[:, :-1])
            places = (x[:, None] + middle).ravel(), (y[:, None] + middle).ravel()
            masses += np.histogram2d(*places, bins=bins, weights=np.diff(shift, axis=1).ravel())[0]
        return masses / (SMEAR * _ANGLES)

    @property
    def entropy(self) -> float:
        """log(2π SMEAR) + E log|cos θ + sin θ| − P(two circles pass through the action) · log 2, each in closed form."""
        twice = 2 / np.pi * (np.arcsin(SMEAR / np.sqrt(2)) - (np.sqrt(2) - np.sqrt(2 - SMEAR**2)) / SMEAR)
        return float(np.log(2 * np.pi * SMEAR) - 0.5 * np.log(2) - twice * np.log(2))


def _crossings(edges: FloatArray, start: FloatArray) -> FloatArray:
    """Shifts ``[n, c]`` in 0 … SMEAR at which a coordinate that begins at ``start`` ``[n]`` meets an edge.

    Rows with fewer than c such shifts are filled with 0 and SMEAR.
    """
    first, end = np.searchsorted(edges, start), np.searchsorted(edges, start + SMEAR)
    each = first[:, None] + np.arange(max(1, int((end - first).max())))
    return np.clip(edges[np.minimum(each, len(edges) - 1)] - start[:, None], 0.0, SMEAR)
