"""Behaviour policies: what ships is what its facts say, acts as it should, and can be trained anew."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffcps import envs
from diffcps.data.collecting import behaviour, training
from diffcps.data.collecting.practice import FEATURES, TOP_SPEED, Walks, features
from diffcps.errors import UserError
from diffcps.tasks import Robot
from diffcps.tasks.registry import get_task

ROBOTS = get_args(Robot)


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d"])
def test_shipped_policies_return_what_their_facts_say(robot: Robot) -> None:
    lineage = behaviour.load(robot)
    facts, task = lineage.facts, get_task(f"{robot}-medium-v2")
    for snapshot in facts.snapshots:
        assert snapshot.score == pytest.approx(task.normalised_score(snapshot.return_mean), abs=0.1)
    judge = training.practice(robot, "d4rl", 8, 11)
    returns, lengths = training.rollouts(lineage.of("medium")[0], judge, 8, np.random.default_rng(1))
    medium = facts.snapshots[facts.medium]
    assert abs(returns.mean() - medium.return_mean) < 3 * medium.return_std
    assert (lengths <= task.episode_limit).all()


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d"])
def test_levels_of_the_shipped_policies(robot: Robot) -> None:
    facts = behaviour.load(robot).facts
    scores = [snapshot.score for snapshot in facts.snapshots]
    assert facts.snapshots[0].steps == 0
    assert scores[0] < 5, "the first is untrained"
    assert 30 < scores[facts.medium] < 75, "medium is a third to three quarters of an expert"
    assert scores[facts.expert] == max(scores) > 1.2 * scores[facts.medium]
    assert facts.medium >= 5, "replay data have several policies"
    assert [s.steps for s in facts.snapshots] == sorted(s.steps for s in facts.snapshots)
    assert facts.physics == "d4rl"


def test_the_ant_walks_where_it_is_sent() -> None:
    lineage = behaviour.load("ant")
    judge = training.practice("ant", "d4rl", 8, 5)
    returns, lengths = training.rollouts(lineage.of("expert")[0], judge, 8, np.random.default_rng(2))
    speed = returns.sum() / lengths.sum()
    assert speed == pytest.approx(lineage.facts.snapshots[lineage.facts.expert].score, rel=0.3)
    assert 0.6 < speed <= TOP_SPEED


@pytest.mark.parametrize("robot", ROBOTS)
def test_shipped_policies_are_small_and_plain(robot: Robot) -> None:
    assert set(ROBOTS) == set(behaviour.shipped())
    assert (behaviour.POLICIES / f"{robot}.npz").stat().st_size < 300_000
    assert json.loads((behaviour.POLICIES / f"{robot}.json").read_text())["robot"] == robot


def test_policy_clips_and_is_random_only_through_its_generator() -> None:
    policy = behaviour.load("hopper").of("medium")[0]
    observations = np.random.default_rng(0).normal(size=(50, 11)) * 5
    first = policy.act(observations, np.random.default_rng(1), bound=0.5)
    np.testing.assert_array_equal(first, policy.act(observations, np.random.default_rng(1), bound=0.5))
    assert np.abs(first).max() == 0.5
    silent = replace(policy, action_std=policy.action_std * 0)
    np.testing.assert_array_equal(silent.act(observations, np.random.default_rng(2), 99.0), policy.mean(observations))


def test_damaged_or_missing_policies_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'robot'"):
        behaviour.load("robot")
    lineage = behaviour.load("hopper")
    (tmp_path / "hopper.npz").write_bytes((behaviour.POLICIES / "hopper.npz").read_bytes()[:2000])
    with pytest.raises(UserError, match="policies"):
        behaviour.load("hopper", tmp_path)
    broken = [replace(lineage.of("medium")[0], bias_0=np.full(64, np.nan, dtype=np.float32))] * len(lineage.policies)
    behaviour.save(tmp_path, broken, lineage.facts)
    with pytest.raises(UserError, match="bias_0"):
        behaviour.load("hopper", tmp_path)
    behaviour.save(tmp_path, lineage.policies[:-1], lineage.facts)
    with pytest.raises(UserError, match="is not 9 arrays"):
        behaviour.load("hopper", tmp_path)
    (tmp_path / "hopper.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe"):
        behaviour.load("hopper", tmp_path)


def test_checksum_sees_weights_and_levels() -> None:
    lineage = behaviour.load("hopper")
    other = replace(lineage, facts=replace(lineage.facts, expert=0))
    changed = replace(lineage.policies[0], bias_0=lineage.policies[0].bias_0 + 1)
    assert len({lineage.checksum, other.checksum, replace(lineage, policies=(changed,)).checksum}) == 3


def test_features_do_not_depend_on_where_and_which_way() -> None:
    rng = np.random.default_rng(0)
    qpos, qvel, wanted = rng.normal(size=(20, 15)), rng.normal(size=(20, 14)), rng.normal(size=(20, 2))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    seen = features(qpos, qvel, wanted)
    assert seen.shape == (20, FEATURES)
    turn = Rotation.from_euler("z", 2.1)
    moved, fast = qpos.copy(), qvel.copy()
    moved[:, :2] += 7.0
    turned = turn * Rotation.from_quat(qpos[:, [4, 5, 6, 3]])
    moved[:, 3:7] = turned.as_quat()[:, [3, 0, 1, 2]]
    fast[:, :3] = turn.apply(qvel[:, :3])  # a free joint's velocity is the world's, its turning rate its own
    rotated = turn.apply(np.pad(wanted, ((0, 0), (0, 1))))[:, :2]
    np.testing.assert_allclose(features(moved, fast, 3 * rotated), seen, atol=1e-9)


def test_features_of_an_upright_ant_that_faces_east() -> None:
    qpos, qvel = np.zeros((1, 15)), np.zeros((1, 14))
    qpos[0, 2:4] = 0.75, 1.0
    qvel[0, :3] = 1.0, 2.0, 3.0
    seen = features(qpos, qvel, np.array([[0.0, -5.0]]))[0]
    assert seen[0] == 0.75
    assert seen[1:4].tolist() == [0, 0, 1]
    assert seen[12:15].tolist() == [1, 2, 3]
    assert seen[-2:].tolist() == [0, -1]


def test_walking_is_rewarded_along_the_wanted_direction_up_to_the_top_speed() -> None:
    walks = Walks(envs.plane("d4rl", 3), 0)
    before = walks._simulations.qpos
    walks._directions[:] = [1, 0], [0, 1], [1, 0]
    walks._simulations._qvel[:, 0] = [1.0, 1.0, 9.0]
    rewards, _, cut = walks.step(np.zeros((3, 8), np.float32))
    moved = walks._simulations.qpos[:, :2] - before[:, :2]
    assert rewards[0] == pytest.approx(moved[0, 0] / 0.1)
    assert rewards[1] == pytest.approx(moved[1, 1] / 0.1)
    assert rewards[2] == TOP_SPEED
    assert not cut.any()


def test_training_writes_weights_and_facts(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    facts = training.train("hopper", tmp_path, steps=8192, progress=lambda line: None)
    lineage = behaviour.load("hopper", tmp_path)
    assert lineage.facts == facts
    assert facts.snapshots[0].steps == 0
    assert facts.snapshots[facts.expert].score >= max(s.score for s in facts.snapshots) - 5
    assert lineage.of("medium")[0].weight_0.shape == (11, 64)


def test_training_what_is_no_robot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="robot = 'cartpole'"):
        training.train("cartpole", tmp_path)  # type: ignore[arg-type]
