"""A whole trial in one process, what it leaves when it fails, and what it ran with."""

import functools
import json
import shutil
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from looped import (
    CONFIG,
    DATA,
    RING,
    Killed,
    Memory,
    Reaper,
    clock,
    contents,
    evaluate,
    looped,
    straight,
    trained,
)

from diffcps import data
from diffcps.data.transitions import DatasetInfo
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import get_task
from diffcps.training.facts import PACKAGES, describe, git_commit


def test_sinks_are_closed_once_whatever_happens(tmp_path: Path) -> None:
    sink, folder = Memory(), RunFolder(tmp_path / "failing")
    folder.create(CONFIG)
    with pytest.raises(ZeroDivisionError):
        looped(CONFIG, lambda policy, index, episodes: 1 / 0, folder, sinks=[sink])
    assert sink.closed == 1

    class Slow(Memory):
        def close(self, pruned: str = "") -> None:
            assert not folder.done, "what is still to be shown belongs to the trial's time"
            time.sleep(0.2)
            super().close()

    sink, folder = Slow(), RunFolder(tmp_path / "whole")
    folder.create(CONFIG)
    looped(CONFIG, evaluate, folder, sinks=[sink])
    assert sink.closed == 1
    assert folder.status["seconds"]["tracking"] >= 0.2


def test_damaged_checkpoint_is_mentioned(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(CONFIG)
    with pytest.raises(Killed):
        looped(CONFIG, Reaper(7, 0).wrap(evaluate), folder, checkpoint_clock=clock())
    newest = max((tmp_path / "checkpoint").glob("*.pt"))
    newest.write_bytes(b"")
    looped(CONFIG, evaluate, folder)
    (note,) = folder.status["notes"]
    assert newest.name in note


def test_complete_trial_is_left_alone(tmp_path: Path) -> None:
    """Run again, even without its checkpoints: nothing is learned, judged, shown or written."""
    done, folder = straight(CONFIG, tmp_path)
    for file in (folder.path / "checkpoint").iterdir():
        file.unlink()
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    refuse = mock.Mock(side_effect=AssertionError)
    again = looped(CONFIG, refuse, folder, sinks=[mock.Mock(log=refuse)], report=refuse, progress=refuse)
    assert again == done.result
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == before


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    """A folder whose checkpoint was put there by hand: said clearly, and nothing is dropped."""
    _, folder = straight(CONFIG, tmp_path)
    folder.write_status({"state": "stopped", "step": 20})
    before = (folder.path / "metrics.csv").read_bytes()
    _, wider = straight(CONFIG.with_settings(hidden_size=12), tmp_path)
    shutil.copytree(wider.path / "checkpoint", folder.path / "checkpoint", dirs_exist_ok=True)
    with pytest.raises(UserError, match="another pack, network or version"):
        looped(CONFIG, evaluate, folder)
    assert (folder.path / "metrics.csv").read_bytes() == before


def test_trial_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    folder = trained(tmp_path, report=reports.append)
    assert folder.done
    assert [report["step"] for report in reports] == [6, 12, 18, 20]
    assert folder.config == CONFIG
    assert folder.environment["dataset"]["checksum"] == "c0ffee"
    assert {file.name for file in folder.path.iterdir()} == {
        "config.json", "environment.json", "metrics.csv", "returns.csv", "status.json", "owner", "checkpoint",
    }  # fmt: skip


def test_sinks_are_made_from_what_the_trial_runs_with(tmp_path: Path) -> None:
    sink, seen = Memory(), []
    folder = trained(tmp_path, sinks=lambda environment: seen.append(environment) or [sink])
    assert seen == [folder.environment]
    assert list(sink.by_step()) == [4, 6, 8, 12, 16, 18, 20]
    assert sink.closed == 1


def test_failure_is_written_down_and_overcome(tmp_path: Path) -> None:
    """The status says why, beside what was learned; the next attempt continues and clears it."""
    with pytest.raises(RuntimeError):
        trained(tmp_path, report=mock.Mock(side_effect=RuntimeError("the simulator fell over")))
    folder = RunFolder(tmp_path)
    assert folder.status["state"] == "failed"
    assert folder.status["error"] == "RuntimeError: the simulator fell over"
    assert "Traceback" in folder.status["details"]
    assert folder.status["step"] > 0
    trained(tmp_path)
    assert folder.done
    assert "error" not in folder.status


def test_missing_data_are_a_failure_without_a_traceback(tmp_path: Path) -> None:
    config = CONFIG.replaced(task="hopper-medium-expert-v2")
    (tmp_path / "data").mkdir()
    load = functools.partial(data.load, get_task(config.task), config.data, (tmp_path / "data",))
    with pytest.raises(UserError, match="hopper_medium_expert-v2"):
        trained(tmp_path / "run", config, load=load)
    status = RunFolder(tmp_path / "run").status
    assert (status["state"], status["details"]) == ("failed", "")
    assert "hopper_medium_expert-v2" in status["error"]


def test_complete_trial_survives_the_loss_of_its_data(tmp_path: Path) -> None:
    before = contents(trained(tmp_path))
    assert contents(trained(tmp_path, load=mock.Mock(side_effect=UserError("gone")))) == before


def test_failure_keeps_the_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status({"state": "running", "step": 7, "last": 3.0})
    folder.fail("out of memory", "details")
    status = folder.status
    assert {name: status[name] for name in ("state", "step", "last", "error", "details")} == {
        "state": "failed", "step": 7, "last": 3.0, "error": "out of memory", "details": "details",
    }  # fmt: skip


# What it ran with -----------------------------------------------------------------------------------------------------


def test_environment_is_plain_and_complete() -> None:
    facts = describe(RING, DATA.info, torch.device("cpu"))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(PACKAGES) | {"python"} == set(facts["versions"])
    assert facts["device"].startswith("cpu: ")
    assert facts["dataset"]["behaviour_return"] == 1.5
    assert "returns" not in facts["dataset"]


def test_behaviour_of_no_whole_trajectory_has_no_return() -> None:
    info = DatasetInfo("d4rl", Path("x.hdf5"), "c", "other", "note", 50, 0, np.zeros(0))
    facts = describe(get_task("hopper-medium-v2"), info, torch.device("cpu"))
    assert facts["dataset"]["behaviour_return"] is None
    assert facts["dataset"]["path"] == "x.hdf5"


def test_commit_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that starts a sweep, for workers without a checkout."""
    git_commit.cache_clear()
    monkeypatch.setenv("DIFFCPS_COMMIT", "0123456789ab-dirty")
    assert git_commit() == "0123456789ab-dirty"
    git_commit.cache_clear()
    monkeypatch.delenv("DIFFCPS_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown", "no git on this machine"
    git_commit.cache_clear()
