"""`diffcps measure`: after training, the numbers that training would have given."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import run_folders as synthetic
import sweeps
from test_ways import small

from diffcps.cli.measure import MeasureCommand
from diffcps.cli.select import Select
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.report import analysis
from diffcps.runs.read import collect
from diffcps.runs.trial import read_trial
from diffcps.training.measures import offline
from diffcps.training.process import prepare_process


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[None]:
    prepare_process(1)  # as `diffcps train` does, and `measure`
    with sweeps.isolated(tmp_path / "home"), mock.patch.object(offline, "STEPS", 20):
        yield


def kept(*measures: str, hold_out: float = 0.0) -> RunConfig:
    """A trial whose policies of three evaluations are kept."""
    trial = small(measures=measures, keep_checkpoints=3)
    return trial.replaced(data=trial.data.replaced(hold_out=hold_out))


@pytest.mark.parametrize("hold_out", [0.0, 0.3])
def test_afterwards_the_same_numbers_as_in_training(tmp_path: Path, hold_out: float) -> None:
    """To the bit, of every kept policy; each file on its own and both together."""
    along = sweeps.train(kept("fqe", "samples", "critic", hold_out=hold_out), tmp_path / "along")
    plain = sweeps.train(kept("samples", hold_out=hold_out), tmp_path / "plain")
    assert read_trial(along.path).measures["step"].nunique() == 3
    MeasureCommand(str(plain.path), ("critic", "fqe"))()
    expected, found = (read_trial(folder.path).measures for folder in (along, plain))
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_exact=True)
    assert set(pd.read_csv(plain.path / "measures.csv")) < set(found)
    joined = collect(plain.path).measure_frame()
    np.testing.assert_array_equal(joined["fqe_value"], expected["fqe_value"])


def test_only_what_is_missing_is_measured_and_more_can_come_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweeps.train(kept(), tmp_path / "sweep")
    MeasureCommand("sweep", ("fqe",), results=str(tmp_path))()
    assert f"{folder.path.name}: fqe of each seed at step 2, 4, 6" in capsys.readouterr().out.replace("\n", " ")
    first = (folder.path / "afterwards.csv").read_text()
    MeasureCommand("sweep", ("fqe",), results=str(tmp_path))()
    assert "all kept policies have these measures" in capsys.readouterr().out
    assert (folder.path / "afterwards.csv").read_text() == first
    MeasureCommand("sweep", ("fqe", "critic"), results=str(tmp_path))()
    table = pd.read_csv(folder.path / "afterwards.csv")
    assert table[["fqe_value", "critic_value", "critic_error"]].notna().all(axis=None)
    assert len(table) == 6


def test_a_diverged_policy_is_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweeps.train(kept(), tmp_path / "sweep")
    state, _ = folder.load_checkpoint()
    assert state is not None
    state["learner"]["pack"]["actor"][1] = float("nan")
    folder.save_checkpoint(state, 6)
    MeasureCommand("sweep", ("fqe",), results=str(tmp_path))()
    table = pd.read_csv(folder.path / "afterwards.csv")
    assert table["fqe_value"].isna().tolist() == [False] * 5 + [True]
    capsys.readouterr()
    assert MeasureCommand("sweep", ("fqe",), results=str(tmp_path))() == 0
    assert "all kept policies have these measures" in capsys.readouterr().out


def test_what_was_measured_in_training_is_not_measured_again(tmp_path: Path) -> None:
    """Also where only some of its rows are left, and beside a measure that is new."""
    folder = sweeps.train(kept("fqe"), tmp_path / "sweep")
    with mock.patch.object(offline, "fqe", side_effect=AssertionError):
        MeasureCommand("sweep", ("fqe", "critic"), results=str(tmp_path))()
    before = read_trial(folder.path).measures
    lines = (folder.path / "measures.csv").read_text().splitlines(keepends=True)
    (folder.path / "measures.csv").write_text("".join(lines[:-1]))
    MeasureCommand("sweep", ("fqe", "critic"), results=str(tmp_path))()
    pd.testing.assert_frame_equal(read_trial(folder.path).measures, before, check_exact=True)


def test_a_sweep_of_several_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials that a measure does not fit are left out, and one that cannot be measured does not stop the others."""
    first, second = kept(), kept().with_settings(learning_rate=0.5)
    for trial in (first, second, small("bc", candidates=1)):
        sweeps.train(trial, tmp_path / "sweep")
    damaged = tmp_path / "sweep" / "runs" / first.key / "checkpoint"
    for file in damaged.glob("*.pt"):
        file.write_bytes(b"")
    assert MeasureCommand("sweep", ("critic",), results=str(tmp_path))() == 1
    said = capsys.readouterr().out.replace("\n", " ")
    assert "1 trial left out" in said
    assert f"{second.key}: critic of each seed" in said
    assert "does not match its checksum" in said


def test_the_report_shows_it_as_if_it_had_been_measured_in_training(tmp_path: Path) -> None:
    along = sweeps.train(kept("fqe"), tmp_path / "along")
    sweeps.train(kept(), tmp_path / "plain")
    MeasureCommand("plain", ("fqe",), results=str(tmp_path))()
    found = [analysis.quantities(analysis.rows(collect(tmp_path / name))) for name in ("along", "plain")]
    assert found[0] == found[1] == {"fqe": ["fqe_value"]}
    assert along.path.exists()


def test_a_choice_by_what_was_measured_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps.train(kept(), tmp_path / "sweep")
    with pytest.raises(UserError, match=r"Measure them: diffcps measure .*/sweep fqe"):
        Select("sweep", by="fqe", results=str(tmp_path))()
    MeasureCommand("sweep", ("fqe",), results=str(tmp_path))()
    Select("sweep", by="fqe", results=str(tmp_path))()
    assert "to deploy:" in capsys.readouterr().out


def test_mistakes_are_told(tmp_path: Path) -> None:
    folder = sweeps.train(kept(), tmp_path / "sweep")
    for names, words in (
        (("fqee",), "did you mean 'fqe'"),
        (("density", "critick"), "critick"),
        (("paths",), "is a picture"),
        (("actions",), "is a picture"),
    ):
        with pytest.raises(UserError, match=words):
            MeasureCommand(str(folder.path), names)()
    with pytest.raises(UserError, match="no measure was named"):
        MeasureCommand(str(folder.path), ())()
    with pytest.raises(UserError, match="on this machine"):
        MeasureCommand("sweep", ("fqe",), results="s3://bucket")()
    assert not (folder.path / "afterwards.csv").exists()
    unfinished = synthetic.write(tmp_path / "other", synthetic.config(), state="running", until=200)
    with pytest.raises(UserError, match="no complete trial"):
        MeasureCommand(str(unfinished.path), ("fqe",))()
