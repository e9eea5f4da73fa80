"""What exact noise nets would find on the four corners at each T: ``python -m tests.benchmarks.bound``.

The dual of the study ``optimum`` holds a bound on the cross-entropy, not the cross-entropy, and a chain of few steps does not
act by the weights that its noise net is exact for. Both are known for chains with a calibrated isotropic variance and the
exact net for corners of weights w: the bound is C(w) = const + Σ_t ½ d log(β̃_t + c_t L_t(w)), L_t the net's mean squared
error on the behaviour's actions, and sampling the chain shows what it acts by. Along the weights w that are optimal in the
exact problem, this prints what the chain earns per nat of C, which is λ, and the weights that it acts by, where C is ε above
the behaviour's. All is drawn: another ``--seed`` shows how far the numbers are to be trusted. For T of 20 and more; a chain of
few steps acts outside of the corners too, which count as worth nothing here.
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffcps.algorithms.diffusion import reverse_mean, variance_preserving
from diffcps.studies.optimum import BUDGETS
from diffcps.tasks.bandits import bandit, forward_kl_optimum
from diffcps.tasks.bandits.blurred import Blurred

DRAWS = 200_000
"""Actions of the behaviour, with one noise each at every step; the same for all weights."""
SAMPLES = 150_000
"""Actions of the chain, from the same noise for all weights."""
STRENGTHS = np.geomspace(0.05, 1.8, 16)
"""ε of the exact problem whose optimal weights the nets are exact for."""
NEAR = 0.9
"""λ is the slope at log ε of a cubic through what lies this far from it at most."""
CORNER = 0.25
"""An action this far from a corner at most, five standard deviations, is one of the corner's."""


class Chain:
    """C(w) up to a constant, and what the chain with the exact net for weights w acts by."""

    def __init__(self, steps: int, seed: int) -> None:
        corners = bandit("corners")
        assert isinstance(corners, Blurred)
        assert corners.modes is not None
        self.std, self.seed = corners.std, seed
        self.schedule = variance_preserving(steps, 0.1, 10.0, torch.float64)
        self.modes = torch.as_tensor(np.asarray(corners.modes), dtype=torch.float64)
        rng = torch.Generator().manual_seed(2 * seed)
        which = torch.arange(DRAWS) % len(self.modes)
        starts = self.modes[which] + self.std * torch.randn(DRAWS, 2, generator=rng, dtype=torch.float64)
        signal = self.schedule.alpha_bar[:, None, None]
        self.noise = torch.randn(steps, DRAWS, 2, generator=rng, dtype=torch.float64)
        self.noisy = signal.sqrt() * starts + (1.0 - signal).sqrt() * self.noise

    def predicted(self, noisy: Tensor, step: int, weights: Tensor) -> Tensor:
        """The exact net: posterior means of the noise in each corner, weighed by how likely the corner is."""
        signal = self.schedule.alpha_bar[step]
        spread = signal * self.std**2 + 1.0 - signal
        away = noisy[:, None, :] - signal.sqrt() * self.modes
        posterior = torch.softmax(-0.5 * away.square().sum(dim=-1) / spread + weights.log(), dim=-1)
        return (1.0 - signal).sqrt() / spread * (posterior[..., None] * away).sum(dim=1)

    def variance(self, weights: Tensor) -> Tensor:
        """σ*², calibrated on the behaviour's actions, ``[T]``."""
        schedule = self.schedule
        errors = [
            (self.noise[step] - self.predicted(self.noisy[step], step, weights)).square().mean()
            for step in range(schedule.steps)
        ]
        return schedule.posterior_variance + schedule.covariance_coefficient * torch.stack(errors)

    def acted(self, weights: Tensor, variance: Tensor) -> NDArray[np.float64]:
        """Shares of the chain's actions in each corner."""
        rng = torch.Generator().manual_seed(2 * self.seed + 1)
        actions = torch.randn(SAMPLES, 2, generator=rng, dtype=torch.float64)
        for step in reversed(range(self.schedule.steps)):
            mean = reverse_mean(self.schedule, actions, step, self.predicted(actions, step, weights), 1.0)
            noise = torch.randn(SAMPLES, 2, generator=rng, dtype=torch.float64)
            actions = mean + variance[step].sqrt() * noise
        nearest = torch.cdist(actions.clamp(-1.0, 1.0), self.modes).min(dim=1)
        counts = torch.bincount(nearest.indices[nearest.values < CORNER], minlength=len(self.modes))
        return np.asarray(counts / SAMPLES, dtype=np.float64)


def main() -> None:
    """Print λ and the weights for each T and ε."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusion-steps", type=int, nargs="+", default=[20, 30, 40, 50])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corners = bandit("corners")
    assert corners.mode_values is not None
    assert corners.mode_weights is not None
    values, behaviour = np.asarray(corners.mode_values), np.asarray(corners.mode_weights)
    table = Table("T", "ε", "λ", "λ*", "λ/λ* − 1", "weights acted by (μ*)", "farthest", "KL between the weights")
    for steps in options.diffusion_steps:
        chain, bounds, shares = Chain(steps, options.seed), [], []
        for strength in (None, *STRENGTHS):
            shape = behaviour if strength is None else forward_kl_optimum(behaviour, values, strength).policy
            variance = chain.variance(torch.as_tensor(shape))
            bounds.append(float(variance.log().sum()))
            shares.append(chain.acted(torch.as_tensor(shape), variance))
        nats, acted = np.log(np.array(bounds[1:]) - bounds[0]), np.array(shares[1:])
        for epsilon in BUDGETS:
            exact = forward_kl_optimum(behaviour, values, epsilon)
            near = np.abs(nats - np.log(epsilon)) < NEAR
            earned = np.polynomial.Polynomial.fit(nats[near], acted[near] @ values, 3)
            multiplier = float(earned.deriv()(np.log(epsilon))) / epsilon
            weights = np.array([np.interp(np.log(epsilon), nats, column) for column in acted.T])
            table.add_row(
                f"{steps}", f"{epsilon:g}", f"{multiplier:.3f}", f"{exact.multiplier:.3f}",
                f"{multiplier / exact.multiplier - 1:+.3f}",
                " ".join(f"{w:.3f} ({e:.3f})" for w, e in zip(weights, exact.policy, strict=True)),
                f"{np.abs(weights - exact.policy).max():.3f}",
                f"{(behaviour * np.log(behaviour / (weights / weights.sum()))).sum():.3f}",
            )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
