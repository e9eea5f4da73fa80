"""Bandits: densities, masses and entropies against closed forms and samples, and the optimum's table."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffcps import data
from diffcps.bandits import NAMED, bandit, forward_kl_optimum
from diffcps.config import DataConfig
from diffcps.envs import make, make_vector
from diffcps.errors import UserError
from diffcps.tasks import get_task

PLANE = [*NAMED, "mixture-5x2"]
EVERY = [*PLANE, "normal-0.1", "normal-1", "mixture-3x1", "mixture-16x6"]


def edges(name: str, cells: int, margin: float = 1.3) -> list[NDArray[np.float64]]:
    known = bandit(name)
    return [np.linspace(-margin * known.bound, margin * known.bound, cells + 1)] * known.action_size


@pytest.mark.parametrize("name", EVERY)
def test_samples_lie_inside_and_on_the_support(name: str) -> None:
    known, rng = bandit(name), np.random.default_rng(0)
    actions = known.sample(5000, rng)
    assert actions.shape == (5000, known.action_size)
    assert np.abs(actions).max() < known.bound
    # all but a thousandth of the mass, four standard errors above
    assert known.off_support(actions).mean() <= 1e-3 + 4 * math.sqrt(1e-3 / 5000)
    values = known.value(actions)
    assert values.min() >= 0
    assert values.max() <= known.highest_value + 1e-12
    assert known.off_support(np.full(known.action_size, 0.99 * known.bound))


@pytest.mark.parametrize("name", [n for n in EVERY if "x6" not in n])
def test_cell_masses_are_what_samples_fall_into(name: str) -> None:
    known, grid = bandit(name), edges(name, 24)
    masses = known.cell_masses(grid)
    assert masses.sum() == pytest.approx(1.0, abs=1e-6)
    count = 40_000
    counted = np.histogramdd(known.sample(count, np.random.default_rng(1)), bins=grid)[0] / count
    error = np.sqrt(np.clip(masses * (1 - masses), 1.0 / count, None) / count)
    assert (np.abs(counted - masses) < 5 * error).all()


@pytest.mark.parametrize("name", ["corners", "moons", "8gaussians", "mixture-5x2", "checkerboard", "ring-clean"])
def test_density_agrees_with_cell_masses(name: str) -> None:
    """The midpoint rule in cells far smaller than the blur."""
    known = bandit(name)
    masses = known.cell_masses(grid := edges(name, 560, 1.0))
    middle = [(edge[1:] + edge[:-1]) / 2 for edge in grid]
    density = np.exp(known.log_density(np.stack(np.meshgrid(*middle, indexing="ij"), axis=-1)))
    area = math.prod(float(edge[1] - edge[0]) for edge in grid)
    tolerance = 0.02 if name == "checkerboard" else 2e-3  # cells that a square's edge cuts
    assert np.abs(density * area - masses).sum() < tolerance + (0.04 if name == "ring-clean" else 0.0)
    assert (density * area).sum() == pytest.approx(1.0, abs=0.01)


def test_density_of_the_ring_integrates_to_one_but_for_its_poles() -> None:
    """Each angle's density over the shift is known, so the mean of 1/density over samples is the area of the support."""
    known = bandit("ring")
    samples = known.sample(400_000, np.random.default_rng(0))
    area = float(np.exp(-known.log_density(samples)).mean())
    axis = np.linspace(-1.1, 1.1, 2201)
    inside = np.isfinite(known.log_density(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)))
    assert area == pytest.approx(inside.sum() * (axis[1] - axis[0]) ** 2, rel=0.02)


def test_entropies() -> None:
    blur = 0.5 * math.log(2 * math.pi * math.e)
    assert bandit("normal-0.3").entropy == pytest.approx(blur + math.log(0.3), rel=1e-12)
    assert bandit("corners").entropy == pytest.approx(math.log(4) + 2 * (blur + math.log(0.05)), rel=1e-12)
    assert bandit("checkerboard").entropy == pytest.approx(math.log(2), rel=1e-12)
    # around the circle uniform, across it a Gaussian; its curvature adds next to nothing
    across = blur + math.log(0.02)
    assert bandit("ring-clean").entropy == pytest.approx(math.log(2 * math.pi) + across, abs=1e-3)
    for name in ("moons", "rings"):
        known = bandit(name)
        sampled = -known.log_density(known.sample(40_000, np.random.default_rng(2))).mean()
        assert known.entropy == pytest.approx(sampled, abs=0.02)


def test_corners_are_those_of_diffusion_ql() -> None:
    corners = bandit("corners")
    assert corners.rows == 10_000
    actions = corners.sample(10_000, np.random.default_rng(0))
    rewards = corners.rewards(actions, np.random.default_rng(1))
    for centre, mean in (((-0.8, 0.8), 3.0), ((-0.8, -0.8), 0.0), ((0.8, 0.8), 1.5), ((0.8, -0.8), 5.0)):
        near = np.linalg.norm(actions - centre, axis=1) < 0.5
        assert near.sum() == 2500
        assert rewards[near].mean() == pytest.approx(mean, abs=0.05)
        assert rewards[near].std() == pytest.approx(0.5, abs=0.03)
        assert float(corners.value(centre)) == mean
    assert float(corners.value([0.0, 0.0])) == 0.0


@pytest.mark.parametrize("name", ["swissroll", "8gaussians", "moons", "rings", "checkerboard", "2spirals"])
def test_target_of_an_energy_set_prefers_what_is_worth_more(name: str) -> None:
    """E_target[E] = E_b[E exp(βE)]/E_b[exp(βE)]."""
    known, beta = bandit(name), 3.0
    values = known.value(known.sample(100_000, np.random.default_rng(0)))
    expected = (values * np.exp(beta * values)).mean() / np.exp(beta * values).mean()
    drawn = known.value(known.target_sample(5000, beta, np.random.default_rng(1)))
    assert drawn.mean() == pytest.approx(expected, abs=0.02)
    assert drawn.mean() > values.mean() + 0.1


@given(st.integers(1, 12), st.integers(1, 6))
def test_mixtures_stand_apart(components: int, dimensions: int) -> None:
    known = bandit(f"mixture-{components}x{dimensions}")
    centres = known.modes
    assert centres is not None
    assert centres.shape == (components, dimensions)
    radius = 4 * known.resolution
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(centres, 2)]
    assert min(gaps, default=1.0) > 2 * radius
    assert np.abs(centres).max() + radius < known.bound
    assert known.highest_value == 1.0


@pytest.mark.parametrize(
    ("epsilon", "multiplier", "policy", "value"),
    [
        (0.1, 4.084, (0.238, 0.140, 0.176, 0.446), 3.207),
        (0.2, 2.729, (0.209, 0.109, 0.143, 0.539), 3.537),
        (0.5, 1.369, (0.138, 0.062, 0.086, 0.714), 4.111),
        (1.0, 0.604, (0.069, 0.029, 0.041, 0.860), 4.572),
    ],
)
def test_optimum_of_four_modes(epsilon: float, multiplier: float, policy: tuple[float, ...], value: float) -> None:
    found = forward_kl_optimum([0.25] * 4, [3.0, 0.0, 1.5, 5.0], epsilon)
    assert found.multiplier == pytest.approx(multiplier, abs=5e-4)
    np.testing.assert_allclose(found.policy, policy, atol=5e-4)
    assert found.value == pytest.approx(value, abs=5e-4)
    assert -np.log(4 * found.policy).mean() == pytest.approx(epsilon, rel=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.01, 3.0))
def test_no_policy_within_the_bound_beats_the_optimum(values: list[float], epsilon: float) -> None:
    if max(values) - min(values) < 1e-3:
        return
    weights = np.full(len(values), 1.0 / len(values))
    best = forward_kl_optimum(weights, values, epsilon)
    rng = np.random.default_rng(0)
    others = rng.dirichlet(np.full(len(values), 2.0), 2000)
    within = -(weights * np.log(others / weights)).sum(axis=1) <= epsilon
    assert (others[within] @ np.array(values) <= best.value + 1e-9).all()


def test_optimum_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="above zero"):
        forward_kl_optimum([0.5, 0.5], [0.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="the same"):
        forward_kl_optimum([0.5, 0.5], [1.0, 1.0], 0.1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("corner", "did you mean 'corners'"),
        ("mixture-0x2", "no bandit"),
        ("mixture-99x2", "at most 64"),
        ("normal-0", "no bandit"),
    ],
)
def test_unknown_bandits_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        bandit(name)
    with pytest.raises(UserError):
        get_task(f"bandit-{name}")


@pytest.mark.parametrize("name", EVERY)
def test_environment_rewards_the_true_mean(name: str) -> None:
    task, known = get_task(f"bandit-{name}"), bandit(name)
    actions = np.random.default_rng(3).uniform(-1.2 * known.bound, 1.2 * known.bound, (20, known.action_size))
    expected = known.value(np.clip(actions, -known.bound, known.bound))
    many = make_vector(task, "modern", 20)
    many.reset(list(range(20)))
    _, rewards, ended = many.step(actions, np.ones(20, dtype=bool))
    np.testing.assert_array_equal(rewards, expected)
    assert ended.all()
    one = make(task, "modern")
    one.reset(seed=0)
    for action, value in zip(actions, expected, strict=True):
        assert one.step(action)[1] == value
    assert task.normalised_score(known.highest_value) == pytest.approx(100.0)


def test_collected_data_are_the_behaviour(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path))
    task = get_task("bandit-corners")
    found = data.load(task, DataConfig(source="collected", rows=400, seed=3), ())
    assert found.actions.shape == (400, 2)
    assert found.terminals.all()
    assert not bandit("corners").off_support(found.actions).any()
    other = data.load(task, DataConfig(source="collected", rows=400, seed=4), ())
    assert not np.array_equal(found.actions, other.actions)
