"""The forward-KL problem in closed form: the highest value within ε nats of the behaviour."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from diffcps.tasks.bandits.base import FloatArray


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

    Both may be of any one shape, a grid's cells for example. Raises ``ValueError`` unless the values
    differ and 0 < ε < some hundreds.
    """
    probability, value = np.asarray(weights, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if epsilon <= 0:
        raise ValueError(f"epsilon = {epsilon}: it must be above zero")
    taken = probability > 0
    p, q = probability[taken] / probability.sum(), value[taken]
    top, spread = float(q.max()), float(np.ptp(q))
    if spread == 0:
        raise ValueError("every action is worth the same: any policy within the bound is optimal")

    def below(log_gap: float) -> FloatArray:
        """ν − Q for ν = highest value + gap: no difference of large numbers, however small the gap."""
        return float(np.exp(log_gap)) + (top - q)

    def excess(log_gap: float) -> float:
        """KL(π_b ‖ μ) − ε = Σ π_b (log(ν − Q) − log λ) − ε."""
        under = below(log_gap)
        return float((p * np.log(under)).sum() + np.log((p / under).sum())) - epsilon

    # the divergence falls from infinity to zero as ν rises from the highest value
    low, high = np.log(spread) + np.array([-600.0, 30.0])
    if excess(low) < 0:
        raise ValueError(f"epsilon = {epsilon}: numbers end before a policy is as far away as that")
    under = below(log_gap := float(brentq(excess, low, high, xtol=1e-13)))
    multiplier = 1.0 / float((p / under).sum())
    mu = multiplier * p / under
    whole = np.zeros_like(probability)
    whole[taken] = mu
    return Optimum(multiplier, top + float(np.exp(log_gap)), whole, float((mu * q).sum()))
