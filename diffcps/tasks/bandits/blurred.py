"""Bandits with a behaviour of points or curves, blurred by a Gaussian. Nearly all bandits are of this kind.

SciPy takes longer to import than the rest of the tasks. It is imported where a bandit is used, because every command and every
process of a sweep makes all of them to know their names and sizes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.tasks.bandits.base import OUTSIDE, Bandit, FloatArray

if TYPE_CHECKING:
    from scipy.spatial import KDTree

Drawer = Callable[[int, np.random.Generator], FloatArray]
"""Draws n centres, ``[n, d]``."""


class Blurred(Bandit):
    """a = c + std · N(0, 1), where c is one of several points, or a point on curves that ``centres`` follow closely.

    The density and the cell masses are sums over the centres. For curves, the centres are the nodes of a quadrature along
    the curve (``shapes``); the relative error of the density is below 1e-6 wherever there is mass.

    Args:
        name: name of the bandit.
        centres: ``[M, d]``.
        values: true mean reward around each centre, ``[M]``.
        std: standard deviation of the blur.
        bound: actions are in ±bound.
        weights: probability of each centre, ``[M]``; equal by default. Unequal weights need ``draw``.
        draw: draws centres from the curves; by default from ``centres``.
        reward_std: standard deviation of the noise in the data's rewards.
        separate: whether each centre is a mode.
    """

    def __init__(
        self,
        name: str,
        centres: FloatArray,
        values: FloatArray,
        std: float,
        bound: float,
        weights: FloatArray | None = None,
        draw: Drawer | None = None,
        reward_std: float = 0.0,
        separate: bool = False,
    ) -> None:
        weights = np.full(len(centres), 1.0 / len(centres)) if weights is None else weights
        super().__init__(
            name,
            centres.shape[1],
            bound,
            highest_value=float(values.max()),
            resolution=std,
            modes=centres if separate else None,
            mode_weights=weights if separate else None,
        )
        self.centres, self.values, self.weights = centres, values, weights
        self.std, self.reward_std = std, reward_std
        self._draw = draw

    @functools.cached_property
    def radius(self) -> float:
        """Actions farther than this from every centre are off the support."""
        from scipy.special import chdtri

        return self.std * math.sqrt(float(chdtri(self.action_size, OUTSIDE)))

    @functools.cached_property
    def _tree(self) -> "KDTree":
        from scipy.spatial import KDTree

        return KDTree(self.centres)

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.sample``. Each point occurs equally often; the remainder goes to random points."""
        if self._draw is not None:
            centres = self._draw(n, rng)
        else:
            lots = rng.permutation(len(self.centres))
            centres = self.centres[rng.permutation(lots[np.arange(n) % len(lots)])]
        return centres + self.std * rng.normal(size=centres.shape)

    def value(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.value``: the value of the nearest centre on the support, 0 outside."""
        distance, nearest = self._tree.query(np.asarray(actions, dtype=np.float64))
        return np.where(distance <= self.radius, self.values[nearest], 0.0)

    def rewards(self, actions: FloatArray, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.rewards``: the value of the nearest centre, also outside the support, with noise."""
        _, nearest = self._tree.query(actions)
        return self.values[nearest] + self.reward_std * rng.normal(size=len(actions))

    def off_support(self, actions: ArrayLike) -> NDArray[np.bool_]:
        """See ``Bandit.off_support``: farther than ``radius`` from every centre."""
        distance, _ = self._tree.query(np.asarray(actions, dtype=np.float64))
        return distance > self.radius

    def log_density(self, actions: ArrayLike) -> FloatArray:
        """See ``Bandit.log_density``."""
        points = np.asarray(actions, dtype=np.float64)
        flat = points.reshape(-1, self.action_size) / self.std
        centres = self.centres / self.std
        found = np.empty(len(flat))
        rows = max(1, 1_000_000 // len(centres))
        for first in range(0, len(flat), rows):
            part = flat[first : first + rows]
            square = np.zeros((len(part), len(centres)))
            for i in range(self.action_size):
                square += np.square(part[:, [i]] - centres[:, i])
            nearest = square.min(axis=1)
            density = np.exp(-0.5 * (square - nearest[:, None])) @ self.weights
            found[first : first + rows] = np.log(density) - 0.5 * nearest
        constant = self.action_size * math.log(self.std * math.sqrt(2.0 * math.pi))
        return (found - constant).reshape(points.shape[:-1])

    def cell_masses(self, edges: Sequence[FloatArray]) -> FloatArray:
        """See ``Bandit.cell_masses``."""
        from scipy.special import ndtr

        parts = [np.diff(ndtr((edge - self.centres[:, [i]]) / self.std), axis=1) for i, edge in enumerate(edges)]
        if len(parts) == 1:
            return self.weights @ parts[0]
        return (self.weights[:, None] * parts[0]).T @ parts[1]

    @functools.cached_property
    def entropy(self) -> float:
        """See ``Bandit.entropy``: in closed form when the centres are far apart, else by quadrature of −π_b log π_b."""
        alone = 0.5 * self.action_size * math.log(2.0 * math.pi * math.e * self.std**2)
        if len(self.centres) == 1:
            return alone
        if self.modes is not None:
            return alone - float((self.weights * np.log(self.weights)).sum())
        from scipy.special import xlogy

        # the trapezoid rule, nearly exact for so smooth a function; the Gaussian is a product over the two axes
        axis = np.arange(-self.bound - 8 * self.std, self.bound + 8 * self.std, self.std / 4)
        x, y = (np.exp(-0.5 * np.square((axis - self.centres[:, [i]]) / self.std)) for i in range(2))
        density = (self.weights[:, None] * x).T @ y / (2.0 * math.pi * self.std**2)
        return -float(xlogy(density, density).sum()) * float(axis[1] - axis[0]) ** 2


class Normal(Blurred):
    """N(0, std²) in one dimension; the reward rises smoothly from 0 to 1 across it."""

    def __init__(self, std: float) -> None:
        super().__init__(f"normal-{std:g}", np.zeros((1, 1)), np.ones(1), std=std, bound=5.0 * std)

    def value(self, actions: ArrayLike) -> FloatArray:
        """½ (1 + tanh(a/std))."""
        return 0.5 * (1.0 + np.tanh(np.asarray(actions, dtype=np.float64)[..., 0] / self.std))

    def rewards(self, actions: FloatArray, rng: np.random.Generator) -> FloatArray:
        """See ``Bandit.rewards``."""
        return self.value(actions)
