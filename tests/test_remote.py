"""Files at a URL: whole, patient, and honest about what is not there; and run folders that live there."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stores
import torch

from diffcps.config import Member, RunConfig
from diffcps.errors import UserError
from diffcps.files import is_url, local_path
from diffcps.runs.folder import TakenOverError
from diffcps.storage.mirror import MirroredFolder, View
from diffcps.storage.remote import Remote


@pytest.fixture(scope="module")
def store() -> Iterator[stores.Store]:
    with pytest.MonkeyPatch.context() as patch, stores.serving(patch) as running:
        yield running


@pytest.fixture
def remote(store: stores.Store, request: pytest.FixtureRequest) -> Remote:
    return Remote(f"s3://bucket/{request.node.name}", patience=20)


def test_urls_and_paths() -> None:
    assert is_url("s3://bucket/x")
    assert is_url("gs://bucket")
    for path in ("results", "/mnt/x", "C:\\x", "file:///mnt/x", "a:b"):
        assert not is_url(path)


def test_a_folder_may_be_given_as_an_address(tmp_path: Path) -> None:
    place = tmp_path / "two words %41"
    assert local_path(place.as_uri()) == local_path(str(place)) == place


def test_put_read_list_delete(remote: Remote, tmp_path: Path) -> None:
    assert remote.names() == {}
    assert remote.read("a") is None
    (tmp_path / "x").write_bytes(b"one")
    remote.put(tmp_path / "x", "folder/a")
    remote.write("b", b"")
    assert remote.read("folder/a") == b"one"
    assert set(remote.names()) == {"folder/a", "b"}
    assert set(remote.names("folder")) == {"folder/a"}
    before = remote.names()
    remote.write("folder/a", b"two")
    assert remote.names()["folder/a"] != before["folder/a"]
    assert remote.names()["b"] == before["b"]
    remote.get(remote.names(), tmp_path / "down")
    assert (tmp_path / "down" / "folder" / "a").read_bytes() == b"two"
    remote.delete("b")
    remote.delete("b")
    assert set(remote.names()) == {"folder/a"}
    assert remote.below("folder").read("a") == b"two"


def test_only_one_creates(remote: Remote) -> None:
    assert remote.create("lock", b"first")
    assert not remote.create("lock", b"second")
    assert remote.read("lock") == b"first"


def test_it_can_be_sent_to_another_process(remote: Remote) -> None:
    remote.write("a", b"x")
    assert pickle.loads(pickle.dumps(remote)).read("a") == b"x"


def test_errors_for_a_while_are_borne(remote: Remote, store: stores.Store) -> None:
    remote.write("a", b"x")
    store.failing = 3
    assert remote.read("a") == b"x"
    store.failing = 3
    remote.write("a", b"y")
    assert remote.read("a") == b"y"


def test_errors_without_end_are_reported(remote: Remote, store: stores.Store) -> None:
    store.failing = 10**6
    try:
        with pytest.raises(UserError, match=r"1 s.*a \("):
            remote.read("a", patience=1)
    finally:
        store.failing = 0


def test_a_missing_bucket_and_an_unknown_scheme(store: stores.Store) -> None:
    with pytest.raises(UserError, match="no such bucket"):
        Remote("s3://no-such-bucket/x", 5).write("a", b"x")
    with pytest.raises(UserError, match="cannot be used"):
        Remote("nonsense://x/y").read("a")


def test_credentials_in_the_url_are_refused() -> None:
    with pytest.raises(UserError, match="carries credentials") as refused:
        Remote("s3://key:secret@bucket/x")
    assert "secret" not in str(refused.value)


CONFIG = RunConfig("bandit-ring", (Member(3),), steps=100)


def _state(value: float) -> dict[str, object]:
    return {"learner": {"x": torch.full((3,), value)}, "scores": [], "seconds": {}}


def _work(folder: MirroredFolder, step: int) -> None:
    folder.log(step, CONFIG, {"loss": np.array([1.0 * step])}, ("loss",))
    folder.save_checkpoint(_state(step), step)
    folder.write_status({"state": "running", "step": step})


def test_a_worker_on_another_node_goes_on_from_the_last_checkpoint(remote: Remote, tmp_path: Path) -> None:
    first = MirroredFolder(tmp_path / "node1", remote)
    first.create(CONFIG)
    first.record_environment({"dataset": {"checksum": "c" * 64}})
    for step in (10, 20, 30):
        _work(first, step)
    first.log(40, CONFIG, {"loss": np.array([40.0])}, ("loss",))  # after the last checkpoint: lost with the node
    second = MirroredFolder(tmp_path / "node2", remote)
    second.create(CONFIG)
    state, complaints = second.load_checkpoint()
    assert state is not None
    assert complaints == []
    assert state["learner"]["x"].tolist() == [30.0] * 3
    assert [line.split(",")[0] for line in (second.path / "metrics.csv").read_text().splitlines()[1:]] == [
        "10",
        "20",
        "30",
    ]
    assert sorted(remote.names("checkpoint")) == [
        f"checkpoint/step_0000000{step}.{end}" for step in (20, 30) for end in ("pt", "sha256")
    ]
    _work(second, 40)
    # the first node again, with what it had: the store is right
    third = MirroredFolder(tmp_path / "node1", remote)
    third.create(CONFIG)
    again, _ = third.load_checkpoint()
    assert again is not None
    assert again["learner"]["x"].tolist() == [40.0] * 3


def test_a_damaged_checkpoint_in_the_store_is_replaced(remote: Remote, tmp_path: Path) -> None:
    folder = MirroredFolder(tmp_path / "a", remote)
    folder.create(CONFIG)
    _work(folder, 10)
    _work(folder, 20)
    remote.write("checkpoint/step_000000020.pt", b"half")
    other = MirroredFolder(tmp_path / "b", remote)
    other.create(CONFIG)
    state, complaints = other.load_checkpoint()
    assert state is not None
    assert state["learner"]["x"].tolist() == [10.0] * 3
    assert len(complaints) == 1
    _work(other, 20)
    last = MirroredFolder(tmp_path / "c", remote)
    last.create(CONFIG)
    state, complaints = last.load_checkpoint()
    assert state is not None
    assert (state["learner"]["x"].tolist(), complaints) == ([20.0] * 3, [])


def test_a_worker_that_was_taken_over_writes_nothing_more(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = MirroredFolder(tmp_path / "a", remote), MirroredFolder(tmp_path / "b", remote)
    old.create(CONFIG)
    old.claim()
    _work(old, 10)
    new.create(CONFIG)
    new.claim()
    new.write_status({"state": "complete", "step": 100, "last": 1.0})
    before = remote.names()
    old._uploaded_at = -1e9
    monkeypatch.setattr(MirroredFolder, "_free_at", 0.0)
    with pytest.raises(TakenOverError):
        old.write_status({"state": "running", "step": 11})
    with pytest.raises(TakenOverError):
        old.record_environment({"dataset": {"checksum": "d" * 64}})
    with pytest.raises(TakenOverError):
        old.save_checkpoint(_state(20), 20)
    assert remote.names() == before


def test_learning_goes_on_while_the_store_is_away(remote: Remote, store: stores.Store, tmp_path: Path) -> None:
    folder = MirroredFolder(tmp_path / "a", remote)
    folder.create(CONFIG)
    store.failing = 10**6
    try:
        folder.write_status({"state": "running", "step": 5})
        left = store.failing
        folder.write_status({"state": "running", "step": 6})
        assert store.failing == left, "the store is not asked again so soon"
    finally:
        store.failing = 0
    assert folder.status["step"] == 6
    _work(folder, 10)
    assert remote.read("checkpoint/step_000000010.sha256") is not None


def test_a_view_fetches_what_has_changed_and_no_checkpoints(
    remote: Remote, tmp_path: Path, store: stores.Store
) -> None:
    folder = MirroredFolder(tmp_path / "node", remote.below("runs/key"))
    folder.create(CONFIG)
    _work(folder, 10)
    folder.write_status({"state": "complete", "step": 10, "last": 1.0})
    view = View(tmp_path / "view", remote)
    view.refresh()
    assert (view.folder / "runs" / "key" / "status.json").exists()
    assert not (view.folder / "runs" / "key" / "checkpoint").exists()
    before = store.requests
    view.refresh()
    assert store.requests - before == 1, "nothing has changed: one listing"
    (view.folder / "figures").mkdir()
    (view.folder / "figures" / "a.png").write_bytes(b"p")
    (view.folder / "table.md").write_text("t")
    view.publish("table.md", "figures")
    assert remote.read("figures/a.png") == b"p"
    assert remote.read("table.md") == b"t"


def test_secrets_reach_no_file(remote: Remote, tmp_path: Path) -> None:
    folder = MirroredFolder(tmp_path / "node", remote)
    folder.create(CONFIG)
    _work(folder, 10)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"secret-of-tests" not in file.read_bytes()
    assert "secret-of-tests" in os.environ["AWS_SECRET_ACCESS_KEY"]
