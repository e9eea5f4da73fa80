"""The forward-KL problem in closed form: the highest value within ε nats of the behaviour."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from diffcps.bandits.base import FloatArray


class Optimum(NamedTuple):
    """What solves max Σ μ Q subject to KL(π_b ‖ μ) ≤ ε."""

    multiplier: float
    """λ*."""
    normaliser: float
    """ν, above the highest value."""
    policy: FloatArray
    """μ* = λ π_b/(ν − Q)."""
    value: float
    """E_μ* Q."""


def forward_kl_optimum(weights: ArrayLike, values: ArrayLike, epsilon: float) -> Optimum:
    """The optimum over actions that the behaviour takes with probability ``weights`` and that are worth ``values``.

    Both may be of any one shape, a grid's cells for example. Raises ``ValueError`` unless ε > 0 and the values differ.
    """
    probability, value = np.asarray(weights, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if epsilon <= 0:
        raise ValueError(f"epsilon = {epsilon}: it must be above zero")
    taken = probability > 0
    p, q = probability[taken] / probability.sum(), value[taken]
    top, spread = float(q.max()), float(np.ptp(q))
    if spread == 0:
        raise ValueError("every action is worth the same: any policy within the bound is optimal")

    def policy(gap: float) -> tuple[float, FloatArray]:
        """λ and μ for ν = highest value + gap."""
        raw = p / (top + gap - q)
        return 1.0 / float(raw.sum()), raw / raw.sum()

    def excess(log_gap: float) -> float:
        _, mu = policy(float(np.exp(log_gap)))
        return float((p * np.log(p / mu)).sum()) - epsilon

    # the divergence falls from infinity to zero as ν rises from the highest value
    gap = float(np.exp(brentq(excess, np.log(spread) - 60.0, np.log(spread) + 30.0, xtol=1e-13)))
    multiplier, mu = policy(gap)
    whole = np.zeros_like(probability)
    whole[taken] = mu
    return Optimum(multiplier, top + gap, whole, float((mu * q).sum()))
