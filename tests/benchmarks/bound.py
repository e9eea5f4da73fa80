"""What the looseness of the ELBO alone does to the optimum of the four corners: ``python -m tests.benchmarks.bound``.

The dual of the study ``optimum`` holds a bound on the cross-entropy, not the cross-entropy. A chain with a calibrated isotropic
variance and the exact noise net for corners of weights w has the bound C(w) = const + Σ_t ½ d log(β̃_t + c_t L_t(w)), L_t its
mean squared error on the behaviour's actions. Here max Σ w Q subject to C(w) − C(behaviour) ≤ ε is solved for each T: the λ
and the weights that a perfect learner would find among such chains, taken to act by the weights w, beside those of the exact
problem.
"""

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from torch import Tensor

from diffcps.bandits import bandit, forward_kl_optimum
from diffcps.bandits.blurred import Blurred
from diffcps.diffusion import variance_preserving
from diffcps.studies.optimum import BUDGETS

DRAWS = 4000
"""Actions of the behaviour, each with one noise at every step; the same for all weights."""


class Bound:
    """C(w) up to a constant, and its gradient."""

    def __init__(self, steps: int) -> None:
        corners = bandit("corners")
        assert isinstance(corners, Blurred)
        assert corners.modes is not None
        self.schedule = variance_preserving(steps, 0.1, 10.0, torch.float64)
        self.modes = torch.as_tensor(np.asarray(corners.modes), dtype=torch.float64)
        rng = torch.Generator().manual_seed(0)
        which = torch.arange(DRAWS) % len(self.modes)
        starts = self.modes[which] + corners.std * torch.randn(DRAWS, 2, generator=rng, dtype=torch.float64)
        signal = self.schedule.alpha_bar[:, None, None]
        self.noise = torch.randn(steps, DRAWS, 2, generator=rng, dtype=torch.float64)
        noisy = signal.sqrt() * starts + (1.0 - signal).sqrt() * self.noise
        # the exact noise net: posterior means of the noise in each corner, weighed by how likely the corner is
        spread = signal * corners.std**2 + 1.0 - signal
        away = noisy[:, :, None, :] - signal[..., None].sqrt() * self.modes
        self.log_likelihood = -0.5 * away.square().sum(dim=-1) / spread
        self.guesses = (1.0 - signal[..., None]).sqrt() * away / spread[..., None]

    def __call__(self, weights: Tensor) -> Tensor:
        """C, of corner weights ``[4]``."""
        posterior = torch.softmax(self.log_likelihood + weights.log(), dim=-1)
        errors = (self.noise - (posterior[..., None] * self.guesses).sum(dim=2)).square().mean(dim=(1, 2))
        schedule = self.schedule
        return (schedule.posterior_variance + schedule.covariance_coefficient * errors).log().sum()


def optimum(bound: Bound, values: np.ndarray, epsilon: float) -> tuple[float, np.ndarray]:
    """λ and the weights of the best chain within ε nats."""
    uniform = torch.full((len(values),), 1.0 / len(values), dtype=torch.float64)
    least = float(bound(uniform))

    def left(weights: np.ndarray) -> tuple[float, np.ndarray]:
        tensor = torch.tensor(weights, requires_grad=True)
        found = bound(tensor)
        (slope,) = torch.autograd.grad(found, tensor)
        return epsilon - (found.item() - least), -slope.numpy()

    found = minimize(
        lambda w: -float(w @ values), uniform.numpy(), jac=lambda _: -values, method="SLSQP",
        bounds=[(1e-4, 1.0)] * len(values), options={"ftol": 1e-9, "maxiter": 200},
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like},
            {"type": "ineq", "fun": lambda w: left(w)[0], "jac": lambda w: left(w)[1]},
        ],
    )  # fmt: skip
    if not found.success:
        raise SystemExit(f"no optimum was found at T = {bound.schedule.steps}, ε = {epsilon:g}: {found.message}")
    # Q = λ ∇C + ν at the optimum
    design = np.stack([-left(found.x)[1], np.ones(len(values))], axis=1)
    return float(np.linalg.lstsq(design, values, rcond=None)[0][0]), found.x


def main() -> None:
    """Print λ and the weights for each T and ε."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusion-steps", type=int, nargs="+", default=[5, 20, 50, 200])
    corners = bandit("corners")
    assert corners.mode_values is not None
    assert corners.mode_weights is not None
    table = Table("T", "ε", "λ", "λ*", "λ/λ* − 1", "weights (μ*)", "farthest", "KL between the weights")
    for steps in parser.parse_args().diffusion_steps:
        bound = Bound(steps)
        for epsilon in BUDGETS:
            exact = forward_kl_optimum(corners.mode_weights, corners.mode_values, epsilon)
            multiplier, weights = optimum(bound, np.asarray(corners.mode_values), epsilon)
            table.add_row(
                f"{steps}", f"{epsilon:g}", f"{multiplier:.3f}", f"{exact.multiplier:.3f}",
                f"{multiplier / exact.multiplier - 1:+.3f}",
                " ".join(f"{w:.3f} ({e:.3f})" for w, e in zip(weights, exact.policy, strict=True)),
                f"{np.abs(weights - exact.policy).max():.3f}",
                f"{(corners.mode_weights * np.log(corners.mode_weights / weights)).sum():.3f}",
            )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
