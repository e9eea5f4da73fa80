"""MLflow shows what the run folders hold: every run once, every row once, whatever was killed in between."""

import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow.fs
import pytest
import run_folders as synthetic
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run
from sqlalchemy import make_url
from trials import member
from waits import GUARD

from diffcps import report, tracking
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.plan import Axis
from diffcps.storage.location import Location, results_folder
from diffcps.sweep import driver
from diffcps.tasks.registry import task_of
from diffcps.text import first_line
from diffcps.tracking import MlflowSink, Tracker, labels, store
from diffcps.tracking.labels import Row
from diffcps.tracking.sink import Pace

ODD = "50 %41 a?b#c 'q\" ä東 %"
"""Every test of a store has it in a folder with characters that mean something in a URI."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests: a new database takes MLflow seconds."""
    return tracking.check(tracking.default_uri(tmp_path_factory.mktemp(ODD)))


@pytest.fixture
def tracker(uri: str, request: pytest.FixtureRequest) -> Tracker:
    """A sweep of its own for each test."""
    return Tracker(uri, request.node.name)


def again(tracker: Tracker) -> Tracker:
    """The same sweep from another process."""
    return Tracker(tracker.uri, tracker.sweep)


def shown(trial: RunConfig, step: int) -> dict[str, np.ndarray]:
    """What the training loop hands to a sink at one step."""
    values = {f"training/{name}": value for name, value in synthetic.row(trial, step).items()}
    if step % synthetic.EVERY == 0:
        returns = synthetic.returns_at(trial, step)
        values["evaluation/score"] = returns.mean(axis=1)
        so_far = [synthetic.returns_at(trial, earlier) for earlier in range(synthetic.EVERY, step + 1, synthetic.EVERY)]
        values["evaluation/best"] = np.max(so_far, axis=0).mean(axis=1)
        values["evaluation/return"] = returns.mean(axis=1)
        values["evaluation/length"] = np.full(len(trial.members), 9.0)
    return values


def train(tracker: Tracker, trial: RunConfig, start: int, end: int, **pace: float) -> MlflowSink:
    """Log the rows after ``start`` up to ``end`` through a sink."""
    target = MlflowSink(tracker, trial, synthetic.environment(trial), pace=Pace(**pace))
    for step in range(start + synthetic.ROW, end + 1, synthetic.ROW):
        target.log(shown(trial, step), step)
    return target


def runs_of(tracker: Tracker) -> dict[str, Run]:
    """Runs of the sweep by level and member, e.g. ``trial``, ``member 0``; fails when there are two of one."""
    found: dict[str, Run] = {}
    for run in again(tracker).client.search_runs([tracker.experiment]):
        tags = run.data.tags
        name = " ".join(filter(None, (tags["level"], tags.get("member"))))
        assert name not in found
        found[name] = run
    return found


def steps(tracker: Tracker, run: Run, metric: str = "training/lambda") -> list[int]:
    return sorted(point.step for point in tracker.client.get_metric_history(run.info.run_id, metric))


def test_a_trial_becomes_a_run_with_a_run_for_each_seed(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=2)
    assert train(tracker, trial, 0, 400).close() == 0
    runs = runs_of(tracker)
    assert set(runs) == {"sweep", "trial", "member 0", "member 1"}
    parent = runs["trial"]
    assert parent.info.run_name == "hopper-medium-v2 diffcps T=5 λ-clip=0 κ=0.05"
    assert runs["member 1"].info.run_name.startswith("seed 1 · hopper-medium-v2 diffcps T=5")
    assert parent.data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
    assert runs["member 0"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    expected = {
        "sweep": tracker.sweep, "config_key": trial.key, "task": "hopper-medium-v2", "diffusion_steps": "5", "lambda_clip": "0",
        "target_kl": "0.05", "seed": "0, 1", "profile": "official", "physics": "d4rl", "data_source": "d4rl",
        "provenance": "verified", "git_commit": "0123456789ab", "dataset_checksum": "c0ffee" * 10 + "beef",
    }  # fmt: skip
    assert expected.items() <= parent.data.tags.items()
    assert {run.info.status for name, run in runs.items() if name != "sweep"} == {"FINISHED"}


def test_profile_and_class_of_the_policy_are_in_the_name() -> None:
    trial = synthetic.config(seeds=1)
    other = trial.replaced(profile="principled").changed({"policy": "gaussian"})
    assert labels.name(other, [0]).startswith("hopper-medium-v2 diffcps principled gaussian T=5")
    assert labels.tags(other, [0], {})["policy"] == "gaussian"
    assert other.key.startswith("hopper-medium-v2_diffcps_principled_gaussian_T5")
    assert trial.key.startswith("hopper-medium-v2_diffcps_T5")


def test_the_sweeps_own_run_says_what_it_runs_and_what_came_of_it(tracker: Tracker, tmp_path: Path) -> None:
    trials = [synthetic.config(seeds=2, lambda_clip=clip) for clip in (0.0, 0.1)]
    for trial, last in zip(trials, (30.0, 40.0), strict=True):
        folder = synthetic.write(tmp_path, trial)
        folder.write_status({**folder.status, "last": last})
    axis = Axis("lambda_clip", (0.0, 0.1))
    tracker.reconcile(synthetic.describe(tmp_path, *trials, axes=(axis,)))
    runs = again(tracker).client.search_runs([tracker.experiment], "tags.level = 'sweep'")
    (data,) = [run.data for run in runs]
    expected = {"tasks": "hopper-medium-v2", "algorithms": "diffcps", "trials": "2", "axis lambda_clip": "0, 0.1"}
    assert expected.items() <= data.params.items()
    assert data.metrics["last/hopper-medium-v2"] == 40.0, "the best trial's"
    assert data.metrics["trials_complete"] == 2.0
    facts = synthetic.environment(trials[0])["dataset"]
    assert data.metrics["behaviour/hopper-medium-v2"] == pytest.approx(task_of(trials[0]).behaviour_score(facts))
    assert data.tags["mlflow.source.name"] == "tune/sweep_d4rl.py"
    described = tracker.client.get_experiment(tracker.experiment).tags
    assert described["mlflow.experimentKind"] == "custom_model_development"
    assert tracker.sweep in described["mlflow.note.content"]


def test_parameters_are_flat_numbers_and_the_data_set_is_an_input(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=2)
    train(tracker, trial, 0, 50).close()
    runs = runs_of(tracker)
    params = runs["trial"].data.params
    assert {
        "diffusion_steps": "5",
        "lambda_clip": "0.0",
        "evaluation_episodes": "3",
        "seeds": "2",
    }.items() <= params.items()
    assert "seed" not in params  # its members differ in it
    assert runs["member 1"].data.params["seed"] == "1"
    assert "checkpoint_minutes" not in params
    (entry,) = runs["trial"].inputs.dataset_inputs
    assert entry.dataset.digest == ("c0ffee" * 10)[:36]
    assert entry.dataset.name == "hopper-medium-v2"


def test_a_setting_in_which_members_differ_is_a_parameter_of_each() -> None:
    trial = synthetic.config(seeds=1)
    trial = trial.replaced(members=(trial.members[0], member(1, discount=0.5)))
    assert [labels.parameters(trial, [k])["discount"] for k in range(2)] == ["0.99", "0.5"]
    assert "discount" not in labels.parameters(trial, range(2))


def test_rows_are_each_members_own_and_their_mean_on_the_trial(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=2)
    train(tracker, trial, 0, 400).close()
    runs = runs_of(tracker)
    assert steps(tracker, runs["trial"]) == steps(tracker, runs["member 1"]) == list(range(50, 401, 50))
    assert runs["member 1"].data.metrics["training/behaviour_loss"] == 5.0
    assert runs["trial"].data.metrics["training/behaviour_loss"] == 4.5
    assert (runs["member 0"].data.metrics["score"], runs["member 0"].data.metrics["score_best"]) == (1501.0, 2001.0)
    assert (runs["trial"].data.metrics["score"], runs["trial"].data.metrics["score_best"]) == (1506.0, 2006.0)
    assert steps(tracker, runs["trial"], "score") == [100, 200, 300, 400]
    assert "evaluation/score" not in runs["trial"].data.metrics


def test_a_resumed_trial_goes_on_in_its_runs_without_a_second_row(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=2)
    train(tracker, trial, 0, 300).close()
    before = runs_of(tracker)
    assert before["trial"].info.status == "RUNNING"
    train(again(tracker), trial, 100, 400).close()  # back to the checkpoint at step 100
    after = runs_of(tracker)
    assert {name: run.info.run_id for name, run in after.items()} == {n: r.info.run_id for n, r in before.items()}
    for name in ("trial", "member 0", "member 1"):
        assert steps(tracker, after[name]) == list(range(50, 401, 50))
    assert after["member 0"].data.metrics["score_best"] == 2001.0


def test_the_machine_is_watched_while_a_trial_runs(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=1)
    target = train(tracker, trial, 0, 100, system=0.1)

    def watched() -> bool:
        metrics = {name for run in again(tracker).client.search_runs([tracker.experiment]) for name in run.data.metrics}
        return {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= metrics

    while not watched():
        time.sleep(0.05)
    target.close()
    assert not any(thread.name == "SystemMetricsMonitor" and thread.is_alive() for thread in threading.enumerate())


def test_values_that_are_not_finite_are_left_out(tracker: Tracker) -> None:
    trial = synthetic.config(seeds=2)
    target = MlflowSink(tracker, trial, synthetic.environment(trial))
    speed = {"training/steps_per_second": np.array([8.0, 8.0])}
    target.log({"training/a": np.array([np.inf, 1.0]), "training/b": np.array([np.nan, 2.0]), **speed}, 50)
    target.close()
    runs = runs_of(tracker)
    found = {name: run.data.metrics for name, run in runs.items()}
    assert all("step" not in metrics for metrics in found.values()), "a chart of it would be a straight line"
    named = {name: {key: value for key, value in found[name].items() if key[:-1] == "training/"} for name in found}
    assert named["member 0"] == named["trial"] == {}
    assert named["member 1"] == {"training/a": 1.0, "training/b": 2.0}


class Away(Tracker):
    """A store that fails while ``errors`` last, and answers only when it may."""

    def __init__(self, tracker: Tracker, *errors: Exception) -> None:
        super().__init__(tracker.uri, tracker.sweep)
        self.errors: list[Exception] = [*errors]
        self.refused = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def send(self, runs: Sequence[str], rows: Sequence[Row]) -> None:
        assert self.may_answer.wait(GUARD)
        if self.errors:
            self.refused += 1
            raise self.errors[0]
        super().send(runs, rows)


def test_a_store_that_fails_holds_nothing_up_and_gets_its_rows_later(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    trial, away = synthetic.config(seeds=2), Away(tracker, ConnectionError("nobody there"))
    away.may_answer.clear()
    with caplog.at_level(logging.WARNING, logger="diffcps"):
        target = train(away, trial, 0, 200, send=0.02, retry=0.02)  # would wait for an answer that comes only now
        away.may_answer.set()
        while away.refused < 3:
            time.sleep(0.01)
    away.errors.clear()
    target.log(shown(trial, 250), 250)
    assert target.close() == 0
    assert len([record for record in caplog.records if "nobody there" in record.message]) == 1
    for name in ("trial", "member 0", "member 1"):
        assert steps(tracker, runs_of(tracker)[name]) == list(range(50, 251, 50))


def test_what_was_never_sent_is_counted_and_reconciled(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = synthetic.config(seeds=2)
    train(tracker, trial, 0, 100).close()
    with caplog.at_level(logging.WARNING, logger="diffcps"):
        assert train(Away(tracker, ConnectionError("gone")), trial, 100, 400).close() == 6
    assert "6 row(s)" in caplog.text
    synthetic.write(tmp_path, trial)
    again(tracker).reconcile(synthetic.describe(tmp_path, trial))
    runs = runs_of(tracker)
    for name in ("trial", "member 0", "member 1"):
        assert steps(tracker, runs[name]) == list(range(50, 401, 50))
        assert runs[name].info.status == "FINISHED"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Trials in every state."""
    names = "hopper-medium-v2", "walker2d-medium-v2", "halfcheetah-medium-v2", "hopper-medium-expert-v2"
    complete, running, failed, waiting = (synthetic.config(name, seeds=2) for name in names)
    synthetic.write(tmp_path, complete)
    synthetic.write(tmp_path, running, "running", 200)
    synthetic.write(tmp_path, failed, "failed", 100)
    return synthetic.describe(tmp_path, complete, running, failed, waiting)


def by_task(tracker: Tracker, level: str) -> dict[str, Run]:
    runs = again(tracker).client.search_runs([tracker.experiment], f"tags.level = '{level}'")
    return {run.data.tags.get("task", "") + run.data.tags.get("member", ""): run for run in runs}


def test_reconciling_builds_everything_from_the_folder_and_changes_nothing_the_second_time(
    tracker: Tracker, sweep: Path
) -> None:
    report.build(sweep).write()
    tracker.reconcile(sweep)
    trials, members = by_task(tracker, "trial"), by_task(tracker, "member")
    assert {task: run.info.status for task, run in trials.items()} == {
        "hopper-medium-v2": "FINISHED",
        "walker2d-medium-v2": "KILLED",  # nothing is being trained any more
        "halfcheetah-medium-v2": "FAILED",
    }
    assert "disk [is] full" in trials["halfcheetah-medium-v2"].data.tags["error"]
    assert len(members) == 6
    done = trials["hopper-medium-v2"]
    (top,) = by_task(tracker, "sweep").values()
    assert done.data.metrics["score"] == pytest.approx(report.build(sweep).rows[0].last.mean)  # type: ignore[union-attr]
    assert done.data.metrics["score_best"] == pytest.approx(report.build(sweep).rows[0].best.mean)  # type: ignore[union-attr]
    assert "| hopper-medium-v2 |" in top.data.tags["mlflow.note.content"]
    assert top.info.status == "KILLED"
    assert top.data.tags["command"] == "tune/sweep_d4rl.py --steps 400"
    artifacts = {item.path for item in tracker.client.list_artifacts(top.info.run_id)}
    assert artifacts == {*report.FILES, "sweep.json"}
    assert len(tracker.client.list_artifacts(top.info.run_id, "figures")) == 4

    again(tracker).reconcile(sweep)
    assert {run.info.run_id for run in by_task(tracker, "trial").values()} == {r.info.run_id for r in trials.values()}
    assert len(by_task(tracker, "member")) == 6
    for run in (done, members["hopper-medium-v21"]):
        assert steps(tracker, run) == list(range(50, 401, 50))


def test_while_a_sweep_runs_its_running_trials_are_left_alone(tracker: Tracker, sweep: Path) -> None:
    tracker.reconcile(sweep, running=True)
    assert set(by_task(tracker, "trial")) == {"hopper-medium-v2", "halfcheetah-medium-v2"}
    (top,) = by_task(tracker, "sweep").values()
    assert top.info.status == "RUNNING"


def test_a_trial_that_has_failed_for_good_is_shown_so_while_the_sweep_runs(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One without runs gets none, and the failed one is running again when it is resumed."""
    trial, other = synthetic.config(seeds=2), synthetic.config("walker2d-medium-v2", seeds=1)
    train(tracker, trial, 0, 100).close()
    folders = [synthetic.write(tmp_path, one, "failed", 100) for one in (trial, other)]
    driver.show_failed(Location(tmp_path, tracking_uri=tracker.uri, sweep=tracker.sweep), folders)
    runs = runs_of(tracker)
    states = {name: run.info.status for name, run in runs.items()}
    assert states == {"sweep": "RUNNING", "trial": "FAILED", "member 0": "FAILED", "member 1": "FAILED"}
    assert "disk [is] full" in runs["member 1"].data.tags["error"]
    train(again(tracker), trial, 100, 200).close()
    assert runs_of(tracker)["trial"].info.status == "RUNNING"
    with caplog.at_level(logging.WARNING, logger="diffcps"):
        driver.show_failed(Location(tmp_path, tracking_uri="no://store", sweep=tracker.sweep), folders)
    assert trial.key in caplog.text


def test_a_row_that_one_run_lacks_is_filled_in_there_alone(tracker: Tracker, tmp_path: Path) -> None:
    trial = synthetic.config(seeds=2)
    synthetic.write(tmp_path, trial)
    runs = tracker.trial_runs(trial, synthetic.environment(trial))
    values = {name: np.array([1.0, 1.0]) for name in ("training/lambda", "training/steps_per_second")}
    tracker.send(runs[:2], [Row(50, 1, values), Row(400, 1, values)])
    tracker.reconcile(synthetic.describe(tmp_path, trial))
    for run in runs_of(tracker).values():
        if run.data.tags["level"] != "sweep":
            assert steps(tracker, run) == list(range(50, 401, 50))


def test_what_an_evaluation_has_found_later_than_its_row_is_filled_in(tracker: Tracker, tmp_path: Path) -> None:
    """A sweep that was interrupted during an evaluation has sent the row without it."""
    trial = synthetic.config(seeds=2)
    synthetic.write(tmp_path, trial)
    folder = synthetic.describe(tmp_path, trial)
    runs = tracker.trial_runs(trial, synthetic.environment(trial))
    for step in range(synthetic.ROW, 401, synthetic.ROW):
        found = shown(trial, step)
        kept = {name: value for name, value in found.items() if step < 300 or name.startswith("training/")}
        tracker.send(runs, [Row(step, 1, labels.named(kept))])
    evaluated = list(range(synthetic.EVERY, 401, synthetic.EVERY))
    before = runs_of(tracker)
    assert steps(tracker, before["member 1"], "score") < evaluated
    tracker.reconcile(folder)
    for name, run in runs_of(tracker).items():
        if name != "sweep":
            assert steps(tracker, run, "score") == evaluated
            assert steps(tracker, run, "evaluation/length") == evaluated
            assert steps(tracker, run) == list(range(50, 401, 50)), "the rest is not sent again"


def test_twins_made_by_two_processes_at_once_are_joined(tracker: Tracker, sweep: Path) -> None:
    trial = synthetic.config(seeds=2)
    first = tracker.trial_runs(trial, {})
    tags = {"level": "trial", "config_key": trial.key, "sweep": tracker.sweep}
    tracker.client.create_run(tracker.experiment, tags=tags)
    tracker.reconcile(sweep)
    assert by_task(tracker, "trial")["hopper-medium-v2"].info.run_id == first[0]
    assert len(by_task(tracker, "trial")) == 3


def test_a_failed_trial_that_is_tried_again_loses_its_error(tracker: Tracker, tmp_path: Path) -> None:
    trial = synthetic.config(seeds=2)
    folder = synthetic.write(tmp_path, trial, "failed", 400)
    tracker.reconcile(synthetic.describe(tmp_path, trial))
    folder.write_status({"state": "complete", "step": 400})
    again(tracker).reconcile(tmp_path)
    done = by_task(tracker, "trial")["hopper-medium-v2"]
    assert done.info.status == "FINISHED"
    assert "error" not in done.data.tags
    (top,) = by_task(tracker, "sweep").values()
    assert top.info.status == "FINISHED"


def test_a_deleted_experiment_comes_back(tracker: Tracker) -> None:
    tracker.client.delete_experiment(tracker.experiment)
    assert again(tracker).experiment == tracker.experiment
    assert again(tracker).sweep_run()


def test_a_long_table_is_shortened_between_two_lines(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("0123456789abcdef\n" * 1000)
    tracker.reconcile(synthetic.describe(tmp_path, synthetic.config()))
    (top,) = by_task(tracker, "sweep").values()
    note = top.data.tags["mlflow.note.content"]
    assert note.endswith("0123456789abcdef\n\nShortened: the whole table is the artifact table.md.")


def test_a_store_that_breaks_at_the_end_is_the_persons_to_know(tracker: Tracker, sweep: Path) -> None:
    lost = again(tracker)
    lost.client = None  # type: ignore[assignment]
    with pytest.raises(UserError, match=str(sweep)):
        lost.reconcile(sweep)


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1).map("x".__add__))
def test_every_address_that_is_made_of_a_path_leads_back_to_it(name: str) -> None:
    results = Path("/nowhere") / name
    uri = tracking.default_uri(results)
    assert make_url(uri).database == str(results / "mlflow.db")
    artifacts = str(store.artifact_location(uri, "sweep"))
    assert url2pathname(urlsplit(artifacts).path) == str(results / "mlartifacts" / "sweep")
    assert results_folder(f"file://{quote(str(results))}") == results_folder(str(results)) == (results, None)
    storage = Location(results).ray_storage()["storage_path"]
    assert pyarrow.fs.FileSystem.from_uri(storage)[1] == str(results / "ray" / "train")


class TestCheck:
    """A store that cannot work is refused."""

    def test_relative_paths_become_absolute(self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(Path(unquote(uri.removeprefix("sqlite:///"))).parent)
        assert tracking.check("sqlite:///mlflow.db") == uri

    def test_options_in_the_address(self) -> None:
        with pytest.raises(UserError, match="%3F"):
            tracking.check("sqlite:////nowhere/mlflow.db?timeout=5")

    def test_a_path_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"file/mlflow\.db"):
            tracking.check(f"sqlite:///{tmp_path}/file/mlflow.db")

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("something else\n" * 100)
        with pytest.raises(UserError, match=r"mlflow\.db.* not a database"):
            tracking.check(f"sqlite:///{tmp_path}/mlflow.db")

    def test_a_database_that_somebody_holds(self, tmp_path: Path) -> None:
        holder = sqlite3.connect(tmp_path / "mlflow.db")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="locked"):
            tracking.check(f"sqlite:///{tmp_path}/mlflow.db", 0.3)
        holder.close()

    def test_a_server_that_is_not_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(UserError, match=str(port)):
            tracking.check(f"http://127.0.0.1:{port}")

    def test_a_password_in_an_address_is_refused(self) -> None:
        """It would be written into sweep.json and Tune's files, and stand in the list of processes."""
        with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as caught:
            tracking.check("http://someone:secret@127.0.0.1:9")
        assert "secret" not in str(caught.value)

    def test_a_server_that_never_answers(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(UserError, match=address):
                tracking.check(address, 0.3)

    def test_a_server_that_is_not_mlflows(self) -> None:
        class Web(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Web) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with pytest.raises(UserError, match=str(server.server_port)):
                tracking.check(f"http://127.0.0.1:{server.server_port}")
            server.shutdown()

    def test_a_password_in_an_error_is_not_shown(self) -> None:
        error = ConnectionError("request to http://someone:secret@host:80/api failed")
        assert first_line(error) == "request to http://host:80/api failed"

    @pytest.mark.parametrize("wrong", ["results/mlflow.db", "file:///tmp/mlruns", "postgresql://user:secret@host/db"])
    def test_what_is_neither_a_database_nor_a_server(self, wrong: str) -> None:
        with pytest.raises(UserError, match="use sqlite:") as caught:
            tracking.check(wrong)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["(sqlite3.OperationalError) database is locked", "UNIQUE constraint failed: datasets.experiment_id"]
)
def test_a_store_with_too_much_to_do_is_no_news(tracker: Tracker, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Many trials begin at once: some are refused for a moment, are tried again, and nobody is told."""
    trial, crowded = synthetic.config(seeds=1), Away(tracker, RuntimeError(text), RuntimeError(text))
    target = train(crowded, trial, 0, 100, send=0.01, busy=0.01)
    while crowded.refused < 3:
        time.sleep(0.01)
    crowded.errors.clear()
    assert target.close() == 0
    assert not caplog.records
    assert steps(tracker, runs_of(tracker)["trial"]) == [50, 100]
