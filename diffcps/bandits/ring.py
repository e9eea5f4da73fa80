"""The paper's ring as it is plotted: act on the ring and be rewarded.

The behaviour is a = (cos θ + u, sin θ + u) with θ uniform and one shared u ~ U(0, .05): a unit circle, smeared along
the diagonal. Its support is every circle of radius 1 whose centre lies on the segment from (0, 0) to (.05, .05).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.bandits.base import Bandit, FloatArray

SMEAR = 0.05
"""Largest shift u of the circle along both axes."""
TOLERANCE = 0.05
"""An action is rewarded within this distance of the ring's support."""
BOUND = 1.1
"""Actions lie in [−BOUND, BOUND]²."""


def ring_actions(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``n`` actions of the behaviour, [n, 2]."""
    angle = rng.uniform(0, 2 * np.pi, n)
    shift = rng.uniform(0, SMEAR, n)
    return np.stack([np.cos(angle) + shift, np.sin(angle) + shift], axis=-1)


def distance_to_ring(actions: ArrayLike) -> NDArray[np.float64]:
    """Exact distance of points [..., 2] to the ring's support, [...].

    The distance of a point to one of the circles is |ρ − 1|, ρ its distance to that circle's centre. Over the segment
    of centres ρ takes every value between its smallest (at the projection onto the segment) and its largest (at an
    end), so the point lies on the support if 1 is among them, and else the nearer of the two decides.
    """
    points = np.asarray(actions, dtype=np.float64)
    along = np.clip(points.mean(axis=-1), 0, SMEAR)
    nearest = np.linalg.norm(points - along[..., None], axis=-1)
    farthest = np.maximum(np.linalg.norm(points, axis=-1), np.linalg.norm(points - SMEAR, axis=-1))
    return np.maximum(0, np.maximum(nearest - 1, 1 - farthest))


def ring_rewards(actions: ArrayLike) -> NDArray[np.float64]:
    """1 for actions [..., 2] within ``TOLERANCE`` of the ring's support, 0 for others, [...]."""
    return (distance_to_ring(actions) <= TOLERANCE).astype(np.float64)


class Ring(Bandit):
    """See above. One shared shift makes a density with poles along the two lines where circles touch their envelope."""

    def __init__(self) -> None:
        super().__init__("ring", 2, BOUND, rows=5000)

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.sample``."""
        return ring_actions(n, rng)

    def value(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.value``."""
        return ring_rewards(actions)

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
        """See ``Bandit.cell_masses``: by counting 4 million points that lie evenly in angle and shift."""
        angles = (np.arange(16_384) + 0.5) * (2 * np.pi / 16_384)
        circle = np.stack([np.cos(angles), np.sin(angles)])
        masses = np.zeros(tuple(len(edge) - 1 for edge in edges))
        shifts = (np.arange(256) + 0.5) * (SMEAR / 256)
        for shift in shifts:
            masses += np.histogram2d(circle[0] + shift, circle[1] + shift, bins=[edges[0], edges[1]])[0]
        return masses / (len(angles) * len(shifts))

    @property
    def entropy(self) -> float:
        """See ``Bandit.entropy``; with the angle's share known only by quadrature, from the density at even points."""
        rng = np.random.default_rng(0)
        return float(-self.log_density(self.sample(1_000_000, rng)).mean())

    @property
    def highest_value(self) -> float:
        """See ``Bandit.highest_value``."""
        return 1.0

    @property
    def resolution(self) -> float:
        """See ``Bandit.resolution``."""
        return SMEAR / 4
