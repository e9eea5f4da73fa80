"""Choosing a policy without an environment: rank statistics by hand, and what `diffcps select` prints."""

import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import run_folders as synthetic
import sweeps
from hypothesis import given
from hypothesis import strategies as st
from test_ways import small

from diffcps import load_policy, stats
from diffcps.cli.select import Select
from diffcps.errors import UserError
from diffcps.report import selection
from diffcps.runs import criteria
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.runs.read import collect
from diffcps.runs.trial import Trial, read_trial
from diffcps.training.measures import offline

NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12)


def test_ranks_and_correlation_by_hand() -> None:
    np.testing.assert_array_equal(stats.ranks([3.0, 1.0, 3.0, 7.0]), [2.5, 1.0, 2.5, 4.0])
    assert float(stats.rank_correlation([1, 2, 3, 4], [10, 20, 30, 41])) == pytest.approx(1.0)
    assert float(stats.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1])) == pytest.approx(-1.0)
    # 1 − 6 Σ d² / (n (n² − 1)) with d = (0, 1, −1, 0)
    assert float(stats.rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert math.isnan(float(stats.rank_correlation([1, 1, 1], [1, 2, 3])))


@given(NUMBERS)
def test_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    x, y = zip(*pairs, strict=True)
    found = float(stats.rank_correlation(x, y))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(float(spearmanr(x, y).statistic), abs=1e-12)


def test_regret_by_hand() -> None:
    scores = [10.0, 50.0, 30.0, 40.0]
    assert stats.regret([4, 1, 3, 2], scores, 1) == 40.0
    assert stats.regret([4, 1, 3, 2], scores, 2) == 20.0
    assert stats.regret([4, 1, 3, 2], scores, 9) == 0.0


def test_an_interval_needs_four_and_holds_a_perfect_ranking() -> None:
    rng = np.random.default_rng(0)
    assert math.isnan(stats.rank_interval([1, 2, 3], [1, 2, 3], rng)[0])
    low, high = stats.rank_interval(range(30), range(30), rng)
    assert low == pytest.approx(1.0) == high
    low, high = stats.rank_interval(rng.normal(size=200), rng.normal(size=200), rng)
    assert low < 0 < high


def test_the_first_by_a_criterion_is_named_with_how_much_to_believe_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(offline, "STEPS", 20):
        for rate in (1e-3, 1e-2):
            sweeps.train(small("diffcps", measures=("critic", "fqe"), learning_rate=rate), tmp_path / "own")
    sweep = collect(tmp_path / "own")
    assert selection.available(sweep) == ["fqe", "critic", "td", "behaviour", "excess", "lambda"]
    for trial in sweep.trials:
        above = trial.metric("constraint")[1] - trial.metric("target_kl")[1]
        assert criteria.newest(trial, "excess") == -above[-1].mean(), "what is less above κ is better"
    (own,) = selection.candidates(sweep, "td").values()
    errors = [error for trial in sweep.trials for error in trial.measure("critic_error")[1][-1]]
    assert [-candidate.value for candidate in own] == sorted(errors)
    first = min(
        (error, trial.key, member)
        for trial in sweep.trials
        for member, error in enumerate(trial.measure("critic_error")[1][-1])
    )
    assert (own[0].trial.key, own[0].member) == first[1:]
    assert own[0].score == read_trial(own[0].trial.folder).scores[-1][own[0].member]
    Select(str(tmp_path / "own"), by="td")()
    said = capsys.readouterr().out.replace("\n", "")
    assert f"member {own[0].member}" in said
    assert own[0].trial.key in said
    Select(str(tmp_path / "own"))()
    assert "Spearman" in capsys.readouterr().out


def test_an_order_by_td_of_unlike_discounts_has_a_caution() -> None:
    known = synthetic.config()
    trials = [Trial("", Path(), "complete", known.with_settings(discount=rate)) for rate in (0.95, 0.99)]
    own = [selection.Candidate(trial, 0, 1, value=0.0, score=0.0) for trial in trials]
    assert "discount" in selection.caution(own, "td")
    assert not selection.caution(own[:1], "td")
    assert not selection.caution(own, "fqe"), "it has one γ for every policy"
    with pytest.raises(UserError, match="discount"):
        build(SweepOptions(tasks=("hopper-medium-v2",), search=("discount=0.9:0.99",), objective="td", hold_out=0.1))


def test_a_method_stands_for_its_settings() -> None:
    """Of several methods only settings in which the trials of one differ are named."""
    configs = [
        synthetic.config(),
        synthetic.config(profile="principled"),
        synthetic.config(profile="principled", grad_norm=1.0),
    ]
    own = [
        selection.Candidate(Trial(trial.key, Path("x"), "complete", trial), 0, 400, value=1.0, score=2.0)
        for trial in configs
    ]
    (column,) = (column for column in selection.ranking(own, "fqe") if column.title == "settings")
    assert column.cells[0] == "diffcps"
    assert [cell.partition(" ")[0] for cell in column.cells] == ["diffcps"] * 3
    assert "grad_norm=1" in column.cells[2]
    assert "covariance" not in "".join(column.cells)


def test_a_criterion_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    sweeps.train(small("diffcps"), tmp_path / "own")
    with pytest.raises(UserError, match="diffcps measure"):
        selection.candidates(collect(tmp_path / "own"), "fqe")
    with pytest.raises(UserError, match="did you mean 'fqe'"):
        selection.candidates(collect(tmp_path / "own"), "fque")


def test_equal_policies_count_once_and_few_are_not_judged() -> None:
    def candidate(value: float, score: float) -> selection.Candidate:
        return selection.Candidate(None, 0, 6, value, score)  # type: ignore[arg-type]

    twice = [candidate(1.0, 5.0), candidate(1.0, 5.0), candidate(2.0, 7.0)]
    found = selection.agreement(twice)
    assert found is not None
    assert (found.policies, found.correlation) == (2, 1.0)
    assert "Too few policies (2)" in selection.verdict(found)
    assert selection.agreement([candidate(1.0, math.nan), candidate(2.0, 3.0)]) is None
    sure = selection.agreement([candidate(float(k), 2.0 * k) for k in range(30)])
    assert "better than chance" in selection.verdict(sure)


def test_a_critics_value_orders_only_what_has_its_unit(tmp_path: Path) -> None:
    for name in ("diffcps", "dql"):
        sweeps.train(small(name, measures=("critic",)), tmp_path / "own")
    sweep = collect(tmp_path / "own")
    assert len(selection.candidates(sweep, "td")["bandit-corners"]) == 4
    with pytest.raises(UserError, match="differ in algorithm"):
        selection.candidates(sweep, "critic")
    assert any(text.startswith("critic of bandit-corners") for text in selection.left_out(sweep))
    assert "critic" not in [name for _, name, _ in selection.agreements(sweep)]


def test_kept_policies_of_earlier_evaluations_are_candidates(tmp_path: Path) -> None:
    with mock.patch.object(offline, "STEPS", 20):
        sweeps.train(small("diffcps", measures=("fqe",), keep_checkpoints=2), tmp_path / "own")
    (own,) = selection.candidates(collect(tmp_path / "own"), "fqe").values()
    assert {(candidate.member, candidate.step) for candidate in own} == {(0, 4), (1, 4), (0, 6), (1, 6)}
    steps, values = own[0].trial.measure("fqe_value")
    for candidate in own:
        row = steps.tolist().index(candidate.step)
        assert candidate.value == values[row][candidate.member]
        assert candidate.score == own[0].trial.scores[row][candidate.member]
    policy = load_policy(own[0].trial.folder, own[0].member, step=own[0].step)
    assert policy.card.step == own[0].step
