"""Run folders: what is on disk after any kill, and what is refused."""

import contextlib
import csv
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffcps.config import Member, RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json, write_atomically, write_json
from diffcps.runs.folder import RunFolder, last_and_best

CONFIG = RunConfig("bandit-ring", members=(Member(7), Member(3)), steps=40)
COLUMNS = "behaviour_loss", "lambda"


def make(path: Path, config: RunConfig = CONFIG) -> RunFolder:
    folder = RunFolder(path / config.key)
    folder.create(config)
    return folder


def metrics(step: int) -> dict[str, np.ndarray]:
    return {"lambda": np.array([step / 3, 1e-7]), "behaviour_loss": np.array([0.1, -step], dtype=np.float32)}


def fill(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.log(step, CONFIG, metrics(step), COLUMNS)
        folder.log_returns(step, CONFIG, step + np.array([[0.1, 0.2, 0.3], [1, 2, 3]]), np.full((2, 3), step))


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def state(step: int) -> dict[str, Any]:
    return {"learner": {"step": step, "weights": torch.full((2, 3), float(step))}, "scores": [[1.0, 2.0]]}


def stored_step(folder: RunFolder) -> tuple[int | None, list[str]]:
    found, complaints = folder.load_checkpoint()
    return (found["learner"]["step"] if found else None), complaints


# Atomic writing -------------------------------------------------------------------------------------------------------


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"name": "λ", "list": [1, 2.5, None]})
    write_json(file, {"name": "κ"})
    assert read_json(file) == {"name": "κ"}
    assert "κ" in file.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_failing_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    file = tmp_path / "a"
    write_atomically(file, b"old")

    def broken(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "write":
            patch.setattr("builtins.open", broken)
        else:
            patch.setattr(os, fails, broken)
        with pytest.raises(OSError, match="No space"):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_on_disk_before_the_name_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the move must not leave an empty file under the good name."""
    calls: list[str] = []
    fsync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), move(*a)))
    write_atomically(tmp_path / "a", b"x")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"a\x00"])
def test_broken_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(UserError, match=r"status\.json cannot be read"):
        read_json(tmp_path / "status.json")


# Making a folder ------------------------------------------------------------------------------------------------------


def test_looking_touches_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "x")
    assert folder.status == {"state": "pending", "step": 0}
    assert folder.environment == {}
    assert not folder.done
    assert folder.load_checkpoint() == (None, [])
    assert os.listdir(tmp_path) == []


def test_create_keeps_the_configuration(tmp_path: Path) -> None:
    folder = make(tmp_path)
    before = files(tmp_path)
    assert folder.config == CONFIG
    make(tmp_path)
    assert files(tmp_path) == before


def test_create_for_another_trial_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    before = files(tmp_path)
    other = CONFIG.replaced(steps=41)
    with pytest.raises(UserError, match=f"{CONFIG.key}.* not {other.key}"):
        folder.create(other)
    assert files(tmp_path) == before


def test_other_checkpoint_frequency_is_the_same_trial(tmp_path: Path) -> None:
    make(tmp_path).create(CONFIG.replaced(checkpoint_minutes=3))


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"results folder"):
        RunFolder(tmp_path / "file" / "run").create(CONFIG)


@pytest.mark.parametrize("content", ['{"task": "bandit-ring", "step": 3}', "[]", '{"task": "bandit-ring", "steps": 0}'])
def test_configuration_that_makes_no_sense_names_its_file(tmp_path: Path, content: str) -> None:
    folder = make(tmp_path)
    (folder.path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: "):
        folder.create(CONFIG)


def test_other_data_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.record_environment({"host": "a", "dataset": {"checksum": "1" * 64}})
    folder.record_environment({"host": "b", "dataset": {"checksum": "1" * 64}})
    assert folder.environment["host"] == "b"
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"checksum 111111111111….* 222222222222…"):
        folder.record_environment({"host": "c", "dataset": {"checksum": "2" * 64}})
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["pending", "running", "failed", "stopped", "complete"])
def test_complete_is_one_state_only(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path)
    folder.write_status({"state": name, "step": 1})
    assert folder.done is (name == "complete")


# Rows -----------------------------------------------------------------------------------------------------------------


def test_rows_hold_the_exact_numbers(tmp_path: Path) -> None:
    folder = make(tmp_path)
    fill(folder, 10, 20)
    rows = table(folder.path / "metrics.csv")
    assert list(rows[0]) == ["step", "member", "seed", *COLUMNS]
    assert [(row["step"], row["member"], row["seed"]) for row in rows] == [
        ("10", "0", "7"), ("10", "1", "3"), ("20", "0", "7"), ("20", "1", "3"),
    ]  # fmt: skip
    assert float(rows[2]["lambda"]) == 20 / 3
    assert float(rows[0]["behaviour_loss"]) == float(np.float32(0.1))
    rows = table(folder.path / "returns.csv")
    assert list(rows[0]) == ["step", "member", "seed", "episode", "return", "length"]
    assert len(rows) == 2 * 2 * 3
    assert rows[8] == {"step": "20", "member": "0", "seed": "7", "episode": "2", "return": "20.3", "length": "20"}


def test_metric_that_is_not_there_is_an_empty_cell(tmp_path: Path) -> None:
    """A row between two policy steps has no behaviour loss."""
    folder = make(tmp_path)
    folder.log(1, CONFIG, {"lambda": np.ones(2)}, COLUMNS)
    assert [row["behaviour_loss"] for row in table(folder.path / "metrics.csv")] == ["", ""]


def test_unknown_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="surprise"):
        make(tmp_path).log(1, CONFIG, {"surprise": np.ones(2)}, COLUMNS)


def test_a_file_of_another_version_keeps_its_columns(tmp_path: Path) -> None:
    """What was written with fewer columns, or more, goes on in these: a row of another width would be dropped as cut short."""
    folder = make(tmp_path)
    folder.log_measures(1, CONFIG, {"kl": np.ones(2), "gone": np.ones(2)}, {})
    folder.log_measures(2, CONFIG, {"kl": 2 * np.ones(2), "new": np.ones(2)}, {})
    rows = table(folder.path / "measures.csv")
    assert [(row["step"], row["kl"], row["gone"]) for row in rows[1:3]] == [("1", "1.0", "1.0"), ("2", "2.0", "")]
    assert "new" not in rows[2]


@pytest.mark.parametrize("step", [-1, 0, 9, 10, 15, 20, 30, 99])
def test_rewind_drops_later_rows(tmp_path: Path, step: int) -> None:
    """What stays is byte for byte what a folder holds that has never been further."""
    folder, shorter = make(tmp_path / "a"), make(tmp_path / "b")
    fill(folder, 10, 20, 30)
    fill(shorter, *(s for s in (10, 20, 30) if s <= step))
    folder.rewind(step)
    assert files(folder.path) == files(shorter.path)


@pytest.mark.parametrize("name", ["metrics.csv", "returns.csv"])
def test_rewind_drops_what_a_kill_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Cut the file at every byte: what stays is whole, and going on gives the file of a run that was never cut."""
    monkeypatch.setattr(os, "fsync", lambda number: None)  # hundreds of files: no need to wait for the disk
    folder = make(tmp_path)
    fill(folder, 10, 20)
    before = {file: (folder.path / file).read_bytes() for file in ("metrics.csv", "returns.csv")}
    fill(folder, 30)
    whole = (folder.path / name).read_bytes()
    for cut in range(len(before[name]), len(whole)):
        (folder.path / name).write_bytes(whole[:cut])
        folder.rewind(20)
        assert (folder.path / name).read_bytes() == before[name], cut
    fill(folder, 30)
    assert (folder.path / name).read_bytes() == whole

    for cut in range(len(whole)):
        (folder.path / name).write_bytes(whole[:cut])
        folder.rewind(30)
        left = (folder.path / name).read_bytes() if (folder.path / name).exists() else b""
        expected = whole[: whole.rfind(b"\n", 0, cut) + 1]
        assert left == (expected if expected.count(b"\n") > 1 else b""), "the whole rows, or no file"


def test_rewind_drops_a_row_glued_to_a_cut_one(tmp_path: Path) -> None:
    folder = make(tmp_path)
    fill(folder, 10)
    file = folder.path / "metrics.csv"
    before = file.read_bytes()
    file.write_bytes(before + b"20,0,7,0.1" + b"20,0,7,0.1,3.0\n")
    folder.rewind(20)
    assert file.read_bytes() == before


# Checkpoints ----------------------------------------------------------------------------------------------------------


def checkpoints(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.path / "checkpoint"))


def test_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = make(tmp_path)
    for step in 1, 9, 10, 100, 2_000_000:
        folder.save_checkpoint(state(step), step)
    names = ["step_000000100.pt", "step_000000100.sha256", "step_002000000.pt", "step_002000000.sha256"]
    assert checkpoints(folder) == names
    assert stored_step(folder) == (2_000_000, [])


def test_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    folder = make(tmp_path)
    generator = torch.Generator().manual_seed(1)
    content = {
        "tensor": torch.randn(3, 4, generator=generator),
        "generator": generator.get_state(),
        "scores": [[0.1, float("nan")], []],
        "seconds": {"learning": 1.5},
        "step": 3,
    }
    folder.save_checkpoint(content, 3)
    back, _ = folder.load_checkpoint()
    assert back is not None
    assert torch.equal(back["tensor"], content["tensor"])
    assert torch.equal(back["generator"], content["generator"])
    assert str(back["scores"]) == str(content["scores"])
    assert (back["seconds"], back["step"]) == (content["seconds"], content["step"])


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x10
    file.write_bytes(content)


def without_checksum(file: Path) -> None:
    file.with_suffix(".sha256").unlink()


def broken_checksum(file: Path) -> None:
    file.with_suffix(".sha256").write_bytes(b"\xff" * 64)


DAMAGES = [cut_in_half, emptied, flipped_bit, without_checksum, broken_checksum]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_falls_back(tmp_path: Path, damage: Any) -> None:
    folder = make(tmp_path)
    for step in 10, 20:
        folder.save_checkpoint(state(step), step)
    damage(folder.path / "checkpoint" / "step_000000020.pt")
    step, complaints = stored_step(folder)
    assert step == 10
    assert len(complaints) == 1
    assert "step_000000020.pt does not match its checksum" in complaints[0]

    folder.save_checkpoint(state(20), 20)
    assert stored_step(folder) == (20, [])


def test_nothing_is_loaded_when_all_are_damaged(tmp_path: Path) -> None:
    folder = make(tmp_path)
    for step in 10, 20:
        folder.save_checkpoint(state(step), step)
        flipped_bit(folder.path / "checkpoint" / f"step_{step:09d}.pt")
    step, complaints = stored_step(folder)
    assert step is None
    assert len(complaints) == 2


def test_new_checkpoint_outlives_later_damaged_ones(tmp_path: Path) -> None:
    """After starting again from nothing, the first good checkpoint must not be the one that is thrown away."""
    folder = make(tmp_path)
    for step in 20, 30:
        folder.save_checkpoint(state(step), step)
        flipped_bit(folder.path / "checkpoint" / f"step_{step:09d}.pt")
    folder.save_checkpoint(state(10), 10)
    assert stored_step(folder) == (10, [])
    folder.save_checkpoint(state(20), 20)
    assert checkpoints(folder) == [f"step_0000000{n}0.{end}" for n in (1, 2) for end in ("pt", "sha256")]


def test_remains_of_a_killed_save_are_swept_up(tmp_path: Path) -> None:
    """A kill in the middle of saving leaves a part of a file; thousands of kills must not fill the disk."""
    folder = make(tmp_path)
    folder.save_checkpoint(state(10), 10)
    (folder.path / "checkpoint" / ".step_000000020.pt.4711.tmp").write_bytes(b"half")
    (folder.path / "checkpoint" / "step_000000015.sha256").write_bytes(b"0" * 64)
    assert stored_step(folder) == (10, [])
    folder.save_checkpoint(state(20), 20)
    assert checkpoints(folder) == [f"step_0000000{n}0.{end}" for n in (1, 2) for end in ("pt", "sha256")]


@pytest.mark.parametrize("after", range(3))
def test_killed_in_the_middle_of_saving(tmp_path: Path, after: int) -> None:
    """One of the two checkpoints can be loaded, however much was written of the new one."""
    folder = make(tmp_path)
    folder.save_checkpoint(state(10), 10)
    calls = iter(range(100))

    def dying(path: Path, content: bytes) -> None:
        if next(calls) == after:
            raise KeyboardInterrupt
        write_atomically(path, content)

    with contextlib.suppress(KeyboardInterrupt):
        RunFolder(folder.path, dying).save_checkpoint(state(20), 20)
    assert stored_step(folder) == (20 if after == 2 else 10, [])


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["DIFFCPS_TEST_TARGET"],))


def test_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum right, but a program inside: refused."""
    monkeypatch.setenv("DIFFCPS_TEST_TARGET", str(tmp_path / "executed"))
    folder = make(tmp_path)
    folder.save_checkpoint({"learner": Malicious()}, 10)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
        folder.load_checkpoint()
    assert not (tmp_path / "executed").exists()


def test_checkpoint_holds_no_more_than_it_needs(tmp_path: Path) -> None:
    """A row of a large tensor is saved as a row."""
    folder = make(tmp_path)
    folder.save_checkpoint({"row": torch.zeros(1000, 1000)[0].clone()}, 1)
    assert (folder.path / "checkpoint" / "step_000000001.pt").stat().st_size < 10_000


# Scores ---------------------------------------------------------------------------------------------------------------


def test_last_and_best() -> None:
    """Best is each member's own highest, then the mean: not the highest mean."""
    scores = np.array([[10.0, 0.0], [0.0, 30.0], [5.0, 7.0]])
    assert last_and_best(scores) == (6.0, 20.0)
    assert last_and_best(scores[:1]) == (5.0, 5.0)


def test_status_is_plain_json(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.write_status({"state": "running", "step": 3, "notes": ["λ"]})
    assert json.load(io.StringIO((folder.path / "status.json").read_text(encoding="utf-8"))) == folder.status


def test_other_data_than_a_complete_trial_had_are_refused(tmp_path):
    """Without a word, the old numbers would pass for those of the new data."""
    folder = RunFolder(tmp_path / "run")
    folder.check_data("a" * 64)  # nothing is recorded yet
    folder.create(RunConfig("bandit-ring"))
    folder.record_environment({"dataset": {"checksum": "a" * 64}})
    folder.write_status({"state": "complete", "step": 1})
    folder.check_data("a" * 64)
    with pytest.raises(UserError, match="aaaaaaaaaaaa"):
        folder.check_data("b" * 64)
