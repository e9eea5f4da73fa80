"""Data sets in an object store: every node learns from the data that were checked, and from no others."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import stores
import test_d4rl as d4rl_files

from diffcps import data
from diffcps.config import DataConfig, RunConfig
from diffcps.data import collected, imports
from diffcps.data.collecting.collect import collect
from diffcps.data.library import SOURCES, Source
from diffcps.data.transitions import DatasetInfo
from diffcps.errors import UserError
from diffcps.storage.location import Location
from diffcps.storage.remote import Remote
from diffcps.tasks.registry import Task, get_task

HOPPER = get_task("hopper-medium-v2")
RING = RunConfig("bandit-ring", data=DataConfig("collected", 200))


@pytest.fixture(scope="module")
def server() -> Iterator[stores.Store]:
    with pytest.MonkeyPatch.context() as patch, stores.serving(patch) as running:
        yield running


@pytest.fixture
def location(
    server: stores.Store, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Location:
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "driver"))
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("DIFFCPS_DATA", raising=False)
    remote = Remote(f"s3://bucket/{request.node.name}/sweep", patience=20)
    return Location(tmp_path / "view", remote=remote)


def _staged(location: Location, config: RunConfig, directories: tuple[Path, ...] = ()) -> tuple[Location, DatasetInfo]:
    """What the process that starts a sweep does."""
    info = data.load(get_task(config.task), config.data, directories).info
    return location.with_data(config, info), info


def _node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From here on, this process is on a machine that shares nothing with the first."""
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "node"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "node-minari"))


def _load(location: Location, config: RunConfig) -> DatasetInfo:
    """What a worker does."""
    info = data.load(get_task(config.task), config.data, location.data_folders(config)).info
    location.check_data(config, info)
    return info


def test_a_file_reaches_another_node(location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    d4rl_files.write(tmp_path / "files" / str(HOPPER.d4rl_file), d4rl_files.arrays(HOPPER))
    config = RunConfig(HOPPER.name)
    location, info = _staged(location, config, (tmp_path / "files",))
    _node(monkeypatch, tmp_path)
    there = _load(location, config)
    assert there.checksum == info.checksum
    assert str(there.path).startswith(str(tmp_path / "node"))


def test_collected_data_reach_another_node_and_are_not_collected_again(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, info = _staged(location, RING)
    _node(monkeypatch, tmp_path)
    assert _load(location, RING).checksum == info.checksum
    assert not collected.root().exists()


def test_a_nodes_own_copy_is_not_learned_from(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, info = _staged(location, RING)
    _node(monkeypatch, tmp_path)
    task = get_task("bandit-ring")
    other = collect(task, DataConfig("collected", 200, seed=9))  # as a machine that rounds otherwise would have it
    collected.write(task, RING.data, other, collected.root())
    assert _load(location, RING).checksum == info.checksum


def test_the_same_data_as_a_file_and_as_a_minari_set(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / str(HOPPER.d4rl_file)
    d4rl_files.write(file, d4rl_files.arrays(HOPPER))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    imports.import_file(HOPPER, file, tmp_path / "minari")
    plain, imported = RunConfig(HOPPER.name), RunConfig(HOPPER.name, data=DataConfig("minari"))
    location, first = _staged(location, plain, (tmp_path / "files",))
    location, second = _staged(location, imported)
    assert first.checksum == second.checksum
    _node(monkeypatch, tmp_path)
    assert _load(location, plain).source == "d4rl"
    assert _load(location, imported).source == "minari"


class Parts(Source):
    """Data sets in folders of several files, two levels below the places."""

    name = "parts"

    def wanted(self, task: Task) -> str:
        """Where they are."""
        return f"logs/{task.name}"

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """No standard ones."""
        return list(directories)


def test_a_folder_of_any_kind_reaches_another_node(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "parts", "parts")
    monkeypatch.setitem(sys.modules, "parts", SimpleNamespace(SOURCE=Parts()))
    folder, names = tmp_path / "here" / "logs" / "bandit-ring", {"first.txt", "more/second.txt"}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    info = replace(data.load(get_task("bandit-ring"), RING.data, ()).info, source="parts", path=folder)
    config = RING.replaced(data=DataConfig("parts"))
    location = location.with_data(config, info)
    _node(monkeypatch, tmp_path)
    found = Parts().find(get_task("bandit-ring"), config.data, location.data_folders(config))
    assert found is not None
    assert found.is_relative_to(tmp_path / "node")
    assert {name: (found / name).read_text() for name in names} == {name: name for name in names}


def test_it_is_put_there_once(location: Location, server: stores.Store) -> None:
    location, info = _staged(location, RING)
    before = server.requests
    location.with_data(RING, info)
    assert server.requests - before == 1, "one look"


def test_other_data_than_were_checked_are_refused(location: Location, tmp_path: Path) -> None:
    info = data.load(get_task("bandit-ring"), RING.data, ()).info
    local = Location(tmp_path)
    local.check_data(RING, info)
    with pytest.raises(UserError, match="000000000000"):
        local.with_data(RING, replace(info, checksum="0" * 64)).check_data(RING, info)


def test_data_that_are_gone_from_the_store(location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location, _ = _staged(location, RING)
    for name in location.results.names("data"):
        location.results.delete(name)
    _node(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=f"{location.results.url}/data/"):
        location.data_folders(RING)


def test_half_a_set_is_completed(location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location, info = _staged(location, RING)
    ((_, folder),) = location.staged.values()
    location.results.delete(f"{folder}/complete")
    (name,) = (n for n in location.results.names(str(folder)) if n.endswith(".hdf5"))
    location.results.write(name, b"cut off")
    location.with_data(RING, info)
    _node(monkeypatch, tmp_path)
    shutil.rmtree(tmp_path / "node", ignore_errors=True)
    assert _load(location, RING).checksum == info.checksum
