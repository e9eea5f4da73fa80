"""Bandits: densities, masses and entropies against closed forms and samples, and the optimum's table."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffcps import data
from diffcps.config import DataConfig, RunConfig
from diffcps.envs import make, make_vector
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.tasks.bandits import NAMED, bandit, forward_kl_optimum, shapes
from diffcps.tasks.bandits.blurred import Blurred
from diffcps.tasks.bandits.ring import SMEAR, distance_to_ring
from diffcps.tasks.registry import get_task

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


@pytest.mark.parametrize("name", [n for n in PLANE if n not in ("ring", "checkerboard")])
def test_density_integrates_to_each_cells_mass(name: str) -> None:
    """Gauss–Legendre in cells about actions of the behaviour, one of them at a curve's end where it has one."""
    known = bandit(name)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    side = known.resolution
    assert isinstance(known, Blurred)
    for corner in [*known.sample(6, np.random.default_rng(4)), known.centres[0], known.centres[-1]]:
        axes = [at + side * 0.5 * (1.0 + nodes) for at in corner]
        density = np.exp(known.log_density(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)))
        integral = 0.25 * side**2 * float(weights @ density @ weights)
        assert known.cell_masses([np.array([at, at + side]) for at in corner]).item() == pytest.approx(
            integral, rel=1e-9
        )


@pytest.mark.parametrize("name", ["swissroll", "2spirals", "rings", "moons"])
def test_nodes_are_as_good_as_the_whole_curve(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = bandit(name)
    monkeypatch.setattr(shapes, "_PANEL", shapes._PANEL / 3)
    finer = NAMED[name]()
    points = np.concatenate([known.sample(300, np.random.default_rng(5)), finer.centres[[0, -1]]])  # type: ignore[attr-defined]
    np.testing.assert_allclose(known.log_density(points), finer.log_density(points), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["8gaussians", "moons", "mixture-3x1", "normal-0.1"])
def test_log_density_far_away_is_finite(name: str) -> None:
    known = bandit(name)
    far = np.full((2, 3, known.action_size), 40.0)
    assert known.log_density(far).shape == (2, 3)
    assert (known.log_density(far) < -1e4).all()
    assert np.isfinite(known.log_density(far)).all()


def test_density_of_the_ring() -> None:
    """Against the masses of cells far from its poles, and none outside of the support."""
    known = bandit("ring")
    nodes, weights = np.polynomial.legendre.leggauss(12)
    for x, y in (0.72, 0.72), (-0.69, -0.69), (0.5, 0.885), (-0.9, 0.4):
        axes = [at + 0.0025 * (1.0 + nodes) for at in (x, y)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        assert (distance_to_ring(points) == 0).all()
        integral = 0.0025**2 * float(weights @ np.exp(known.log_density(points)) @ weights)
        mass = known.cell_masses([np.array([at, at + 0.005]) for at in (x, y)]).item()
        assert mass == pytest.approx(integral, abs=5e-9)
        assert mass > 1e-5
    outside = np.random.default_rng(6).uniform(-1.1, 1.1, (2000, 2))
    np.testing.assert_array_equal(np.isfinite(known.log_density(outside)), distance_to_ring(outside) == 0)


def test_masses_of_the_ring_sum_to_its_marginal() -> None:
    """P(cos θ + u ≤ x) is the mean over u of 1 − arccos(x − u)/π, whose integral is known."""
    known, edge = bandit("ring"), np.linspace(-1.1, 1.1, 80)
    at_most = np.cumsum(known.cell_masses([edge, np.array([-2.0, 2.0])])[:, 0])

    def integral(c: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.clip(c, -1, 1)
        return inside - (inside * np.arccos(inside) - np.sqrt(1 - inside**2)) / np.pi + np.maximum(c - 1, 0)

    exact = (integral(edge[1:]) - integral(edge[1:] - SMEAR)) / SMEAR
    np.testing.assert_allclose(at_most, exact, atol=1e-8)
    fine, coarse = known.cell_masses([edge, edge]), known.cell_masses([edge[[0, 20, 79]], edge[[0, 50, 79]]])
    assert fine[:20, :50].sum() == pytest.approx(coarse[0, 0], abs=1e-12)


def test_entropies() -> None:
    blur = 0.5 * math.log(2 * math.pi * math.e)
    assert bandit("normal-0.3").entropy == pytest.approx(blur + math.log(0.3), rel=1e-12)
    assert bandit("corners").entropy == pytest.approx(math.log(4) + 2 * (blur + math.log(0.05)), rel=1e-12)
    assert bandit("mixture-3x5").entropy == pytest.approx(math.log(3) + 5 * (blur + math.log(0.05)), rel=1e-12)
    assert bandit("checkerboard").entropy == pytest.approx(math.log(2), rel=1e-12)
    # around the circle uniform, across it a Gaussian; its curvature adds next to nothing
    across = blur + math.log(0.02)
    assert bandit("ring-clean").entropy == pytest.approx(math.log(2 * math.pi) + across, abs=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_entropy_is_the_mean_of_minus_log_density(name: str) -> None:
    known = bandit(name)
    terms = -known.log_density(known.sample(20_000, np.random.default_rng(2)))
    assert known.entropy == pytest.approx(terms.mean(), abs=4 * terms.std() / math.sqrt(len(terms)) + 1e-9)


def test_entropy_by_quadrature_agrees_with_the_closed_form() -> None:
    apart = bandit("8gaussians")
    assert isinstance(apart, Blurred)
    together = Blurred("together", apart.centres, apart.values, apart.std, apart.bound)
    assert together.entropy == pytest.approx(apart.entropy, abs=1e-7)


def test_few_samples_favour_no_mode() -> None:
    corners, rng = bandit("corners"), np.random.default_rng(0)
    quadrants = [tuple(corners.sample(1, rng)[0] > 0) for _ in range(400)]
    counts = [quadrants.count(corner) for corner in itertools.product((False, True), repeat=2)]
    assert min(counts) > 100 - 4 * math.sqrt(75)


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
    assert known.mode_values is not None
    assert known.mode_weights is not None
    assert known.mode_weights.tolist() == [1 / components] * components
    expected = np.linspace(0, 1, components) if components > 1 else [1.0]
    np.testing.assert_allclose(np.sort(known.mode_values), expected)


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


def test_optimum_of_cells_and_of_far_policies() -> None:
    known = bandit("corners")
    grid = edges("corners", 200, 1.0)
    masses = known.cell_masses(grid)
    middle = [(edge[1:] + edge[:-1]) / 2 for edge in grid]
    quadrant = np.sign(np.stack(np.meshgrid(*middle, indexing="ij"), axis=-1)) * 0.8
    found = forward_kl_optimum(masses, known.value(quadrant), 0.2)
    assert found.multiplier == pytest.approx(2.729, abs=5e-4)
    assert found.policy.shape == masses.shape
    assert found.policy[100:, :100].sum() == pytest.approx(0.539, abs=5e-4)
    for epsilon in 1e-6, 30.0, 200.0:
        far = forward_kl_optimum([0.5, 0.5, 0.0], [0.0, 1.0, 2.0], epsilon)
        assert far.policy[2] == 0
        assert -0.5 * np.log(4 * far.policy[0] * far.policy[1]) == pytest.approx(epsilon, rel=1e-6)


def test_optimum_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="above zero"):
        forward_kl_optimum([0.5, 0.5], [0.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="the same"):
        forward_kl_optimum([0.5, 0.5], [1.0, 1.0], 0.1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("corner", "did you mean 'corners'"),
        ("mixture-5", "did you mean 'mixture-KxD'"),
        ("mixture-0x2", "1 to 64 Gaussians in 1 to 16 dimensions"),
        ("mixture-99x2", "1 to 64 Gaussians"),
        ("mixture-2x17", "1 to 16 dimensions"),
        ("mixture-05x2", "write mixture-5x2"),
        ("normal-0", r"\.01 to 1"),
        ("normal-3", r"\.01 to 1"),
        ("normal-.50", "write normal-0.5"),
        ("normal-x", "did you mean 'normal-S'"),
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


def test_sweeps_take_a_bandits_own_number_of_rows() -> None:
    plan = build(SweepOptions(tasks=("bandit-corners", "bandit-mixture-5x2", "bandit-ring"), data="collected"))
    assert [trial.data.rows for trial in plan.trials] == [10_000, 10_000, DataConfig().rows]
    assert [RunConfig.from_dict(trial.to_dict()) for trial in plan.trials] == list(plan.trials)


def test_collected_data_are_the_behaviour(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path))
    task = get_task("bandit-corners")
    found = data.load(task, DataConfig(source="collected", rows=400, seed=3), ())
    assert found.actions.shape == (400, 2)
    assert found.terminals.all()
    assert bandit("corners").off_support(found.actions).mean() < 0.01
    actions = bandit("corners").sample(400, rng := np.random.default_rng(3))
    np.testing.assert_array_equal(found.actions, actions.astype(np.float32))
    np.testing.assert_array_equal(found.rewards, bandit("corners").rewards(actions, rng).astype(np.float32))
    other = data.load(task, DataConfig(source="collected", rows=400, seed=4), ())
    assert not np.array_equal(found.actions, other.actions)
