"""The evaluation environments: gymnasium's rules, D4RL's geometry, seeds, limits, and the vectorised stepping."""

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffcps import envs
from diffcps.envs import pointmaze
from diffcps.envs.antmaze import CELL, MAZES, AntMaze
from diffcps.errors import UserError
from diffcps.tasks.bandits.ring import SMEAR, Ring, distance_to_ring
from diffcps.tasks.registry import TASKS, Environment, get_task

NAMES = sorted({task.environment.id: name for name, task in TASKS.items()}.values())
"""One task of each environment."""


def play(environment, seed, steps=20):
    """Observations of an episode under fixed random actions."""
    rng = np.random.default_rng(0)
    observations = [environment.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = environment.step(
            rng.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        )
        observations.append(observation)
        if terminated or truncated:
            break
    return np.array(observations)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*render modes.*", "ignore:.*observation space (min|max)imum.*infinity.*")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space.*")
@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_registered_and_sound(name):
    task = get_task(name)
    made = gymnasium.make(task.environment.id)
    assert made.spec.max_episode_steps == task.episode_limit
    check_env(made.unwrapped, skip_render_check=True)


def test_every_environment_is_importable_twice():
    before = set(gymnasium.registry)
    envs.register()
    assert set(gymnasium.registry) == before


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_task(name):
    task = get_task(name)
    environment = envs.make(task, task.physics)
    assert environment.observation_space.shape == (task.observation_size,)
    assert environment.action_space.shape == (task.action_size,)
    np.testing.assert_allclose(environment.action_space.high, task.max_action)
    np.testing.assert_allclose(environment.action_space.low, -task.max_action)
    assert environment.spec.max_episode_steps == task.episode_limit
    # nothing but the time limit stands between the caller and the simulator
    assert type(environment) is gymnasium.wrappers.TimeLimit
    assert environment.env is environment.unwrapped


def test_an_environment_that_cannot_be_made():
    with pytest.raises(UserError, match="nowhere"):
        envs.make(replace(get_task("hopper-medium-v2"), environment=Environment("A-v0", "nowhere:A")), "modern")


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("bandit-")])
def test_a_seed_is_an_episode(name):
    task = get_task(name)
    first, second = envs.make(task, "d4rl"), envs.make(task, "d4rl")
    play(second, 5)  # what was played before leaves no trace
    np.testing.assert_array_equal(play(first, 7), play(second, 7))
    assert not np.array_equal(first.reset(seed=8)[0], second.reset(seed=9)[0])


@pytest.mark.parametrize(
    ("name", "original"), [("hopper", "Hopper"), ("halfcheetah", "HalfCheetah"), ("walker2d", "Walker2d")]
)
@pytest.mark.filterwarnings("ignore:.*out of date.*")
def test_modern_locomotion_is_version_4(name, original, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file about gymnasium's HalfCheetah
    task = get_task(f"{name}-medium-v2")
    expected = play(gymnasium.make(f"{original}-v4"), 3)
    modern = play(envs.make(task, "modern"), 3)
    assert modern.dtype == np.float64
    np.testing.assert_allclose(modern, expected, rtol=1e-9, atol=1e-9)
    # other masses, other motion; the start is drawn alike
    old = play(envs.make(task, "d4rl"), 3)
    np.testing.assert_array_equal(old[0], expected[0])
    assert not np.allclose(old[:5], expected[:5], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v0"])
def test_copies_keep_their_arguments(name):
    environment = envs.make(get_task(name), "modern", goal_seed=3).unwrapped
    copy = pickle.loads(pickle.dumps(environment))
    assert copy.model.body_mass.sum() == environment.model.body_mass.sum()
    np.testing.assert_array_equal(play(copy, 1), play(environment, 1))


# AntMaze


def reachable(rows):
    """Cells that can be walked to from the start."""
    start = next((r, row.index("S")) for r, row in enumerate(rows) if "S" in row)
    seen, queue = {start}, [start]
    while queue:
        r, c = queue.pop()
        for cell in (r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1):
            if cell not in seen and rows[cell[0]][cell[1]] != "#":
                seen.add(cell)
                queue.append(cell)
    return seen


@pytest.mark.parametrize(
    ("maze", "size", "free", "goal"),
    [("umaze", (5, 5), 7, (0, 8)), ("medium", (8, 8), 26, (20, 20)), ("large", (9, 12), 46, (32, 24))],
)
def test_maze_geometry(maze, size, free, goal):
    rows = MAZES[maze].rows
    assert (len(rows), {len(row) for row in rows}) == (size[0], {size[1]})
    assert len(reachable(rows)) == sum(cell != "#" for row in rows for cell in row) == free
    model = AntMaze(maze).model
    walls = np.flatnonzero(model.geom_type == 6)
    assert len(walls) == size[0] * size[1] - free
    # the outer corner beside the start, and the one farthest from it
    positions = model.geom_pos[walls]
    np.testing.assert_allclose(positions.min(axis=0), [-4, -4, 1])
    np.testing.assert_allclose(positions.max(axis=0), [4 * (size[1] - 2), 4 * (size[0] - 2), 1])
    np.testing.assert_allclose(model.geom_size[walls], np.tile([2, 2, 1], (len(walls), 1)))
    # neither start nor goal lies in a wall
    for point in (0, 0), goal:
        assert np.abs(positions[:, :2] - point).max(axis=1).min() >= CELL
    goals = np.array([AntMaze(maze, goal_seed=seed).goal for seed in range(200)])
    offsets = goals - goal
    assert offsets.min() >= 0
    assert offsets.max() <= 1.5
    assert offsets.std(axis=0) == pytest.approx(np.sqrt(1 / 12 + 0.25 / 12) * np.ones(2), rel=0.2)


def test_ant_is_d4rls():
    model = AntMaze("umaze").model
    assert model.opt.timestep == 0.02
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 1)
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-30, 30]] * 8)
    np.testing.assert_allclose(model.geom_solimp[:, :3], np.tile([0.8, 0.8, 0.01], (model.ngeom, 1)))
    # every geom has the ant's friction and collides with walls and floor
    np.testing.assert_allclose(model.geom_friction, np.tile([1, 0.5, 0.5], (model.ngeom, 1)))
    np.testing.assert_allclose(model.geom_margin, 0.01)


def test_ant_start():
    environment = AntMaze("umaze")
    starts = np.array([environment.reset(seed=seed)[0] for seed in range(200)])
    centre = np.zeros(15)
    centre[2:4] = 0.75, 1
    assert np.abs(starts[:, :15] - centre).max() <= 0.1
    assert np.abs(starts[:, :2]).max() > 0.09
    assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("version", ["v0", "v2"])
def test_goal_of_each_version(version):
    environment = envs.make(get_task(f"antmaze-medium-play-{version}"), "d4rl")
    goals = [environment.reset(seed=seed)[1]["goal"] for seed in range(3)]
    assert len(np.unique(goals, axis=0)) == (1 if version == "v0" else 3)


def test_antmaze_reward_and_end():
    environment = envs.make(get_task("antmaze-umaze-v0"), "d4rl")
    _, info = environment.reset(seed=0)
    ant = environment.unwrapped
    for distance, reached in (0.6, False), (0.45, True):
        qpos = ant.init_qpos.copy()
        qpos[:2] = info["goal"] + [distance, 0]
        ant.set_state(qpos, ant.init_qvel)
        _, reward, terminated, _, _ = environment.step(np.zeros(8))
        assert (reward, terminated) == (float(reached), reached)
    # lying on its back is no end
    qpos[:2], qpos[3:7] = 0, [0, 1, 0, 0]
    ant.set_state(qpos, ant.init_qvel)
    assert not any(environment.step(np.zeros(8))[2] for _ in range(20))


def test_ant_walls_hold():
    environment = AntMaze("umaze")
    environment.reset(seed=0)
    qvel = environment.init_qvel.copy()
    qvel[1] = 8.0  # up, against the wall whose near face is at y = 2
    environment.set_state(environment.init_qpos, qvel)
    assert 1 < max(environment.step(np.zeros(8))[0][1] for _ in range(30)) < 2


# PointMaze


def test_point_moves_as_in_gymnasium_robotics(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the original leaves its XML
    original = gymnasium.make("PointMaze_UMaze-v3", continuing_task=False)
    original.reset(seed=0)
    environment = pointmaze.PointMaze()
    environment.reset(seed=0)
    inner = original.unwrapped.point_env
    environment.set_state(inner.data.qpos, inner.data.qvel)
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = np.repeat(rng.uniform(-1.2, 1.2), 2)
        observation, *_ = environment.step(action)
        np.testing.assert_allclose(observation, original.step(action)[0]["observation"], atol=1e-12)


def test_pointmaze_can_be_solved():
    environment = envs.make(get_task("pointmaze-umaze"), "modern")
    observation, info = environment.reset(seed=0)
    np.testing.assert_array_equal(info["goal"], [-1, -1])
    assert np.abs(observation[:2] - [-1, 1]).max() <= 0.1
    np.testing.assert_array_equal(observation[2:], 0)
    rewards, ended = [], False
    for cell in (1, 3), (3, 3), (3, 1):
        target = pointmaze.MAZE.centre(cell)
        while not ended and np.linalg.norm(observation[:2] - target) > 0.3:
            action = np.clip(5 * (target - observation[:2]) - observation[2:], -1, 1)
            observation, reward, terminated, truncated, _ = environment.step(action)
            rewards.append(reward)
            ended = terminated or truncated
    assert terminated
    assert sum(rewards) == rewards[-1] == 1
    assert 50 < len(rewards) < 300


def test_pointmaze_limit_and_options():
    environment = envs.make(get_task("pointmaze-umaze"), "modern")
    observation, info = environment.reset(seed=0, options={"start": (1.0, 0.0)})
    assert np.abs(observation[:2] - [1, 0]).max() <= 0.1
    np.testing.assert_array_equal(info["goal"], pointmaze.MAZE.centre(pointmaze.GOAL_CELL))
    ends = [environment.step(np.zeros(2))[2:4] for _ in range(300)]
    assert ends[-1] == (False, True)
    assert not any(any(end) for end in ends[:-1])
    # the next episode is the task's own again
    assert np.abs(environment.reset(seed=1)[0][:2] - [-1, 1]).max() <= 0.1
    for options in {"start": (-2.0, 2.0)}, {"cell": (1, 1)}:
        with pytest.raises(ValueError, match=next(iter(options))):
            environment.reset(options=options)


def test_pointmaze_leaves_no_file_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pointmaze._compile.cache_clear()
    pointmaze.PointMaze()
    assert list(Path(tmp_path).iterdir()) == []


# The ring


def test_ring_behaviour_is_rewarded():
    ring = Ring()
    actions = ring.sample(5000, np.random.default_rng(0))
    assert actions.shape == (5000, 2)
    assert np.abs(actions).max() <= 1.05
    assert distance_to_ring(actions).max() < 1e-12
    assert ring.value(actions).all()
    # centred on the mean shift of .025, and as wide as a circle smeared along the diagonal
    np.testing.assert_allclose(actions.mean(axis=0), 0.025, atol=0.04)
    np.testing.assert_allclose(np.cov(actions.T), [[0.5002, 0.0002], [0.0002, 0.5002]], atol=0.02)
    assert ring.value([[0, 0], [0.7, 0], [1, 1], [1.1, 0]]).tolist() == [0, 0, 0, 0]
    assert ring.value([[0.96, 0], [0, 1.09], [-1.04, 0]]).tolist() == [1, 1, 1]


def test_ring_distance_against_its_support():
    rng = np.random.default_rng(1)
    shift = np.linspace(0, SMEAR, 201)[:, None]
    points = rng.uniform(-1.2, 1.2, (500, 2))
    # the nearest point of a circle lies on the ray from its centre through the point
    brute = np.abs(np.hypot(points[:, 0] - shift, points[:, 1] - shift) - 1).min(axis=0)
    np.testing.assert_allclose(distance_to_ring(points), brute, atol=2e-4)


# Many at once


@pytest.mark.parametrize("name", NAMES)
def test_vector_is_many_single_ones(name):
    task = get_task(name)
    vector = envs.make_vector(task, "d4rl", 3)
    seeds = [11, 12, 11]
    singles = [envs.make(task, "d4rl") for _ in seeds]
    observations = vector.reset(seeds)
    assert observations.shape == (3, task.observation_size)
    assert observations.dtype == np.float32
    expected = [single.reset(seed=seed)[0] for single, seed in zip(singles, seeds, strict=True)]
    np.testing.assert_array_equal(observations, np.float32(expected))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-2, 2, (3, task.action_size)).astype(np.float32)  # beyond the bounds: clipped
    observations, rewards, ended = vector.step(actions, np.array([True, True, True]))
    for i, single in enumerate(singles):
        observation, reward, terminated, truncated, _ = single.step(
            np.clip(actions[i], -task.max_action, task.max_action, dtype=np.float32)
        )
        np.testing.assert_array_equal(observations[i], np.float32(observation))
        assert (rewards[i], ended[i]) == (reward, terminated or truncated)
    assert (rewards.dtype, ended.dtype) == (np.float64, bool)
    # the inactive one is left alone, whatever action it is given
    actions[1] = np.nan
    again, rewards, ended = vector.step(actions, np.array([True, False, True]))
    np.testing.assert_array_equal(again[1], observations[1])
    assert (rewards[1], ended[1]) == (0, False)
    vector.close()


def test_vector_episodes_end_at_the_limit():
    task = get_task("halfcheetah-medium-v2")
    vector = envs.make_vector(replace(task, episode_limit=5), "d4rl", 2)
    vector.reset([0, 1])
    active = np.array([True, True])
    ends = [vector.step(np.zeros((2, 6)), active)[2].all() for _ in range(5)]
    assert ends == [False] * 4 + [True]
    # and start afresh, with the whole limit before them
    vector.reset([2, 3])
    assert not vector.step(np.zeros((2, 6)), active)[2].any()


def test_vector_goal_seeds():
    task = get_task("antmaze-umaze-v0")
    expected = [envs.make(task, "d4rl", goal_seed=seed).unwrapped.goal for seed in (4, 5)]
    vector = envs.make_vector(task, "d4rl", 2, goal_seeds=[4, 5])
    np.testing.assert_array_equal(vector.goals, expected)
    assert not np.array_equal(*expected)


def test_vector_mistakes():
    task = get_task("bandit-ring")
    vector = envs.make_vector(task, "d4rl", 2)
    with pytest.raises(ValueError, match="1 seeds for 2"):
        vector.reset([0])
    with pytest.raises(ValueError, match=r"environments \[1\] are not finite"):
        vector.step(np.array([[0, 0], [np.nan, 0]]), np.array([True, True]))
    with pytest.raises(ValueError, match="n = 0"):
        envs.make_vector(task, "d4rl", 0)
    with pytest.raises(ValueError, match="1 goal seeds for 2"):
        envs.make_vector(task, "d4rl", 2, goal_seeds=[0])
    with pytest.raises(ValueError, match="threads = 0"):
        envs.make_vector(task, "d4rl", 2, threads=0)
