"""What every bandit knows of itself: its behaviour, its rewards and their exact distribution."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

OUTSIDE = 1e-3
"""Share of the behaviour's mass, at most, that may lie off its support as ``off_support`` draws it."""


class Bandit(ABC):
    """One state, actions in ±``bound`` of d dimensions, a behaviour that is known exactly, and a reward for each action."""

    def __init__(self, name: str, action_size: int, bound: float, rows: int = 10_000) -> None:
        self.name = name
        self.action_size = action_size
        """d."""
        self.bound = bound
        """Actions lie in ±bound."""
        self.rows = rows
        """Rows that its data set usually has."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """``n`` actions of the behaviour, ``[n, d]``."""

    @abstractmethod
    def value(self, actions: ArrayLike) -> FloatArray:
        """True mean reward of actions ``[..., d]``, ``[...]``."""

    @abstractmethod
    def off_support(self, actions: ArrayLike) -> NDArray[np.bool_]:
        """Whether actions ``[..., d]`` lie outside of where all but ``OUTSIDE`` of the behaviour's mass lies, ``[...]``."""

    @abstractmethod
    def log_density(self, actions: ArrayLike) -> FloatArray:
        """log π_b of actions ``[..., d]`` in nats, ``[...]``; −∞ where there is no mass."""

    @abstractmethod
    def cell_masses(self, edges: Sequence[FloatArray]) -> FloatArray:
        """The behaviour's probability of each cell of a rectangular grid, d = 1 or 2.

        Args:
            edges: for each dimension the ascending edges ``[n_i + 1]``.

        Returns:
            ``[n_1]`` or ``[n_1, n_2]``; sums to 1 when the grid covers the behaviour.
        """

    @property
    @abstractmethod
    def entropy(self) -> float:
        """Differential entropy H(π_b) in nats."""

    @property
    def modes(self) -> FloatArray | None:
        """Centres of the behaviour's modes, ``[M, d]``, where it has such."""
        return None

    @property
    def mode_weights(self) -> FloatArray | None:
        """The behaviour's probability of each mode, ``[M]``."""
        return None

    @property
    def mode_values(self) -> FloatArray | None:
        """True mean reward of each mode, ``[M]``."""
        return None if self.modes is None else self.value(self.modes)

    @property
    @abstractmethod
    def highest_value(self) -> float:
        """The highest true mean reward of any action that the behaviour takes."""

    @property
    @abstractmethod
    def resolution(self) -> float:
        """The length over which the behaviour's density changes: cells of a grid have to be smaller."""

    def rewards(self, actions: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Rewards ``[n]`` that the data give for actions ``[n, d]``; the true mean unless they are noisy."""
        return self.value(actions)

    def target_sample(self, n: int, beta: float, rng: np.random.Generator) -> FloatArray:
        """``n`` actions from π_b·exp(β value), drawn again from 50 times as many of the behaviour, ``[n, d]``."""
        actions = self.sample(50 * n, rng)
        weights = np.exp(beta * (self.value(actions) - self.highest_value))
        return actions[rng.choice(len(actions), n, p=weights / weights.sum())]
