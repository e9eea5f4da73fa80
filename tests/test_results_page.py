"""The page of results: its numbers are those of the run folders, it keeps what it had, and mistakes are told."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_folders as synthetic
import tyro

import diffcps
from diffcps.cli import _STYLE
from diffcps.cli.results import Results
from diffcps.config import EvaluationConfig, Member, Values
from diffcps.errors import UserError
from diffcps.report import results_page
from diffcps.report.document import Sheet
from diffcps.report.results_record import ResultsRecord, command, whole
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.runs.presets import official
from diffcps.runs.read import collect
from diffcps.runs.trial import read_trial
from diffcps.tasks.registry import get_task

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
    assert "1 trial left out" in capsys.readouterr().out
    record = ResultsRecord.read(tmp_path / "page")
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
    before = ResultsRecord.read(folder).scores
    first = page(folder)
    Results(into=folder)()
    assert page(folder) == first
    shutil.rmtree(sweep)
    synthetic.write(sweep, synthetic.config(HOPPER), lift=100.0)
    synthetic.write(sweep, synthetic.config(HOPPER, algorithm="dql"))
    Results((str(sweep),), into=folder)()
    after = ResultsRecord.read(folder).scores
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


def recorded(folder: Path) -> ResultsRecord:
    return ResultsRecord.of(whole(collect(folder)))


def test_trials_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for rate in (1e-3, 2e-3):
        synthetic.write(tmp_path, synthetic.config(HOPPER, learning_rate=rate, grad_norm=3.0))
    named = results_page.told_apart(recorded(tmp_path).scores)
    assert set(named["method"]) == {"diffcps learning_rate=0.001", "diffcps learning_rate=0.002"}


def test_members_of_a_pack_that_differ_are_no_seeds_of_one_method(tmp_path: Path) -> None:
    trial = synthetic.config(HOPPER)
    pack = [Member(0), Member(1, Values({"target_kl": 0.2})), Member(2, Values({"target_kl": 0.2}))]
    synthetic.write(tmp_path, trial.replaced(members=tuple(pack)))
    named = results_page.told_apart(recorded(tmp_path).scores)
    assert dict(named["method"].value_counts()) == {"diffcps target_kl=0.2": 2, "diffcps target_kl=0.05": 1}


def test_the_same_policies_count_once(tmp_path: Path) -> None:
    """With other measures, more seeds, or in two sweeps."""
    for place, changes in (("a", {}), ("b", {}), ("c", {"measures": ("latency",)}), ("d", {"seeds": 5})):
        synthetic.write(tmp_path / place, synthetic.config(HOPPER, **changes))  # type: ignore[arg-type]
    trials = [trial for place in "abcd" for trial in whole(collect(tmp_path / place))]
    found = ResultsRecord.of(trials)
    assert len(found.scores) == 3 + 3 + 5
    assert list(results_page.told_apart(found.scores)["seed"]) == [0, 1, 2, 3, 4]


def test_other_data_of_a_task_have_a_row_of_their_own(tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.config(HOPPER))
    synthetic.write(tmp_path, synthetic.config(HOPPER, algorithm="dql"), checksum="beef" * 16, rows=500)
    named = results_page.told_apart(recorded(tmp_path).scores)
    assert set(named["task"]) == {f"{HOPPER} (1,000,000 rows, c0ffeec0, d4rl)", f"{HOPPER} (500 rows, beefbeef, d4rl)"}


def averages(scores: pd.DataFrame, curves: pd.DataFrame) -> dict[str, dict[str, tuple[str, ...]]]:
    """Title -> method -> cells of the tables over data sets."""
    sections = {section.title: section for section in results_page.document(scores, curves).sections}
    if "Over data sets" not in sections:
        return {}
    tables = [block for block in sections["Over data sets"].blocks if isinstance(block, Sheet)]
    return {
        table.title: {cells[0]: cells[1:] for cells in zip(*(column.cells for column in table.columns), strict=True)}
        for table in tables
    }


def test_the_distance_over_data_sets_is_that_of_the_interquartile_means(sweep: Path) -> None:
    found = recorded(sweep)
    scores = found.scores
    scores.loc[scores["method"] == "diffcps principled", "last"] = 30.0
    scores.loc[scores["method"] == "diffcps", "last"] = 20.0
    expected = {
        "diffcps": ("2", "20.0 [20.0, 20.0]", ""),
        "diffcps principled": ("2", "30.0 [30.0, 30.0]", "+10.0 [10.0, 10.0]"),
    }
    assert averages(scores, found.curves) == {"locomotion, D4RL, d4rl physics": expected}
    assert averages(scores[::-1], found.curves) == {"locomotion, D4RL, d4rl physics": expected}, "in a fixed order"
    one = scores[scores["seed"] == 0]
    assert averages(one, found.curves)["locomotion, D4RL, d4rl physics"]["diffcps principled"] == ("2", "30.0", "+10.0")


def test_domains_are_not_averaged_together(tmp_path: Path) -> None:
    for task in (HOPPER, "bandit-ring", "pointmaze-umaze"):
        synthetic.write(tmp_path, synthetic.config(task))
    found = recorded(tmp_path)
    assert found.scores["task"].nunique() == 3
    assert averages(found.scores, found.curves) == {}


def test_diverged_policies_are_counted_and_not_averaged_away(sweep: Path) -> None:
    found = recorded(sweep)
    scores = found.scores
    lost = (scores["method"] == "diffcps") & (scores["seed"] == 1) & (scores["task"] == HOPPER)
    scores.loc[lost, ["last", "newest", "moved"]] = np.nan
    sections = {section.title: section for section in results_page.document(scores, found.curves).sections}
    (table,) = sections["The last checkpoint"].blocks
    assert isinstance(table, Sheet)
    cells = {column.title: column.cells for column in table.columns}
    assert cells["diffcps"][cells["data"].index(HOPPER)] == "1 of 3 diverged"
    assert averages(scores, found.curves)["locomotion, D4RL, d4rl physics"]["diffcps"][1].startswith("–")


def test_the_command_makes_the_trial_again(tmp_path: Path) -> None:
    trial = official(get_task(HOPPER), seeds=2).replaced(
        steps=4000, acting=("candidates=1",), measures=("latency",), evaluation=EvaluationConfig(every=1000, episodes=3)
    )
    trial = trial.with_settings(hidden_size=64, target_kl=0.2)
    folder = synthetic.write(tmp_path, trial, state="pending")
    words = shlex.split(command(read_trial(folder.path)))
    assert words[:2] == ["diffcps", "sweep"]
    (again,) = build(tyro.cli(SweepOptions, args=words[2:], config=_STYLE)).trials
    assert again.replaced(log_every=trial.log_every).key == trial.key


def test_a_trial_without_facts_on_its_data_is_left_out(sweep: Path, tmp_path: Path) -> None:
    (next((sweep / "runs").glob("*principled*")) / "environment.json").write_text("{")
    Results((str(sweep),), into=tmp_path / "page")()
    assert len(ResultsRecord.read(tmp_path / "page").scores) == 3 * 3


def test_the_first_policies_are_saved(tmp_path: Path) -> None:
    import trained

    trial = trained.config()
    trained.write(tmp_path / "sweep", trial)
    Results((str(tmp_path / "sweep"),), into=tmp_path / "page", policies=True)()
    policy = diffcps.load_policy(tmp_path / "page" / "policies" / trial.key)
    assert policy.card.seed == trial.members[0].seed


def test_the_projects_own_page_is_what_its_record_says(tmp_path: Path) -> None:
    """Made again from the two files, and each policy beside it acts."""
    own = Path(__file__).parent.parent / "docs" / "results"
    for name in ("scores.csv", "curves.csv"):
        shutil.copy(own / name, tmp_path / name)
    Results(into=tmp_path)()
    assert page(tmp_path) == page(own)
    saved = [*(own / "policies").iterdir()]
    assert {folder.name for folder in saved} <= set(ResultsRecord.read(own).scores["key"])
    for folder in saved:
        policy = diffcps.load_policy(folder)
        assert policy.act(np.zeros(policy.card.observation_size), seed=0).shape == (policy.card.action_size,)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Name a sweep"):
        Results(into=tmp_path)()
    with pytest.raises(UserError, match="--policies"):
        Results(into=tmp_path, policies=True, results="s3://bucket")()
    with pytest.raises(UserError, match="no sweep is called 'nothing'"):
        Results(("nothing",), into=tmp_path, results=str(tmp_path))()
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"scores.csv has no column 'key'"):
        Results(into=tmp_path)()
    (tmp_path / "scores.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"scores.csv is no record of results"):
        Results(into=tmp_path)()


def test_how_often_a_policy_is_evaluated_names_no_method(tmp_path: Path) -> None:
    """Of two trials that differ in nothing else, one stands; a longer one stands beside it, named by its length."""
    every = [EvaluationConfig(every=count, episodes=synthetic.EPISODES) for count in (synthetic.EVERY, 200)]
    trials = [synthetic.config(HOPPER, evaluation=own) for own in every]
    trials.append(trials[0].replaced(steps=trials[0].steps // 2))
    for trial in trials:
        synthetic.write(tmp_path / "sweep", trial, until=trial.steps)
    scores = results_page.told_apart(ResultsRecord.of(whole(collect(tmp_path / "sweep"))).scores)
    assert sorted(scores["method"].unique()) == ["diffcps 200 steps", "diffcps 400 steps"]
    assert len(scores) == 2 * 3
