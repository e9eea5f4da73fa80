"""Every preset for a handful of steps through Ray: exit status, run folders, MLflow's tree, the table."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sweeps
import test_d4rl as d4rl_files
from rich.console import Console
from rich.table import Table

from diffcps import data, studies
from diffcps.cli.study import StudyCommand, run_study
from diffcps.config import DataConfig
from diffcps.runs import presets
from diffcps.runs.plan import Plan, load
from diffcps.tasks.registry import get_task
from diffcps.training.process import prepare_process

TINY = "--batch-size", 16, "--seeds", 2, "--steps", 20, "--evaluate-every", 10, "--episodes", 2, "--candidates", 2
DEMO = "bandit-ring", "hopper-medium-v2"
PAPER = "hopper-medium-v2", "antmaze-umaze-v0"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine without data sets and without other clusters."""
    with sweeps.isolated(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def cluster(home: None) -> Iterator[str]:
    """Address of a running cluster of two CPUs, which the sweeps of this file connect to."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield running.address
    running.shutdown()


def table(folder: Path) -> dict[str, dict[str, str]]:
    """``table.csv`` by the trial's key."""
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def assert_complete(folder: Path, trials: int) -> Plan:
    """All run folders are there and complete, every trial has its row with both scores, and MLflow agrees."""
    plan, found = load(folder), sweeps.folders_of(folder)
    assert plan.count == len(found) == trials
    if plan.search is None:
        assert set(found) == {trial.key for trial in plan.trials}
    rows, text = table(folder), (folder / "table.md").read_text("utf-8")
    assert set(rows) == set(found)
    for key, part in found.items():
        files = "config.json", "environment.json", "metrics.csv", "returns.csv", "status.json", "checkpoint"
        assert all((part.path / name).exists() for name in files)
        assert part.done
        assert part.config.key == key
        row, config = rows[key], part.config
        assert (row["task"], row["state"], row["step"]) == (config.task, "complete", str(config.steps))
        assert (row["seeds"], row["episodes"]) == (str(len(config.members)), str(config.evaluation.episodes))
        assert float(row["last"]) <= float(row["best_oracle"])
        assert row["evaluations"] == str(-(-config.steps // config.evaluation.every))
    assert "oracle" in text
    sweeps.assert_tree(folder)
    return plan


def assert_no_published(folder: Path) -> None:
    text = (folder / "table.md").read_text("utf-8")
    assert "published DiffCPS" not in text
    assert all(not row["published_DiffCPS"] for row in table(folder).values())


class BreakingConsole(Console):
    """Cuts a file when the data are shown: after the check, and before a worker reads it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.broken, self.whole = file, file.read_bytes()

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if objects and isinstance(objects[0], Table):
            self.broken.write_bytes(self.whole[:1000])

    def repair(self) -> None:
        self.broken.write_bytes(self.whole)


def test_demo(cluster, tmp_path, capsys):
    """Two of its tasks: ``test_plan`` has the list."""
    arguments = "--preset", "demo", "--tasks", *DEMO, *TINY, "--rows", 2000, "--results", tmp_path
    assert sweeps.run_here(*arguments) == 0
    said = capsys.readouterr().out
    assert f"on the Ray cluster running on this machine ({cluster})" in said
    (folder,) = tmp_path.glob("demo-*")
    plan = assert_complete(folder, 2)
    assert [trial.task for trial in plan.trials] == list(DEMO)
    assert all(trial.data.source == "collected" for trial in plan.trials)
    assert_no_published(folder)
    text = (folder / "table.md").read_text("utf-8")
    assert "not D4RL" in text
    for row in table(folder).values():
        assert row["behaviour"], "the behaviour's own score stands beside the policy's"
        assert row["task"] in said
    assert str(folder / "table.html") in said
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path / 'mlflow.db'}\n" in said
    assert "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning" in said

    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert sweeps.run_here(*arguments) == 0, "the same command again finds everything done"
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before
    sweeps.assert_tree(folder)


def test_paper_with_a_trial_that_fails_and_is_tried_again(cluster, tmp_path, capsys):
    """A file is broken after the check. The other trial is complete."""
    file = tmp_path / "data" / str(get_task(PAPER[0]).d4rl_file)
    file.parent.mkdir()
    for name in PAPER:
        task = get_task(name)
        d4rl_files.write(file.with_name(str(task.d4rl_file)), d4rl_files.arrays(task, 200))
    console = BreakingConsole(file)
    where = "--results", tmp_path / "results", "--address", cluster
    arguments = "--tasks", *PAPER, "--data-dir", file.parent, "--name", "paper"
    short = "--batch-size", 16, "--seeds", 2, "--steps", 20, "--evaluate-every", 20, "--episodes", 1, "--candidates", 2
    assert sweeps.run_here(*arguments, *short, *where, console=console) == 1
    said = capsys.readouterr().out
    assert "1 trial failed" in said
    assert "--resume paper" in said
    assert_failed(tmp_path / "results" / "paper", failed=PAPER[0], complete=PAPER[1], file=file)
    console.repair()
    assert sweeps.run_here("--resume", "paper", *where) == 0
    plan = assert_complete(tmp_path / "results" / "paper", 2)
    assert_paper(tmp_path / "results" / "paper", plan)


def assert_failed(folder: Path, failed: str, complete: str, file: Path) -> None:
    """Table and MLflow tell which trial failed, and why."""
    rows = {row["task"]: row for row in table(folder).values()}
    assert rows[complete]["state"] == "complete"
    assert rows[failed]["state"] == "failed"
    assert str(file) in rows[failed]["error"]
    text = (folder / "table.md").read_text("utf-8")
    assert "## What went wrong" in text
    assert "truncated" in text
    levels = sweeps.runs_of(folder)
    assert [run.info.status for run in levels["sweep"]] == ["FAILED"]
    states = {run.data.tags["task"]: run.info.status for run in levels["trial"]}
    assert states == {complete: "FINISHED", failed: "FAILED"}


def assert_paper(folder: Path, plan: Plan) -> None:
    """The settings are the paper's; its numbers are left out, because the data are not its data."""
    for trial in plan.trials:
        task = get_task(trial.task)
        assert trial.settings == presets.official(task).with_settings(batch_size=16).settings
        assert [member.seed for member in trial.members] == [0, 1]
        assert trial.physics == "d4rl"
    assert_no_published(folder)
    text = (folder / "table.md").read_text("utf-8")
    assert "What went wrong" not in text
    for task in PAPER:
        assert f"Published numbers left out for {task}" in text
    rows = table(folder)
    provenance = {row["task"]: row["provenance"] for row in rows.values()}
    assert provenance == dict.fromkeys(PAPER, "other")
    assert {row["dataset_rows"] for row in rows.values()} == {"200"}


def test_search(cluster, tmp_path):
    tasks = "--tasks", "bandit-ring"
    chosen = "--diffusion-steps", 2, 3, "--trials", 2
    arguments = "--preset", "search", *tasks, *chosen, *TINY, "--rows", 500, "--results", tmp_path, "--address", cluster
    assert sweeps.run_here(*arguments) == 0
    (folder,) = tmp_path.glob("search-*")
    plan = assert_complete(folder, 2)
    assert plan.search is not None
    found = [part.config for part in sweeps.folders_of(folder).values()]
    for trial in found:
        assert trial.value("diffusion_steps") in (2, 3)
        clip, kl = trial.value("lambda_clip"), trial.value("target_kl")
        assert 0 <= clip <= 1
        assert 0.01 <= kl <= 0.3
        assert not any(member.settings for member in trial.members)
    scores = [float(row["last"]) for row in table(folder).values()]
    assert scores == sorted(scores, reverse=True), "best first"


def test_trials_one_after_the_other_share_a_process_and_nothing_else(cluster: str, tmp_path: Path) -> None:
    """The second trial of a worker's process is equal to the same trial trained alone, to the bit."""
    arguments = "--preset", "demo", "--tasks", "bandit-ring", "--vary", "hidden_size=8,16", *TINY, "--rows", 500
    assert (
        sweeps.run_here(*arguments, "--results", tmp_path, "--name", "two", "--concurrent", 1, "--address", cluster)
        == 0
    )
    plan, found = assert_complete(tmp_path / "two", 2), sweeps.folders_of(tmp_path / "two")
    processes = {(folder.path / "owner").read_text().partition(" ")[2] for folder in found.values()}
    assert len(processes) == 1
    for trial in plan.trials:
        sweeps.assert_same_result(found[trial.key], sweeps.train(trial, tmp_path / "alone"))


def test_trials_train_as_one_pack_and_one_that_fails_takes_no_other_with_it(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four trials of two tasks. The data of one task are broken after the check, and then repaired.

    For networks this small, matrix products of fewer than three members take another kernel than those of more.
    """
    tasks = tuple(map(get_task, ("bandit-ring", "bandit-corners")))
    same = "--diffusion-steps", 3, "--set", "discount=0", "--rows", 500
    flags = *TINY, *same, "--seeds", 3, "--lambda-clip", 0.1, 0.3, "--pack-trials", 4, "--name", "packed"
    arguments = "--preset", "demo", "--tasks", *(task.name for task in tasks), *flags
    where = "--results", tmp_path, "--address", cluster
    collected = data.load(tasks[1], DataConfig("collected", rows=500), ()).info.path
    assert collected is not None
    console = BreakingConsole(collected / "data" / "main_data.hdf5")
    assert sweeps.run_here(*arguments, *where, console=console) == 1
    said = capsys.readouterr().out
    assert "1 pack at once, 4 trials in 1 pack" in said
    assert "2 trials failed" in said
    assert f"--resume packed --results {tmp_path} --address {cluster} --pack-trials 4" in said
    found = sweeps.folders_of(tmp_path / "packed")
    states = {key: (folder.config.task, folder.status["state"]) for key, folder in found.items()}
    assert set(states.values()) == {("bandit-ring", "complete"), ("bandit-corners", "failed")}
    assert all(str(collected) in folder.status["error"] for folder in found.values() if not folder.done)

    console.repair()
    assert sweeps.run_here("--resume", "packed", "--pack-trials", 4, *where) == 0
    assert "1 pack at once, 2 trials in 1 pack" in capsys.readouterr().out
    plan = assert_complete(tmp_path / "packed", 4)
    prepare_process(1)  # as a worker does
    owners = {key: (folder.path / "owner").read_text().partition(" ")[2] for key, folder in found.items()}
    for trial in plan.trials:
        processes = {owners[other.key] for other in plan.trials if other.task == trial.task}
        assert len(processes) == 1, "one has trained them"
        sweeps.assert_same_result(found[trial.key], sweeps.train(trial, tmp_path / "alone"))


@pytest.mark.slow
def test_ablation(cluster, tmp_path):
    grid = "--diffusion-steps", 2, 3, "--lambda-clip", 0, 0.3
    arguments = "--preset", "ablation", "--tasks", "bandit-ring", *grid, *TINY, "--rows", 500
    assert sweeps.run_here(*arguments, "--results", tmp_path, "--name", "grid", "--address", cluster) == 0
    plan = assert_complete(tmp_path / "grid", 4)
    points = [(trial.value("diffusion_steps"), trial.value("lambda_clip")) for trial in plan.trials]
    assert points == [(2, 0.0), (2, 0.3), (3, 0.0), (3, 0.3)]
    assert "## bandit-ring: last score over T and λ-clip" in (tmp_path / "grid" / "table.md").read_text("utf-8")


def test_a_study(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One trial of it: run folder, table, page, exit status."""
    whole = studies.get("covariance")
    study = dataclasses.replace(whole, trials=lambda scale: whole.trials(scale)[:1])
    command = StudyCommand(
        name="covariance", quick=True, steps=12, seeds=1, results=str(tmp_path), address=cluster, quiet=True
    )
    assert run_study(study, command) == 0, capsys.readouterr()
    (folder,) = [path.parent for path in tmp_path.glob("*/study.md")]
    assert load(folder).count == 1
    assert {"table.md", "study.csv", "figures"} <= {path.name for path in folder.iterdir()}
    said = capsys.readouterr().out
    assert "Findings" in said
    assert "too short to conclude" in said
    assert said.rstrip().endswith(f"study: {folder / 'study.md'}"), "the page, not tables that do not fit a study"
    assert "Expected online performance" not in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cpus-per-trial", 64), ("64", "the cluster has 2", "--cpus-per-trial")),
        (("--gpus-per-trial", 1), ("the cluster has 0", "--gpus-per-trial")),
        (("--concurrent", 0), ("--concurrent 0",)),
        (("--cpus-per-trial", 0), ("--cpus-per-trial",)),
        (("--workers-per-trial", 4), ("--workers-per-trial 4", "only 3 seeds", "--seeds")),
        (("--workers-per-trial", 0), ("--workers-per-trial 0",)),
        (("--workers-per-trial", 2, "--cpus-per-trial", 4), ("4.01 CPUs", "--workers-per-trial")),
    ],
)
def test_more_than_the_cluster_has(cluster, tmp_path, capsys, flags, words):
    arguments = "--preset", "demo", "--tasks", "bandit-ring", "--results", tmp_path / "results", "--address", cluster
    assert sweeps.run_here(*arguments, *flags) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()
