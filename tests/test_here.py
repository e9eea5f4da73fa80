"""Trials one after another in this process, as notebooks train them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sweeps

from diffcps import report
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_grid, bandit_trial
from diffcps.studies.study import Page, Scale
from diffcps.sweep.local import train


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sweeps.isolated(tmp_path_factory.mktemp("home")):
        yield


def test_trials_are_trained_once_and_reported(tmp_path: Path) -> None:
    trials = bandit_grid(
        "corners", Scale(steps=4, seeds=1), (2, 3), (0.0, 0.5), steps=(4, 4), measures=(),
        member={"target_kl": 0.3},
    )  # fmt: skip
    points = [(trial.value("diffusion_steps"), trial.value("lambda_clip")) for trial in trials]
    assert points == [(2, 0.0), (2, 0.5), (3, 0.0), (3, 0.5)]
    assert {trial.value("target_kl") for trial in trials} == {0.3}
    steps: list[int] = []
    folder = train(trials, tmp_path / "mine", progress=lambda status: steps.append(status["step"]))
    assert all(RunFolder(folder / "runs" / trial.key).done for trial in trials)
    assert max(steps) == 4
    steps.clear()
    assert train(trials, folder, progress=lambda status: steps.append(status["step"])) == folder
    assert not steps, "what is complete is not trained again"
    built = report.build(folder)
    assert built.sweep.name == "mine"
    assert "| bandit-corners |" in built.text()._repr_markdown_()
    assert built.text("bandit-corners: last score over T and λ-clip")._repr_markdown_().count("\n| ") >= 2
    assert built.picture("learning_curves")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"'learning_curve'.*'learning_curves'"):
        built.picture("learning_curve")
    with pytest.raises(UserError, match=r"'Made of'.*'Made with'"):
        built.text("Made of")
    with pytest.raises(UserError, match="holds another sweep"):
        train(trials[:1], folder)


def test_an_interrupted_trial_is_stopped_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = bandit_grid("ring", Scale(steps=4, seeds=1), (2,), (0.0, 0.5), steps=(4, 4), measures=())

    def interrupt(status: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train(trials, "~/mine", progress=interrupt)
    first, second = (RunFolder(tmp_path / "mine" / "runs" / trial.key) for trial in trials)
    assert first.status["state"] == "stopped"
    assert not second.path.exists(), "the second never began, and did not fail"
    assert train(trials, "~/mine") == tmp_path / "mine"
    assert first.done
    assert second.done


def test_clouds_show_what_the_samples_are(tmp_path: Path) -> None:
    trial = bandit_trial("ring", Scale(steps=2, seeds=1), steps=(2, 2), measures=("samples",), algorithm="bc")
    results = Results.read(train([trial], tmp_path / "one"))
    figure = drawing.clouds({"a title": results.trials[0]})
    (axes,) = figure.axes
    assert axes.get_title() == "a title"
    assert sum(len(line.get_xdata()) for line in axes.lines[1:]) == 1000
    page = Page(("one finding",), {"a table": results.frame[["task", "last"]]}, {"samples": figure})
    assert page.text._repr_markdown_() == "* one finding"
    assert "| bandit-ring |" in page.table("a table")._repr_markdown_()
    assert page.picture("samples")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"'sample'.*'samples'"):
        page.picture("sample")
    assert drawing.behaviours("ring", "corners", rows=20)._repr_png_().startswith(b"\x89PNG")
