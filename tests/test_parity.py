"""Dynamics parity: which physics a recording came from, and what is said when it came from none."""

import os

import numpy as np
import pytest
from recordings import record, write

from diffcps import envs
from diffcps.data.checking import layouts, parity, recording, states
from diffcps.tasks.registry import get_task

BOTH = ("d4rl", "modern")
TASKS = ("hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2", "antmaze-umaze-v0")


def load(tmp_path, name, content):
    task = get_task(name)
    data, _ = recording.from_d4rl(task, write(tmp_path / "f.hdf5", content))
    assert data is not None
    return task, data


def compare(tmp_path, name, content, physics=BOTH, most=10_000):
    task, data = load(tmp_path, name, content)
    maze = envs.make(task, task.physics).unwrapped.maze
    return parity.compare(task, data, physics, most, None if maze is None else layouts.implied_goal(data))[0]


def result_of(report, physics):
    return next(result for result in report.results if result.physics == physics)


@pytest.mark.parametrize("physics", BOTH)
@pytest.mark.parametrize("name", TASKS)
def test_the_physics_of_a_recording_is_recognised(tmp_path, name, physics):
    report = compare(tmp_path, name, record(name, physics))
    assert report.came_from == physics
    assert f"under {physics} physics" in report.verdict
    own, other = result_of(report, physics), result_of(report, BOTH[physics == "d4rl"])
    assert own.observation.p50 < 2e-6
    assert own.position_beyond_rounding < parity.EDGE_POSITION
    assert own.unexplained == own.rewards_off == 0
    assert other.observation.p50 > 100 * parity.FITS
    assert report.states == "infos/qpos and infos/qvel"


def test_full_precision_leaves_only_rounding_of_sums(tmp_path):
    report = compare(tmp_path, "walker2d-medium-v2", record("walker2d-medium-v2", "d4rl", dtype=np.float64))
    assert result_of(report, "d4rl").observation.p50 < 1e-12
    assert result_of(report, "d4rl").reward.p50 < 1e-9  # the environment squares float32 actions


def test_point_mazes_have_one_physics(tmp_path):
    report = compare(tmp_path, "pointmaze-umaze", record("pointmaze-umaze", "modern", limit=100), ("modern",))
    assert report.came_from == "modern"
    assert "modern physics" in report.verdict


def test_states_recorded_after_the_action(tmp_path):
    content = record("hopper-medium-v2", "modern")
    kept = content | {key: np.roll(content[key], -1, axis=0) for key in recording.STATES}
    ends = np.flatnonzero(content["terminals"] | content["timeouts"])
    for key in recording.STATES:
        kept[key][ends] = 0.5  # the state in which a trajectory ended, which no row shows
    report = compare(tmp_path, "hopper-medium-v2", kept)
    assert "after the action" in report.states
    assert report.came_from == "modern"
    assert report.usable == len(content["rewards"]) - 2 - 2 * len(ends)


@pytest.mark.parametrize("name", TASKS)
def test_without_states_the_observations_tell_them(tmp_path, name):
    content = {key: value for key, value in record(name, "d4rl").items() if not key.startswith("infos")}
    report = compare(tmp_path, name, content)
    assert report.came_from == "d4rl"
    assert report.states == "the observations"
    assert result_of(report, "d4rl").rewards_off == 0


def test_a_speed_at_the_limit_of_what_is_shown_is_not_used(tmp_path):
    content = record("hopper-medium-v2", "modern")
    del content["infos/qpos"]
    content["observations"][[3, 40], 7] = 10, -10
    task, data = load(tmp_path, "hopper-medium-v2", content)
    rules = parity.envs.simulations(task, "modern", 1).rules
    assert not states.of(rules, data).usable[[3, 40]].any()


def test_states_of_something_else_are_not_used(tmp_path):
    content = record("hopper-medium-v2", "modern")
    content["infos/qpos"] = content["infos/qpos"][::-1].copy()
    report = compare(tmp_path, "hopper-medium-v2", content)
    assert "do not fit" in report.states
    assert report.came_from == "modern"


def test_altered_rewards_are_found_although_the_motion_fits(tmp_path):
    content = record("hopper-medium-v2", "modern")
    content["rewards"][10:200] += 0.5
    report = compare(tmp_path, "hopper-medium-v2", content)
    found = result_of(report, "modern")
    assert report.came_from == "modern"
    assert 150 < found.rewards_off <= 190
    assert found.reward.maximum == pytest.approx(0.5, abs=1e-3)


def test_another_mass_is_no_physics_of_ours(tmp_path):
    report = compare(tmp_path, "hopper-medium-v2", record("hopper-medium-v2", "modern", heavier=1.3))
    assert report.came_from is None
    assert min(result.observation.p50 for result in report.results) > 10 * parity.FITS
    assert not any(result.edges for result in report.results)


def test_rows_out_of_order(tmp_path):
    content = record("halfcheetah-medium-v2", "modern")
    order = np.random.default_rng(0).permutation(len(content["rewards"]))
    report = compare(tmp_path, "halfcheetah-medium-v2", {key: values[order] for key, values in content.items()})
    assert report.came_from is None
    assert "do not follow" in report.verdict


def test_a_row_that_rounding_does_not_explain(tmp_path):
    content = record("hopper-medium-v2", "modern")
    row = int(np.flatnonzero(~(content["terminals"] | content["timeouts"]))[50])
    del content["infos/qpos"], content["infos/qvel"]
    content["observations"][row + 1, 2] += 2e-3
    report = compare(tmp_path, "hopper-medium-v2", content)
    found = result_of(report, "modern")
    edge = next(edge for edge in found.edges if edge.row == row)
    assert not edge.explained
    assert edge.share == 0
    assert edge.position == pytest.approx(2e-3, rel=0.1)
    assert found.unexplained == found.missed >= 1
    assert f"but {found.missed} of {found.rows} rows" in report.verdict


def test_altered_rows_are_counted_and_the_verdict_says_so(tmp_path):
    """However many there are, and although the median row fits."""
    content = record("hopper-medium-v2", "modern", rows=1000)
    chosen = np.random.default_rng(1).permutation(1000)[:300]
    content["actions"][chosen] *= -0.5
    report = compare(tmp_path, "hopper-medium-v2", content)
    found = result_of(report, "modern")
    assert report.came_from == "modern"
    assert 250 < found.beyond <= 300
    assert len(found.edges) == found.unexplained == 64
    assert len({edge.row for edge in found.edges}) == 64
    assert {edge.row for edge in found.edges} <= set(chosen.tolist())
    assert found.missed == found.beyond
    assert found.altered
    assert report.verdict.startswith("The bulk was recorded under modern physics")
    assert f"about {found.beyond} of {found.rows} rows ({found.beyond / found.rows:.1%}) were not" in report.verdict
    assert not result_of(report, "d4rl").altered


def test_a_row_that_rounding_explains(tmp_path, monkeypatch):
    """With a limit just below the largest error, which comes from float32, other roundings give less than it."""
    content = record("hopper-medium-v2", "modern")
    largest = result_of(compare(tmp_path, "hopper-medium-v2", content, ("modern",)), "modern").velocity.maximum
    monkeypatch.setattr(parity, "EDGE_VELOCITY", 0.8 * largest)
    found = result_of(compare(tmp_path, "hopper-medium-v2", content, ("modern",)), "modern")
    assert 1 <= found.beyond == len(found.edges)
    assert found.unexplained == found.missed == 0
    assert not found.altered
    assert all(0 < edge.share <= 1 for edge in found.edges)
    assert found.edges == result_of(compare(tmp_path, "hopper-medium-v2", content, ("modern",)), "modern").edges


def test_a_part_of_the_rows_is_spread_evenly(tmp_path):
    content = record("hopper-medium-v2", "modern")
    report = compare(tmp_path, "hopper-medium-v2", content, ("modern",), most=37)
    assert report.rows == result_of(report, "modern").rows == 37
    assert report.usable > 250
    assert report.came_from == "modern"


def test_impossible_states_are_left_out_and_leave_no_log(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    content = record("hopper-medium-v2", "modern")
    n = len(content["rewards"])
    content["observations"][5, 3] = np.nan
    content["observations"][9, 2] = 1e12
    content["observations"][20:23, 5:] = 900.0  # possible, but not for MuJoCo
    del content["infos/qpos"]
    report = compare(tmp_path, "hopper-medium-v2", content)
    assert report.usable <= n - 4
    assert os.listdir(tmp_path) == ["f.hdf5"]
    assert "unstable" not in "".join(capfd.readouterr())


def test_nothing_to_replay(tmp_path):
    content = record("hopper-medium-v2", "modern", rows=50)
    content["terminals"][:] = True
    task, data = load(tmp_path, "hopper-medium-v2", content)
    with pytest.raises(states.NoStatesError, match="No row has"):
        parity.compare(task, data, ("modern",), 10, None)
