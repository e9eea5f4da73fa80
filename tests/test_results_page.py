"""The page of results: its numbers are those of the run folders, it keeps what it had, and mistakes are told."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_folders as synthetic

import diffcps
from diffcps.cli.results import Results
from diffcps.errors import UserError
from diffcps.report import outcomes
from diffcps.report.evidence import Evidence
from diffcps.runs.read import collect
from diffcps.runs.trials import read_trial

HOPPER, WALKER = "hopper-medium-v2", "walker2d-medium-v2"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two tasks by two algorithms, and a trial that is not complete."""
    for task in (HOPPER, WALKER):
        synthetic.write(tmp_path / "sweep", synthetic.config(task))
        synthetic.write(tmp_path / "sweep", synthetic.config(task, profile="principled"), lift=500.0)
    synthetic.write(tmp_path / "sweep", synthetic.config(HOPPER, learning_rate=0.1), state="running", until=200)
    return tmp_path / "sweep"


def page(folder: Path) -> str:
    return (folder / "index.md").read_text(encoding="utf-8")


def test_the_page_has_the_numbers_of_the_run_folders(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Results((str(sweep),), into=tmp_path / "page")()
    assert "1 trial not complete and left out" in capsys.readouterr().out
    record = Evidence.read(tmp_path / "page")
    assert len(record.scores) == 4 * 3
    assert set(record.scores["method"]) == {"diffcps", "diffcps principled"}
    for folder in (sweep / "runs").iterdir():
        trial = read_trial(folder)
        own = record.scores[record.scores["key"] == trial.key].sort_values("seed")
        if trial.state != "complete":
            assert own.empty
            continue
        np.testing.assert_allclose(own["last"], trial.scores[-1], rtol=1e-5)
        np.testing.assert_allclose(own["best"], trial.scores.max(axis=0), rtol=1e-5)
        np.testing.assert_allclose(own["moved"], trial.scores[3] - trial.scores[2], rtol=1e-5)
        curve = record.curves[record.curves["key"] == trial.key].pivot_table(
            index="step", columns="seed", values="score"
        )
        np.testing.assert_allclose(curve, trial.scores, atol=1e-3)
    text = page(tmp_path / "page")
    assert "![Learning curves](figures/curves.png)" in text
    assert (tmp_path / "page" / "figures" / "curves.png").stat().st_size > 1000
    assert f"--tasks {HOPPER} --profile principled" in text
    assert "c0ffee" in text


def test_a_page_keeps_what_it_had_and_replaces_what_is_given_again(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    Results((str(sweep),), into=folder)()
    before = Evidence.read(folder).scores
    first = page(folder)
    Results(into=folder)()
    assert page(folder) == first
    shutil.rmtree(sweep)
    synthetic.write(sweep, synthetic.config(HOPPER), lift=100.0)
    synthetic.write(sweep, synthetic.config(HOPPER, algorithm="dql"))
    Results((str(sweep),), into=folder)()
    after = Evidence.read(folder).scores
    key = synthetic.config(HOPPER).key
    assert len(after) == len(before) + 3
    assert (
        after.loc[after["key"] == key, "last"].to_numpy() > before.loc[before["key"] == key, "last"].to_numpy()
    ).all()
    same = before["key"] != key
    kept = after.set_index(["key", "seed"]).loc[before.loc[same, ["key", "seed"]].apply(tuple, axis=1)]
    pd.testing.assert_frame_equal(
        kept.reset_index()[before.columns], before[same].reset_index(drop=True), check_dtype=False
    )


def test_trials_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for rate in (1e-3, 2e-3):
        synthetic.write(tmp_path, synthetic.config(HOPPER, learning_rate=rate, grad_norm=3.0))
    named = outcomes.told_apart(Evidence.of([collect(tmp_path)]).scores)
    assert set(named["method"]) == {"diffcps learning_rate=0.001", "diffcps learning_rate=0.002"}


def test_other_data_of_a_task_have_a_row_of_their_own(tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.config(HOPPER))
    synthetic.write(tmp_path, synthetic.config(HOPPER, algorithm="dql"), checksum="beef" * 16, rows=500)
    named = outcomes.told_apart(Evidence.of([collect(tmp_path)]).scores)
    assert set(named["task"]) == {f"{HOPPER} (1,000,000 rows, c0ffeec0, d4rl)", f"{HOPPER} (500 rows, beefbeef, d4rl)"}


def test_the_distance_over_data_sets_is_that_of_the_interquartile_means(sweep: Path) -> None:
    scores = Evidence.of([collect(sweep)]).scores
    scores.loc[scores["method"] == "diffcps principled", "last"] = 30.0
    scores.loc[scores["method"] == "diffcps", "last"] = 20.0
    (section,) = outcomes.document(scores, Evidence.of([collect(sweep)]).curves).sections[-5:-4]
    table = next(block for block in section.blocks if isinstance(block, outcomes.Sheet))
    cells = dict(
        zip(table.columns[0].cells, zip(*(column.cells for column in table.columns[1:]), strict=True), strict=True)
    )
    first, *_ = cells
    other = next(name for name in cells if name != first)
    assert cells[first] == ("2", "20.0 [20.0, 20.0]" if first == "diffcps" else "30.0 [30.0, 30.0]", "")
    assert cells[other][2] == ("+10.0 [10.0, 10.0]" if first == "diffcps" else "-10.0 [-10.0, -10.0]")


def test_the_first_policies_are_saved(tmp_path: Path) -> None:
    import trained

    trial = trained.config()
    trained.write(tmp_path / "sweep", trial)
    Results((str(tmp_path / "sweep"),), into=tmp_path / "page", policies=True)()
    policy = diffcps.load_policy(tmp_path / "page" / "policies" / trial.key)
    assert policy.card.seed == trial.members[0].seed


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Name a sweep"):
        Results(into=tmp_path)()
    with pytest.raises(UserError, match="no sweep is called 'nothing'"):
        Results(("nothing",), into=tmp_path, results=str(tmp_path))()
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"scores.csv has no column 'key'"):
        Results(into=tmp_path)()
    (tmp_path / "scores.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"scores.csv is no record of results"):
        Results(into=tmp_path)()
