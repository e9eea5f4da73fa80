"""Every study: its grids are trials that can run, and a handful of steps of its quick grid end in a page."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import sweeps

from diffcps import cli, studies
from diffcps.cli.study import StudyCommand
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.plan import Plan
from diffcps.storage.location import Location
from diffcps.studies import NAMES, robustness, toy
from diffcps.studies.results import Results
from diffcps.studies.study import Scale, markdown, write
from diffcps.sweep.claim import begin
from diffcps.training import measures
from diffcps.training.measures import offline


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sweeps.isolated(tmp_path_factory.mktemp("home")):
        yield


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_grid_holds_trials_that_can_run_each_once(name: str, quick: bool) -> None:
    trials = studies.get(name).trials(StudyCommand(quick=quick))  # as the command does: flags are more than a scale
    assert len({trial.key for trial in trials}) == len(trials) >= 2
    for trial in trials:
        measures.check(trial)
        assert len({member.seed for member in trial.members}) == len(trial.members)
        assert (trial.value("behaviour_steps") or 0) < trial.steps
    assert studies.get(name).trials(Scale(quick=quick)) == trials
    for trial in studies.get(name).trials(Scale(quick=quick, seeds=1)):
        alike = [member.replaced(seed=0) for member in trial.members]
        assert len(set(alike)) == len(alike), "one seed of each kind"


def test_the_toy_is_the_papers() -> None:
    trials = studies.get("toy").trials(Scale())
    assert {trial.value("diffusion_steps") for trial in trials} == {5, 15, 25, 30, 50}
    assert {trial.task for trial in trials} == {"bandit-ring"}
    assert {trial.steps for trial in trials} == {20_000}
    frozen = [trial for trial in trials if toy.method(trial) == "Diffusion-QL"]
    assert {trial.algorithm for trial in frozen} == {"dql"}
    assert len({toy.method(trial) for trial in trials}) == len(toy.METHODS)


def test_every_pair_of_remedies_meets_in_all_combinations() -> None:
    design = np.array(robustness.DESIGN)
    assert design.shape == (8, len(robustness.FACTORS))
    for one, other in itertools.combinations(design.T, 2):
        assert Counter(zip(one.tolist(), other.tolist(), strict=True)) == dict.fromkeys(
            itertools.product((False, True), repeat=2), 2
        )


def test_effects_of_remedies_are_those_that_were_put_in() -> None:
    """Two data sets, three seeds: every factor adds a number of its own, one arm of a third data set is missing."""
    gains = dict(zip([factor.name for factor in robustness.FACTORS], (8.0, -4.0, 2.0, 1.0, 0.0, -0.5), strict=True))
    rows = []
    for task, seed, own in itertools.product(("a", "b", "c"), range(3), robustness.DESIGN):
        settings = {k: v for f, has in zip(robustness.FACTORS, own, strict=True) for k, v in f.settings(has).items()}
        score = 30.0 + seed + sum(gain for gain, has in zip(gains.values(), own, strict=True) if has)
        if (task, own) != ("c", robustness.DESIGN[0]):
            rows.append({"task": task, "seed": seed, "last": score, "arm": str(own), **settings})
    arms = pd.DataFrame(rows)
    has = pd.DataFrame({factor.name: factor.found(arms) for factor in robustness.FACTORS})
    found = robustness._effects(arms, has, "last")
    assert set(found["task"]) == {"a", "b", robustness.OVER}
    for row in found.itertuples():
        assert (row.gain, row.low, row.high) == pytest.approx((gains[row.factor],) * 3)
    arms["behaviour_steps"] = 25
    said = robustness._winner(found, arms)
    assert "layer norms in the critic, learning rates fall along a cosine, a slack of .02 instead of .1." in said
    assert "--set normalise=false" in said


def small(name: str) -> tuple[RunConfig, ...]:
    """The quick grid with 24 steps of one seed, one evaluation and few rows."""
    trials = studies.get(name).trials(Scale(quick=True, seeds=1, steps=24, diffusion_steps=(2,)))
    return tuple(
        # what is held out are whole trajectories, and in 100 rows there is one
        trial.replaced(
            data=trial.data.replaced(rows=3000 if trial.data.hold_out else 100),
            evaluation=trial.evaluation.replaced(every=trial.steps),
        )
        for trial in trials
    )


def run_small(name: str, folder: Path) -> Path:
    """Train ``small`` without Ray."""
    trials = small(name)
    folder.mkdir()
    begin(Location(folder), Plan(name, "study", trials))
    for trial in trials:
        sweeps.train(trial, folder)
    return folder


@pytest.fixture
def briefly() -> Iterator[None]:
    """A fitted Q of a few steps."""
    with mock.patch.object(offline, "STEPS", 20):
        yield


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("name", NAMES)
def test_a_study_ends_in_a_page(name: str, tmp_path: Path) -> None:
    folder = run_small(name, tmp_path / name)
    results = Results.read(folder)
    assert results.missing == 0
    paths = write(studies.get(name), results, folder)
    assert all(path.stat().st_size > 500 for path in paths)
    assert sum(path.suffix == ".png" for path in paths) >= 1
    text = (folder / "study.md").read_text(encoding="utf-8")
    findings = [line for line in text.splitlines() if line.startswith("* ")]
    assert findings
    assert not any("nan" in finding for finding in findings), findings
    frame = pd.read_csv(folder / "study.csv")
    assert len(frame) == sum(len(trial.config.members) for trial in results.trials)
    assert frame["last"].notna().all()


def test_unfinished_trials_are_named_and_left_out(tmp_path: Path) -> None:
    trials = small("covariance")
    begin(Location(tmp_path), Plan("covariance", "study", trials))
    for trial in trials[:2]:
        sweeps.train(trial, tmp_path)
    results = Results.read(tmp_path)
    assert results.missing == len(trials) - 2
    write(studies.get("covariance"), results, tmp_path)
    assert f"**{len(trials) - 2} trials not complete" in (tmp_path / "study.md").read_text(encoding="utf-8")


def test_unknown_studies_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="did you mean 'covariance'"):
        studies.get("covarianc")
    with pytest.raises(SystemExit) as ended:
        cli.run(StudyCommand, lambda command: command(), ["entropie"])
    assert ended.value.code == 2
    assert "did you mean 'entropy'" in " ".join(capsys.readouterr().err.split())


def test_tables_of_a_page() -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1.23456, float("nan")], "n": [1, 2]})
    expected = ["| a | b | n |", "| :-- | --: | --: |", "| x | 1.235 | 1 |", "| y | – | 2 |"]
    assert markdown(frame).splitlines() == expected


def test_a_wide_table_of_few_rows_lies_on_its_side() -> None:
    wide = pd.DataFrame([{f"c{i}": 10.0 * row + i for i in range(11)} for row in range(2)])
    lines = markdown(wide).splitlines()
    assert lines[:3] == ["| c0 | 0 | 10 |", "| :-- | --: | --: |", "| c1 | 1 | 11 |"]
    assert len(lines) == 12
    assert markdown(wide.iloc[:, :10]).startswith("| c0 | c1 |")
