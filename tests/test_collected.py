"""Collected data sets on disk: bit-equal after a round trip, whole or absent, and damage is reported."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from minari.dataset.minari_storage import MinariStorage

from diffcps import data
from diffcps.config import DataConfig
from diffcps.data import collected, minari_files
from diffcps.data.collecting.collect import collect
from diffcps.data.transitions import Episode, checksum
from diffcps.errors import UserError
from diffcps.tasks.registry import get_task

RING = DataConfig(source="collected", rows=300)
HOPPER = DataConfig(source="collected", rows=600, seed=3)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small collected Hopper data set; copy it before changing it."""
    return collected.SOURCE.make(get_task("hopper-medium-v2"), HOPPER, folder=tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", ["hopper-medium-v2", "pointmaze-umaze", "bandit-ring"])
def test_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    task, data = get_task(name), DataConfig(source="collected", rows=700)
    episodes = collect(task, data)
    back = minari_files.read(collected.write(task, data, episodes, tmp_path))
    assert checksum(back) == checksum(episodes)
    assert len(back) == len(episodes)


def test_the_second_time_it_is_found_not_collected(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    task = get_task("hopper-medium-v2")
    path = collected.SOURCE.make(task, HOPPER, lambda done, rows: seen.append((done, rows)), tmp_path)
    assert path == tmp_path / "diffcps" / "hopper-medium-v2-collected-s3-600-v1"
    assert seen[-1] == (600, 600)
    assert collected.SOURCE.find(task, HOPPER, [tmp_path]) == path
    assert collected.SOURCE.find(task, HOPPER.replaced(rows=601), [tmp_path]) is None


def test_minari_itself_lists_and_loads_it(hopper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari as library

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(hopper.parents[1]))
    name = "diffcps/hopper-medium-v2-collected-s3-600-v1"
    assert list(library.list_local_datasets()) == [name]
    dataset = library.load_dataset(name)
    assert dataset.total_steps == 600
    task = get_task("hopper-medium-v2")
    assert library.get_normalized_score(dataset, np.array([task.expert_return])) == pytest.approx(1.0)
    own = dataset.storage.metadata["diffcps"]
    assert "not D4RL's data" in own["note"]
    assert own["recipe"]["physics"] == "d4rl"
    assert own["policies"]["robot"] == "hopper"


def test_the_users_own_minari_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "theirs"))
    before = dict(os.environ)
    collected.SOURCE.make(get_task("bandit-ring"), RING, folder=tmp_path / "ours")
    assert dict(os.environ) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours"]


def test_an_interrupted_collection_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("bandit-ring")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MinariStorage, "update_metadata", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collected.SOURCE.make(task, RING, folder=tmp_path)
    assert collected.SOURCE.find(task, RING, [tmp_path]) is None
    assert list(tmp_path.rglob("*.hdf5")) == []
    assert len(minari_files.read(collected.SOURCE.make(task, RING, folder=tmp_path))) == 1


def test_of_two_writers_the_first_wins(tmp_path: Path) -> None:
    task = get_task("bandit-ring")
    first = collect(task, RING)
    other = collect(task, DataConfig(source="collected", rows=300, seed=9))
    assert collected.write(task, RING, first, tmp_path) == collected.write(task, RING, other, tmp_path)
    assert checksum(minari_files.read(collected.write(task, RING, other, tmp_path))) == checksum(first)
    assert [p.name for p in tmp_path.iterdir()] == ["diffcps"]


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be stored under"):
        collected.SOURCE.make(get_task("bandit-ring"), RING, folder=tmp_path / "file")


def _no_metadata(path: Path) -> None:
    (path / "data" / "metadata.json").unlink()


def _half_metadata(path: Path) -> None:
    file = path / "data" / "metadata.json"
    file.write_text(file.read_text()[:100])


def _truncated_file(path: Path) -> None:
    file = path / "data" / "main_data.hdf5"
    os.truncate(file, file.stat().st_size // 2)


def _missing_episode(path: Path) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"]


def _missing_key(path: Path) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"]["rewards"]


def _short_actions(path: Path) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        actions = file["episode_0"]["actions"]
        actions.resize(len(actions) - 1, axis=0)


def _changed_value(path: Path) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"]["rewards"][0] += 1


def _wrong_total(path: Path) -> None:
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_steps": 601}))


DAMAGES: list[Callable[[Path], None]] = [
    _no_metadata,
    _half_metadata,
    _truncated_file,
    _missing_episode,
    _missing_key,
    _short_actions,
    _changed_value,
    _wrong_total,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_with_the_folder(damage: Callable[[Path], None], hopper: Path, tmp_path: Path) -> None:
    path = tmp_path / "diffcps" / hopper.name
    shutil.copytree(hopper, path)
    damage(path)
    with pytest.raises(UserError, match=hopper.name):
        data.load(get_task("hopper-medium-v2"), HOPPER, [tmp_path])


def test_data_collected_under_other_conditions_are_refused(
    hopper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(hopper, tmp_path / "diffcps" / hopper.name)
    file = tmp_path / "diffcps" / hopper.name / "data" / "metadata.json"
    values = json.loads(file.read_text())
    values["diffcps"]["recipe"]["policy"] = "another"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match="other policy"):
        data.load(get_task("hopper-medium-v2"), HOPPER, [tmp_path])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    task, (episode,) = get_task("bandit-ring"), collect(get_task("bandit-ring"), RING)
    episode.rewards[7] = np.nan
    path = collected.write(task, RING, [episode], tmp_path)
    with pytest.raises(UserError, match="episode 0"):
        minari_files.read(path)


def test_a_set_with_images_is_refused(tmp_path: Path) -> None:
    task = replace(get_task("bandit-ring"), name="t", observation_size=4)
    episode = Episode(
        observations=np.zeros((3, 2, 2)),
        actions=np.zeros((2, 2)),
        rewards=np.zeros(2),
        terminations=np.zeros(2, dtype=bool),
        truncations=np.zeros(2, dtype=bool),
    )
    path = collected.write(task, DataConfig(source="collected", rows=2), [episode], tmp_path)
    with pytest.raises(UserError, match="flat vectors"):
        minari_files.read(path)
