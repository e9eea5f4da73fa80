"""Collecting data: deterministic in the seed, in the tasks' environments, by behaviour worth learning from."""

import numpy as np
import pytest

from diffcps import envs
from diffcps.config import DataConfig
from diffcps.data.collecting import behaviour
from diffcps.data.collecting import collect as room
from diffcps.data.collecting.collect import collect
from diffcps.data.transitions import Episode, Origin, checksum, from_episodes
from diffcps.tasks.bandits.ring import distance_to_ring
from diffcps.tasks.registry import TASKS, get_task

LOCOMOTION = ["hopper", "halfcheetah", "walker2d"]
COLLECTED = [name for name, task in TASKS.items() if "collected" in task.sources]


def _collected(name: str, rows: int, seed: int = 0) -> list[Episode]:
    return collect(get_task(name), DataConfig(source="collected", rows=rows, seed=seed))


def test_every_task_of_the_paper_can_be_collected() -> None:
    assert {name for name, task in TASKS.items() if task.in_paper} <= set(COLLECTED)


@pytest.mark.parametrize(
    "name", ["walker2d-medium-replay-v2", "pointmaze-umaze", "bandit-ring", "antmaze-large-diverse-v0"]
)
def test_same_seed_same_bits(name: str) -> None:
    first = _collected(name, 200)
    assert checksum(first) == checksum(_collected(name, 200))
    assert checksum(first) != checksum(_collected(name, 200, seed=1))


@pytest.mark.parametrize("name", COLLECTED)
def test_shapes_bounds_and_row_count(name: str) -> None:
    task = get_task(name)
    episodes = _collected(name, 120)
    assert sum(len(e.rewards) for e in episodes) == 120
    for episode in episodes:
        assert episode.observations.shape == (len(episode.rewards) + 1, task.observation_size)
        assert episode.actions.shape == (len(episode.rewards), task.action_size)
        assert episode.observations.dtype == episode.actions.dtype == episode.rewards.dtype == np.float32
        assert np.abs(episode.actions).max() <= task.max_action


def test_neither_company_nor_threads_change_an_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _collected("hopper-medium-v2", 3000)
    monkeypatch.setattr(room, "processors", lambda: 3)
    monkeypatch.setattr(room, "_SIMULATIONS", 1)
    alone = _collected("hopper-medium-v2", 3000)
    assert [len(e.rewards) for e in whole] == [len(e.rewards) for e in alone]
    for one, other in zip(whole, alone, strict=True):
        assert checksum([one]) == checksum([other])


def test_rows_are_consecutive_episodes_and_only_the_last_is_cut() -> None:
    fewer, more = _collected("hopper-medium-v2", 2000), _collected("hopper-medium-v2", 2600)
    for one, other in zip(fewer[:-1], more, strict=False):
        assert checksum([one]) == checksum([other])
        assert one.terminations[-1] != one.truncations[-1]
    last = fewer[-1]
    assert not last.terminations.any()
    np.testing.assert_array_equal(last.actions, more[len(fewer) - 1].actions[: len(last.actions)])


@pytest.mark.parametrize(
    "name", ["halfcheetah-medium-v2", "antmaze-umaze-v0", "antmaze-medium-play-v0", "pointmaze-umaze"]
)
def test_an_episode_is_what_its_environment_does_with_its_actions(name: str) -> None:
    task = get_task(name)
    episode = _collected(task.name, 60)[0]
    env = envs.make(task, task.physics, 0)
    generator = np.random.default_rng((0, 0, 0))
    robot = task.robot
    policy = behaviour.load(robot).of("medium")[0] if robot else None
    options = room._behaviour(task, policy, 1).begin(0, generator)
    observation, _ = env.reset(seed=int(generator.integers(2**31)), options=options)
    np.testing.assert_array_equal(observation.astype(np.float32), episode.observations[0])
    for step, action in enumerate(episode.actions):
        observation, reward, terminated, *_ = env.step(action)
        np.testing.assert_array_equal(observation.astype(np.float32), episode.observations[step + 1])
        assert np.float32(reward) == episode.rewards[step]
        assert terminated == episode.terminations[step]


def test_replay_data_come_from_each_policy_on_the_way_to_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    lineage = behaviour.load("walker2d")
    monkeypatch.setattr(behaviour, "load", lambda robot: lineage)
    rows, policies = zip(*room._parts(get_task("walker2d-medium-replay-v2"), 1003), strict=True)
    assert policies == lineage.policies[: lineage.facts.medium + 1]
    assert sum(rows) == 1003
    assert max(rows) - min(rows) <= 1
    two = room._parts(get_task("walker2d-medium-expert-v2"), 1003)
    medium, expert = lineage.of("medium-expert")
    assert two == [(501, medium), (502, expert)]
    assert (
        len(room._parts(get_task("walker2d-expert-v2"), 3)) == len(room._parts(get_task("walker2d-medium-v2"), 3)) == 1
    )


def test_levels_are_in_order() -> None:
    origin = Origin("collected", None, "", "other", "")

    def score(level: str) -> float:
        task = get_task(f"hopper-{level}-v2")
        returns = from_episodes(task, _collected(task.name, 5000), origin).info.returns
        return float(task.normalised_score(returns).mean())

    replay, medium, both, expert = (score(level) for level in ("medium-replay", "medium", "medium-expert", "expert"))
    assert replay < medium < both < expert
    assert replay < 25
    assert expert > 70


def test_ants_walk_on_after_the_goal() -> None:
    task = get_task("antmaze-umaze-v0")
    episodes = _collected(task.name, 6 * task.episode_limit)
    assert [len(e.rewards) for e in episodes] == [task.episode_limit] * 6
    for episode in episodes:
        assert (episode.rewards == episode.terminations).all()
        assert episode.truncations.tolist() == [False] * (task.episode_limit - 1) + [True]
    arrived = [int(np.argmax(e.terminations)) for e in episodes if e.terminations.any()]
    assert len(arrived) >= 3, "most ants arrive"
    assert min(arrived) > 50, "and none from the start"
    info = from_episodes(task, episodes, Origin("collected", None, "", "other", "")).info
    assert info.trajectories == 6
    assert info.returns.tolist() == [float(e.terminations.any()) for e in episodes]


def test_one_goal_for_a_whole_set_drawn_from_its_seed() -> None:
    task = get_task("antmaze-umaze-v0")
    goal = envs.make(task, task.physics, 5).unwrapped.goal  # type: ignore[attr-defined]
    (episode, *_) = _collected(task.name, task.episode_limit, seed=5)
    near = np.linalg.norm(episode.observations[1:, :2] - goal, axis=1) <= 0.5
    np.testing.assert_array_equal(near, episode.terminations)


def test_pointmaze_is_solved_by_some_episodes_and_not_by_others() -> None:
    episodes = _collected("pointmaze-umaze", 8000)
    solved = [bool(e.terminations[-1]) for e in episodes[:-1]]
    assert 0.05 < np.mean(solved) < 0.6
    for episode in episodes:
        assert (episode.rewards > 0).tolist() == episode.terminations.tolist(), "the reward is for the task's one goal"
    starts = {tuple(np.round(e.observations[0, :2])) for e in episodes}
    assert len(starts) >= 5


def test_the_ring_is_the_papers() -> None:
    (episode,) = _collected("bandit-ring", 5000)
    assert episode.terminations.all()
    assert (episode.rewards == 1).all()
    assert distance_to_ring(episode.actions).max() < 1e-6


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    collect(get_task("hopper-medium-replay-v2"), DataConfig("collected", 4000), lambda *pair: seen.append(pair))
    done = [pair[0] for pair in seen]
    assert done == sorted(done)
    assert seen[-1] == (4000, 4000)
    assert {pair[1] for pair in seen} == {4000}
