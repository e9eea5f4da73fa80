"""The forward-KL problem in closed form: the highest value within ε nats of the behaviour."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from diffcps.tasks.bandits.base import FloatArray


class Optimum(NamedTuple):
    """The solution of max Σ μ Q subject to KL(π_b ‖ μ) ≤ ε."""

    multiplier: float
    """λ*."""
    normaliser: float
    """ν, above the highest value."""
    policy: FloatArray
    """μ* = λ π_b/(ν − Q)."""
    value: float
    """E_μ* Q."""


def forward_kl_optimum(weights: ArrayLike, values: ArrayLike, epsilon: float) -> Optimum:
    """The optimum over actions with behaviour probabilities ``weights`` and values ``values``.

    Both have the same shape, which may be any, for example a grid. ``epsilon`` is in nats. Raises ``ValueError`` when all
    values are equal, when ε ≤ 0, or when ε is so large (some hundred nats) that floating point cannot represent the policy.
    """
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
    under = below(log_gap := float(brentq(excess, low, high, xtol=1e-13)))
    multiplier = 1.0 / float((p / under).sum())
    mu = multiplier * p / under
    whole = np.zeros_like(probability)
    whole[taken] = mu
    return Optimum(multiplier, top + float(np.exp(log_gap)), whole, float((mu * q).sum()))
