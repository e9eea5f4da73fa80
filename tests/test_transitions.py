"""The transition builder against hand-made data with every oddity of D4RL's files."""

from dataclasses import replace

import numpy as np
import pytest

from diffcps.data.transitions import (
    Episode,
    Origin,
    Rows,
    checksum,
    from_episodes,
    from_rows,
    limit_timeouts,
    trajectory_returns,
)
from diffcps.errors import UserError
from diffcps.tasks.registry import get_task

HOPPER = get_task("hopper-medium-v2")
ORIGIN = Origin(source="d4rl", path=None, checksum="0", provenance="other", provenance_note="hand-made")


def rows_of(rewards, terminals, timeouts=None, observation_size=2):
    """Rows whose observation, action and reward tell their row number."""
    n = len(rewards)
    numbers = np.arange(n, dtype=np.float32)
    return Rows(
        observations=np.repeat(numbers[:, None], observation_size, axis=1),
        actions=-numbers[:, None],
        rewards=np.asarray(rewards, dtype=np.float32),
        terminals=np.asarray(terminals, dtype=bool),
        timeouts=None if timeouts is None else np.asarray(timeouts, dtype=bool),
    )


def build(rows, episode_limit=1000, terminals_end=True, **more):
    task = replace(HOPPER, episode_limit=episode_limit, terminals_end=terminals_end)
    return from_rows(task, rows, ORIGIN, **more)


def one_at_a_time(rows, episode_limit):
    """What ``d4rl.qlearning_dataset`` is described to do, row by row, in plain Python."""
    built, step = [], 0
    for i in range(len(rows.rewards) - 1):
        final = step == episode_limit - 1 if rows.timeouts is None else bool(rows.timeouts[i])
        if final:
            step = 0
            continue
        if rows.terminals[i]:
            step = 0
        state, next_state = rows.observations[i], rows.observations[i + 1]
        built.append((state, rows.actions[i], rows.rewards[i], next_state, rows.terminals[i]))
        step += 1
    return [np.array(column, dtype=np.float32) for column in zip(*built, strict=True)]


def test_rows_at_time_outs_and_the_last_row_are_dropped():
    rows = rows_of([1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0])
    built = build(rows)
    assert built.rewards.tolist() == [1, 2, 3, 4, 6]
    assert built.observations[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert built.next_observations[:, 0].tolist() == [1, 2, 3, 4, 6]
    assert built.actions[:, 0].tolist() == [0, -1, -2, -3, -5]
    assert built.terminals.tolist() == [0, 0, 1, 0, 0]
    assert len(built) == 5
    assert built.info.rows == 7
    arrays = built.observations, built.actions, built.rewards, built.next_observations, built.terminals
    assert all(array.dtype == np.float32 for array in arrays)


def test_a_row_that_is_both_terminal_and_time_out_is_dropped():
    built = build(rows_of([1, 2, 3], [0, 1, 0], [0, 1, 0]))
    assert built.rewards.tolist() == [1]
    assert built.terminals.tolist() == [0]


def test_a_terminal_is_kept_at_a_time_out_and_in_the_last_row_if_asked_for():
    rows = rows_of([1, 2, 4, 8, 16], [0, 1, 0, 0, 1], [0, 1, 0, 1, 0])
    built = build(rows, keep_terminals=True)
    assert built.rewards.tolist() == [1, 2, 4, 16]
    assert built.terminals.tolist() == [0, 1, 0, 1]
    assert built.next_observations[[0, 2], 0].tolist() == [1, 3]
    assert len(built.next_observations) == len(built)
    assert built.info.returns.tolist() == build(rows).info.returns.tolist() == [3, 12, 16]


def test_the_last_row_counts_into_the_return_though_it_is_no_transition():
    built = build(rows_of([1, 2, 4], [0, 0, 1], [0, 0, 0]))
    assert built.rewards.tolist() == [1, 2]
    assert built.info.returns.tolist() == [7]


def test_a_cut_last_trajectory_gives_transitions_but_no_return():
    built = build(rows_of([1, 2, 4, 8, 16], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]))
    assert len(built) == 4
    assert built.info.returns.tolist() == [3]
    assert built.info.trajectories == 1


def test_no_complete_trajectory_at_all():
    built = build(rows_of([1, 2], [0, 0], [0, 0]))
    assert len(built) == 1
    assert built.info.returns.shape == (0,)
    assert built.info.trajectories == 0


def test_antmaze_terminals_come_in_runs_and_do_not_end_a_trajectory():
    rewards = [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0]
    timeouts = [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    built = build(rows_of(rewards, rewards, timeouts), terminals_end=False)
    assert built.terminals.tolist() == [0, 0, 1, 1, 0, 0, 0, 1]
    # An evaluation episode would have stopped at the goal: 1, not 3.
    assert built.info.returns.tolist() == [1, 0, 1]
    assert built.info.trajectories == 3


@pytest.mark.parametrize("limit", [2, 3, 7, 1000])
@pytest.mark.parametrize("flagged", [True, False])
def test_equal_to_the_row_by_row_description(limit, flagged):
    generator = np.random.default_rng(limit)
    for share in (0.0, 0.05, 0.5, 1.0):
        n = 200
        timeouts = generator.random(n) < 0.1 if flagged else None
        rows = rows_of(generator.normal(size=n), generator.random(n) < share, timeouts)
        built = build(rows, episode_limit=limit)
        expected = one_at_a_time(rows, limit)
        columns = built.observations, built.actions, built.rewards, built.next_observations, built.terminals
        for ours, theirs in zip(columns, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_without_flags_time_outs_are_counted_as_d4rl_counts_them():
    terminals = np.zeros(12, dtype=bool)
    assert np.flatnonzero(limit_timeouts(terminals, 4)).tolist() == [3, 7, 11]
    terminals[1] = True  # the row after a terminal counts as the second of its episode
    assert np.flatnonzero(limit_timeouts(terminals, 4)).tolist() == [4, 8]


@pytest.mark.parametrize("timeouts", [[1], [1, 0], [1, 1, 1]])
def test_rows_without_a_transition_are_refused(timeouts):
    with pytest.raises(UserError, match="no transition"):
        build(rows_of([1] * len(timeouts), [0] * len(timeouts), timeouts))


def test_a_goal_that_is_reached_after_the_episode_limit_does_not_count():
    rewards = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    timeouts = [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    built = [build(rows_of(rewards, rewards, timeouts), limit, terminals_end=False) for limit in (3, 4)]
    assert [one.info.returns.tolist() for one in built] == [[0, 1], [1, 1]]
    assert len(built[0]) == len(built[1])


def test_returns_sum_in_double_precision():
    n = 20_000_000 // 100
    rewards = np.full(n, 16_777.217, dtype=np.float32)
    ends = np.zeros(n, dtype=bool)
    ends[-1] = True
    total = trajectory_returns(rewards, np.zeros(n, dtype=bool), ends, limit=n)
    np.testing.assert_allclose(total, [float(rewards[0]) * n], rtol=1e-12)


def episode(rewards, terminated=False, truncated=False, start=0):
    """An episode whose observations count on from ``start``."""
    length = len(rewards)
    terminations, truncations = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    terminations[-1:], truncations[-1:] = terminated, truncated
    return Episode(
        observations=np.arange(start, start + length + 1, dtype=np.float64)[:, None],
        actions=np.full((length, 1), 0.5),
        rewards=np.asarray(rewards, dtype=np.float64),
        terminations=terminations,
        truncations=truncations,
    )


def test_episodes_lose_no_transition_and_keep_the_true_next_observation():
    episodes = [episode([1, 2], truncated=True), episode([4, 8, 16], terminated=True, start=100)]
    built = from_episodes(HOPPER, episodes, ORIGIN)
    assert built.observations[:, 0].tolist() == [0, 1, 100, 101, 102]
    assert built.next_observations[:, 0].tolist() == [1, 2, 101, 102, 103]
    assert built.terminals.tolist() == [0, 0, 0, 0, 1]
    assert built.rewards.tolist() == [1, 2, 4, 8, 16]
    assert built.info.returns.tolist() == [3, 28]
    assert built.info.trajectories == 2
    assert built.info.rows == 5
    assert built.observations.dtype == built.rewards.dtype == built.terminals.dtype == np.float32


def test_a_cut_episode_does_not_leak_into_the_next_ones_return():
    episodes = [episode([1, 2]), episode([4], terminated=True), episode([8])]
    built = from_episodes(HOPPER, episodes, ORIGIN)
    assert len(built) == 4
    assert built.info.returns.tolist() == [4]
    assert built.info.trajectories == 1


def test_one_step_episodes_packed_in_one():
    packed = replace(episode([1, 0, 1, 1]), terminations=np.ones(4, dtype=bool))
    built = from_episodes(HOPPER, [packed], ORIGIN)
    assert built.terminals.tolist() == [1, 1, 1, 1]
    assert built.info.returns.tolist() == [1, 0, 1, 1]


def test_episodes_of_no_step():
    with pytest.raises(UserError, match="no step"):
        from_episodes(HOPPER, [], ORIGIN)
    assert len(from_episodes(HOPPER, [episode([]), episode([1], terminated=True), episode([])], ORIGIN)) == 1


def test_episodes_check_their_lengths_and_truncations():
    good = episode([1, 2, 3])
    with pytest.raises(ValueError, match="4 observations"):
        replace(good, observations=good.observations[:-1])
    with pytest.raises(ValueError, match="step 1"):
        replace(good, truncations=np.array([False, True, False]))


def test_the_checksum_sees_every_array_and_the_borders_between_episodes():
    one = episode([1, 2, 3], terminated=True)
    same = episode([1, 2, 3], terminated=True)
    assert checksum([one]) == checksum([same])
    changed = [
        [replace(one, actions=one.actions + 1e-9)],
        [replace(one, truncations=~one.truncations, terminations=np.ones(3, dtype=bool))],
        [replace(one, rewards=one.rewards.astype(np.float32))],
        [one, one],
    ]
    sums = {checksum([one]), *map(checksum, changed)}
    assert len(sums) == 5
