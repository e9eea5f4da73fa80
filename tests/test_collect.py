"""Collecting data: deterministic in the seed, in the tasks' environments, by behaviour worth learning from."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diffcps import envs
from diffcps.config import DataConfig
from diffcps.data import behaviour
from diffcps.data.collect import collect
from diffcps.data.transitions import Episode, checksum
from diffcps.data.waypoints import shortest_ways
from diffcps.envs.bandits import distance_to_ring
from diffcps.envs.pointmaze import FREE_CELLS, GOAL_CELL, START_CELL
from diffcps.errors import UserError
from diffcps.tasks import get_task

LOCOMOTION = ["hopper", "halfcheetah", "walker2d"]


def _collected(name: str, rows: int, seed: int = 0) -> list[Episode]:
    return collect(get_task(name), DataConfig(source="collected", rows=rows, seed=seed))


@pytest.mark.parametrize("name", ["hopper-medium-v2", "pointmaze-umaze", "bandit-ring"])
def test_same_seed_same_bits(name: str) -> None:
    first = _collected(name, 700)
    assert checksum(first) == checksum(_collected(name, 700))
    assert checksum(first) != checksum(_collected(name, 700, seed=1))


@pytest.mark.parametrize("name", [*(f"{e}-medium-v2" for e in LOCOMOTION), "pointmaze-umaze", "bandit-ring"])
def test_shapes_bounds_and_row_count(name: str) -> None:
    task = get_task(name)
    episodes = _collected(name, 450)
    assert sum(len(e.rewards) for e in episodes) == 450
    for episode in episodes:
        assert episode.observations.shape == (len(episode.rewards) + 1, task.observation_size)
        assert episode.actions.shape == (len(episode.rewards), task.action_size)
        assert episode.observations.dtype == episode.actions.dtype == episode.rewards.dtype == np.float32
        assert np.abs(episode.actions).max() <= task.max_action
    for episode in episodes[:-1]:
        assert episode.terminations[-1] != episode.truncations[-1], "only the last episode may be cut by the row count"


def test_a_locomotion_episode_is_what_its_environment_does_with_its_actions() -> None:
    task = get_task("halfcheetah-medium-v2")
    episode = _collected(task.name, 40)[0]
    env = envs.make(task, task.physics)
    env.reset(seed=int(np.random.default_rng(0).integers(2**31)))
    for step, action in enumerate(episode.actions):
        observation, reward, *_ = env.step(action)
        np.testing.assert_array_equal(observation.astype(np.float32), episode.observations[step + 1])
        assert np.float32(reward) == episode.rewards[step]


def test_the_maze_is_solved_by_some_episodes_and_not_by_others() -> None:
    episodes = _collected("pointmaze-umaze", 8000)
    solved = [bool(e.terminations[-1]) for e in episodes[:-1]]
    assert 0.05 < np.mean(solved) < 0.6
    for episode in episodes:
        assert (episode.rewards > 0).tolist() == episode.terminations.tolist(), "the reward is for the task's one goal"
    starts = {tuple(np.round(e.observations[0, :2])) for e in episodes}
    assert len(starts) >= 5


def test_ways_through_the_maze_are_shortest_and_connected() -> None:
    ways = shortest_ways(START_CELL)
    assert set(ways) == set(FREE_CELLS)
    assert len(ways[GOAL_CELL]) == 6
    for cell, way in ways.items():
        route = [START_CELL, *way]
        assert route[-1] == cell
        assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in pairwise(route))


def test_the_ring_is_the_papers() -> None:
    (episode,) = _collected("bandit-ring", 5000)
    assert episode.terminations.all()
    assert (episode.rewards == 1).all()
    assert distance_to_ring(episode.actions).max() < 1e-6


def test_a_task_without_behaviour_is_refused() -> None:
    with pytest.raises(UserError, match="antmaze-umaze-v0 has no behaviour policy"):
        _collected("antmaze-umaze-v0", 10)


@pytest.mark.parametrize("environment", LOCOMOTION)
def test_shipped_policies_return_what_their_facts_say(environment: str) -> None:
    policy, facts = behaviour.load(environment), behaviour.facts(environment)
    task = get_task(f"{environment}-medium-v2")
    returns, lengths = behaviour.evaluate(policy, task, "d4rl", 4, seed=11)
    assert facts.score == pytest.approx(task.normalised_score(facts.return_mean), abs=0.1)
    assert 25 < facts.score < 75
    assert 0.4 * facts.return_mean < returns.mean() < 2 * facts.return_mean
    assert (lengths <= task.episode_limit).all()


def test_shipped_policies_are_small_and_plain() -> None:
    assert set(LOCOMOTION) <= set(behaviour.shipped())
    for environment in LOCOMOTION:
        assert (behaviour.POLICIES / f"{environment}.npz").stat().st_size < 100_000
        assert json.loads((behaviour.POLICIES / f"{environment}.json").read_text())["environment"] == environment


def test_policy_clips_and_is_random_only_through_its_generator() -> None:
    policy = behaviour.load("hopper")
    observations = np.random.default_rng(0).normal(size=(50, 11)) * 5
    first = policy.act(observations, np.random.default_rng(1), bound=0.5)
    np.testing.assert_array_equal(first, policy.act(observations, np.random.default_rng(1), bound=0.5))
    assert np.abs(first).max() == 0.5
    silent = replace(policy, action_std=policy.action_std * 0)
    np.testing.assert_array_equal(silent.act(observations, np.random.default_rng(2), 99.0), policy.mean(observations))


def test_damaged_or_missing_policies_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no behaviour policy for 'ant'"):
        behaviour.load("ant")
    (tmp_path / "hopper.npz").write_bytes((behaviour.POLICIES / "hopper.npz").read_bytes()[:2000])
    with pytest.raises(UserError, match="not a complete behaviour policy"):
        behaviour.load("hopper", tmp_path)
    replace(behaviour.load("hopper"), bias_0=np.full(64, np.nan, dtype=np.float32)).save(tmp_path / "hopper.npz")
    with pytest.raises(UserError, match="bias_0"):
        behaviour.load("hopper", tmp_path)
    (tmp_path / "hopper.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe"):
        behaviour.facts("hopper", tmp_path)


def test_training_a_policy_writes_weights_and_facts(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    facts = behaviour.train("hopper", tmp_path, steps=2048, progress=lambda line: None)
    assert behaviour.facts("hopper", tmp_path) == facts
    assert (facts.steps, facts.environment) == (2048, "hopper")
    assert behaviour.load("hopper", tmp_path).weight_0.shape == (11, 64)


def test_training_an_unknown_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'ant'"):
        behaviour.train("ant", tmp_path)
