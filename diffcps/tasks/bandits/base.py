"""The base class of bandits: the behaviour distribution, its exact density, the rewards, and the constrained optimum."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

OUTSIDE = 1e-3
"""Largest share of the behaviour's mass that ``off_support`` may count as outside its support."""


class Bandit(ABC):
    """One state, actions of d dimensions, an exactly known behaviour, and a reward for each action.

    Args:
        name: its name.
        action_size: d.
        bound: actions are in ±bound.
        highest_value: the highest true mean reward of any action that the behaviour takes.
        resolution: the length over which the behaviour's density changes; cells of a grid must be smaller.
        modes: centres of the behaviour's modes, ``[M, d]``; ``None`` when it has no separate modes.
        mode_weights: the behaviour's probability of each mode, ``[M]``.
        rows: default number of rows in its data set.
    """

    def __init__(
        self,
        name: str,
        action_size: int,
        bound: float,
        highest_value: float,
        resolution: float,
        modes: FloatArray | None = None,
        mode_weights: FloatArray | None = None,
        rows: int = 10_000,
    ) -> None:
        self.name, self.action_size, self.bound, self.rows = name, action_size, bound, rows
        self.highest_value, self.resolution = highest_value, resolution
        self.modes, self.mode_weights = modes, mode_weights

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """``n`` actions of the behaviour, ``[n, d]``."""

    @abstractmethod
    def value(self, actions: ArrayLike) -> FloatArray:
        """True mean reward of actions ``[..., d]``, ``[...]``."""

    @abstractmethod
    def off_support(self, actions: ArrayLike) -> NDArray[np.bool_]:
        """Whether actions ``[..., d]`` are outside the region with all but ``OUTSIDE`` of the behaviour's mass, ``[...]``."""

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
    def mode_values(self) -> FloatArray | None:
        """True mean reward of each mode, ``[M]``."""
        return None if self.modes is None else self.value(self.modes)

    def rewards(self, actions: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Rewards ``[n]`` in the data set for actions ``[n, d]``: the true mean, with noise if the bandit has noise."""
        return self.value(actions)


# The forward-KL problem in closed form: the highest value within ε nats of the behaviour ------------------------------


class Optimum(NamedTuple):
    """The solution of max Σ μ Q subject to KL(π_b ‖ μ) ≤ ε."""

    multiplier: float
    """λ*."""
    policy: FloatArray
    """μ* = λ π_b/(ν − Q), with ν above the highest value."""
    value: float
    """E_μ* Q."""


def forward_kl_optimum(weights: ArrayLike, values: ArrayLike, epsilon: float) -> Optimum:
    """The optimum over actions with behaviour probabilities ``weights`` and values ``values``.

    Both have the same shape, which may be any, for example a grid. ``epsilon`` is in nats. Raises ``ValueError`` when all
    values are equal, when ε ≤ 0, or when ε is so large (some hundred nats) that floating point cannot represent the policy.
    """
    from scipy.optimize import brentq

    probability, value = np.asarray(weights, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if epsilon <= 0:
        raise ValueError(f"epsilon = {epsilon}: it must be above zero")
    taken = probability > 0
    p, q = probability[taken] / probability.sum(), value[taken]
    top, spread = float(q.max()), float(np.ptp(q))
    if spread == 0:
        raise ValueError("all actions have the same value: any policy within the bound is optimal")

    def below(log_gap: float) -> FloatArray:
        """ν − Q for ν = highest value + gap, without subtracting large numbers, so that small gaps stay exact."""
        return float(np.exp(log_gap)) + (top - q)

    def excess(log_gap: float) -> float:
        """KL(π_b ‖ μ) − ε = Σ π_b (log(ν − Q) − log λ) − ε."""
        under = below(log_gap)
        return float((p * np.log(under)).sum() + np.log((p / under).sum())) - epsilon

    # the divergence falls from infinity to zero as ν rises from the highest value
    low, high = np.log(spread) + np.array([-600.0, 30.0])
    if excess(low) < 0:
        raise ValueError(f"epsilon = {epsilon}: floating point cannot represent a policy so far from the behaviour")
    under = below(float(brentq(excess, low, high, xtol=1e-13)))
    multiplier = 1.0 / float((p / under).sum())
    mu = multiplier * p / under
    whole = np.zeros_like(probability)
    whole[taken] = mu
    return Optimum(multiplier, whole, float((mu * q).sum()))
