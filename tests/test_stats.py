"""Statistics against values worked out by hand or in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from diffcps import stats


def test_mean_and_sample_deviation() -> None:
    assert stats.mean_std([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2.0)))


def test_one_seed_has_a_mean_and_no_spread() -> None:
    mean, std = stats.mean_std([4.0])
    assert mean == 4.0
    assert np.isnan(std)
    low, high = stats.bootstrap_interval([4.0], np.random.default_rng(0))
    assert np.isnan(low)
    assert np.isnan(high)


def test_nothing_is_nan_not_an_error() -> None:
    assert np.isnan(stats.mean_std([])).all()


def test_interval_approaches_the_normal_one_for_many_runs() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    low, high = stats.bootstrap_interval(values, np.random.default_rng(2))
    half = 1.96 * values.std() / 20.0
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_interval_is_along_the_first_axis_and_repeats_with_its_generator() -> None:
    values = np.array([[0.0, 10.0, 7.0], [1.0, 12.0, 7.0], [2.0, 14.0, 7.0]])
    first = stats.bootstrap_interval(values, np.random.default_rng(3))
    second = stats.bootstrap_interval(values, np.random.default_rng(3))
    np.testing.assert_array_equal(first, second)
    low, high = first
    assert low.shape == high.shape == (3,)
    assert (low[:2] < values.mean(axis=0)[:2]).all()
    assert (high[:2] > values.mean(axis=0)[:2]).all()
    assert (low[2], high[2]) == pytest.approx((7.0, 7.0))


def test_interval_of_two_seeds_spans_them() -> None:
    low, high = stats.bootstrap_interval([1.0, 3.0], np.random.default_rng(0))
    assert (low, high) == (1.0, 3.0)


def test_stratified_interval_never_mixes_tasks() -> None:
    # without strata a resample could hold the second task only; with them the mean of means stays near (0 + 100) / 2
    scores = [np.array([-1.0, 0.0, 1.0]), np.array([99.0, 100.0, 101.0])]
    low, high = stats.stratified_interval(scores, stats.mean_of_means, np.random.default_rng(0))
    assert 49.0 <= low < 50.0 < high <= 51.0


def test_stratified_interval_needs_two_seeds_a_task() -> None:
    scores = [np.array([1.0, 2.0]), np.array([3.0])]
    assert np.isnan(stats.stratified_interval(scores, stats.mean_of_means, np.random.default_rng(0))).all()


def test_each_task_counts_the_same_whatever_its_seeds() -> None:
    assert stats.mean_of_means([np.array([0.0, 0.0, 0.0, 0.0]), np.array([10.0])]) == 5.0


# The matrices of rliable's own test, written here task by task, and what that test expects of them.
X = [np.array([1.0, 2.0, 1.0, 2.0]), np.array([2.0, 2.0, 1.0, 1.0])]
Y = [np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])]


def test_aggregates_are_rliables() -> None:
    for aggregate in (stats.median_of_means, stats.mean_of_means, stats.interquartile_mean):
        assert aggregate(X) == 1.5
        assert aggregate(Y) == 2.0
    assert stats.probability_of_improvement(X, Y) == pytest.approx(1 / 3)
    assert stats.probability_of_improvement(Y, X) == pytest.approx(2 / 3)
    assert stats.probability_of_improvement(X, X) == 0.5


def test_aggregates_of_a_matrix_worked_out_by_hand() -> None:
    scores = [np.array([0.0, 10.0, 20.0, 90.0]), np.array([40.0, 60.0, 80.0, 180.0])]
    assert stats.mean_of_means(scores) == (30 + 90) / 2
    assert stats.median_of_means([*scores, np.array([31.0])]) == 31.0
    # of all eight, two fall away at either end: 20, 40, 60, 80
    assert stats.interquartile_mean(scores) == 50.0
    # shortfalls from 100: 100, 90, 80, 10 and 60, 40, 20, 0
    assert stats.optimality_gap(scores) == (280 + 120) / 8
    assert stats.optimality_gap(scores, target=50.0) == (50 + 40 + 30 + 0 + 10) / 8


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=23))
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores: list[float]) -> None:
    assert stats.interquartile_mean([scores]) == pytest.approx(trim_mean(scores, 0.25), abs=1e-9)


def test_improvement_counts_pairs_within_tasks() -> None:
    # task 1: 5 beats both, 2 beats one; task 2: one tie and one win of 1 x 2
    x, y = [[5.0, 2.0], [4.0]], [[1.0, 3.0], [4.0, 0.0]]
    assert stats.probability_of_improvement(x, y) == pytest.approx((3 / 4 + 1.5 / 2) / 2)
    low, high = stats.improvement_interval(x[:1], y[:1], np.random.default_rng(0))
    assert 0.0 <= low < 0.75 < high <= 1.0
    assert np.isnan(stats.improvement_interval(x, y, np.random.default_rng(0))).all()  # a task with a single run


def test_improvement_interval_of_separated_runs_has_no_width() -> None:
    x, y = [[5.0, 6.0, 7.0]] * 2, [[1.0, 2.0]] * 2
    assert stats.improvement_interval(x, y, np.random.default_rng(0)) == (1.0, 1.0)


def test_improvement_interval_of_many_runs_is_as_wide_as_theory_says() -> None:
    # for n = m runs of one distribution U/(nm) has variance (2n + 1)/(12 n²)
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(2, 200))
    low, high = stats.improvement_interval([x], [y], generator, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(401 / (12 * 200**2)), rel=0.1)


def test_profile_is_the_share_of_runs_above_each_threshold() -> None:
    scores = [np.array([10.0, 20.0]), np.array([30.0, 40.0, 50.0, 60.0])]
    share, low, high = stats.performance_profile(scores, [-1.0, 10.0, 35.0, 60.0], np.random.default_rng(0))
    # strictly above, and each task counts the same whatever its seeds
    np.testing.assert_allclose(share, [1.0, (0.5 + 1) / 2, (0 + 0.75) / 2, 0.0])
    assert (low <= share).all()
    assert (share <= high).all()
    assert (low[0], high[0]) == (1.0, 1.0)
    single = stats.performance_profile([[1.0]], [0.0], np.random.default_rng(0))
    assert single[0] == 1.0
    assert np.isnan(single[1:]).all()


def test_area_under_a_profile_is_the_mean() -> None:
    scores = [np.array([3.0, 40.0, 77.0]), np.array([12.0, 25.0])]
    limits = np.linspace(0.0, 100.0, 100_001)
    share, _, _ = stats.performance_profile(scores, limits, np.random.default_rng(0), resamples=2)
    assert np.trapezoid(share, limits) == pytest.approx(stats.mean_of_means(scores), abs=1e-3)


def test_expected_online_performance_by_hand() -> None:
    mean, std = stats.expected_online_performance([3.0, 0.0])
    # one try: 0 or 3; two tries with replacement: 0 with probability 1/4, else 3
    np.testing.assert_allclose(mean, [1.5, 2.25])
    np.testing.assert_allclose(std, [1.5, np.sqrt(0.25 * 2.25**2 + 0.75 * 0.75**2)])
    mean, _ = stats.expected_online_performance([1.0, 2.0, 4.0])
    # P(highest of 2 is 1, 2, 4) = 1/9, 3/9, 5/9; of 3: 1/27, 7/27, 19/27
    np.testing.assert_allclose(mean, [7 / 3, (1 + 6 + 20) / 9, (1 + 14 + 76) / 27])


def test_expected_online_performance_of_uniform_scores_is_the_textbooks() -> None:
    # the highest of k uniform numbers is k/(k + 1) on average
    mean, _ = stats.expected_online_performance((np.arange(2000) + 0.5) / 2000)
    for k in (1, 2, 5, 10):
        assert mean[k - 1] == pytest.approx(k / (k + 1), abs=1e-3)


def test_stratified_interval_takes_every_aggregate() -> None:
    generator = np.random.default_rng(7)
    scores = [generator.normal(50.0, 10.0, size=5) for _ in range(4)]
    for aggregate in stats.AGGREGATES.values():
        low, high = stats.stratified_interval(scores, aggregate, np.random.default_rng(0))
        assert low < aggregate(scores) < high
        assert high - low < 20.0
