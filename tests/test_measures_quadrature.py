"""Distributions on grids: chains with exact noise nets against closed forms, and convergence."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gaussian_chains import calibrated_variance, gaussian_noise_net, gaussian_step_losses, with_variance
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from diffcps.algorithms.diffusion import (
    Denoiser,
    Schedule,
    add_noise,
    path_log_weights,
    renyi_bound,
    reverse_chain,
    variance_preserving,
)
from diffcps.tasks.bandits import bandit
from diffcps.training.measures import density
from diffcps.training.measures.cells import Nodes, cell_masses, density_at, middles, mixture_masses
from diffcps.training.measures.density import divergence
from diffcps.training.measures.maps import map_masses
from diffcps.training.measures.quadrature import NotFiniteError, chain_masses

FREE = 1e9
STDS = (0.1, 0.2, 0.3, 0.5)
CORNERS = 0.8 * torch.tensor([[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)


def exact(steps: int) -> Schedule:
    return variance_preserving(steps, 0.1, 10.0, dtype=torch.float64)


def edges(bound: float, count: int) -> Tensor:
    return torch.linspace(-bound, bound, count + 1, dtype=torch.float64)


def gaussian_chain(schedule: Schedule, std: float, covariance: str) -> tuple[Tensor, bool, float]:
    """Reverse variance, whether the last step is noisy, and the standard deviation of the samples.

    Unclamped, the chain is linear in its draws, so a unit in one draw after the other gives each draw's weight.
    """
    variance = {
        "posterior": schedule.posterior_variance,
        "forward": schedule.beta,
        "calibrated": calibrated_variance(schedule, gaussian_step_losses(schedule, std)),
    }[covariance]
    noisy = covariance != "posterior"
    units = torch.eye(schedule.steps + noisy, dtype=torch.float64)[:, :, None]
    weights = reverse_chain(with_variance(gaussian_noise_net(schedule, std), variance), schedule, units, FREE)
    return variance, noisy, float(weights.square().sum().sqrt())


def normal_cells(edge: Tensor, std: float) -> np.ndarray:
    """N(0, std²), with what lies beyond in the outermost cells; every cell from the side where it keeps its digits."""
    z = edge.numpy() / std
    z[0], z[-1] = -np.inf, np.inf
    return np.where(z[1:] <= 0, np.diff(norm.cdf(z)), -np.diff(norm.sf(z)))


def corner_net(schedule: Schedule, std: float) -> Denoiser:
    """The exact noise net of four Gaussians, with an exact isotropic variance of q(a_{t−1} | a_t) for each a_t."""

    def denoise(actions: Tensor, step: int) -> tuple[Tensor, Tensor]:
        signal = schedule.alpha_bar[step]
        total = signal * std**2 + 1.0 - signal
        offset = actions[:, None] - signal.sqrt() * CORNERS
        share = (-0.5 * offset.square().sum(dim=-1) / total).softmax(dim=-1)[..., None]
        each = CORNERS + signal.sqrt() * std**2 / total * offset
        start = (share * each).sum(dim=1)
        spread = (share * (each - start[:, None]).square()).sum(dim=1).mean(dim=1, keepdim=True)
        spread = spread + std**2 * (1.0 - signal) / total
        variance = schedule.posterior_variance[step] + schedule.mean_of_start[step] ** 2 * spread
        return (actions - signal.sqrt() * start) / (1.0 - signal).sqrt(), variance

    return denoise


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("covariance", ["posterior", "forward", "calibrated"])
def test_gaussian_chain_is_the_gaussian_it_must_be(std: float, covariance: str) -> None:
    """Cell masses, their standard deviation and KL to the behaviour by the closed form, far into the tails."""
    schedule = exact(5)
    variance, noisy, own = gaussian_chain(schedule, std, covariance)
    edge = edges(5 * max(std, own), 1000)
    chain = with_variance(gaussian_noise_net(schedule, std), variance)
    masses = chain_masses(chain, schedule, 5 * std if not noisy else 5.0, noisy, [edge]).numpy()
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-6)
    expected, behaviour = normal_cells(edge, own), normal_cells(edge, std)
    np.testing.assert_allclose(masses, expected, rtol=0.02 if not noisy else 1e-8, atol=1e-7 if not noisy else 1e-12)
    spread = math.sqrt(float((masses * middles([edge])[:, 0] ** 2).sum()))
    np.testing.assert_allclose(spread, own, rtol=1e-3)
    kl = math.log(own / std) + std**2 / (2.0 * own**2) - 0.5
    np.testing.assert_allclose(divergence(behaviour, masses, 1e-250), kl, atol=3e-3, rtol=1e-3)


def test_divergence_of_the_narrow_chain_by_quadrature() -> None:
    """10.90 2.38 1.00 .41 nats: what a perfect noise net loses at T = 5 with β̃."""
    schedule, found = exact(5), []
    for std in STDS:
        edge = edges(5 * std, 2000)
        chain = with_variance(gaussian_noise_net(schedule, std), schedule.posterior_variance)
        masses = chain_masses(chain, schedule, 5 * std, False, [edge]).numpy()
        found.append(divergence(normal_cells(edge, std), masses, 1e-250))
    np.testing.assert_allclose(found, [10.90, 2.38, 1.00, 0.41], atol=5e-3)


@pytest.mark.parametrize("covariance", ["forward", "calibrated"])
def test_density_by_paths_by_quadrature_and_in_closed_form(covariance: str) -> None:
    """log μ of single actions agrees within the errors: IWAE from below with a gap that closes, quadrature exactly."""
    schedule, std = exact(5), 0.3
    variance, _, own = gaussian_chain(schedule, std, covariance)
    chain = with_variance(gaussian_noise_net(schedule, std), variance)
    actions = torch.tensor([-0.6, -0.2, 0.0, 0.3, 0.7], dtype=torch.float64)
    closed = norm.logpdf(actions.numpy(), scale=own)

    width = 1e-3
    edge = edges(2.0, round(4.0 / width))
    masses = chain_masses(chain, schedule, 5.0, True, [edge]).numpy()
    cell = np.searchsorted(edge.numpy(), actions.numpy(), side="right") - 1
    middle = middles([edge])[cell, 0]
    np.testing.assert_allclose(np.log(masses[cell] / width), norm.logpdf(middle, scale=own), atol=1e-5)

    rng = torch.Generator().manual_seed(3)
    noise = torch.randn(5, 5, 16 * 4096, 1, dtype=torch.float64, generator=rng)
    paths = actions[:, None, None].expand(5, 16 * 4096, 1)
    weights = path_log_weights(chain, schedule, paths, noise, FREE)
    for count in (64, 4096):
        groups = renyi_bound(weights.view(5, -1, count), 0.0)
        error = groups.std(dim=1).numpy() / math.sqrt(groups.shape[1])
        bias = 0.5 * groups.var(dim=1).numpy()  # of the logarithm of a mean, by its second order
        assert np.all(np.abs(groups.mean(dim=1).numpy() + bias - closed) < 4.0 * error + 0.3 * bias + 1e-4), count
    elbo, error = weights.mean(dim=1).numpy(), weights.std(dim=1).numpy() / math.sqrt(weights.shape[1])
    assert np.all(elbo <= closed + 5.0 * error + 1e-4)


@pytest.mark.parametrize(
    ("steps", "noisy", "finer"), [(1, True, 2.0), (5, False, 2.0), (5, True, 1.5), (10, False, 1.5)]
)
def test_quadrature_converges_in_two_dimensions(steps: int, noisy: bool, finer: float) -> None:
    """Nodes half as far apart give the same, though the net leaps from mode to mode; masses sum to 1."""
    schedule, edge = exact(steps), edges(1.1, 110)
    net = corner_net(schedule, 0.1)
    behaviour = mixture_masses(torch.full((4,), -math.log(4.0)), CORNERS, torch.full((4, 2), 0.1).double(), [edge] * 2)
    kls = []
    for resolution in (1.0, finer):
        masses = chain_masses(net, schedule, 1.1, noisy, [edge, edge], resolution)
        np.testing.assert_allclose(float(masses.sum()), 1.0, atol=1e-6)
        np.testing.assert_allclose(masses, masses.T, atol=1e-5)  # the corners are symmetric
        kls.append(divergence(behaviour.numpy(), masses.numpy(), 1e-30))
    np.testing.assert_allclose(kls[0], kls[1], rtol=0, atol=1e-3)


def test_quadrature_is_where_samples_are() -> None:
    """Every cell of a coarse grid holds as many samples of the chain as its mass says, within five standard errors."""
    schedule, count = exact(5), 50_000
    net = corner_net(schedule, 0.1)
    rng = torch.Generator().manual_seed(0)
    coarse = edges(1.1, 11)
    for noisy in (False, True):
        noise = torch.randn(5 + noisy, count, 2, dtype=torch.float64, generator=rng)
        samples = reverse_chain(net, schedule, noise, 1.1).numpy()
        counts, _, _ = np.histogram2d(*samples.T, bins=[coarse.numpy()] * 2)
        masses = chain_masses(net, schedule, 1.1, noisy, [coarse, coarse]).numpy()
        error = np.sqrt(masses * (1.0 - masses) / count)
        assert np.abs(counts / count - masses).max() < 5.0 * error.max()
        assert (np.abs(counts / count - masses) <= 5.0 * error + 1e-4).all()


@pytest.mark.parametrize("steepness", [1.0, 10.0, 40.0])
@pytest.mark.parametrize(("name", "tolerance"), [("normal-0.5", 2e-3), ("mixture-2x1", 2e-3), ("corners", 0.02)])
def test_noise_through_a_map_is_the_density_it_must_be(name: str, steepness: float, tolerance: float) -> None:
    """a = .4 tanh(k z) + .1 z in each dimension, on a bandit's own cells: it is monotone, so a cell's mass is that between the
    roots at its edges. It leaps from mode to mode, and between them no cell is empty."""

    def leaps(noise: Tensor) -> Tensor:
        return 0.4 * torch.tanh(steepness * noise) + 0.1 * noise

    found, own = bandit(name), density.behaviour(name)
    below = _below(leaps, own.edges[0].numpy())
    expected = below if found.action_size == 1 else np.outer(below, below)
    masses = map_masses(leaps, found.bound, own.edges).numpy()
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-9)
    assert np.abs(masses - expected).max() < (5e-5 if found.action_size == 1 else 5e-4)
    floor = density.FLOOR[found.action_size]
    kls = [divergence(own.masses, each, floor) for each in (expected, masses)]
    np.testing.assert_allclose(kls[1], kls[0], rtol=2e-3, atol=tolerance)


def _below(monotone: Callable[[Tensor], Tensor], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mass of each cell of one axis under standard normal noise through a rising map, by bisection."""
    low, high = np.full(len(edge), -60.0), np.full(len(edge), 60.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        less = monotone(torch.from_numpy(middle)).numpy() < edge
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    low[0], low[-1] = -np.inf, np.inf
    left, right = low[:-1], low[1:]
    return np.where(left > 0, norm.sf(left) - norm.sf(right), norm.cdf(right) - norm.cdf(left))


def test_what_lies_beyond_the_bounds_is_in_the_outermost_cells() -> None:
    schedule = exact(5)
    chain = with_variance(gaussian_noise_net(schedule, 1.0), schedule.beta)
    masses = chain_masses(chain, schedule, 0.5, True, [edges(0.5, 10)]).numpy()
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-9)
    assert masses[0] > 3 * masses[1]
    np.testing.assert_allclose(masses, masses[::-1], rtol=1e-9)


def test_masses_of_gaussians_and_points() -> None:
    edge = [edges(1.0, 8), edges(1.0, 4)]
    weights = torch.tensor([0.25, 0.75]).log().double()
    means = torch.tensor([[0.1, -0.3], [0.9, 0.2]]).double()
    stds = torch.tensor([[0.2, 0.4], [0.3, 0.1]]).double()
    expected = np.zeros((8, 4))
    for weight, mean, std in zip((0.25, 0.75), means.numpy(), stds.numpy(), strict=True):
        parts = []
        for j in range(2):
            cdf = norm.cdf((edge[j].numpy() - mean[j]) / std[j])
            cdf[0], cdf[-1] = 0.0, 1.0
            parts.append(np.diff(cdf))
        expected += weight * np.outer(*parts)
    np.testing.assert_allclose(mixture_masses(weights, means, stds, edge), expected, atol=1e-14)

    point = mixture_masses(
        torch.zeros(1).double(), torch.tensor([[0.3, 5.0]]).double(), torch.zeros(1, 2).double(), edge
    )
    assert np.argwhere(point.numpy() > 0.5).tolist() == [[5, 3]]
    np.testing.assert_allclose(float(point.sum()), 1.0)


def test_a_box_is_shared_by_the_cells_that_it_lies_in() -> None:
    box = Nodes(torch.tensor([[0.0, 0.1]]).double(), torch.tensor([[0.2, 0.2]]).double(), torch.ones(1).double(), True)
    edge = torch.tensor([-1.0, -0.5, 0.0, 0.05, 0.5]).double()
    masses = cell_masses(box, [edges(1.0, 4), edge]).numpy()
    np.testing.assert_allclose(masses.sum(axis=0), [0, 0, 0.25, 0.75], atol=1e-12)
    np.testing.assert_allclose(masses.sum(axis=1), [0, 0.5, 0.5, 0], atol=1e-12)


def test_density_in_tiles_is_the_sum_over_all_kernels() -> None:
    rng = np.random.default_rng(0)
    mean, width = rng.normal(size=(300, 2)), rng.uniform(0.1, 0.3, (300, 2))
    mass = rng.random(300)
    axes = [torch.linspace(-2, 2, 31).double(), torch.linspace(-3, 3, 41).double()]
    found = density_at(Nodes(torch.tensor(mean), torch.tensor(width), torch.tensor(mass)), axes)
    x, y = (norm.pdf(axes[j].numpy()[:, None], mean[:, j], width[:, j]) for j in range(2))
    np.testing.assert_allclose(found, np.einsum("n,in,jn->ij", mass, x, y), rtol=1e-10, atol=1e-18)


def test_a_net_without_numbers_is_refused() -> None:
    schedule = exact(2)
    broken = with_variance(lambda actions, step: actions * float("nan"), schedule.beta)
    with pytest.raises(NotFiniteError):
        chain_masses(broken, schedule, 1.0, True, [edges(1.0, 10)])


def test_exact_corner_net_predicts_the_noise() -> None:
    """What the tests above rest on: no other net has a smaller error, here by its orthogonality to any function of a_t."""
    schedule, std = exact(5), 0.1
    rng = torch.Generator().manual_seed(1)
    count = 50_000
    start = CORNERS[torch.randint(4, (count,), generator=rng)]
    start = start + std * torch.randn(count, 2, dtype=torch.float64, generator=rng)
    for step in (0, 2, 4):
        noise = torch.randn(count, 2, dtype=torch.float64, generator=rng)
        noisy = add_noise(schedule, start, torch.full((count,), step), noise)
        residual = noise - corner_net(schedule, std)(noisy, step)[0]
        for probe in (noisy, noisy.sin(), (3 * noisy).tanh()):
            product = residual * probe
            assert (product.mean(dim=0).abs() < 5 * product.std(dim=0) / math.sqrt(count)).all()
