"""Many simulations stepped by MuJoCo's threads, against one gymnasium environment at a time: equal to the last bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffcps import envs
from diffcps.envs.pointmaze import MAX_SPEED
from diffcps.envs.simulations import Simulations
from diffcps.tasks.registry import TASKS, Task, get_task

NAMES = sorted({task.environment: name for name, task in TASKS.items() if task.environment.physics}.values())
"""One task of each environment that MuJoCo simulates."""
SEEDS = [11, 12, 11, 13, 14, 15, 16]
GOAL_SEEDS = [0, 0, 1, 1, 2, 0, 2]


def make(task: Task, threads: int) -> Simulations:
    vector = envs.make_vector(task, task.physics, len(SEEDS), GOAL_SEEDS, threads)
    assert isinstance(vector, Simulations)
    assert vector.batch.nthread == threads
    return vector


class OneByOne:
    """The same environments as gymnasium steps them."""

    def __init__(self, task: Task) -> None:
        self.environments = [envs.make(task, task.physics, goal_seed) for goal_seed in GOAL_SEEDS]
        self.observations = np.zeros((len(SEEDS), task.observation_size), np.float32)

    def reset(self, seeds: list[int]) -> Any:
        for i, (environment, seed) in enumerate(zip(self.environments, seeds, strict=True)):
            self.observations[i], _ = environment.reset(seed=seed)
        return self.observations

    def step(self, actions: Any, active: Any) -> Any:
        rewards, ended = np.zeros(len(SEEDS)), np.zeros(len(SEEDS), bool)
        for i in np.flatnonzero(active):
            space: Any = self.environments[i].action_space
            action = np.clip(actions[i], space.low, space.high)
            self.observations[i], rewards[i], terminated, truncated, _ = self.environments[i].step(action)
            ended[i] = terminated or truncated
        return self.observations, rewards, ended


def play(task: Task, environments: Any, seeds: list[int], together: bool) -> list[Any]:
    """All observations, rewards and ends of one episode each, under random actions that change slowly."""
    rng = np.random.default_rng(seeds[0])
    record: list[Any] = [environments.reset(seeds).copy()]
    active = np.ones(len(seeds), bool)
    actions = rng.uniform(-2, 2, (len(seeds), task.action_size))
    while active.any():
        actions = 0.8 * actions + 0.2 * rng.normal(0, 3, actions.shape)  # often beyond the bounds
        # which environments are stepped in company, and which alone, must not matter
        for part in [active] if together else [active & (np.arange(len(seeds)) % 3 == i) for i in range(3)]:
            observations, rewards, ended = environments.step(actions.astype(np.float32), part)
            record += [observations[part].copy(), rewards[part].copy(), ended[part].copy()]
            active = active & ~ended
    return record


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_one_at_a_time(name: str) -> None:
    task = replace(get_task(name), episode_limit=60)
    expected = [play(task, OneByOne(task), seeds, together=True) for seeds in (SEEDS, SEEDS[::-1])]
    for threads in 1, 3:
        vector = make(task, threads)
        for seeds, record in zip((SEEDS, SEEDS[::-1]), expected, strict=True):
            got = play(task, vector, seeds, together=True)
            assert len(got) == len(record)
            for one, other in zip(got, record, strict=True):
                np.testing.assert_array_equal(one, other, strict=True)
        vector.close()


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v0"])
def test_company_changes_nothing(name: str) -> None:
    task = replace(get_task(name), episode_limit=50)
    expected = play(task, OneByOne(task), SEEDS, together=False)
    for one, other in zip(play(task, make(task, 2), SEEDS, together=False), expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("name", ["antmaze-umaze-v0", "pointmaze-umaze"])
def test_goals_are_reached_alike(name: str) -> None:
    task = replace(get_task(name), episode_limit=150)
    singles, vector = OneByOne(task), make(task, 2)
    starts = vector.reset(SEEDS)[:, :2]
    singles.reset(SEEDS)
    goals = starts + np.array([0.6, 0.0])
    vector.goals[:] = goals
    for environment, goal in zip(singles.environments, goals, strict=True):
        environment.unwrapped.goal = goal  # type: ignore[attr-defined]
    active, successes = np.ones(len(SEEDS), bool), 0
    actions = np.tile([1.0, 0.0], (len(SEEDS), task.action_size // 2)).astype(np.float32)
    while active.any():
        expected, got = singles.step(actions, active), vector.step(actions, active)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        successes += int(got[1].sum())
        active = active & ~got[2]
    assert successes > 0


def test_speed_of_the_point_is_limited() -> None:
    task = get_task("pointmaze-umaze")
    singles, vector = OneByOne(task), make(task, 1)
    vector.reset(SEEDS)
    singles.reset(SEEDS)
    vector.batch.bind("qvel")[:] = [2 * MAX_SPEED, -2 * MAX_SPEED]
    for environment in singles.environments:
        environment.unwrapped.data.qvel[:] = [2 * MAX_SPEED, -2 * MAX_SPEED]  # type: ignore[attr-defined]
    actions, active = np.zeros((len(SEEDS), 2), np.float32), np.ones(len(SEEDS), bool)
    expected, (got, *_) = singles.step(actions, active)[0], vector.step(actions, active)
    np.testing.assert_array_equal(got, expected)
    assert np.abs(got[:, 2:]).max() <= MAX_SPEED


def test_no_more_threads_than_environments() -> None:
    vector = envs.make_vector(get_task("hopper-medium-v2"), "d4rl", 2, threads=16)
    assert isinstance(vector, Simulations)
    assert vector.batch.nthread == 2


def test_one_gymnasium_environment_a_goal() -> None:
    """Compiled models and renderers are kept once, however many episodes are played."""
    vector = make(get_task("antmaze-umaze-v0"), 1)
    assert len(vector.environments) == len(set(GOAL_SEEDS))
    assert len(make(get_task("hopper-medium-v2"), 1).environments) == 1
    assert len(np.unique(vector.goals, axis=0)) == len(set(GOAL_SEEDS))
