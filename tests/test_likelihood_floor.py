"""The best that any isotropic chain can do on four corners: the numbers that docs/studies.md gives."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffcps.algorithms.diffusion import Schedule, prior_divergence, step_divergence, variance_preserving
from diffcps.tasks.bandits import bandit
from diffcps.tasks.bandits.blurred import Blurred


def exact_noise(known: Blurred, schedule: Schedule, noisy: Tensor, step: int) -> Tensor:
    """E[ε | a_t] under equally likely Gaussians, from the posterior over them."""
    signal = schedule.alpha_bar[step]
    centres = signal.sqrt() * torch.tensor(known.centres)
    spread = signal * known.std**2 + 1.0 - signal
    away = noisy[:, None] - centres
    posterior = (-0.5 * away.square().sum(dim=-1) / spread).softmax(dim=1)
    # within each Gaussian ε is linear in the distance to its centre
    return (1.0 - signal).sqrt() / spread * (posterior[..., None] * away).sum(dim=1)


@pytest.mark.parametrize(("steps", "gap"), [(5, 3.59), (20, 0.357), (50, 0.116)])
def test_gap_of_the_best_chain(steps: int, gap: float) -> None:
    known = bandit("corners")
    assert isinstance(known, Blurred)
    schedule = variance_preserving(steps, 0.1, 10.0, torch.float64)
    rng = np.random.default_rng(0)
    actions = torch.tensor(known.sample(40_000, rng))
    total = prior_divergence(schedule, actions).mean()
    for step in range(steps):
        noise = torch.tensor(rng.normal(size=actions.shape))
        signal = schedule.alpha_bar[step]
        noisy = signal.sqrt() * actions + (1.0 - signal).sqrt() * noise
        errors = (noise - exact_noise(known, schedule, noisy, step)).square()
        variance = schedule.posterior_variance[step] + schedule.covariance_coefficient[step] * errors.mean()
        which = torch.full((len(actions),), step)
        total += step_divergence(schedule, which, errors, variance.expand(1, 1)).mean()
    assert float(total) - known.entropy == pytest.approx(gap, abs=0.02)
