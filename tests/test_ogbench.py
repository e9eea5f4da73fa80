"""OGBench's data and environments, against the package itself, on small files made in its format."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import ogbench_sets
import pytest

from diffcps import data, envs
from diffcps.config import DataConfig
from diffcps.data import library, ogbench
from diffcps.envs.simulations import OneByOne
from diffcps.errors import UserError
from diffcps.tasks.registry import MORE, get_task

pytestmark = pytest.mark.filterwarnings("ignore")
POINT = "pointmaze-medium-navigate-singletask-v0"
SOURCE = DataConfig("ogbench")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIFFCPS_DATA", raising=False)


@pytest.fixture(scope="module")
def point() -> dict[str, np.ndarray]:
    return ogbench_sets.arrays("pointmaze-medium")


def test_the_entries_are_ogbenchs() -> None:
    """47 state-based data sets with a default task and five tasks each; no name hides a built-in task."""
    assert len(MORE) == 47 * 6
    assert {get_task(name).sources for name in MORE} == {("ogbench",)}
    assert "humanoidmaze-giant-stitch-singletask-task5-v0" in MORE
    assert "antmaze-giant-explore-singletask-v0" not in MORE
    with pytest.raises(UserError, match="did you mean 'cube-single-play-singletask-v0'"):
        get_task("cube-single-play-singletask-v1")


ENVIRONMENTS = sorted({get_task(name).environment.id for name in MORE if "-task2-" in name})


@pytest.mark.parametrize(
    "environment",
    # each of manipulation takes seconds to compile
    [
        pytest.param(name, marks=[pytest.mark.slow] if name[:4] in ("cube", "puzz", "scen") else [])
        for name in ENVIRONMENTS
    ],
)
def test_entries_agree_with_their_environments(environment: str) -> None:
    task = next(task for task in map(get_task, MORE) if task.environment.id == environment)
    made = envs.make(task, "modern")
    assert made.observation_space.shape == (task.observation_size,)
    assert made.action_space.shape == (task.action_size,)
    assert (made.action_space.high == task.max_action).all()
    import ogbench as package

    theirs = package.make_env_and_datasets(task.name, env_only=True)
    assert theirs.spec.max_episode_steps == task.episode_limit
    assert theirs.unwrapped._reward_task_id == made.unwrapped._reward_task_id == 2


@pytest.mark.parametrize(
    ("environment", "kind", "name"),
    [
        ("pointmaze-medium", "navigate", POINT),
        ("antmaze-medium", "explore", "antmaze-medium-explore-singletask-task1-v0"),
        ("antsoccer-arena", "stitch", "antsoccer-arena-stitch-singletask-v0"),
        ("cube-double", "noisy", "cube-double-noisy-singletask-task3-v0"),
        ("scene", "play", "scene-play-singletask-task5-v0"),
        pytest.param("puzzle-3x3", "play", "puzzle-3x3-play-singletask-v0", marks=pytest.mark.slow),
    ],
)
def test_transitions_are_those_of_the_package(environment: str, kind: str, name: str, tmp_path: Path) -> None:
    import ogbench as package

    path = ogbench_sets.write(tmp_path, environment, kind, ogbench_sets.arrays(environment))
    found = data.load(get_task(name), SOURCE, [tmp_path])
    _, theirs, _ = package.make_env_and_datasets(name, dataset_dir=str(tmp_path))
    for ours, key in (("observations",) * 2, ("actions",) * 2, ("rewards",) * 2, ("next_observations",) * 2):
        np.testing.assert_array_equal(getattr(found, ours), theirs[key])
    np.testing.assert_array_equal(found.terminals, 1 - theirs["masks"])
    assert found.info.trajectories == theirs["terminals"].sum() == 3
    assert (found.info.path, found.info.rows, found.info.provenance) == (path, 60, "unverified")
    assert f"ogbench {package_version()}" in found.info.provenance_note


def package_version() -> str:
    from importlib import metadata

    return metadata.version("ogbench")


def test_returns_are_successes(tmp_path: Path, point: dict[str, np.ndarray]) -> None:
    ogbench_sets.write(tmp_path, "pointmaze-medium", "navigate", point)
    found = data.load(get_task(POINT), SOURCE, [tmp_path])
    assert found.info.returns.tolist() == [0.0, 1.0, 0.0]
    assert set(found.rewards.tolist()) == {-1.0, 0.0}
    assert (found.terminals == (found.rewards == 0)).all()
    assert get_task(POINT).normalised_score(found.info.returns).mean() == pytest.approx(100 / 3)


def test_a_tasks_own_file_keeps_its_own_labels(tmp_path: Path, point: dict[str, np.ndarray]) -> None:
    ogbench_sets.write(tmp_path, "pointmaze-medium", "navigate", point)
    rows = len(point["terminals"])
    labels = {"rewards": np.arange(rows, dtype=np.float32), "masks": np.ones(rows)}
    own = {name: point[name] for name in ("observations", "actions", "terminals")} | labels
    np.savez(tmp_path / f"{POINT}.npz", **own)  # type: ignore[arg-type]
    found = data.load(get_task(POINT), SOURCE, [tmp_path])
    assert found.rewards[:3].tolist() == [0, 1, 2]
    assert found.terminals.sum() == 0
    assert "its own file" in found.info.provenance_note
    other = data.load(get_task(POINT.replace("-v0", "-task2-v0")), SOURCE, [tmp_path])
    assert other.rewards.max() <= 0


@pytest.mark.parametrize("name", ["pointmaze-teleport-navigate-singletask-v0", "cube-double-noisy-singletask-task3-v0"])
def test_episodes_depend_on_their_seeds_alone(name: str) -> None:
    """Environments side by side, which may share a compiled model, give what each gives alone."""
    task = get_task(name)
    ogbench._first.cache_clear()
    before = np.random.get_state()[1].copy()
    many = envs.make_vector(task, "modern", 3)
    assert isinstance(many, OneByOne)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (40, 3, task.action_size)).astype(np.float32)
    runs = []
    for seeds in ([5, 6, 7], [8, 9, 5]):
        seen = [many.reset(seeds)]
        seen += [
            many.step(actions[t][[0, 1, 2] if seeds[0] == 5 else [1, 2, 0]], np.ones(3, bool))[0] for t in range(40)
        ]
        runs.append(np.stack(seen))
    np.testing.assert_array_equal(runs[0][:, 0], runs[1][:, 2])
    assert not np.array_equal(runs[0][:, 0], runs[0][:, 1])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    many.close()


def test_environments_with_a_shared_model_are_the_packages() -> None:
    """Also when a drawer is unlocked in one of them, which changes the model's damping."""
    import ogbench as package

    name = "scene-play-singletask-task5-v0"
    theirs: list[Any] = [package.make_env_and_datasets(name, env_only=True) for _ in range(2)]
    ours: list[Any] = [envs.make(get_task(name), "modern") for _ in range(2)]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.reset(seed=3)[0], other.reset(seed=3)[0])
    assert ours[0].unwrapped.model is ours[1].unwrapped.model
    rng = np.random.default_rng(1)
    for step in range(50):
        if step == 5:
            for environment in ours[1], theirs[1]:
                environment.unwrapped._cur_button_states = 1 - environment.unwrapped._cur_button_states
        if step == 10:
            for environment in *ours, *theirs:
                environment.unwrapped.data.joint("drawer_slide").qvel[0] = -0.5
        action = rng.uniform(-1, 1, 5).astype(np.float32)
        for one, other in zip(ours, theirs, strict=True):
            expected, _, terminated, _, info = other.step(action)
            observation, reward, done, *_ = one.step(action)
            np.testing.assert_array_equal(observation, expected)
            assert (reward, done) == (float(info["success"]), bool(terminated))
    opened = [float(environment.unwrapped.data.joint("drawer_slide").qpos[0]) for environment in ours]
    assert abs(opened[0] - opened[1]) > 0.01


def test_reaching_the_goal_is_a_return_of_one() -> None:
    environment: Any = envs.make(get_task(POINT), "modern")
    environment.reset(seed=0)
    environment.unwrapped.set_xy(np.array(environment.unwrapped.cur_goal_xy))
    _, reward, terminated, truncated, _ = environment.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_missing_data_are_named_with_their_address(tmp_path: Path) -> None:
    import ogbench.utils as package

    tasks = [get_task(f"cube-single-play-singletask-task{number}-v0") for number in (1, 2)]
    text = str(data.missing([(task, SOURCE) for task in tasks], [tmp_path]))
    for fact in ("cube-single-play-v0.npz", str(tmp_path), ".ogbench/data", "--data-dir", tasks[1].name):
        assert fact in text
    assert text.count(f"{package.DATASET_URL}/cube-single-play-v0.npz") == 1
    assert package.DEFAULT_DATASET_DIR == ogbench.STANDARD


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogbench", None)
    ogbench._first.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'diffcps\[ogbench\]'"):
        envs.make(get_task(POINT), "modern")


def spoiled(content: dict[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    content = {name: array.copy() for name, array in content.items()}
    match what:
        case "actions":
            del content["actions"]
        case "observations":
            content["observations"] = content["observations"][:, :1]
        case "NaN":
            content["observations"][3, 1] = np.nan
        case "terminals":
            content["terminals"] = content["terminals"].astype(np.float32) * 0.5
        case "whole trajectories":
            content["terminals"][-1] = False
        case "qpos":
            del content["qpos"]
        case "±1":
            content["actions"][0] = 3
        case "scalar":
            content["terminals"] = np.float32(1)
    return content


@pytest.mark.parametrize(
    "what", ["actions", "observations", "NaN", "terminals", "whole trajectories", "qpos", "±1", "scalar"]
)
def test_a_broken_file_is_refused(what: str, tmp_path: Path, point: dict[str, np.ndarray]) -> None:
    path = ogbench_sets.write(tmp_path, "pointmaze-medium", "navigate", spoiled(point, what))
    with pytest.raises(UserError, match="" if what == "scalar" else what) as caught:
        data.load(get_task(POINT), SOURCE, [tmp_path])
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_refused_and_listed(tmp_path: Path, point: dict[str, np.ndarray]) -> None:
    path = ogbench_sets.write(tmp_path, "pointmaze-medium", "navigate", point)
    (held,) = library.holdings(get_task(POINT), [tmp_path], lambda _: None)
    assert (held.path, held.rows, held.fault) == (path, 63, None)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="OGBench file"):
        data.load(get_task(POINT), SOURCE, [tmp_path])
    (held,) = library.holdings(get_task(POINT), [tmp_path], lambda _: None)
    assert held.fault is not None


def test_a_file_is_recognised_by_its_name(tmp_path: Path, point: dict[str, np.ndarray]) -> None:
    path = ogbench_sets.write(tmp_path, "pointmaze-medium", "navigate", point)
    assert library.look_up(str(path), None, ()).task.name == POINT
    second = POINT.replace("-v0", "-task2-v0")
    found = library.look_up(str(path), second, ())
    assert found.task.name == second
    recording, shapes = found.source.record(found.task, found.path)
    assert recording is not None
    assert (len(recording), shapes["observations"]) == (60, "float32 [2]")
