"""Minari data sets as tasks: what is registered, what is learned from, what is shown, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from diffcps import cli, data, report
from diffcps.config import DataConfig, EvaluationConfig
from diffcps.data import minari, minari_tasks
from diffcps.deploy import load_policy
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.tasks.registry import from_definition, get_task, task_folder
from diffcps.tracking.labels import tags
from tests import minari_sets, run_folders

HOPPER, MAZE = "mujoco/hopper/medium-v0", "D4RL/antmaze/umaze-v1"
MINARI = DataConfig(source="minari")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets; copy it before changing it."""
    root = tmp_path_factory.mktemp("sets")
    minari_sets.hopper(root)
    minari_sets.antmaze(root)
    minari_sets.hopper(root, "own/plain-v3", scores=False)
    return root


@pytest.fixture(autouse=True)
def home(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(sets))
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def own_sets(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data sets to change."""
    shutil.copytree(sets, tmp_path / "own")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "own"))
    return tmp_path / "own"


def test_a_flat_data_set_as_a_task(sets: Path) -> None:
    found = minari_tasks.describe(HOPPER)
    definition, like = found.definition, get_task("hopper-medium-v2")
    assert definition.name == "minari-mujoco-hopper-medium-v0"
    assert found.settings_of == "hopper-medium-v2"
    assert (definition.settings, definition.steps) == (like.settings, like.steps)
    assert (definition.observation_size, definition.action_size, definition.max_action) == (11, 3, 1.0)
    assert (definition.random_return, definition.expert_return, definition.score) == (20.0, 3500.0, "normalised")
    assert definition.episode_limit == 1000
    assert found.info.provenance == "other"
    assert "not D4RL's data" in found.info.provenance_note

    task = from_definition(definition)
    loaded = data.load(task, MINARI, [])
    with h5py.File(sets / HOPPER / "data" / "main_data.hdf5") as file:
        episodes = [file[f"episode_{k}"] for k in range(len(file))]
        for name, part in ("observations", slice(None, -1)), ("next_observations", slice(1, None)):
            whole = np.concatenate([episode["observations"][part] for episode in episodes])
            np.testing.assert_array_equal(getattr(loaded, name), whole.astype(np.float32))
        rewards = [episode["rewards"][:] for episode in episodes]
    assert loaded.info.rows == len(loaded) == sum(map(len, rewards))
    np.testing.assert_allclose(loaded.info.returns, [r.sum() for r in rewards])
    assert loaded.info.checksum == found.info.checksum


def test_a_maze_ends_at_its_goal() -> None:
    """Dict observations are flattened; the episode at the goal from step 3 on has a return of 1, and terminals there."""
    found = minari_tasks.describe(MAZE)
    definition = found.definition
    assert found.settings_of == "antmaze-umaze-v0"
    assert (definition.observation_size, definition.action_size, definition.episode_limit) == (31, 8, 700)
    assert (definition.random_return, definition.expert_return, definition.score) == (0.0, 1.0, "success")
    assert definition.settings["reward_transform"] == "antmaze"
    spec = json.loads(definition.environment_spec)
    assert spec["kwargs"]["continuing_task"] is False
    assert spec["kwargs"]["maze_map"][1][1] == "r", "the environment named for evaluation"
    loaded = data.load(from_definition(definition), MINARI, [])
    assert loaded.info.returns.tolist() == [0.0, 1.0, 0.0]
    assert loaded.terminals.tolist() == [0.0] * 9 + [1.0] * 3 + [0.0] * 6
    assert set(loaded.rewards[9:12]) == {1.0}
    assert set(np.delete(loaded.rewards, [9, 10, 11])) == {0.0}
    assert len(loaded) == 18


def test_without_reference_scores_a_score_is_the_return() -> None:
    found = minari_tasks.describe("own/plain-v3")
    assert found.settings_of is None
    assert found.definition.score == "return"
    assert found.definition.evaluation == EvaluationConfig()
    task = from_definition(found.definition)
    np.testing.assert_array_equal(task.normalised_score([-3.5, 12.0]), [-3.5, 12.0])


@pytest.mark.parametrize(
    ("dataset_id", "name"),
    [
        ("mujoco/walker2d/simple-v0", "walker2d-medium-v2"),
        ("mujoco/halfcheetah/expert-v0", "halfcheetah-expert-v2"),
        ("D4RL/antmaze/large-diverse-v1", "antmaze-large-diverse-v0"),
        ("mujoco/ant/medium-v0", None),
        ("D4RL/pointmaze/umaze-v2", None),
        ("own/mujoco/hopper/medium-v0", None),
    ],
)
def test_whose_hyper_parameters_fit(dataset_id: str, name: str | None) -> None:
    assert minari_tasks._nearest(dataset_id) == name
    assert name is None or get_task(name).name == name


def test_registered_once_and_left_as_a_person_changes_it(own_sets: Path) -> None:
    definition = minari_tasks.describe(HOPPER).definition
    file, new = minari_tasks.register(definition)
    assert (file, new) == (task_folder() / "minari-mujoco-hopper-medium-v0.json", True)
    assert get_task(definition.name) == from_definition(definition)
    values = json.loads(file.read_text()) | {"steps": 123}
    file.write_text(json.dumps(values))
    assert minari_tasks.register(definition) == (file, False)
    assert get_task(definition.name).steps == 123
    minari_sets.hopper(own_sets, "mujoco-hopper/medium-v0")
    with pytest.raises(UserError, match="mujoco/hopper/medium-v0"):
        minari_tasks.register(minari_tasks.describe("mujoco-hopper/medium-v0").definition)
    file.write_text("{")
    with pytest.raises(UserError, match="does not define a task"):
        minari_tasks.register(definition)


def test_a_folder_that_cannot_be_written(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written: .*DIFFCPS_HOME"):
        minari_tasks.register(minari_tasks.describe(HOPPER).definition)


@pytest.mark.parametrize(
    "dataset_id", ["", "hopper", "../hopper-v0", "a b-v0", "/a/b-v0", "a//b-v0", "é-v0", "a-v0\n", "hf://a/b-v0"]
)
def test_impossible_ids_are_refused(dataset_id: str) -> None:
    with pytest.raises(UserError, match="id of a Minari"):
        minari_tasks.describe(dataset_id)


def main(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    """Change the arrays of a data set."""

    def damage(folder: Path) -> None:
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            change(file)

    return damage


def metadata(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the metadata of a data set."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "metadata.json").read_text())
        change(values)
        (folder / "metadata.json").write_text(json.dumps(values))

    return damage


def put(values: Any, key: Any, value: Any) -> None:
    values[key] = value


def swap(key: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace a part of a text in the metadata."""
    return metadata(lambda values: put(values, key, values[key].replace(old, new)))


UNREADABLE = "cannot be read as a Minari data set"
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda folder: (folder / "main_data.hdf5").write_bytes((folder / "main_data.hdf5").read_bytes()[:2000]),
        UNREADABLE,
    ),
    (lambda folder: (folder / "main_data.hdf5").unlink(), UNREADABLE),
    (lambda folder: (folder / "metadata.json").unlink(), UNREADABLE),
    (lambda folder: (folder / "metadata.json").write_text("{"), UNREADABLE),
    (lambda folder: (folder / "metadata.json").write_text("[]"), UNREADABLE),
    (main(lambda file: file.pop("episode_3")), UNREADABLE),
    (main(lambda file: file["episode_3"].pop("rewards")), UNREADABLE),
    (main(lambda file: put(file["episode_0/observations"], (0, 0), np.nan)), "NaN or infinite"),
    (main(lambda file: put(file["episode_0/actions"], (0, 0), 1.5)), r"actions go up to 1\.5"),
    (metadata(lambda values: values.pop("env_spec")), "records no environment"),
    (metadata(lambda values: put(values, "env_spec", "{")), f"is no specification|{UNREADABLE}"),
    (
        metadata(lambda values: put(values, "env_spec", gymnasium.spec("Walker2d-v5").to_json())),
        "its observations are of 11 numbers, those of its environment Walker2d-v5 of 17",
    ),
    (swap("observation_space", "[11]", "[12]"), UNREADABLE),
    (metadata(lambda values: put(values, "observation_space", '{"type": "Graph"}')), UNREADABLE),
    (
        metadata(
            lambda v: put(v, "observation_space", '{"type": "Text", "max_length": 3, "min_length": 0, "charset": "ab"}')
        ),
        "mujoco/hopper/medium-v0: its observations are of Text",
    ),
    (
        swap("action_space", "1.0", "2.0"),
        "its actions are 3 numbers in ±2, those of its environment Hopper-v5 are 3 in ±1",
    ),
    (metadata(lambda values: put(values, "ref_max_score", 3.0)), r"reference scores are 20\.0 and 3\.0"),
    (
        metadata(lambda values: put(values, "minari_version", "9.9.9")),
        "does not support the dataset generated by Minari 9",
    ),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_a_damaged_set_is_refused(own_sets: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(own_sets / HOPPER / "data")
    with pytest.raises(UserError, match=said):
        minari_tasks.describe(HOPPER)
    assert not task_folder().exists()


def test_unsupported_actions_are_named(own_sets: Path) -> None:
    steps = EpisodeBuffer(
        0, None, None, np.zeros((3, 4)), np.zeros(2, np.int64), [1.0, 1.0], [False, False], [False, True]
    )
    environment = gymnasium.make("CartPole-v1")
    minari_sets.create(own_sets, "own/cartpole-v0", [steps], {"env": environment})
    with pytest.raises(UserError, match=r"own/cartpole-v0.*Discrete\(2\)"):
        minari_tasks.describe("own/cartpole-v0")


def test_images_are_named(own_sets: Path) -> None:
    images = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    steps = EpisodeBuffer(
        0,
        None,
        None,
        np.zeros((3, 8, 8, 3), np.uint8),
        np.zeros((2, 1), np.float32),
        [1.0, 1.0],
        [False] * 2,
        [False, True],
    )
    arguments = {
        "observation_space": images,
        "action_space": spaces.Box(-1, 1, (1,)),
        "env": gymnasium.spec("Hopper-v5"),
    }
    minari_sets.create(own_sets, "own/images-v0", [steps], arguments)
    with pytest.raises(UserError, match=r"own/images-v0.*\(8, 8, 3\)"):
        minari_tasks.describe("own/images-v0")


def test_a_set_that_changed_after_its_task_was_made(own_sets: Path) -> None:
    task = from_definition(minari_tasks.describe(HOPPER).definition)
    shutil.rmtree(own_sets / HOPPER)
    assert "diffcps data minari mujoco/hopper/medium-v0" in str(data.missing([(task, MINARI)], []))
    with pytest.raises(UserError, match="mujoco/hopper/medium-v0"):
        data.load(task, MINARI, [])
    environment = gymnasium.make("Walker2d-v5")
    episodes = minari_sets.rolled_out(environment, [3])
    minari_sets.create(own_sets, HOPPER, episodes, {"env": environment})
    with pytest.raises(UserError, match=r"17.*minari-mujoco-hopper-medium-v0.*11"):
        data.load(task, MINARI, [])


def test_a_set_in_a_named_folder(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = from_definition(minari_tasks.describe(HOPPER).definition)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert data.missing([(task, MINARI)], []) is not None
    assert data.missing([(task, MINARI)], [sets]) is None
    assert len(data.load(task, MINARI, [sets])) == 72


# Downloads ------------------------------------------------------------------------------------------------------------


def test_a_download_appears_whole(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari downloads into a hidden folder; the set is moved to its place when it is complete."""
    from minari.storage import hosting
    from minari.storage.datasets_root_dir import get_dataset_path

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "mine"))
    seen = []

    def download(dataset_id: str) -> None:
        seen.append(get_dataset_path(dataset_id))
        shutil.copytree(sets / dataset_id, seen[-1])
        assert not (tmp_path / "mine" / dataset_id).exists()

    monkeypatch.setattr(hosting, "download_dataset", download)
    found = minari_tasks.describe(HOPPER)
    assert found.info.path == tmp_path / "mine" / HOPPER
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mujoco"]
    assert minari_tasks.describe(HOPPER).definition == found.definition
    assert len(seen) == 1


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), ValueError("Couldn't find any version"), ImportError("hf")]
)
def test_a_download_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from minari.storage import hosting
    from minari.storage.datasets_root_dir import get_dataset_path

    def download(dataset_id: str) -> None:
        (get_dataset_path(dataset_id) / "data").mkdir(parents=True)
        raise error

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "mine"))
    monkeypatch.setattr(hosting, "download_dataset", download)
    with pytest.raises(UserError, match=f"{HOPPER} is not in .*{error}"):
        minari_tasks.describe(HOPPER)
    assert not list((tmp_path / "mine").iterdir())
    assert minari.root() == tmp_path / "mine"


# The command, a trial, the report -------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(cli._Command, lambda command: command(), [str(a) for a in arguments])  # type: ignore[arg-type]
    return int(ended.value.code or 0)


def test_the_command_then_a_trial_then_the_report_without_the_task_file(tmp_path: Path, capsys: Any) -> None:
    assert run("data", "minari", MAZE) == 0
    said = capsys.readouterr().out
    for part in (
        "not D4RL's data", "18 rows, 3 complete trajectories", "33.3 % reach the goal", "AntMaze_UMaze-v4", "±1",
        "those of antmaze-umaze-v0", "minari-D4RL-antmaze-umaze-v1", "desired_goal",
    ):  # fmt: skip
        assert part in said, part
    assert run("data", "minari", MAZE) == 0
    assert "not changed" in capsys.readouterr().out
    assert run("data", "minari", "no/such") == 2

    assert run("data", "minari", HOPPER) == 0
    capsys.readouterr()
    words = "--preset", "demo", "--steps", 10, "--seeds", 1, "--results", tmp_path / "results"
    assert run("train", "minari-mujoco-hopper-medium-v0", *words) == 0
    shutil.rmtree(task_folder())
    (trial,) = report.build(tmp_path / "results" / "single").sweep.trials
    assert trial.state == "complete"
    assert trial.task.definition is not None
    assert trial.task.name == "minari-mujoco-hopper-medium-v0"
    assert trial.dataset["provenance"] == "other"


def test_a_maze_other_than_the_recorded_one_is_told(own_sets: Path) -> None:
    assert not minari.other_maze(own_sets / MAZE)  # only start and goal differ
    swap("eval_env_spec", '1, "g", 0, 0, 1', '1, "g", 1, 0, 1')(own_sets / MAZE / "data")
    assert "another maze" in minari_tasks.describe(MAZE).info.provenance_note


@pytest.mark.parametrize(
    "damage",
    [swap("env_spec", "gymnasium.envs.mujoco", "nowhere.at_all"), metadata(lambda values: values.pop("env_spec"))],
)
def test_data_whose_environment_cannot_be_made_are_learned_from_without_scores(
    own_sets: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(own_sets / HOPPER / "data")
    with pytest.raises(UserError, match="--no-evaluation"):
        minari_tasks.describe(HOPPER)
    assert run("data", "minari", HOPPER, "--no-evaluation") == 0
    name = "minari-mujoco-hopper-medium-v0"
    words = "--preset", "demo", "--steps", 10, "--seeds", 1, "--results", tmp_path / "results"
    assert run("train", name, *words) == 0
    built = report.build(tmp_path / "results" / "single")
    (trial,) = built.sweep.trials
    assert (trial.state, trial.step, len(trial.scores)) == ("complete", 10, 0)
    built.write()
    table = (tmp_path / "results" / "single" / "table.md").read_text()
    assert f"Not evaluated, so without scores: {name}" in table
    card = load_policy(trial.folder).card
    assert (card.step, card.score) == (10, None)
    assert run("export", trial.folder, tmp_path / "policy", "--no-onnx") == 0


def test_a_plan_carries_the_definition() -> None:
    definition = minari_tasks.describe(HOPPER).definition
    minari_tasks.register(definition)
    (trial,) = build(SweepOptions(tasks=(definition.name,), physics="d4rl")).trials
    assert trial.definition == definition
    assert (trial.data.source, trial.physics, trial.steps) == ("minari", "modern", definition.steps)
    with pytest.raises(UserError, match="'collected', only 'minari'"):
        build(SweepOptions(tasks=(definition.name,), data="collected"))
    (imported,) = build(SweepOptions(tasks=("hopper-medium-v2",), data="minari")).trials
    assert imported.definition is None
    assert imported.data.source == "minari"


def test_what_a_report_and_a_tracker_say_of_it(tmp_path: Path) -> None:
    names = []
    for dataset_id in HOPPER, "own/plain-v3", MAZE:
        definition = minari_tasks.describe(dataset_id).definition
        minari_tasks.register(definition)
        trial = run_folders.config(definition.name, source="minari", definition=definition)
        run_folders.write(tmp_path, trial, provenance="other", provenance_note="Minari's.")
        names.append(definition.name)
        known = tags(trial, range(len(trial.members)), run_folders.environment(trial, provenance="other"))
        assert (known["minari_id"], known["data_source"], known["provenance"]) == (dataset_id, "minari", "other")
    table = report.build(tmp_path)
    text = table.markdown()
    first, rest = text.split("\n## ", 1)
    assert first.count("| Minari, not D4RL's data |") == 3, "in the table of results"
    assert rest.count("| Minari, not D4RL's data |") == 3, "in the table of where everything comes from"
    assert "published" not in text.split("## ")[0].split("\n\n")[2], "no published number stands beside it"
    assert table.averages == []
    assert "Minari's own data sets" in rest
    assert re.search(rf"episodes that reach the goal[^.]*: {names[2]}\.", text)
    assert re.search(rf"no reference scores: {names[1]}\.", text)
