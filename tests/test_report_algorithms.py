"""Algorithms side by side: one protocol, one candidate beside the own rule, and published scores only under the same reading."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_folders as synthetic
from rich.console import Console

from diffcps import algorithms, report
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.report import acting, literature
from diffcps.report.algorithms import readings, sections
from diffcps.report.analysis import Row
from diffcps.report.contents import Report
from diffcps.report.document import Bullets, Prose, Sheet
from diffcps.report.tables import score
from diffcps.tasks import paper
from diffcps.tasks.registry import TASKS

SEEDS = 5


def config(algorithm: str, task: str = "hopper-medium-v2", candidates: int = 1, **changes: Any) -> RunConfig:
    """A trial of five seeds with four evaluations."""
    evaluation = EvaluationConfig(every=synthetic.EVERY, episodes=synthetic.EPISODES, candidates=candidates)
    trial = synthetic.config(task, seeds=SEEDS)
    fresh = RunConfig(
        task, algorithm=algorithm, members=tuple(m.replaced(settings={}) for m in trial.members), steps=trial.steps,
        log_every=trial.log_every, physics=trial.physics, data=trial.data, evaluation=evaluation, **changes,
    )  # fmt: skip
    return algorithms.complete(fresh)


def write(root: Path, trial: RunConfig, lift: float = 0.0, ways: dict[str, float] | None = None, **data: Any) -> None:
    """A complete run folder; ``ways`` are scores by other ways to act, plus 0, 1, … for each seed."""
    folder = synthetic.RunFolder(root / "runs" / trial.key)
    folder.create(trial)
    folder.record_environment(synthetic.environment(trial, **data))
    for step in range(synthetic.EVERY, synthetic.STEPS + 1, synthetic.EVERY):
        values = synthetic.returns_at(trial, step, lift)
        folder.log_returns(step, trial, values, np.full(values.shape, 9))
        folder.log(step, trial, {"steps_per_second": np.ones(SEEDS)}, ("steps_per_second",))
    measured = {way.column: (ways or {})[str(way)] + np.arange(SEEDS) for way in algorithms.other_ways(trial)}
    folder.log_measures(synthetic.STEPS, trial, measured, {})
    folder.write_status(
        {"state": "complete", "step": synthetic.STEPS, "steps": trial.steps, "notes": [], "seconds": {}}
    )


def built(root: Path, *trials: RunConfig, **facts: Any) -> Report:
    for number, trial in enumerate(trials):
        write(root, trial, 200.0 * number, {"candidates=1": 20.0 + number}, **facts)
    return report.build(synthetic.describe(root, *trials))


def three(root: Path, task: str = "hopper-medium-v2", **facts: Any) -> Report:
    """Diffusion-QL with four candidates and with one, TD3+BC and IQL."""
    dql = config("dql", task, candidates=4, acting=("candidates=1",))
    return built(root, dql, config("td3bc", task), config("iql", task), **facts)


def printed(found: Report, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    found.print(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def sheets(found: Report, narrow: bool = False) -> dict[str, dict[str, list[str]]]:
    """Title of a table -> its columns of cells by their titles."""
    blocks = sections(found.rows, found.groups, narrow)[0].blocks
    return {b.title: {c.title: c.cells for c in b.columns} for b in blocks if isinstance(b, Sheet)}


def test_every_reading_has_a_table_with_a_column_an_algorithm(tmp_path: Path) -> None:
    found = three(tmp_path)
    tables = sheets(found)
    assert [*tables] == [
        "Last checkpoint", "Last checkpoint, one candidate (N = 1)", "Mean of the last 4 evaluations",
        "Best (oracle over 4 evaluations)",
    ]  # fmt: skip
    rows = {row.trial.config.algorithm: row for row in found.rows}
    for reading, (title, read) in readings(found.rows).items():
        for name, row in rows.items():
            (cell,) = tables[title][name]
            assert cell.startswith(score(read(row))), (reading, name)
    assert rows["dql"].one is not None
    assert rows["dql"].one.mean == 22.0
    assert rows["iql"].one == rows["iql"].last, "it never chooses among candidates"
    assert [*sheets(found, narrow=True)] == [*tables][:2], "a terminal has the other readings in the main table"


def test_a_trial_that_has_not_started_is_in_the_line_of_its_task(tmp_path: Path) -> None:
    trials = [config("iql"), config("td3bc"), *(config(name, "walker2d-medium-v2") for name in ("iql", "td3bc"))]
    write(tmp_path, trials[1])
    found = report.build(synthetic.describe(tmp_path, *trials))
    table = sheets(found)["Last checkpoint"]
    assert table["task"] == ["hopper-medium-v2", "walker2d-medium-v2"]
    assert table["iql"] == ["pending", "pending"]
    assert table["behaviour"] == [f"{found.rows[1].trial.behaviour_score:.1f}", "–"]


def test_only_what_an_algorithm_has_is_explained(tmp_path: Path) -> None:
    without = three(tmp_path / "three").markdown()
    assert "return, discounted: on the critic's scale" in without
    assert "λ" not in without
    assert "κ" not in without
    trial = synthetic.config(seeds=2)
    synthetic.write(tmp_path, trial)
    text = report.build(synthetic.describe(tmp_path, trial)).markdown()
    assert all(part in text for part in ("λ: as the policy's loss uses it", "divided by κ", "exceeds κ"))


def test_published_scores_stand_under_the_same_reading_with_protocol_and_version(tmp_path: Path) -> None:
    found = three(tmp_path)
    tables = {title.split(" (")[0]: columns for title, columns in sheets(found).items()}
    inside = {
        (title, name): columns[name][0].rpartition("\n")[2] for title, columns in tables.items() for name in columns
    }
    assert inside["Last checkpoint", "td3bc"] == "(60.4)", "CORL's last checkpoint"
    assert inside["Mean of the last 4 evaluations", "td3bc"] == "(59.3)", "its authors' mean of the last ten"
    assert inside["Best", "dql"] == "(96.6)", "its authors' best checkpoint"
    assert inside["Last checkpoint, one candidate", "dql"] == "(64.1)", "QGPO's re-run with one candidate"
    assert inside["Last checkpoint, one candidate", "iql"] == inside["Last checkpoint", "iql"] == "(67.5)"
    text = printed(found)
    plain = " ".join(text.split())
    for part in ("last checkpoint, 4 seeds × 10 episodes", "v2", "corl-team/CORL", "one candidate", "2304.12824"):
        assert part in plain, part
    assert "100.7 to 63.1" in plain, "what the literature's column hides"
    assert all(len(line) <= 120 for line in text.splitlines())
    (row,) = [row for row in csv.DictReader(io.StringIO(found.csv())) if row["algorithm"] == "dql"]
    assert (row["published_best"], row["published_best_std"]) == ("96.6", "3.4")
    assert (row["published_one"], row["published_one_version"]) == ("64.1", "v2")
    assert "2208.06193" in row["published_best_source"]
    assert row["last_candidates_1"] == "22.0"
    assert row["published_newest"] == ""


def test_nothing_published_stands_beside_other_data(tmp_path: Path) -> None:
    found = three(tmp_path, provenance="other", provenance_note="Made up.")
    assert all("(" not in cell for columns in sheets(found).values() for cells in columns.values() for cell in cells)
    assert literature.section(found.rows) == []
    assert "Published numbers left out for hopper-medium-v2: Made up." in found.markdown()
    assert "published_last" not in found.csv().splitlines()[0]


@pytest.mark.parametrize(("version", "cell"), [("v0", ""), ("v2", "(90.0†)")])
def test_only_the_same_version_of_the_data_counts_as_the_same(tmp_path: Path, version: str, cell: str) -> None:
    """ReBRAC's AntMaze scores are of v2; beside v0 they are in the table of protocols only, and its version says so."""
    trials = [config(name, f"antmaze-umaze-{version}") for name in ("rebrac", "iql")]
    task = TASKS[f"antmaze-umaze-{version}"]
    found = built(tmp_path, *trials, provenance="unverified", rows=task.rows, behaviour_return=0.4)
    known = paper.rows("published_scores")
    (theirs,) = [row["score"] for row in known if (row["column"], row["task"]) == ("rebrac", "antmaze-umaze-v2")]
    rebrac = next(row for row in found.rows if row.trial.config.algorithm == "rebrac")
    assert literature.cell(rebrac, "last") == (f"({float(theirs):.1f}†)" if cell else "")
    (section,) = literature.section(found.rows)
    (sheet,) = [block for block in section.blocks if isinstance(block, Sheet)]
    lines = list(zip(*(column.cells for column in sheet.columns), strict=True))
    (line,) = [line for line in lines if line[1].startswith("ReBRAC: ")]
    assert line[2] == "v2"
    assert line[3].startswith(theirs)


def test_second_versions_on_other_data_say_why_their_published_scores_are_left_out(tmp_path: Path) -> None:
    trials = [config(name, "antmaze-umaze-v2") for name in ("rebrac", "iql")]
    found = built(tmp_path, *trials, provenance="other", provenance_note="Made up.", behaviour_return=0.4)
    assert "Published numbers left out for antmaze-umaze-v2: Made up." in found.markdown()


def test_planners_have_published_columns_only(tmp_path: Path) -> None:
    text = three(tmp_path).markdown()
    part = text[text.index("## Published scores with their protocols") :]
    assert "| – | Decision Diffuser: " in part
    assert "published columns only" in part


def test_published_tables_are_whole() -> None:
    columns = {row["column"]: row for row in paper.rows("published_columns")}
    scores = paper.rows("published_scores")
    quoted = {name.partition(":")[2] for name in columns if name.startswith("table1:")}
    assert {row["column"] for row in scores} == columns.keys() - {f"table1:{name}" for name in quoted}
    assert quoted == paper.rows("table1")[0].keys() - {"task", "DiffCPS", "DiffCPS_std"}
    assert len({(row["column"], row["task"]) for row in scores}) == len(scores)
    assert {row["reading"] for row in columns.values()} <= {*literature.READINGS, "other"}
    assert all(row[name] for row in columns.values() for name in ("name", "protocol", "version", "source"))
    assert {row["task"] for row in scores} <= TASKS.keys()
    sums = {
        name: sum(
            float(row["score"]) for row in scores if row["column"] == name and not row["task"].startswith("antmaze")
        )
        for name in ("cql-iql", "td3bc", "iql")
    }
    assert sums == pytest.approx({"cql-iql": 698.5, "td3bc": 677.4, "iql": 692.6}, abs=0.06), "the printed totals"
    warned = {name for row in paper.rows("published_warnings") for name in row["algorithms"].split("|")}
    assert {*warned, *(row["algorithm"] for row in columns.values())} <= {*algorithms.names(), ""}
    quoted = {row["task"]: row["DiffCPS"] for row in paper.rows("table1") if row["task"] in TASKS}
    assert {row["task"]: row["score"] for row in scores if row["column"] == "diffcps"} == quoted


def test_profiles_of_one_algorithm_stand_beside_the_others(tmp_path: Path) -> None:
    trials = config("diffcps"), config("diffcps").replaced(profile="robust"), config("iql")
    text = built(tmp_path, *trials).markdown()
    assert "## Algorithms side by side" in text
    assert "| diffcps | diffcps robust | iql |" in text


def test_many_algorithms_are_printed_a_few_abreast(tmp_path: Path) -> None:
    names = "td3bc", "rebrac", "iql", "cql", "awac", "fql", "bc", "dql"
    found = built(tmp_path, *(config(name) for name in names))
    tables = sheets(found, narrow=True)
    assert [*tables] == ["Last checkpoint (1 of 2)", "Last checkpoint (2 of 2)"]
    assert [name for columns in tables.values() for name in columns if name in names] == [*names]
    assert all(len(line) <= 100 for line in printed(found, 100).splitlines())
    assert [*sheets(found)["Last checkpoint"]][3:] == [*names]


def test_who_is_ahead_is_said_for_all_tasks_each_domain_and_each_task(tmp_path: Path) -> None:
    tasks = "hopper-medium-v2", "walker2d-medium-v2"
    trials = [config(name, task) for task in tasks for name in ("td3bc", "iql")]
    for trial in trials:
        more = 200.0 if trial.task == tasks[0] else 1.0
        write(tmp_path, trial, more if trial.algorithm == "iql" else 0.0)
    table = report.build(synthetic.describe(tmp_path, *trials))
    section = next(s for s in sections(table.rows, table.groups, True) if s.title.startswith("Who is ahead"))
    prose, bullets = section.blocks
    assert isinstance(prose, Prose)
    assert isinstance(bullets, Bullets)
    assert len(prose.paragraphs) == 1
    assert "Of 2 tasks, clear of all others: iql on 1 (hopper-medium-v2); nobody on 1." in prose.paragraphs[0]
    assert "Over the 2 tasks of locomotion · D4RL, by IQM: iql " in prose.paragraphs[0]
    first = {row.trial.config.algorithm: row.last for row in table.rows if row.trial.task.name == tasks[0]}["iql"]
    assert first is not None
    assert bullets.lines[0].startswith(f"{tasks[0]}: iql {first.mean:.1f} [{first.low:.1f}, {first.high:.1f}], clear")
    assert "not clear of" in bullets.lines[1]


def test_algorithms_are_no_configurations_to_be_tuned(tmp_path: Path) -> None:
    trials = [config("td3bc"), config("iql"), config("iql").with_settings(expectile=0.9)]
    found = built(tmp_path, *trials)
    assert [item.task for item in found.budgets] == ["hopper-medium-v2, iql"]


# Other ways to act


def test_acting_is_on_an_axis_and_training_happened_once(tmp_path: Path) -> None:
    trial = config("dql", candidates=4, acting=("candidates=1,16", "actor=average"))
    write(tmp_path, trial, 0.0, {"candidates=1": 20.0, "candidates=16": 40.0, "actor=average": 30.0})
    found = report.build(synthetic.describe(tmp_path, trial))
    (section,) = acting.sections(found.rows)
    (sheet,) = [block for block in section.blocks if isinstance(block, Sheet)]
    columns = {column.title: column.cells for column in sheet.columns}
    assert columns["own way"] == ["candidates=4, actor=online"]
    (row,) = found.rows
    assert columns["last, own way"][0].startswith(score(row.last))
    assert columns["candidates=16"][0].startswith("42.0 ± 1.6\n[")
    assert columns["actor=average"][0].startswith("32.0")
    line = acting.line(row, "candidates")
    assert row.last is not None
    assert [(value, at.mean) for value, at in line] == [(1, 22.0), (4, row.last.mean), (16, 42.0)]
    assert acting.line(row, "actor") == []
    assert {"acting_candidates"} <= {figure.name for figure in found.document.figures}
    assert "Other ways to act" in found.html()
    assert "score_candidates_16" not in found.markdown().replace("\\", ""), "no measure, and no column of its own"


def test_one_candidate_alone_has_its_place_side_by_side(tmp_path: Path) -> None:
    assert acting.sections(three(tmp_path).rows) == []


def test_a_trial_that_runs_has_no_other_scores_yet(tmp_path: Path) -> None:
    trial = config("dql", candidates=4, acting=("candidates=1",))
    synthetic.RunFolder(tmp_path / "runs" / trial.key).create(trial)
    (row,) = report.build(synthetic.describe(tmp_path, trial)).rows
    assert isinstance(row, Row)
    assert (row.ways, row.one, acting.sections([row])) == ({}, None, [])


def test_cells_of_several_lines_are_stacked_in_latex(tmp_path: Path) -> None:
    text = three(tmp_path).latex()
    line = next(line for line in text.splitlines() if "(60.4)" in line)
    assert r"\shortstack[r]{" in line
    assert r"\\(60.4)}" in line
