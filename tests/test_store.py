"""Where data sets are looked for, what a person is told when one is absent, and ``load`` over all of it."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from diffcps import data
from diffcps.config import DataConfig
from diffcps.data import collected, d4rl, library
from diffcps.errors import UserError
from diffcps.tasks.registry import get_task

HOPPER = get_task("hopper-medium-v2")
ANT = get_task("antmaze-umaze-v0")
RING = get_task("bandit-ring")
D4RL, COLLECTED = DataConfig(source="d4rl"), DataConfig(source="collected", rows=3)


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """A home without data sets, so that nothing on this machine is found by chance."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DIFFCPS_DATA", raising=False)
    monkeypatch.delenv("DIFFCPS_HOME", raising=False)
    return home


def put(folder: Path, content: bytes = b"x", task=HOPPER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / task.d4rl_file
    path.write_bytes(content)
    return path


def find(folders, task=HOPPER):
    return d4rl.SOURCE.find(task, D4RL, folders)


def put_real(folder: Path, task) -> Path:
    path = put(folder, task=task)
    rewards = np.array([0, 1, 1, 0, 0], dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["observations"] = np.ones((5, task.observation_size), dtype=np.float32)
        file["actions"] = np.zeros((5, task.action_size), dtype=np.float32)
        file["rewards"], file["terminals"] = rewards, rewards
        file["timeouts"] = np.array([0, 0, 1, 0, 0], dtype=bool)
    return path


def test_each_place_is_found_and_they_are_searched_in_order(tmp_path, empty_home, monkeypatch):
    first, second, by_variable, by_variable_too = (tmp_path / name for name in "abcd")
    standard = [empty_home / ".d4rl/datasets", empty_home / ".diffcps/datasets"]
    places = [first, second, by_variable, by_variable_too, *standard]
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.setenv("DIFFCPS_DATA", f"{by_variable}:{by_variable_too}")
    assert d4rl.SOURCE.places([first, second, first]) == places
    assert find([first, second]) is None
    for folder in reversed(places):
        expected = put(folder)
        assert find([first, second]) == expected


def test_home_and_collected_root(tmp_path, empty_home, monkeypatch):
    assert collected.root() == empty_home / ".diffcps/collected"
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "elsewhere"))
    assert collected.root() == tmp_path / "elsewhere/collected"
    assert tmp_path / "elsewhere/datasets" in d4rl.SOURCE.places([])


def test_relative_folders_become_absolute(tmp_path, monkeypatch):
    put(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    found = find([Path("here")])
    assert found is not None
    assert found.is_absolute()


def test_a_given_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*no such folder"):
        find([tmp_path / "nowhere"])
    file = put(tmp_path / "a")
    with pytest.raises(UserError, match="it is a file"):
        find([file])


def test_two_files_of_one_name(tmp_path):
    first = put(tmp_path / "a", b"one")
    second = put(tmp_path / "b", b"one")
    folders = [tmp_path / "a", tmp_path / "b"]
    assert find(folders) == first
    for content in (b"two", b"longer"):
        second.write_bytes(content)
        with pytest.raises(UserError) as caught:
            find(folders)
        assert str(first) in str(caught.value)
        assert str(second) in str(caught.value)
    second.unlink()
    second.symlink_to(first)
    assert find(folders) == first


def test_tasks_without_a_file():
    with pytest.raises(UserError, match="no D4RL file"):
        d4rl.public_path(RING)


def test_public_addresses():
    assert d4rl.PUBLIC_HOME == "http://rail.eecs.berkeley.edu/datasets/offline_rl"
    assert d4rl.public_path(HOPPER) == "gym_mujoco_v2/hopper_medium-v2.hdf5"
    assert d4rl.public_path(ANT) == f"ant_maze_new/{ANT.d4rl_file}"
    fixed = get_task("antmaze-umaze-v2")
    assert d4rl.public_path(fixed) == f"ant_maze_v2/{fixed.d4rl_file}"


def test_what_a_person_is_told_when_data_are_missing(tmp_path, empty_home):
    given = tmp_path / "given"
    given.mkdir()
    text = data.missing([(HOPPER, D4RL)], [given])
    assert text is not None
    for words in (
        "hopper-medium-v2",
        "hopper_medium-v2.hdf5",
        str(given),
        f"{empty_home}/.d4rl/datasets (no such folder)",
        "diffcps data download hopper-medium-v2",
        f"{d4rl.PUBLIC_HOME}/gym_mujoco_v2/",
        f"into {empty_home}/.diffcps/datasets",
        "--data-dir",
        "DIFFCPS_DATA",
        "--data collected",
    ):
        assert words in text
    put(given)
    assert data.missing([(HOPPER, D4RL)], [given]) is None


def test_several_files_are_fetched_by_one_command():
    text = str(data.missing([(HOPPER, D4RL), (ANT, D4RL), (HOPPER, D4RL)], []))
    assert "diffcps data download hopper-medium-v2 antmaze-umaze-v0\n" in text
    assert f"{d4rl.PUBLIC_HOME}/ant_maze_new/ and {d4rl.PUBLIC_HOME}/gym_mujoco_v2/" in text


def test_collected_data_are_never_missing():
    assert data.missing([(HOPPER, COLLECTED)], []) is None
    assert data.missing([(RING, COLLECTED)], []) is None


@pytest.mark.parametrize(("task", "config"), [(RING, D4RL), (RING, DataConfig(source="minari"))])
def test_a_source_that_the_task_does_not_offer(task, config):
    text = data.missing([(task, config)], [])
    assert text is not None
    assert task.name in text
    assert f"--data {task.sources[0]}" in text
    with pytest.raises(UserError, match="no data of source"):
        data.load(task, config, [])


def test_load_reads_the_file(tmp_path):
    path = put_real(tmp_path / "a", ANT)
    loaded = data.load(ANT, D4RL, [tmp_path / "a"])
    assert loaded.rewards.tolist() == [0, 1, 1, 0]
    assert loaded.info.returns.tolist() == [1]
    assert loaded.info.path == path

    put_real(tmp_path / "a", HOPPER)
    loaded = data.load(HOPPER, D4RL, [tmp_path / "a"])
    assert loaded.rewards.tolist() == [0, 1, 1, 0]
    assert loaded.info.provenance == "other"


def test_load_without_data():
    with pytest.raises(UserError, match="Three ways"):
        data.load(HOPPER, D4RL, [])


def test_load_collected_data():
    told = []
    loaded = data.load(RING, COLLECTED, [], lambda done, rows: told.append((done, rows)))
    assert told == [(3, 3)]
    assert len(loaded) == 3
    assert loaded.terminals.tolist() == [1, 1, 1]
    assert len(loaded.info.returns) == 3
    assert loaded.info.source == "collected"
    assert loaded.info.provenance == "other"
    assert "not D4RL's data" in loaded.info.provenance_note
    assert len(loaded.info.checksum) == 64
    assert loaded.info.path.is_relative_to(collected.root())
    again = data.load(RING, COLLECTED, [], lambda *_: pytest.fail("collected again"))
    assert again.info.checksum == loaded.info.checksum


def test_an_unknown_source_is_named():
    with pytest.raises(UserError, match=r"'d4lr'.*'d4rl'"):
        library.source("d4lr")
    with pytest.raises(UserError, match=r"'mujoco'.*--data d4rl"):
        library.configured(HOPPER, "mujoco")


def test_rows_matter_only_to_a_source_that_makes_them():
    assert library.configured(HOPPER, rows=7) == library.configured(HOPPER) == D4RL.replaced(rows=1_000_000)
    assert library.configured(RING, rows=7) == DataConfig(source="collected", rows=7)
    assert library.configured(HOPPER, "collected").rows == HOPPER.rows == 1_000_000
