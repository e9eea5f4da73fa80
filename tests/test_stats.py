"""Statistics against values worked out by hand or in closed form."""

import numpy as np
import pytest

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
    assert np.isnan(stats.iqm([]))


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert stats.iqm([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)


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
