"""``diffcps evaluate`` and ``diffcps export``."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import trained

import diffcps
from diffcps import cli
from diffcps.cli.policies import Evaluate, Export, to_json
from diffcps.deploy import film
from diffcps.deploy.evaluate import PARALLEL_EPISODES, EpisodeResults, evaluate
from diffcps.errors import UserError
from diffcps.tasks.registry import task_of
from diffcps.training.evaluation import Evaluator


def command(*arguments: object) -> int:
    """Exit status of ``diffcps`` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        cli.run(cli._Command, lambda parsed: parsed(), [str(word) for word in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_do_not_wait_busily(given: dict[str, str], spins: str | None) -> None:
    """Unless the person says how."""
    variables = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
    rest = {name: value for name, value in os.environ.items() if name not in variables}
    with mock.patch.dict(os.environ, rest | given, clear=True):
        assert command("settings", "bc") == 0
        assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_scores_are_those_of_trainings_evaluation(tmp_path: Path) -> None:
    trial = trained.config("bandit-ring", seeds=2)
    folder = trained.write(tmp_path, trial)
    policy, own = diffcps.load_policy(folder.path, 1), trained.learner(trial)
    own.update(trial.steps)
    results = evaluate(policy, episodes=150, seed=3)
    config = trial.evaluation.replaced(episodes=100)
    expected = Evaluator(task_of(trial), trial.physics, trial.members, config, purpose=6)(own.policy(), 3, 150)
    np.testing.assert_array_equal(results.returns, expected.returns[1])
    np.testing.assert_array_equal(results.scores, task_of(trial).normalised_score(expected.returns[1]))
    found = results.summary()["score"]
    assert found["mean"] == results.scores.mean()
    assert found["std"] == results.scores.std(ddof=1)
    assert found["low"] < found["mean"] < found["high"]
    # the normal approximation of the same interval
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * found["std"] / np.sqrt(150), rel=0.1)
    assert not np.array_equal(evaluate(policy, 150, seed=4).returns, results.returns)


def test_a_pack_is_evaluated_seed_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = trained.config("bandit-ring", seeds=2)
    folder = trained.write(tmp_path / "results" / "single", trial)
    assert command("evaluate", folder.path, "--episodes", 20) == 0
    said = capsys.readouterr().out
    assert "bandit-ring, step 4 of 4" in said
    assert "over 2 seeds" in said
    assert (
        command("evaluate", trial.key, "--results", tmp_path / "results", "--episodes", 20, "--json", "--member", 1)
        == 0
    )
    (values,) = json.loads(capsys.readouterr().out)
    assert (values["member"], values["seed"], values["step"], len(values["returns"])) == (1, 1, 4, 20)
    assert values["return"]["mean"] == pytest.approx(np.mean(values["returns"]))


def test_an_exported_policy_is_evaluated_as_the_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.write(tmp_path, trained.config("bandit-ring", seeds=2))
    assert command("export", folder.path, tmp_path / "out", "--member", 1, "--no-onnx") == 0
    assert "policy.safetensors" in capsys.readouterr().out
    lines = []
    for place in ((folder.path, "--member", 1), (tmp_path / "out",)):
        assert command("evaluate", *place, "--episodes", 20, "--json") == 0
        lines.append(json.loads(capsys.readouterr().out))
    assert lines[0] == lines[1]


def test_a_folder_of_one_policy_is_exported_and_has_no_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.write(tmp_path, trained.config("bandit-ring", seeds=2)).path
    model = tmp_path / "model"  # as MLflow lays one out
    diffcps.load_policy(run, 1).save(model / "data" / "policy")
    monkeypatch.setattr("diffcps.tracking.download", lambda *_: model)
    assert command("export", run, tmp_path / "first", "--no-onnx") == 0
    assert diffcps.load_policy(tmp_path / "first").card.member == 0, "the first, where none is named"
    for number, policy in enumerate((model, "models:/bandit-ring@best", model / "data" / "policy")):
        out = tmp_path / f"out-{number}"
        assert command("export", policy, out, "--no-onnx") == 0
        assert diffcps.load_policy(out).card.member == 1
        capsys.readouterr()
        assert command("export", policy, out, "--no-onnx", "--member", 3) == 2
        assert "member (3)" in " ".join(capsys.readouterr().err.split())


def test_json_has_null_for_what_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    run = trained.write(tmp_path, trained.config("bandit-ring", seeds=1)).path
    assert command("evaluate", run, "--json", "--episodes", 1) == 0
    (values,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert values["return"] == {"mean": values["returns"][0], "std": None, "low": None, "high": None}
    nothing = np.full(3, np.nan)
    diverged = to_json(diffcps.load_policy(run), EpisodeResults(nothing, np.zeros(3, np.int64), nothing))
    assert diverged["returns"] == [None] * 3
    assert diverged["score"] == dict.fromkeys(("mean", "std", "low", "high"))


def test_a_diverged_policy_has_no_episode_to_film() -> None:
    returns, lengths = np.full(PARALLEL_EPISODES + 1, np.nan), np.zeros(PARALLEL_EPISODES + 1, np.int64)
    returns[-1] = 5.0  # in the second round, which is not recorded
    with pytest.raises(UserError, match=r"diverged.*--member"):
        _ = EpisodeResults(returns, lengths, returns).typical
    returns[7] = 4.0
    assert EpisodeResults(returns, lengths, returns).typical == 7


@pytest.mark.parametrize("task", ["hopper-medium-v2", "antmaze-umaze-v2"])
def test_a_film_shows_an_episode(task: str, tmp_path: Path) -> None:
    import imageio_ffmpeg

    try:
        film.prepare()
    except UserError as error:
        pytest.skip(str(error))

    policy = diffcps.load_policy(trained.write(tmp_path, trained.config(task)).path)
    short = replace(task_of(policy.card.run), episode_limit=20)
    results = evaluate(policy, 2, candidates=1, record=True, task=short)
    file = film.write(results, results.typical, tmp_path / "film.mp4")
    frames = imageio_ffmpeg.read_frames(str(file))
    assert next(frames)["size"] == (film.WIDTH, film.HEIGHT)
    pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
    assert len(pictures) >= 1
    assert pictures[0].std() > 10  # not one colour


def test_what_cannot_be_filmed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.write(tmp_path, trained.config("bandit-ring")).path
    assert command("evaluate", folder, "--video", tmp_path / "film.mp4") == 2
    assert "bandit-ring cannot be filmed" in capsys.readouterr().err
    assert command("evaluate", folder, "--video", tmp_path / "film.gif") == 2
    assert ".mp4" in capsys.readouterr().err


def test_without_a_renderer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(UserError, match=r"nonsense: .*apt-get install libegl1"):
        film.find_renderer()


def test_a_renderer_that_hangs_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(UserError, match=r"egl: .* 0.01 s"):
        film.find_renderer(patience=0.01)


def test_mistakes_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.write(tmp_path, trained.config("bandit-ring")).path
    for arguments, said in (
        (("evaluate", folder, "--episodes", 0), "episodes = 0"),
        (("evaluate", folder, "--candidates", 0), "candidates = 0"),
        (("evaluate", tmp_path / "nowhere"), "does not exist"),
        (("evaluate", "s3://bucket/single/runs/x"), "Copy the run folder"),
        (("evaluate", "models:/none@best", "--results", tmp_path), "no MLflow store"),
        (("export", folder, tmp_path / "out", "--member", 7, "--no-onnx"), "member 7"),
    ):
        assert command(*arguments) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_help_reads_like_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in (("evaluate", "95"), ("export", "safetensors")):
        assert command(name, "--help") == 0
        assert word in capsys.readouterr().out
    assert Evaluate.__doc__
    assert Export.__doc__
