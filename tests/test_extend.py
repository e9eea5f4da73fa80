"""More trials for a sweep that exists: a longer search, further tasks, algorithms and values."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sweeps

from diffcps.config import Member, Values
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.report import analysis, results_record
from diffcps.report.results_record import ResultsRecord
from diffcps.runs.flags import SweepOptions
from diffcps.runs.joined import joined
from diffcps.runs.plan import Plan, load
from diffcps.runs.planning import build
from diffcps.runs.read import collect
from diffcps.runs.trial import Trial, TrialState, read_trial
from diffcps.storage.location import Location
from diffcps.sweep import claim
from diffcps.sweep.request import grown
from diffcps.sweep.search import StudyPerTask, point_of

SMALL: dict[str, Any] = {"preset": "demo", "tasks": ("bandit-ring",), "steps": 20, "name": "own"}
SEARCH = SMALL | {"search": ("learning_rate=1e-4:1e-2:log",)}


def plan(**flags: Any) -> Plan:
    return build(SweepOptions(**(SMALL | flags)))


def begun(tmp_path: Path, known: Plan) -> Location:
    here = Location(tmp_path / known.name, tracking_uri="sqlite:///here.db")
    with claim.claimed(here, known):
        claim.begin(here, known)
    return here


def test_a_search_grows_by_more_trials_and_keeps_what_it_knows(tmp_path: Path) -> None:
    short, long = (build(SweepOptions(**SEARCH, trials=count)) for count in (3, 5))
    here = begun(tmp_path, short)
    wanted = grown(long, here.folder, False)
    with claim.claimed(here, wanted):
        claim.begin(here, wanted)
    assert load(here.folder) == long
    assert read_json(here.folder / "sweep.json")["tracking_uri"] == "sqlite:///here.db"
    points = [{"learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    finished = [(short.trials[0].changed(point), 1.0) for point in points]
    assert StudyPerTask(long, finished).remaining == 2
    assert [point_of(trial, long.axes) for trial, _ in finished] == points
    with pytest.raises(UserError, match="5 trials for each task, and --trials 3"):
        grown(short, here.folder, False)


def test_the_same_search_with_more_trials_has_the_same_name() -> None:
    flags = {name: value for name, value in SEARCH.items() if name != "name"}
    first, second, other = (
        build(SweepOptions(**(flags | more))).name for more in ({"trials": 3}, {"trials": 4}, {"steps": 30})
    )
    assert first == second != other


def test_a_grid_grows_by_what_it_does_not_have(tmp_path: Path) -> None:
    first = plan(vary=("hidden_size=8,16",))
    here = begun(tmp_path, first)
    more = plan(tasks=("bandit-ring", "bandit-corners"), vary=("hidden_size=16,32",))
    wanted = grown(more, here.folder, True)
    assert wanted.trials == (*first.trials, *(trial for trial in more.trials if trial not in first.trials))
    assert len(wanted.trials) == 5
    assert [(axis.name, axis.choices) for axis in wanted.axes] == [("hidden_size", (8, 16, 32))]
    with claim.claimed(here, wanted):
        claim.begin(here, wanted)
    assert load(here.folder) == wanted
    assert grown(more, here.folder, True) == wanted, "the same command again continues it"
    with pytest.raises(UserError, match="--extend"), claim.claimed(here, grown(more, here.folder, False)):
        pass


def test_further_seeds_are_a_pack_of_their_own(tmp_path: Path) -> None:
    first = plan(seeds=3, vary=("hidden_size=8,16",))
    here = begun(tmp_path, first)
    more = plan(seeds=5, vary=("hidden_size=8,16",))
    wanted = grown(more, here.folder, True)
    assert wanted.trials[:2] == first.trials
    assert [[member.seed for member in trial.members] for trial in wanted.trials] == [[0, 1, 2]] * 2 + [[3, 4]] * 2
    with claim.claimed(here, wanted):
        claim.begin(here, wanted)
    assert grown(more, here.folder, True) == wanted, "the same command again continues it"
    assert grown(plan(seeds=2, vary=("hidden_size=8,16",)), here.folder, True) == wanted, "fewer seeds add nothing"


def test_further_seeds_of_several_algorithms_stand_beside_those_they_have(tmp_path: Path) -> None:
    """DiffCPS has another way to act beside it, and IQL none: they do already."""
    first, more = (plan(algorithms=("diffcps", "iql"), seeds=count) for count in (3, 5))
    here = begun(tmp_path, first)
    wanted = grown(more, here.folder, True)
    assert [(trial.algorithm, len(trial.members)) for trial in wanted.trials] == [
        ("diffcps", 3), ("iql", 3), ("diffcps", 2), ("iql", 2),
    ]  # fmt: skip


def test_seeds_that_are_an_axis_and_members_that_differ_are_no_further_seeds(tmp_path: Path) -> None:
    here = begun(tmp_path, plan(vary=("seeds=2,4",)))
    with pytest.raises(UserError, match="axis"):
        grown(plan(vary=("seeds=3,6",)), here.folder, True)
    base = plan(seeds=2).trials[0]
    mixed = base.replaced(members=(base.members[0], Member(1, Values({"grad_norm": 5.0}))))
    assert Plan("own", "demo", (mixed,)).merged(Plan("own", "demo", (base,))).trials == (mixed, base)


def test_complete_packs_of_one_trial_are_one_row_equal_to_a_single_pack(tmp_path: Path) -> None:
    """Scores, intervals, measures and training metrics of seeds 0 to 2 and 3 to 4 are those of a pack of five, to the bit."""
    small: dict[str, Any] = {
        "rows": 500,
        "evaluate_every": 10,
        "episodes": 5,
        "settings": ("hidden_size=8", "final_episodes=5"),
    }
    whole = plan(tasks=("bandit-corners",), seeds=5, measures=("samples",), **small).trials[0]
    parts = [whole.replaced(members=members) for members in (whole.members[:3], whole.members[3:])]
    folders = {name: tmp_path / name for name in ("one", "two")}
    sweeps.train(whole, folders["one"])
    for part in parts:
        sweeps.train(part, folders["two"])
    (single,), (both,) = (analysis.rows(collect(folder)) for folder in folders.values())
    assert both.trial.seeds == 5
    for name in ("last", "newest", "best", "first"):
        assert getattr(both, name) == getattr(single, name), name
    assert both.diagnosis.multiplier == single.diagnosis.multiplier
    for name, value in both.measured.items():  # a library's sums may depend on its threads
        assert value == pytest.approx(single.measured[name], rel=1e-6), name
    pd.testing.assert_frame_equal(*(_sorted(row.trial.metrics) for row in (both, single)))
    pd.testing.assert_frame_equal(*(_sorted(row.trial.measures) for row in (both, single)), rtol=1e-6)
    assert both.trial.number("step") == whole.steps
    records = [ResultsRecord.of(results_record.whole(collect(folder))).scores for folder in folders.values()]
    numbers = ["seed", "last", "newest", "best", "moved", "steps", "settings", "command"]
    pd.testing.assert_frame_equal(*(record[numbers] for record in records))
    seconds = [read_trial(folder).status["seconds"] for folder in folders["two"].glob("runs/*")]
    assert both.trial.status["seconds"]["learning"] == pytest.approx(sum(own["learning"] for own in seconds))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return (
        frame.drop(columns="steps_per_second", errors="ignore").sort_values(["step", "member"]).reset_index(drop=True)
    )


def test_packs_that_are_not_complete_or_share_a_seed_stand_alone() -> None:
    base = plan(seeds=5).trials[0]

    def trial(first: int, last: int, state: TrialState = "complete", **changes: Any) -> Trial:
        config = base.replaced(members=base.members[first:last]).changed(changes)
        return Trial(config.key, Path(config.key), state, config)

    def seeds(*found: Trial) -> list[int]:
        return [one.seeds for one in joined(found)]

    assert seeds(trial(0, 3), trial(3, 5)) == [5]
    assert seeds(trial(0, 3), trial(3, 5, "running")) == [3], "it will be in the same row"
    assert seeds(trial(0, 3, "running"), trial(3, 5, "failed")) == [3, 2]
    assert seeds(trial(0, 3), trial(2, 5)) == [3, 3]
    assert seeds(trial(0, 3), trial(3, 5, discount=0.5)) == [3, 2]
    assert joined([Trial("own", Path("own"), "damaged")]) == []


def test_what_changes_no_result_makes_no_other_trial(tmp_path: Path) -> None:
    first = plan()
    here = begun(tmp_path, first)
    wanted = grown(
        plan(tasks=("bandit-ring", "bandit-corners"), keep_best=True, checkpoint_minutes=1.0), here.folder, True
    )
    assert [trial.task for trial in wanted.trials] == ["bandit-ring", "bandit-corners"]
    assert wanted.trials[0] == first.trials[0]


@pytest.mark.parametrize(
    ("first", "more", "said"),
    [
        (SEARCH, SEARCH | {"seeds": 5}, "searches bandit-ring with other settings"),
        ({}, {"acting": ("actor=average",)}, "one protocol"),
        ({}, {"seeds": 5, "measures": ("samples",)}, "one protocol"),
        ({}, {"algorithms": ("iql",), "episodes": 7}, "one protocol"),
        ({}, {"search": ("learning_rate=1e-4:1e-2:log",)}, "a grid of trials, and this is a search"),
        (SEARCH, SEARCH | {"search": ("grad_norm=1:9",)}, "grad_norm in 1 to 9"),
        (SEARCH, SEARCH | {"steps": 30}, "searches bandit-ring with other settings"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, first: dict[str, Any], more: dict[str, Any], said: str) -> None:
    here = begun(tmp_path, plan(**first))
    with pytest.raises(UserError, match=said):
        grown(plan(**more), here.folder, True)


def test_there_must_be_a_sweep_to_extend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no sweep"):
        grown(plan(), tmp_path / "own", True)
    search = build(SweepOptions(**SEARCH, trials=3))
    assert replace(search, search=4).contains(search)
    assert not search.contains(replace(search, search=4))
