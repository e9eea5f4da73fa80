"""What a report says of sweeps in every state, and what it refuses to say."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_folders as synthetic
from rich.console import Console

import diffcps
from diffcps import report
from diffcps.errors import UserError
from diffcps.report.contents import Report
from diffcps.report.diagnostics import diagnose
from diffcps.runs.read import collect
from diffcps.runs.rows import read_rows
from diffcps.tasks.registry import get_task

OTHER = {"provenance": "other", "provenance_note": "Not D4RL's data, whatever the file's name.", "rows": 60_000}
UNVERIFIED = {"provenance": "unverified", "provenance_note": "Unverified: nothing is published."}


def records(built: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(built.csv())))


def text(built: Report, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    built.print(console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def one(tmp_path: Path, task: str = "hopper-medium-v2", **dataset: object) -> Report:
    trial = synthetic.config(task)
    synthetic.write(tmp_path, trial, **dataset)
    return report.build(synthetic.describe(tmp_path, trial))


def test_last_best_and_first_are_what_the_raw_returns_give(tmp_path: Path) -> None:
    record = records(one(tmp_path))[0]
    task = get_task("hopper-medium-v2")
    seeds = 1.0 + 10.0 * np.arange(3)
    last, best = task.normalised_score(1500.0 + seeds), task.normalised_score(2000.0 + seeds)
    newest = task.normalised_score((500.0 + 1000.0 + 2000.0 + 1500.0) / 4 + seeds)
    assert float(record["newest"]) == pytest.approx(newest.mean())
    assert float(record["newest_std"]) == pytest.approx(newest.std(ddof=1))
    assert record["newest_evaluations"] == "4"
    assert float(record["first"]) == pytest.approx(task.normalised_score(500.0 + seeds).mean())
    assert float(record["last"]) == pytest.approx(last.mean())
    assert float(record["last_std"]) == pytest.approx(last.std(ddof=1))
    assert last.min() <= float(record["last_low"]) < last.mean() < float(record["last_high"]) <= last.max()
    assert float(record["best_oracle"]) == pytest.approx(best.mean())
    assert float(record["behaviour"]) == pytest.approx(float(task.normalised_score(1000.0)))
    assert float(record["lambda"]) == pytest.approx(0.5)
    assert (record["evaluations"], record["episodes"], record["seeds"]) == ("4", "3", "3")
    assert float(record["learner_share"]) == pytest.approx(0.9)
    assert float(record["steps_per_second"]) == pytest.approx(int(record["steps"]) / 9.0), "9 s of learning in all"


def test_what_a_trials_time_went_to_is_told(tmp_path: Path) -> None:
    """Trial by trial where they are few; of many the one with the smallest share of learning, and the median."""
    assert f"Time of {synthetic.config().key}: learning 90 % of 10 s; evaluation 0.5 s, checkpoint 0.5 s." in text(
        one(tmp_path / "one"), 500
    )
    shared = synthetic.config("walker2d-medium-v2")
    folder = synthetic.write(tmp_path / "two", shared)
    folder.record_environment(
        folder.environment | {"together": {"with": ["another"], "members": 2 * len(shared.members)}}
    )
    folder.write_status({**folder.status, "seconds": {"learning": 60.0, "evaluation": 10.0, "waiting": 60.0}})
    said = text(report.build(synthetic.describe(tmp_path / "two", shared)), 500)
    assert f"Time of {shared.key}: learning 75 % of 40 s; evaluation 10 s." in said, (
        "the rest is the other trials' time"
    )
    trials = [synthetic.config(seeds=seeds) for seeds in range(1, 6)]
    for number, trial in enumerate(trials):
        folder = synthetic.write(tmp_path / "many", trial)
        folder.write_status({**folder.status, "seconds": {"learning": 100.0, "start": 20.0 * number, "waiting": 0.01}})
    said = text(report.build(synthetic.describe(tmp_path / "many", *trials)), 500)
    assert f"smallest share of learning, {trials[-1].key}: learning 56 % of 3 min; start 1 min." in said
    assert "the median share of learning: learning 71 % of 2 min; start 40 s." in said
    assert said.count("Time of ") == 2


def test_a_diverged_seed_leaves_the_others_violations(tmp_path: Path) -> None:
    """Its C is not a number from half of the trial on, and its violation a plain 0: such rows count for nothing."""
    trial = synthetic.config(seeds=2)
    folder = synthetic.RunFolder(tmp_path / "runs" / trial.key)
    folder.create(trial)
    folder.record_environment(synthetic.environment(trial))
    for step in range(synthetic.ROW, synthetic.STEPS + 1, synthetic.ROW):
        constraint = np.array([1.0, 1.0 if step <= synthetic.STEPS / 2 else np.nan])
        values = synthetic.row(trial, step) | {"constraint": constraint, "violation": (constraint > 0.0).astype(float)}
        folder.log(step, trial, values, synthetic.COLUMNS)
    folder.write_status({"state": "stopped", "step": synthetic.STEPS, "steps": trial.steps, "notes": []})
    (found,) = report.build(synthetic.describe(tmp_path, trial)).sweep.trials
    diagnosis = diagnose(found)
    assert diagnosis.violations == 1.0
    assert np.isnan(diagnosis.late_violations)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "Gradient steps: not recorded"),
        ({"engine": {"asked": "eager", "used": "eager", "reason": "eager: short"}}, "Gradient steps: eager: short"),
        (
            {"engine": {"asked": "compiled", "used": "eager", "reason": "compiled: long"}, "workers": 2},
            "Gradient steps: eager, because compiled did not work here; 2 workers",
        ),
        (
            {"engine": {"asked": "eager", "used": "eager", "reason": "eager"}, "pack_sizes": [40, 41]},
            "Gradient steps: eager; packs of at most 41 seeds, the most that fit",
        ),
        (
            {
                "engine": {"asked": "graph", "used": "graph", "reason": "captured"},
                "together": {"with": ["a", "b"], "members": 9},
            },
            "Gradient steps: captured; one pack with 2 other trials",
        ),
    ],
)
def test_how_gradient_steps_were_run_is_told(tmp_path: Path, facts: dict[str, object], expected: str) -> None:
    trial = synthetic.config()
    folder = synthetic.write(tmp_path, trial)
    folder.record_environment(folder.environment | facts)
    assert expected in text(report.build(synthetic.describe(tmp_path, trial)), 500).splitlines()


def test_best_is_called_an_oracle_and_has_a_column_of_its_own(tmp_path: Path) -> None:
    markdown = one(tmp_path).markdown()
    header = next(line for line in markdown.splitlines() if line.startswith("| task"))
    titles = [title.strip() for title in header.strip("|").split("|")]
    assert "best (oracle over 4 evaluations)" in titles
    assert "last" in titles
    assert "published DiffCPS (best of its evaluations)" in titles


def test_published_numbers_stand_beside_verified_data_only(tmp_path: Path) -> None:
    verified = one(tmp_path / "a")
    assert records(verified)[0]["published_DiffCPS"] == "100.1"
    assert "100.1 ± 3.5" in verified.markdown()

    other = one(tmp_path / "b", **OTHER)
    assert records(other)[0]["published_DiffCPS"] == ""
    assert "100.1" not in other.markdown()
    assert "left out for hopper-medium-v2: Not D4RL's data" in other.markdown()
    assert "published DiffCPS" not in other.markdown()


def test_collected_data_are_called_so_and_get_no_published_numbers(tmp_path: Path) -> None:
    trial = synthetic.config(source="collected")
    note = "Collected on the spot: not D4RL's data."
    synthetic.write(tmp_path, trial, provenance="other", provenance_note=note)
    built = report.build(synthetic.describe(tmp_path, trial))
    assert records(built)[0]["data"] == "collected, not D4RL's"
    assert records(built)[0]["published_DiffCPS"] == ""
    assert f"left out for hopper-medium-v2: {note}" in built.markdown()


def test_other_physics_lose_the_published_numbers_and_are_named(tmp_path: Path) -> None:
    trial = synthetic.config(physics="modern")
    synthetic.write(tmp_path, trial)
    markdown = report.build(synthetic.describe(tmp_path, trial)).markdown()
    assert "left out for hopper-medium-v2: evaluated under modern physics" in markdown
    assert "| physics |" in markdown


def test_antmaze_is_marked_and_needs_the_row_count(tmp_path: Path) -> None:
    whole = one(tmp_path / "a", "antmaze-umaze-v0", **UNVERIFIED, behaviour_return=0.5)
    assert "97.4 ± 3.7†" in whole.markdown()
    assert "AntMaze on v0" in whole.markdown()
    other = {"provenance": "other", "provenance_note": "Not D4RL's data: 60,000 rows, not 1,000,000."}
    part = one(tmp_path / "b", "antmaze-umaze-v0", **other, rows=60_000, behaviour_return=0.5)
    assert "97.4" not in part.markdown()
    assert "Not D4RL's data: 60,000 rows" in part.markdown()
    assert "unverified" not in part.markdown()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A sweep with a trial in every state and data of every kind."""
    locomotion = [synthetic.config(f"{name}-medium-v2") for name in ("halfcheetah", "hopper", "walker2d")]
    for trial in locomotion:
        synthetic.write(tmp_path, trial)
    maze, replay, expert, waiting = (
        synthetic.config(name)
        for name in (
            "antmaze-medium-diverse-v0",
            "hopper-medium-replay-v2",
            "walker2d-medium-expert-v2",
            "hopper-medium-expert-v2",
        )
    )
    synthetic.write(tmp_path, maze, **UNVERIFIED)
    synthetic.write(tmp_path, replay, "running", 200)
    synthetic.write(tmp_path, expert, "failed", 100, **OTHER)
    return synthetic.describe(tmp_path, *locomotion, maze, replay, expert, waiting)


def test_every_state_is_shown_in_the_order_of_the_sweep(mixed: Path) -> None:
    built = report.build(mixed)
    found = records(built)
    assert [record["state"] for record in found] == ["complete"] * 4 + ["running", "failed", "pending"]
    running, failed, pending = found[4:]
    assert (running["step"], running["evaluations"]) == ("200", "2")
    assert failed["error"] == "RuntimeError: the | disk [is] full"
    assert pending["last"] == pending["first"] == pending["best_oracle"] == ""
    markdown = built.markdown()
    assert "7 trials: 4 complete, 1 running, 1 failed, 1 not started." in markdown
    assert r"RuntimeError: the \| disk [is] full" in markdown
    assert "and more" not in markdown
    assert "200 of 400" in markdown


def test_the_terminal_shows_whole_numbers_in_120_columns(mixed: Path) -> None:
    shown = text(report.build(mixed))
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 120
    assert "…" not in shown
    for part in ("antmaze-medium-diverse-v0", "walker2d-medium-expert-v2", "100.1 ± 3.5", "disk [is] full", "running"):
        assert part in " ".join(shown.split())


def test_a_narrow_terminal_names_what_it_leaves_out(mixed: Path) -> None:
    shown = text(report.build(mixed), width=80)
    table = shown[: shown.index("Columns left out: ")]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    assert "…" not in table
    assert "antmaze-medium-diverse-v0" in table


def test_averages_are_over_complete_tasks_of_one_domain_and_one_kind_of_data(mixed: Path) -> None:
    built = report.build(mixed)
    (average,) = built.averages
    assert (average.domain, len(average.rows)) == ("locomotion", 3)
    last = [float(record["last"]) for record in records(built)[:3]]
    mean = average.mean()
    assert mean.value == pytest.approx(np.mean(last))
    assert mean.low < mean.value < mean.high
    best = [float(record["best_oracle"]) for record in records(built)[:3]]
    assert average.mean("best").value == pytest.approx(np.mean(best))
    assert average.published == pytest.approx((71.0 + 100.1 + 90.9) / 3)


def test_an_ablation_gets_its_settings_as_columns_and_a_grid(tmp_path: Path) -> None:
    trials = [synthetic.config(diffusion_steps=t, lambda_clip=c, seeds=2) for t in (5, 15) for c in (0.0, 0.1)]
    for trial in trials[:3]:
        synthetic.write(tmp_path, trial)
    built = report.build(synthetic.describe(tmp_path, *trials))
    markdown = built.markdown()
    assert "| T | λ-clip | data |" in markdown
    assert "κ |" not in markdown[: markdown.index("## Constraint and critic")]
    assert not built.averages
    grid = markdown[markdown.index("## hopper-medium-v2: last score") :]
    assert "| T \\\\ λ-clip | 0 | 0.1 |" in grid
    assert "| 15 | 46.9 ± 0.2 | pending |" in grid
    assert "T \\ λ-clip" in text(built)


def test_a_search_lists_what_was_tried_best_last_score_first(tmp_path: Path) -> None:
    base = synthetic.config(seeds=2)
    low, high = (synthetic.config(seeds=2, lambda_clip=clip, target_kl=kl) for clip, kl in ((0.5, 0.1), (0.25, 0.2)))
    synthetic.write(tmp_path, low, "stopped", 100)
    synthetic.write(tmp_path, high)
    built = report.build(synthetic.describe(tmp_path, base, search=4))
    found = records(built)
    assert [record["lambda_clip"] for record in found] == ["0.25", "0.5"]
    assert "4 trials: 1 complete, 1 stopped, 2 not started." in built.markdown()
    assert not built.grids


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    trial = synthetic.config(seeds=1)
    synthetic.write(tmp_path, trial)
    built = report.build(synthetic.describe(tmp_path, trial))
    record = records(built)[0]
    assert record["last"]
    assert record["last_std"] == record["last_low"] == ""
    assert "nan" not in built.markdown()


def test_rows_that_a_kill_cut_short_are_left_out(tmp_path: Path) -> None:
    trial = synthetic.config()
    folder = synthetic.write(tmp_path, trial, "running", 200)
    metrics, returns = folder.path / "metrics.csv", folder.path / "returns.csv"
    metrics.write_text(metrics.read_text()[:-9])
    returns.write_text(returns.read_text()[:-3])
    (found,) = collect(tmp_path).trials
    assert len(read_rows(metrics)) == 11
    assert found.evaluations.steps.tolist() == [100]  # the second evaluation lacks an episode, so it is none yet
    steps, values = found.metric("behaviour_loss")
    assert steps.tolist() == [50, 100, 150, 200]
    assert np.isnan(values[-1, 2])
    assert report.build(tmp_path).rows[0].diagnosis.multiplier == pytest.approx(200 / 150)


def test_a_damaged_folder_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    good, bad = synthetic.config(), synthetic.config("walker2d-medium-v2")
    synthetic.write(tmp_path, good)
    folder = synthetic.write(tmp_path, bad)
    (folder.path / "status.json").write_text("{")
    built = report.build(synthetic.describe(tmp_path, good, bad))
    assert [record["state"] for record in records(built)] == ["complete", "damaged"]
    assert f"Unreadable: {folder.path / 'status.json'}" in text(built).replace("\n", "")
    assert "## Cost of each trial" in built.markdown()


def test_any_folder_of_run_folders_can_be_reported_on(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    for path in (tmp_path, tmp_path / "runs", folder.path):
        assert [trial.key for trial in collect(path).trials] == [folder.path.name]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        report.build(tmp_path / "empty")


def test_a_sweep_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    built = report.build(synthetic.describe(tmp_path, synthetic.config()))
    assert [path.name for path in built.write()] == list(report.FILES[:-1])
    assert "1 trial: 1 not started." in text(built)


def test_frames_hold_every_trial_and_evaluation(mixed: Path) -> None:
    sweep = diffcps.load_sweep(mixed)
    assert len(sweep.trial_frame()) == 7
    evaluations = sweep.evaluation_frame()
    assert len(evaluations) == 3 * (4 * 4 + 2 + 1)
    row = evaluations.query("task == 'hopper-medium-v2' and step == 300 and member == 2").iloc[0]
    assert (row["return"], row["length"], row["seed"]) == (2021.0, 9.0, 2)
    episodes = sweep.episode_frame()
    assert [*episodes.columns[:2]] == ["key", "task"]
    own = episodes.query("task == 'hopper-medium-v2'")
    means = own.groupby(["key", "step", "member"], sort=False)["score"].mean()
    known = evaluations.set_index(["key", "step", "member"])["score"]
    pd.testing.assert_series_equal(means, known.loc[means.index])
    metrics = sweep.metric_frame()
    assert {"key", "task", "step", "member", "seed", "lambda"} <= set(metrics)
    assert set(metrics["key"]) <= set(sweep.trial_frame()["key"])
    assert sweep.measure_frame().empty


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    trials = synthetic.config(), synthetic.config("walker2d-medium-v2")
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = report.build(synthetic.describe(tmp_path, *trials))
    names = {str(path.relative_to(tmp_path)) for path in built.write()}
    drawn = ("learning_curves", "lambda", "behaviour_loss", "q_value", "profiles")
    figures = {f"figures/{name}.png" for name in drawn}
    assert names == {*report.FILES[:-1], *figures}
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    built = one(tmp_path)
    (tmp_path / "table.md").mkdir()
    with pytest.raises(UserError, match=r"table\.md cannot be written"):
        built.write()


def test_more_episodes_at_the_last_evaluation_count_all(tmp_path: Path) -> None:
    trial = synthetic.config(seeds=2)
    trial = trial.replaced(evaluation=trial.evaluation.replaced(final_episodes=5))
    folder = synthetic.write(tmp_path, trial, until=300)
    returns = 1500.0 + np.arange(10.0).reshape(2, 5)
    folder.log_returns(400, trial, returns, np.full((2, 5), 9))
    built = report.build(synthetic.describe(tmp_path, trial))
    (row,) = built.rows
    assert [found.shape for found in row.trial.evaluations.returns] == [(2, 3)] * 3 + [(2, 5)]
    expected = get_task("hopper-medium-v2").normalised_score([1502.0, 1507.0])
    assert row.trial.scores[-1].tolist() == pytest.approx(expected.tolist())
    assert "4 × 3 (last: 5)" in built.markdown()
