"""MLflow's models: one for each finished member, each once, and the best of a task in the registry."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import run_folders as synthetic
import trained

import diffcps
from diffcps import tracking
from diffcps.config import RunConfig
from diffcps.data import library
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import get_task
from diffcps.tracking import MlflowSink, Tracker, models


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests: a new database takes MLflow seconds."""
    return tracking.check(tracking.default_uri(tmp_path_factory.mktemp("store with a space")))


def all_models(tracker: Tracker) -> list:
    return list(tracker.client.search_logged_models([tracker.experiment]))


def end(tracker: Tracker, trial: RunConfig, folder: RunFolder | None) -> None:
    """What a worker's sink does at the end of a trial."""
    sink = MlflowSink(tracker, trial, synthetic.environment(trial), folder)
    sink.log({"training/lambda": np.ones(len(trial.members))}, trial.steps)
    assert sink.close() == 0


def test_a_finished_member_is_a_model_that_acts(uri: str, tmp_path: Path) -> None:
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    tracker, trial = Tracker(uri, "acts"), trained.config(covariance="calibrated", student="one-step")
    folder = trained.write(tmp_path, trial)
    end(tracker, trial, folder)
    found = sorted(all_models(tracker), key=lambda model: model.tags["member"])
    assert [model.tags["member"] for model in found] == ["0", "1"]
    runs = {
        run.data.tags["member"]: run
        for run in tracker.client.search_runs([tracker.experiment])
        if "member" in run.data.tags
    }
    for model in found:
        run = runs[model.tags["member"]]
        assert model.source_run_id == run.info.run_id
        assert str(model.status) == "READY"
        assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert found[1].tags["score"] == "11.0"
    location = tracking.download(f"models:/{found[1].model_id}", uri, tmp_path, tmp_path / "fetched")
    loaded, policy = pyfunc.load_model(str(location)), diffcps.load_policy(folder.path, 1)
    states = np.random.default_rng(0).standard_normal((3, 11))
    params = {"candidates": 3, "network": "average", "seed": 5}
    np.testing.assert_array_equal(loaded.predict(states, params=params), policy.act(states, 3, "average", 5))
    np.testing.assert_array_equal(
        loaded.predict(states, params={"network": "student", "seed": 5}), policy.act(states, actor="student", seed=5)
    )
    np.testing.assert_array_equal(loaded.predict(states), policy.act(states))
    np.testing.assert_array_equal(diffcps.load_policy(location).act(states, seed=1), policy.act(states, seed=1))
    assert loaded.input_example.shape == (2, 11)
    with pytest.raises(MlflowException, match="float32"):
        loaded.predict(states.astype(np.float32))
    single = states.astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(single.astype(float), params), policy.act(single, 3, "average", 5))
    assert "astype(float)" in loaded.metadata.metadata["observations"]
    listed = (Path(location) / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in listed] == ["mlflow", "numpy", "safetensors", "torch"]
    assert not any("+" in line for line in listed)
    assert not list(Path(location).rglob("*.pkl"))


def test_reconciling_makes_what_is_missing_and_nothing_twice(uri: str, tmp_path: Path) -> None:
    tracker, trial = Tracker(uri, "missing"), trained.config()
    synthetic.describe(tmp_path, trial)
    folder = trained.write(tmp_path, trial)
    end(tracker, trial, None)  # MLflow was away when the models' turn came
    assert all_models(tracker) == []
    # a kill has left one half-way
    tracker.client.create_logged_model(
        tracker.experiment, "policy", None, {"config_key": trial.key, "member": "0"}, {}, "policy"
    )
    for _ in range(2):
        Tracker(uri, "missing").reconcile(tmp_path)
        found = all_models(tracker)
        assert sorted(model.tags["member"] for model in found) == ["0", "1"]
        assert {str(model.status) for model in found} == {"READY"}
    end(Tracker(uri, "missing"), trial, folder)
    assert {model.model_id for model in all_models(tracker)} == {model.model_id for model in found}


def test_a_trial_that_is_not_complete_has_no_model(uri: str, tmp_path: Path) -> None:
    tracker, trial = Tracker(uri, "unfinished"), trained.config(steps=8)
    synthetic.describe(tmp_path, trial)
    folder = trained.write(tmp_path, trial, until=5)
    tracker.reconcile(tmp_path)
    end(tracker, trial, folder)  # the last row was sent, its checkpoint never written
    assert all_models(tracker) == []
    assert tracker.client.search_registered_models("name = 'hopper-medium-v2'") == [] or all(
        version.tags["sweep"] != "unfinished"
        for version in tracker.client.search_model_versions("name = 'hopper-medium-v2'")
    )


def test_a_broken_checkpoint_stops_neither_the_trial_nor_the_rows(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, trial = Tracker(uri, "broken"), trained.config()
    folder = trained.write(tmp_path, trial)
    (checkpoint,) = (folder.path / "checkpoint").glob("*.pt")
    checkpoint.write_bytes(b"")
    end(tracker, trial, folder)
    assert "does not match its checksum" in caplog.text
    statuses = {run.info.status for run in tracker.client.search_runs([tracker.experiment], "tags.level = 'member'")}
    assert statuses == {"FINISHED"}


def test_a_broken_checkpoint_keeps_nothing_else_from_the_store(uri: str, tmp_path: Path) -> None:
    """Reconciling makes the models of all other trials, registers the best, and then says what failed and what to do."""
    broken, whole = trained.config("pointmaze-umaze", seeds=1), trained.config("pointmaze-umaze", diffusion_steps=3)
    synthetic.describe(tmp_path, broken, whole)
    for trial in (broken, whole):
        trained.write(tmp_path, trial)
    folder = RunFolder(tmp_path / "runs" / broken.key)
    (checkpoint,) = (folder.path / "checkpoint").glob("*.pt")
    checkpoint.write_bytes(b"")
    tracker = Tracker(uri, "half")
    with pytest.raises(UserError, match=f"Delete {folder.path}"):
        tracker.reconcile(tmp_path)
    assert {(model.tags["config_key"], model.tags["member"]) for model in all_models(tracker)} == {
        (whole.key, "0"),
        (whole.key, "1"),
    }
    runs = tracker.client.search_runs([tracker.experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    registered = [version for version in tracker.client.search_model_versions() if version.tags["sweep"] == "half"]
    assert [version.tags["config_key"] for version in registered] == [whole.key]


def test_a_machine_that_cannot_be_watched_costs_no_row(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(self: Tracker, run: str, seconds: float) -> None:
        raise AttributeError("'NoneType' object has no attribute 'bytes_recv'")

    monkeypatch.setattr(Tracker, "monitor", unreadable)
    tracker, trial = Tracker(uri, "unwatched"), trained.config(seeds=1)
    end(tracker, trial, trained.write(tmp_path, trial))
    assert len(all_models(tracker)) == 1
    assert {run.info.status for run in tracker.client.search_runs([tracker.experiment], "tags.level = 'member'")} == {
        "FINISHED"
    }


def test_the_best_of_a_task_is_registered_over_all_sweeps(uri: str, tmp_path: Path) -> None:
    client = Tracker(uri, "any").client
    task = "walker2d-medium-v2"

    def sweep(name: str, *scores: tuple[float, ...]) -> None:
        root = tmp_path / name
        trials = [_walker(number) for number in range(len(scores))]
        synthetic.describe(root, *trials)
        for trial, values in zip(trials, scores, strict=True):
            trained.write(root, trial, values)
        Tracker(uri, name).reconcile(root)

    sweep("first", (10.0, 30.0), (20.0, float("nan")))
    best = client.get_model_version_by_alias(task, models.ALIAS)
    assert (best.tags["score"], best.tags["member"], best.tags["sweep"]) == ("30.0", "1", "first")
    assert "highest last score of 3 finished members" in best.description
    assert "diffcps evaluate models:/walker2d-medium-v2@best" in client.get_registered_model(task).description
    sweep("worse", (5.0, 6.0))
    assert client.get_model_version_by_alias(task, models.ALIAS).version == best.version
    sweep("better", (40.0, 6.0))
    best = client.get_model_version_by_alias(task, models.ALIAS)
    assert (best.tags["score"], best.tags["sweep"]) == ("40.0", "better")
    Tracker(uri, "better").reconcile(tmp_path / "better")
    tracker, worse = Tracker(uri, "worse"), RunFolder(tmp_path / "worse" / "runs" / _walker(0).key)
    assert tracker.register_choice(worse, 0, 4, "fqe") == f"models:/{task}@best-offline"
    version = client.get_model_version_by_alias(task, models.CHOSEN)
    assert (version.tags["score"], version.tags["chosen_by"]) == ("5.0", "fqe")
    assert client.get_model_version_by_alias(task, models.ALIAS).version == best.version
    client.delete_model_version(task, version.version)
    assert len(client.search_model_versions(f"name = '{task}'")) == 3


def test_an_earlier_checkpoint_can_be_the_choice_and_is_never_the_best(uri: str, tmp_path: Path) -> None:
    from mlflow import pyfunc

    task = "halfcheetah-medium-v2"
    trial = trained.config(task)
    trial = trial.replaced(evaluation=dataclasses.replace(trial.evaluation, every=2), keep_checkpoints=2)
    synthetic.describe(tmp_path, trial)
    folder, tracker = trained.write(tmp_path, trial, (10.0, 20.0)), Tracker(uri, "earlier")
    state, _ = folder.load_checkpoint()
    before = {name: value + 0.1 for name, value in state["learner"]["pack"].items()}
    folder.save_checkpoint(state | {"policies": {2: before}, "scores": [[50.0, 60.0], [10.0, 20.0]]}, trial.steps)
    tracker.reconcile(tmp_path)
    for _ in range(2):  # twice: the model and its version are made once
        assert tracker.register_choice(folder, 1, 2, "td") == f"models:/{task}@best-offline"
    chosen = tracker.client.get_model_version_by_alias(task, models.CHOSEN)
    assert {name: chosen.tags[name] for name in ("step", "score", "member", "chosen_by")} == {
        "step": "2", "score": "60.0", "member": "1", "chosen_by": "td"
    }  # fmt: skip
    assert len(all_models(tracker)) == 3
    location = tracking.download(f"models:/{task}@best-offline", uri, tmp_path, tmp_path / "fetched")
    states = np.random.default_rng(0).standard_normal((3, 17))
    given = pyfunc.load_model(str(location)).predict(states, {"candidates": 2, "network": "online", "seed": 5})
    own = diffcps.load_policy(folder.path, 1, step=2).act(states, candidates=2, actor="online", seed=5)
    np.testing.assert_array_equal(given, own)
    tracker.reconcile(tmp_path)  # neither the best nor the trial's own models change
    best = tracker.client.get_model_version_by_alias(task, models.ALIAS)
    assert (best.tags["score"], best.tags["step"]) == ("20.0", "4")
    assert len(all_models(tracker)) == 3
    with pytest.raises(UserError, match="has no policy of step 3"):
        tracker.register_choice(folder, 1, 3, "td")


def _walker(number: int) -> RunConfig:
    return trained.config("walker2d-medium-v2", diffusion_steps=2 + number)


def test_other_data_and_physics_are_another_name() -> None:
    trial = trained.config()
    assert models.registered_name(trial) == "hopper-medium-v2"
    other = trial.replaced(physics="modern", data=trial.data.replaced(source="collected"))
    assert models.registered_name(other) == "hopper-medium-v2-collected-50000-rows-modern"
    assert models.registered_name(trained.config(algorithm="iql")) == "hopper-medium-v2-iql"
    assert models.registered_name(trial, "other") == "hopper-medium-v2-other-data"
    bandit = trained.config("bandit-ring")
    usual = library.configured(get_task("bandit-ring"))
    assert models.registered_name(bandit.replaced(physics="modern", data=usual)) == "bandit-ring"
    fewer = usual.replaced(rows=300, seed=1)
    assert models.registered_name(bandit.replaced(physics="modern", data=fewer)) == "bandit-ring-300-rows-data-seed-1"


def test_a_model_that_is_not_there_is_named(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models:/nothing@best.*[Rr]egistered"):
        tracking.download("models:/nothing@best", uri, tmp_path, tmp_path)
    with pytest.raises(UserError, match="no MLflow store"):
        tracking.download("models:/nothing@best", None, tmp_path / "empty", tmp_path)
