"""The checkerboard: a uniform distribution over eight squares."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.tasks.bandits.base import Bandit, FloatArray

_SIDE = 0.5
_SQUARES = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
"""Column and row of each square of a 4 × 4 board on [−1, 1]²."""


class Checkerboard(Bandit):
    """Uniform on every second square of a 4 × 4 board. Values rise from 0 to 1, from left to right and bottom to top."""

    def __init__(self) -> None:
        super().__init__("checkerboard", 2, 1.1)
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

    @property
    def modes(self) -> FloatArray | None:
        """See ``Bandit.modes``: centres of the squares."""
        return (_SQUARES + 0.5) * _SIDE - 1.0

    @property
    def mode_weights(self) -> FloatArray | None:
        """See ``Bandit.mode_weights``."""
        return np.full(len(_SQUARES), 1.0 / len(_SQUARES))

    @property
    def highest_value(self) -> float:
        """See ``Bandit.highest_value``."""
        return 1.0

    @property
    def resolution(self) -> float:
        """See ``Bandit.resolution``."""
        return _SIDE / 10

    def _square_value(self, actions: ArrayLike) -> FloatArray:
        """The value of the square that contains each action ``[..., 2]``; NaN outside all squares."""
        place = np.floor((np.asarray(actions, dtype=np.float64) + 1.0) / _SIDE).astype(int)
        inside = ((place >= 0) & (place < 4)).all(axis=-1)
        column, row = np.moveaxis(np.clip(place, 0, 3), -1, 0)
        return np.where(inside, self._values[column, row], np.nan)
