"""Schedules and the reverse chain against exact values, worked out in closed form."""

import math

import numpy as np
import pytest
import torch
from gaussian_chains import calibrated_variance, gaussian_noise_net, gaussian_step_losses, with_variance
from torch import Tensor

from diffcps.algorithms.diffusion import Schedule, add_noise, bounded, reverse_chain, variance_preserving

STDS = (0.1, 0.2, 0.3, 0.5)
FREE = 1e9  # a clamp so wide that it never acts


def exact(steps: int) -> Schedule:
    return variance_preserving(steps, 0.1, 10.0, dtype=torch.float64)


def sampling_std(schedule: Schedule, std: float, variance: Tensor, noisy_last_step: bool) -> float:
    """Standard deviation of the chain's samples for actions N(0, std²) with the exact noise net.

    Unclamped, the chain is linear in its draws, so a unit in one draw after the other gives each draw's weight.
    """
    draws = schedule.steps + (1 if noisy_last_step else 0)
    units = torch.eye(draws, dtype=torch.float64)[:, :, None]  # [draw, one chain for each draw, one action dimension]
    weights = reverse_chain(with_variance(gaussian_noise_net(schedule, std), variance), schedule, units, FREE)
    return float(weights.square().sum().sqrt())


def test_schedule_of_five_steps() -> None:
    schedule = exact(5)
    values = {
        "beta": ([0.196, 0.459, 0.636, 0.755, 0.835], 5e-4),
        "alpha_bar": ([0.8041, 0.4352, 0.1585, 0.0389, 0.0064], 5e-5),
        "covariance_coefficient": ([0.2436, 0.6887, 1.3189, 2.4187, 4.2540], 5e-5),
    }
    for name, (expected, rounding) in values.items():
        np.testing.assert_allclose(getattr(schedule, name), expected, rtol=0, atol=rounding, err_msg=name)


@pytest.mark.parametrize("steps", [1, 2, 5, 15, 50])
def test_posterior_by_bayes_rule(steps: int) -> None:
    """q(a_{t−1} | a_t, a_0) as the product of the Gaussians q(a_t | a_{t−1}) and q(a_{t−1} | a_0), for t > 1."""
    schedule = exact(steps)
    beta, alpha_bar = schedule.beta.numpy(), schedule.alpha_bar.numpy()
    assert schedule.steps == steps
    np.testing.assert_allclose(alpha_bar, np.cumprod(1.0 - beta), rtol=1e-14)
    for t in range(1, steps):
        precision = (1.0 - beta[t]) / beta[t] + 1.0 / (1.0 - alpha_bar[t - 1])
        on_current = math.sqrt(1.0 - beta[t]) / beta[t] / precision
        on_start = math.sqrt(alpha_bar[t - 1]) / (1.0 - alpha_bar[t - 1]) / precision
        np.testing.assert_allclose(schedule.posterior_variance[t], 1.0 / precision, rtol=1e-10)
        np.testing.assert_allclose(schedule.mean_of_current[t], on_current, rtol=1e-10)
        np.testing.assert_allclose(schedule.mean_of_start[t], on_start, rtol=1e-10)
    first = [float(v[0]) for v in (schedule.posterior_variance, schedule.mean_of_current, schedule.mean_of_start)]
    np.testing.assert_allclose(first, [0.0, 0.0, 1.0], atol=1e-12)  # the last reverse step returns a_0 itself


def test_float32_schedule_is_the_rounded_one() -> None:
    """But for the roots, which are those of the rounded ᾱ."""
    schedule = variance_preserving(50, 0.1, 10.0)
    for name, value in vars(schedule).items():
        assert value.dtype == torch.float32
        assert name.endswith("root") or torch.equal(value, getattr(exact(50), name).float()), name
    assert torch.equal(schedule.signal_root, schedule.alpha_bar.sqrt())
    assert torch.equal(schedule.noise_root, (1.0 - schedule.alpha_bar).sqrt())


@pytest.mark.parametrize("value", [-3.0, -0.7, -0.2, 0.7, 5.0, float("nan")])
def test_bounded_actions_and_their_gradient(value: float) -> None:
    x = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    found = bounded(x, 0.7)
    torch.testing.assert_close(found, x.clamp(-0.7, 0.7), rtol=0, atol=0, equal_nan=True)
    (slope,) = torch.autograd.grad(found, x)
    assert math.isnan(value) or slope.item() == (abs(value) < 0.7)


@pytest.mark.parametrize(
    ("steps", "floors"),
    [
        (5, [0.0099, 0.0361, 0.0711, 0.1449, 0.2886]),
        (15, [0.0290, 0.0800, 0.1281, 0.2096, 0.3547]),
        (20, [0.0344, 0.0878, 0.1363, 0.2179, 0.3630]),
        (50, [0.0470, 0.1023, 0.1511, 0.2328, 0.3779]),
    ],
)
def test_floor_of_the_behaviour_loss(steps: int, floors: list[float]) -> None:
    own = [float(gaussian_step_losses(exact(steps), std).mean()) for std in (*STDS, 1.0)]
    np.testing.assert_allclose(own, floors, rtol=0, atol=5.1e-5)


def test_exact_noise_net_reaches_the_floor() -> None:
    """E (ε − ε*(a_t))² by quadrature over a_0 and ε, step by step."""
    schedule, std = exact(5), 0.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    start, noise = (torch.tensor(a)[..., None] for a in np.meshgrid(std * nodes, nodes, indexing="ij"))
    weight = torch.tensor(np.outer(weights, weights))[..., None]
    predict = gaussian_noise_net(schedule, std)
    for step in range(5):
        noisy = add_noise(schedule, start, torch.full(start.shape[:-1], step), noise)
        loss = float((weight * (noise - predict(noisy, step)) ** 2).sum())
        np.testing.assert_allclose(loss, gaussian_step_losses(schedule, std)[step], rtol=1e-12)


def test_add_noise_takes_each_row_at_its_own_step() -> None:
    schedule = exact(5)
    rng = torch.Generator().manual_seed(0)
    actions, noise = (torch.randn(3, 7, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    step = torch.randint(0, 5, (3, 7), generator=rng)
    noisy = add_noise(schedule, actions, step, noise)
    for k in range(3):
        for b in range(7):
            signal = float(schedule.alpha_bar[step[k, b]])
            expected = math.sqrt(signal) * actions[k, b] + math.sqrt(1.0 - signal) * noise[k, b]
            torch.testing.assert_close(noisy[k, b], expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize(
    ("steps", "posterior", "beta"),
    [
        (5, [0.020, 0.071, 0.141, 0.295], [0.444, 0.457, 0.495, 0.627]),
        (15, [0.047, 0.130, 0.217, 0.395], [0.186, 0.263, 0.355, 0.541]),
        (50, [0.073, 0.167, 0.263, 0.457], [0.120, 0.217, 0.316, 0.512]),
    ],
)
def test_std_of_the_samples(steps: int, posterior: list[float], beta: list[float]) -> None:
    """Even a perfect noise net samples too narrow with β̃ and too wide with β; the calibrated variance is exact."""
    schedule = exact(steps)
    own = [
        (
            sampling_std(schedule, std, schedule.posterior_variance, noisy_last_step=False),
            sampling_std(schedule, std, schedule.beta, noisy_last_step=True),
            sampling_std(
                schedule, std, calibrated_variance(schedule, gaussian_step_losses(schedule, std)), noisy_last_step=True
            ),
        )
        for std in STDS
    ]
    narrow, wide, calibrated = np.transpose(own)
    np.testing.assert_allclose(narrow, posterior, rtol=0, atol=5e-4)
    np.testing.assert_allclose(wide, beta, rtol=0, atol=5e-4)
    # all that is left is the start, N(0, 1) where the noised actions have N(0, ᾱ_T s² + 1 − ᾱ_T)
    np.testing.assert_allclose(calibrated, STDS, rtol=1e-5)


def test_divergence_of_the_narrow_chain() -> None:
    """KL(N(0, s²) ‖ N(0, σ²)) = ln(σ/s) + s²/2σ² − ½ at T = 5 with β̃: 10.90 2.38 1.00 .41 nats a dimension."""
    schedule = exact(5)
    divergences = []
    for std in STDS:
        own = sampling_std(schedule, std, schedule.posterior_variance, noisy_last_step=False)
        divergences.append(math.log(own / std) + std**2 / (2.0 * own**2) - 0.5)
    np.testing.assert_allclose(divergences, [10.90, 2.38, 1.00, 0.41], rtol=0, atol=5e-3)


def test_chain_is_clamped_at_every_step_and_differentiable() -> None:
    schedule, bound = exact(5), 0.4
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(6, 50, 2, dtype=torch.float64, generator=rng)
    seen: list[tuple[int, Tensor]] = []
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def predict(actions: Tensor, step: int) -> Tensor:
        seen.append((step, actions))
        return torch.zeros_like(actions) + shift

    actions = reverse_chain(with_variance(predict, schedule.posterior_variance), schedule, noise[:5], bound)
    assert [step for step, _ in seen] == [4, 3, 2, 1, 0]
    assert torch.equal(seen[0][1], noise[0])
    for (step, now), (_, following), draw in zip(seen, seen[1:], noise[1:5], strict=False):
        mean = following - schedule.posterior_variance[step].sqrt() * draw
        start = (mean - schedule.mean_of_current[step] * now) / schedule.mean_of_start[step]
        assert float(start.detach().abs().max()) <= bound + 1e-12
    assert float(actions.detach().abs().max()) <= bound
    assert shift.grad is None
    actions.sum().backward()
    assert shift.grad is not None
    assert float(shift.grad) < 0.0  # more predicted noise, smaller actions

    noisy = reverse_chain(
        with_variance(predict, schedule.beta), schedule, noise, bound
    )  # one draw more: the last step is noisy
    quiet = reverse_chain(with_variance(predict, schedule.beta), schedule, noise[:5], bound)
    assert not torch.equal(noisy, quiet)
    assert float(noisy.detach().abs().max()) <= bound
