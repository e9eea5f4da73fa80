"""Trials that are ended early: the rules by hand, a trial that is ended, and what a search goes by."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import run_folders as synthetic
from hypothesis import given
from hypothesis import strategies as st
from looped import CONFIG, DATA, trained
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_shares import workers
from trials import member

from diffcps import report
from diffcps.errors import UserError
from diffcps.runs import criteria
from diffcps.runs.flags import SweepOptions
from diffcps.runs.plan import Plan, parsed
from diffcps.runs.planning import build
from diffcps.runs.pruning import FEWEST, behind, curve, evaluated_alike
from diffcps.runs.read import collect
from diffcps.runs.trial import read_trial
from diffcps.storage.location import Location
from diffcps.sweep import claim, dashboard
from diffcps.training.divergence import MARGIN, divergence_rule

FLAGS: dict[str, Any] = {
    "preset": "demo", "tasks": ("bandit-ring",), "name": "own", "steps": synthetic.STEPS, "seeds": 2, "trials": 3,
    "evaluate_every": synthetic.EVERY, "episodes": synthetic.EPISODES, "search": ("learning_rate=1e-4:1e-2:log",),
}  # fmt: skip
CURVES = st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=9), min_size=0, max_size=12)


def test_the_median_rule_by_hand() -> None:
    others = [[1.0, 3.0], [2.0, 2.0], [5.0, 7.0], [0.0, 0.0], [9.0]]
    # means of those that have come as far: 2, 2, 6, 0, so the median is 2
    assert behind("median", [1.0, 1.9], others, 2).startswith("its best of 2, 1.9, is below the median of 4, 2")
    assert behind("median", [1.0, 2.0], others, 2) == ""
    assert behind("median", [2.5, 0.0], others, 2) == "", "it has been better"
    assert behind("median", [-9.0], others, 2) == "", "it is in its first half"
    assert behind("median", [1.0, 1.9], others, 4) == "", "it is in its first half"
    assert behind("median", [1.0, 1.9, 1.9], others, 2) == "", "no other has come as far"


def test_the_rungs_by_hand() -> None:
    others = [[3.0, 0.0, 4.0], [1.0, 0.0, 6.0], [2.0, 0.0, 9.0], [4.0, 9.0, 7.0], [5.0, 9.0, 8.0]]
    # of six at the first rung two go on
    assert behind("asha", [4.5], others, 9) == ""
    assert "not in the best third of 6" in behind("asha", [3.9], others, 9)
    assert behind("asha", [4.5, -9.0], others, 9) == "", "no rung"
    assert "at evaluation 3" in behind("asha", [4.5, 9.0, 7.9], others, 9)
    assert behind("asha", [4.5, 9.0, 8.5], others, 9) == ""


def test_a_diverged_policy_is_the_worst() -> None:
    nan = float("nan")
    others = [[1.0, 3.0], [2.0, 2.0], [nan, nan], [3.0, nan], [5.0, 7.0]]
    for order in (others, others[::-1]):
        # means 2, 2, -inf, -inf, 6
        assert "median of 5, 2" in behind("median", [1.0, 1.0], order, 2)
        assert behind("median", [nan, 2.0], order, 2) == ""
        assert "best third" in behind("asha", [nan], order, 9)


def test_only_trials_that_are_evaluated_at_the_same_steps_are_compared() -> None:
    one = synthetic.config()
    assert evaluated_alike(one, synthetic.config(learning_rate=0.1))
    assert not evaluated_alike(one, synthetic.config("walker2d-medium-v2"))
    assert not evaluated_alike(one, synthetic.config(steps=300))
    assert not evaluated_alike(one, one.replaced(evaluation=one.evaluation.replaced(every=50)))


def test_the_curve_of_a_training_metric_has_a_value_for_each_evaluation(tmp_path: Path) -> None:
    trial = synthetic.config("bandit-ring", seeds=2)
    found = read_trial(synthetic.write(tmp_path, trial).path)
    assert len(criteria.along(found, "behaviour")[0]) == 8
    assert curve(found, "behaviour") == [-1.5, -2.5, -3.5, -4.5]
    assert len(curve(found, "last")) == 4


@given(own=st.lists(st.floats(-100, 100), min_size=1, max_size=9), others=CURVES)
def test_the_best_of_all_is_never_ended(own: list[float], others: list[list[float]]) -> None:
    best = [max([*own, *(value for values in others for value in values)]) for _ in own]
    for rule in ("median", "asha", "divergence"):
        assert behind(rule, best, others, 9) == ""  # type: ignore[arg-type]
        if len(others) < FEWEST:
            assert behind(rule, own, others, 9) == ""  # type: ignore[arg-type]


def row(**values: Any) -> Mapping[str, Any]:
    return {f"training/{name}": np.array(value, dtype=float) for name, value in values.items()}


def test_what_no_trial_comes_back_from() -> None:
    discount = float(str(CONFIG.value("discount", 0)))
    rewards = np.abs(DATA.rewards).max()
    trial = CONFIG.replaced(members=(member(5), member(8, discount=0.5)))
    largest = np.array([rewards / (1 - discount), rewards / 0.5])
    ended = divergence_rule(trial, DATA)
    assert ended(row(q_value=largest, behaviour_loss=[1.0, 1.0])) == ""
    assert "seed 8" in ended(row(behaviour_loss=[1.0, np.nan]))
    assert "is not finite" in ended(row(behaviour_loss=[np.inf, 1.0]))
    assert "no return of these data" in ended(row(q_value=MARGIN * largest * 1.01))
    assert ended(row(q_value=MARGIN * largest * [1.01, 0.9])) == "", "one member may still learn"
    capped = [float(str(trial.value("lambda_max", k))) for k in (0, 1)]
    assert "κ" in ended(row(**{"lambda": capped, "violation": [1.0, 0.6]}))
    assert ended(row(**{"lambda": capped, "violation": [1.0, 0.1]})) == ""


def test_a_trial_that_has_diverged_says_so_once(tmp_path: Path) -> None:
    wild = CONFIG.with_settings(critic_learning_rate=1e4)
    folder = trained(tmp_path / "wild", wild)
    (note,) = folder.status["notes"]
    assert "is not finite" in note
    assert "(step 6)" in note
    assert folder.status["state"] == "complete", "only --prune ends it"
    assert trained(tmp_path / "tame").status["notes"] == []


def test_a_trial_ends_where_the_rule_says(tmp_path: Path) -> None:
    asked: list[int] = []

    def rule(step: int, metrics: Mapping[str, Any]) -> str:
        asked.append(step)
        assert {"training/q_value", "evaluation/score"} <= metrics.keys()
        return "it comes to nothing" if step == 12 else ""

    folder = trained(tmp_path / "runs" / CONFIG.key, CONFIG, prune=lambda data: rule)
    assert asked == [6, 12]
    assert folder.done
    assert (folder.status["state"], folder.status["step"], folder.status["saved"]) == ("pruned", 12, 12)
    found = read_trial(folder.path)
    assert (found.state, found.trouble, found.evaluations.steps.tolist()) == ("pruned", "it comes to nothing", [6, 12])
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    trained(folder.path, CONFIG)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before, "it stays so"
    whole = trained(tmp_path / "whole", CONFIG, prune=lambda data: lambda step, metrics: "")
    assert whole.status["state"] == "complete"


def test_a_kill_before_the_status_does_not_undo_it(tmp_path: Path) -> None:
    """The checkpoint says why it is the last; nothing is learned or asked again."""
    folder = trained(tmp_path, CONFIG, prune=lambda data: lambda step, metrics: "left behind" if step == 12 else "")
    before = (folder.path / "metrics.csv").read_bytes()
    folder.write_status({**folder.status, "state": "running"})
    asked: list[int] = []
    trained(tmp_path, CONFIG, prune=lambda data: lambda step, metrics: asked.append(step) or "")
    assert (folder.status["state"], folder.status["pruned"], folder.status["step"]) == ("pruned", "left behind", 12)
    assert (folder.path / "metrics.csv").read_bytes() == before
    assert not asked


def test_workers_that_share_a_trial_end_it_together(tmp_path: Path) -> None:
    ended = workers(2, tmp_path / "shared", fault="prune")
    assert [ended[rank][0] for rank in range(2)] == ["done"] * 2
    status = read_trial(tmp_path / "shared").status
    assert (status["state"], status["step"], status["pruned"]) == ("pruned", 6, "the first worker says so")


def page(sweep: Path) -> str:
    report.build(sweep).write()
    return (sweep / "table.md").read_text("utf-8")


def search(**flags: Any) -> Plan:
    return build(SweepOptions(**(FLAGS | flags)))


def test_a_pruned_trial_is_known_everywhere(tmp_path: Path) -> None:
    plan = search(prune="median")
    here = Location(tmp_path / "own")
    with claim.claimed(here, plan):
        claim.begin(here, plan)
        for rate, state in ((1e-3, "complete"), (2e-3, "pruned"), (3e-3, "complete")):
            trial = plan.trials[0].changed({"learning_rate": rate})
            folder = synthetic.write(here.folder, trial, state, until=200 if state == "pruned" else 400)
            folder.write_status({**folder.status, "pruned": "left behind"})
        claim.settle(here, plan, interrupted=False)
        assert claim.unfinished(here, plan) == 0
    sweep = collect(here.folder)
    assert sweep.state == "complete"
    assert (sweep.counts["pruned"], sweep.counts["failed"]) == (1, 0)
    text = page(here.folder)
    assert "at step 200: left behind" in text
    assert "What went wrong" not in text, "a rule that ends a trial is no failure"
    file = dashboard.write(here, plan, curves=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    (study,) = (optuna.load_study(study_name="bandit-ring", storage=storage),)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [*study.trials[1].intermediate_values] == [100, 200]
    assert parsed(plan.to_dict(), here.folder) == plan


def test_a_search_can_go_by_what_needs_no_environment(tmp_path: Path) -> None:
    plan = search(objective="fqe", episodes=0, measures=("density",), tasks=("bandit-corners",))
    assert plan.trials[0].measures == ("density", "fqe")
    assert plan.trials[0].evaluation.episodes == 0
    assert search(objective="fqe", settings=("measures=critic",)).trials[0].measures == ("critic", "fqe")
    plan = search(objective="behaviour")
    here = Location(tmp_path / "own")
    with claim.claimed(here, plan):
        claim.begin(here, plan)
        for rate, until in ((1e-3, 400), (2e-3, 400)):
            synthetic.write(here.folder, plan.trials[0].changed({"learning_rate": rate}), until=until)
    sweep = collect(here.folder)
    first = sweep.known[0]
    steps, values = criteria.along(first, "behaviour")
    assert steps.tolist() == list(range(50, 401, 50))
    assert values[-1].tolist() == [-4.0, -5.0], "less is better"
    assert criteria.newest(first, "behaviour") == -4.5
    assert curve(first, "behaviour")[-1] == -4.5
    built = report.build(here.folder)
    assert any("behaviour -4.5" in line for line in built.answer)
    assert "No environment has a part in the choice" in page(here.folder)
    assert "Expected online performance" not in page(here.folder)
    assert "| 48 |" in page(here.folder), "episodes of two trials, two seeds, four evaluations of three"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"objective": "fqq"}, "did you mean .fqe"),
        ({"objective": "fqe", "search": ()}, "only a search"),
        ({"prune": "median", "search": ()}, "--prune divergence"),
        ({"objective": "critic", "search": ("discount=0.9,0.99",)}, "cannot order trials that differ in discount"),
        ({"episodes": 0}, "--objective"),
        ({"objective": "score"}, "one of last, fqe"),
        ({"objective": "fqe-error"}, "--hold-out"),
        ({"objective": "lambda", "algorithm": "iql"}, "iql has no lambda"),
        ({"objective": "behaviour", "algorithm": "cql"}, "cql has no behaviour_loss"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        search(**flags)


def test_searches_by_another_rule_are_not_joined() -> None:
    plan = search()
    assert not plan.contains(replace(plan, objective="fqe"))
    with pytest.raises(UserError, match="--objective"):
        plan.merged(replace(plan, prune="asha"))
