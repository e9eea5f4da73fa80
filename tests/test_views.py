"""Views beside MLflow: what they hold is what the run folder says, also after a resume."""

import json
import struct
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wandb
from looped import CONFIG, trained
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from diffcps.errors import UserError
from diffcps.training.views import TensorBoard, Wandb, check, views


def events(folder: Path) -> list[Event]:
    """Every event in the files of a folder, in order: length, checksum, message, checksum."""
    found = []
    for file in sorted(folder.glob("events.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, as TensorBoard shows them: a new start drops what came after its step."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for event in events(folder):
        if event.HasField("session_log"):
            for curve in found.values():
                for step in [step for step in curve if step >= event.step]:
                    del curve[step]
        for value in event.summary.value:
            found[value.tag][event.step] = value.simple_value
    return found


def test_each_member_has_its_rows(tmp_path: Path) -> None:
    folder = trained(tmp_path, CONFIG, sinks=lambda _: views(["tensorboard"], CONFIG, tmp_path))
    rows, returns = pd.read_csv(folder.path / "metrics.csv"), pd.read_csv(folder.path / "returns.csv")
    for k, member in enumerate(CONFIG.members):
        found = scalars(tmp_path / "tensorboard" / f"seed_{member.seed}")
        own = rows[rows["member"] == k]
        for name in ("critic_loss", "behaviour_loss"):
            known = dict(zip(own["step"], own[name], strict=True))
            assert found[f"training/{name}"] == pytest.approx(known, rel=1e-6)
        means = returns[returns["member"] == k].groupby("step")["return"].mean().to_dict()
        assert found["evaluation/return"] == pytest.approx(means, rel=1e-6)


def test_a_resumed_trial_begins_where_it_goes_on(tmp_path: Path) -> None:
    first, one = TensorBoard(tmp_path, CONFIG), np.array([1.0, np.nan])
    for step in (4, 8, 12):
        first.log({"training/critic_loss": step * one}, step)
    first.close()
    again = TensorBoard(tmp_path, CONFIG)
    for step in (8, 12):
        again.log({"training/critic_loss": -step * one}, step)
    again.close()
    found = scalars(tmp_path / "tensorboard" / "seed_5")["training/critic_loss"]
    assert found == {4: 4.0, 8: -8.0, 12: -12.0}
    assert not scalars(tmp_path / "tensorboard" / "seed_8"), "what is no number is not shown"


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    trained(tmp_path, CONFIG)
    assert not (tmp_path / "tensorboard").exists()


def test_files_that_cannot_be_written_do_not_end_a_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file where a folder is to be")
    folder = trained(tmp_path, CONFIG, sinks=lambda _: views(["tensorboard"], CONFIG, tmp_path))
    assert folder.status["state"] == "complete"
    assert caplog.text.count("nothing more is shown in TensorBoard") == 1


def records(file: Path) -> list[Record]:
    """Every record of a run of Weights & Biases: after seven bytes, blocks of 32 KiB of pieces with checksum, length and kind."""
    content, found, whole = file.read_bytes(), [], b""
    at = 7
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            found.append(Record.FromString(whole))
            whole = b""
    return found


def test_weights_and_biases_has_a_run_for_each_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    check(["wandb"])
    folder = trained(tmp_path, CONFIG, sinks=lambda _: views(["wandb"], CONFIG, tmp_path))
    rows = pd.read_csv(folder.path / "metrics.csv")
    for k, member in enumerate(CONFIG.members):
        (file,) = tmp_path.glob(f"wandb/offline-run-*_seed_{member.seed}_*/*.wandb")
        found = records(file)
        (run,) = (record.run for record in found if record.HasField("run"))
        assert (run.run_group, run.project) == (CONFIG.key, "diffcps")
        curve = {}
        for history in (record.history for record in found if record.HasField("history")):
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
            curve[history.step.num] = values.get("training/critic_loss")
        own = rows[rows["member"] == k]
        known = dict(zip(own["step"], own["critic_loss"], strict=True))
        assert {step: value for step, value in curve.items() if value is not None} == pytest.approx(known, rel=1e-6)


def test_a_resumed_trial_goes_on_in_its_own_runs_and_another_training_in_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    def ids(folder: Path) -> set[str]:
        folder.mkdir(exist_ok=True)
        view = Wandb(folder, CONFIG)
        view.log({"training/critic_loss": np.array([1.0, 2.0])}, 4)
        view.close()
        return {file.stem for file in folder.glob("wandb/offline-run-*/*.wandb")}

    first = ids(tmp_path / "one")
    assert len(first) == len(CONFIG.members)
    assert ids(tmp_path / "one") == first
    assert not ids(tmp_path / "two") & first


def test_an_error_of_the_library_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine of a cluster may lack the package."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    view = Wandb(tmp_path, CONFIG)
    for step in (4, 8):
        view.log({"training/critic_loss": np.array([1.0, 2.0])}, step)
    view.close()
    assert caplog.text.count("nothing more is shown in Weights & Biases") == 1


def test_files_of_a_view_need_a_run_folder_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        monkeypatch.setenv("WANDB_MODE", "offline")
        with pytest.raises(UserError, match="object store"):
            check([name], stored=True)


def test_weights_and_biases_without_a_key_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path))
    wandb.teardown()  # it remembers that an earlier test was offline
    with pytest.raises(UserError, match="wandb login"):
        check(["tensorboard", "wandb"])


def test_a_view_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r"diffcps\[wandb\]"):
        check(["wandb"])
    check([])
