"""A sweep whose machines share nothing but an object store: killed, gone on with on another machine, and the same."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
import sweeps

from diffcps.runs.folder import RunFolder
from diffcps.storage.location import results_folder
from diffcps.storage.remote import Remote

FLAGS = (
    "--preset", "demo", "--tasks", "bandit-ring", "--rows", 500, "--seeds", 2, "--steps", 600, "--evaluate-every", 300,
    "--lambda-clip", 0.1, 0.3, "--checkpoint-minutes", 0.001, "--quiet", "--name", "stored",
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[stores.Store]:
    with pytest.MonkeyPatch.context() as patch, stores.serving(patch) as running:
        yield running


def _home(tmp_path: Path, name: str) -> Path:
    """The home of a machine of that name, empty."""
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.mark.slow
def test_killed_and_gone_on_with_on_another_machine(server: stores.Store, tmp_path: Path) -> None:
    with sweeps.isolated(_home(tmp_path, "undisturbed")):
        whole = sweeps.Session.sweep(tmp_path / "whole.log", *FLAGS, "--results", tmp_path / "results")
        assert whole.wait() == 0, whole.output
    remote = Remote("s3://bucket/results", patience=20)

    def checkpoints() -> list[str]:
        return [name for name in remote.names("stored/runs") if name.endswith(".pt")]

    with sweeps.isolated(_home(tmp_path, "first")):
        begun = sweeps.Session.sweep(tmp_path / "first.log", *FLAGS, "--results", remote.url)
        try:
            begun.wait_until(checkpoints)
            # of every process of the sweep, Ray's and the workers' too
            assert not any("secret-of-tests" in command for command in begun.processes().values())
        finally:
            begun.end()
    shutil.rmtree(tmp_path / "first")  # the machine is gone, and all that lay on its disk

    with sweeps.isolated(_home(tmp_path, "second")):
        goes_on = sweeps.Session.sweep(
            tmp_path / "second.log", "--resume", "stored", "--results", remote.url, "--quiet"
        )
        try:
            assert goes_on.wait() == 0, goes_on.output
        finally:
            goes_on.end()
        view = results_folder(remote.url)[0] / "stored"
        assert "s3://bucket/results/stored/table.html" in goes_on.output
    names = remote.names("stored")
    assert {"stored/sweep.json", "stored/table.md", "stored/table.csv"} <= names.keys()
    assert "stored/lease.json" not in names
    remote.get(names, tmp_path / "fetched")
    ours = sweeps.folders_of(tmp_path / "fetched" / "stored")
    assert len(ours) == 2
    for key, folder in sweeps.folders_of(tmp_path / "results" / "stored").items():
        sweeps.assert_same_result(ours[key], folder)
        assert RunFolder(view / "runs" / key).done
    sweeps.assert_tree(view)
    for file in (tmp_path / "fetched").rglob("*"):
        if file.is_file():
            assert b"secret-of-tests" not in file.read_bytes()
        if file.suffix == ".json":
            json.loads(file.read_text())
    assert "secret-of-tests" not in goes_on.output
