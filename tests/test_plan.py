"""From flags to trials, and from trials to a searcher."""

import io
import itertools
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from ray.tune.search import Searcher
from rich.console import Console

from diffcps.config import DataConfig, EvaluationConfig, Member, RunConfig
from diffcps.errors import UserError
from diffcps.files import write_json
from diffcps.runs.commands import resume_command, typed_command
from diffcps.runs.flags import SweepOptions
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import OBJECTIVE, Axis, Plan, load
from diffcps.runs.planning import DEMO_TASKS, build
from diffcps.storage.location import Location
from diffcps.sweep.data_sets import read_data
from diffcps.sweep.dry_run import Estimator
from diffcps.sweep.search import StudyPerTask, grid_searcher, point_of
from diffcps.tasks import paper
from diffcps.tasks.registry import TASKS, get_task
from diffcps.training.learner import Learner

TWO = "bandit-ring", "pointmaze-umaze"
POINT = "diffusion_steps", "lambda_clip", "target_kl"


def plan_of(**flags: Any) -> Plan:
    return build(SweepOptions(**flags))


def only(plan: Plan) -> RunConfig:
    (trial,) = plan.trials
    return trial


# Presets --------------------------------------------------------------------------------------------------------------


def test_paper_is_the_table() -> None:
    """The default: 15 tasks, 5 seeds each, and every hyper-parameter of the paper's Table 3."""
    plan = plan_of()
    rows = paper.rows("hyperparameters")
    assert plan.preset == "paper"
    assert plan.search is None
    assert plan.count == len(plan.trials) == 15
    assert [trial.task for trial in plan.trials] == [row["task"] for row in rows]
    for trial, row in zip(plan.trials, rows, strict=True):
        assert [member.seed for member in trial.members] == [0, 1, 2, 3, 4]
        assert not any(member.settings for member in trial.members)
        assert trial.value("learning_rate") == float(row["lr"])
        for name in ("lambda_init", "lambda_clip", "target_kl", "grad_norm"):
            assert trial.value(name) == float(row[name])
        assert trial.value("diffusion_steps") == int(row["T"])
        assert trial.value("policy_freq") == int(row["policy_freq"])
        assert trial.value("max_q_backup") == (row["max_q_backup"] == "true")
        assert trial.steps == 1000 * int(row["epochs"])
        assert trial.evaluation == EvaluationConfig(50_000, int(row["eval_episodes"]), 50)
        assert trial.data == DataConfig("d4rl", get_task(trial.task).rows)
        assert trial.physics == "d4rl"
        assert trial.profile == "official"


def test_ablation_is_the_papers_grid() -> None:
    """T of figure 3 and λ-clip of figures 4 and 5, for every task; all else as in the table."""
    plan = plan_of(preset="ablation")
    assert plan.count == len(plan.trials) == 15 * 3 * 5
    assert len({trial.key for trial in plan.trials}) == plan.count
    published = {int(row["T"]) for row in paper.rows("ablation_diffusion_steps") if row["method"] == "DiffCPS"}
    clips: dict[bool, set[float]] = {True: set(), False: set()}
    for row in paper.rows("ablation_lambda_clip"):
        clips[row["task"].startswith("antmaze")].add(float(row["lambda_clip"]))
    usual = {trial.task: trial for trial in plan_of().trials}
    for task, base in usual.items():
        trials = [trial for trial in plan.trials if trial.task == task]
        points = [(t.value("diffusion_steps"), t.value("lambda_clip")) for t in trials]
        assert points == list(itertools.product(sorted(published), sorted(clips[task.startswith("antmaze")])))
        for trial in trials:
            assert trial.changed({name: base.value(name) for name in POINT}) == base


def test_search_leaves_three_settings_open() -> None:
    plan = plan_of(preset="search", trials=7)
    assert plan.search == 7
    assert [(axis.name, str(axis)) for axis in plan.axes] == [
        ("diffusion_steps", "5, 10, 15, 20"), ("lambda_clip", "0 to 1"), ("target_kl", "0.01 to 0.3 (logarithmic)"),
    ]  # fmt: skip
    assert len(plan.trials) == 15
    assert plan.count == 15 * 7
    assert plan.trials == plan_of().trials


def test_demo_is_small_and_needs_no_download() -> None:
    """A bandit and a pendulum, 3 seeds each."""
    plan = plan_of(preset="demo")
    assert [trial.task for trial in plan.trials] == list(DEMO_TASKS)
    for trial in plan.trials:
        assert [member.seed for member in trial.members] == [0, 1, 2]
        assert trial.data.source == "collected"
        assert trial.steps <= 10_000
        assert trial.steps // trial.evaluation.every >= 5, "a curve needs some points"
        assert trial.steps // trial.log_every >= 20


@pytest.mark.parametrize("preset", ["paper", "search", "ablation", "demo"])
@pytest.mark.parametrize("name", TASKS)
def test_every_preset_takes_every_task(preset: str, name: str) -> None:
    plan = plan_of(preset=preset, tasks=(name,), seeds=1, steps=10)
    assert {trial.task for trial in plan.trials} == {name}
    assert all(trial.steps == 10 for trial in plan.trials)
    assert len({trial.key for trial in plan.trials}) == len(plan.trials)


# Flags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "demo", "ablation", "search"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"seeds": 3}, lambda t: [m.seed for m in t.members] == [0, 1, 2]),
        ({"steps": 50}, lambda t: t.steps == 50),
        ({"batch_size": 32}, lambda t: t.value("batch_size") == 32),
        ({"precision": "bf16"}, lambda t: t.value("precision") == "bf16"),
        ({"evaluate_every": 77}, lambda t: t.evaluation.every == 77),
        ({"episodes": 3}, lambda t: t.evaluation.episodes == 3),
        ({"candidates": 2}, lambda t: t.evaluation.candidates == 2),
        ({"data": "collected"}, lambda t: t.data.source == "collected"),
        ({"data": "d4rl"}, lambda t: t.data.source == "d4rl"),
        ({"rows": 123}, lambda t: t.data.rows == (123 if t.data.source == "collected" else get_task(t.task).rows)),
        ({"physics": "modern"}, lambda t: t.physics == "modern"),
        ({"checkpoint_minutes": 9.5}, lambda t: t.checkpoint_minutes == 9.5),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_flag_overrides_the_preset_and_nothing_else(preset: str, flags: dict[str, Any], expected: Any) -> None:
    usual = plan_of(preset=preset, tasks=("hopper-medium-v2",))
    plan = plan_of(preset=preset, tasks=("hopper-medium-v2",), **flags)
    assert all(expected(trial) for trial in plan.trials)
    assert len(plan.trials) == len(usual.trials)
    follows = {"steps": {"steps", "evaluation", "log_every"}, "seeds": {"members"}}
    groups = {"batch_size": "settings", "precision": "settings", "data": "data", "rows": "data", "physics": "physics"}
    groups |= {"evaluate_every": "evaluation", "episodes": "evaluation", "candidates": "evaluation"}
    (name,) = flags
    allowed = follows.get(name, {groups.get(name, name)})
    for trial, before in zip(plan.trials, usual.trials, strict=True):
        differing = {key for key, value in trial.to_dict().items() if value != before.to_dict()[key]}
        assert differing <= allowed


def test_flags_that_mean_nothing_to_a_task_do_not_change_its_key() -> None:
    """A file is read whole, and PointMaze and the bandits have but one physics: finished work is not done again."""
    assert plan_of(tasks=("hopper-medium-v2",), rows=3) == plan_of(tasks=("hopper-medium-v2",))
    assert only(plan_of(tasks=("hopper-medium-v2",), data="collected", rows=3)).data.rows == 3
    for task in "pointmaze-umaze", "bandit-ring":
        assert plan_of(tasks=(task,), physics="d4rl") == plan_of(tasks=(task,))


def test_a_profile_is_of_the_algorithms_that_have_it() -> None:
    """Of several; a single algorithm must have it, and one of several."""
    flags: dict[str, Any] = {"tasks": ("hopper-medium-v2",), "algorithms": ("diffcps", "iql")}
    found = plan_of(**flags, profile="robust")
    assert [trial.method for trial in found.trials] == ["diffcps robust", "iql"]
    assert found.trials[1] == plan_of(**flags).trials[1]
    varied = plan_of(**flags, vary=("profile=official,robust",))
    assert [trial.method for trial in varied.trials] == ["diffcps", "diffcps robust", "iql"]
    with pytest.raises(
        UserError, match="no algorithm here has it: diffcps has official, principled, robust; iql has official"
    ):
        plan_of(**flags, profile="sturdy")
    with pytest.raises(UserError, match="with iql it must be one of 'official'"):
        plan_of(tasks=("hopper-medium-v2",), algorithm="iql", profile="robust")


def test_several_values_make_a_grid() -> None:
    plan = plan_of(tasks=TWO, diffusion_steps=(5, 10), lambda_clip=(0.0, 0.3), target_kl=(0.05, 0.1))
    assert plan.count == 2 * 8
    points = [tuple(trial.value(name) for name in POINT) for trial in plan.trials if trial.task == TWO[1]]
    assert points == list(itertools.product((5, 10), (0.0, 0.3), (0.05, 0.1)))
    assert not any(member.settings for trial in plan.trials for member in trial.members)


def test_single_values_override_a_grid() -> None:
    plan = plan_of(preset="ablation", tasks=("hopper-medium-v2",), diffusion_steps=(7,), lambda_clip=(0.25,))
    assert [only(plan).value(name) for name in POINT] == [7, 0.25, 0.05]


def test_value_or_task_given_twice_is_one_trial() -> None:
    plan = plan_of(tasks=("bandit-ring", "bandit-ring"), diffusion_steps=(5, 5), lambda_clip=(0.0, 0, -0.0))
    assert plan.count == 1
    plan = plan_of(preset="search", tasks=("bandit-ring",), diffusion_steps=(5, 5, 10))
    assert plan.axes[-1] == Axis("diffusion_steps", (5, 10))


def test_search_of_a_small_space_is_no_longer_than_the_space() -> None:
    flags = {"preset": "search", "tasks": TWO, "diffusion_steps": (5, 10), "target_kl": (0.05,)}
    assert plan_of(**flags, lambda_clip=(0.1, 0.2)).count == 2 * 4
    assert plan_of(**flags, lambda_clip=(0.1, 0.2), trials=3).count == 2 * 3
    assert plan_of(**flags).count == 2 * 30


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000, 20_000, 3_000_000])
def test_short_runs_are_still_judged_and_kept(steps: int) -> None:
    """Five evaluations at least, and rows for a curve; a long run keeps the preset's own intervals."""
    trial = only(plan_of(tasks=("hopper-medium-v2",), steps=steps))
    assert trial.steps == steps
    assert -(-steps // trial.evaluation.every) >= min(5, steps)
    assert -(-steps // trial.log_every) >= min(50, steps)
    usual = only(plan_of(tasks=("hopper-medium-v2",)))
    assert trial.evaluation.every <= usual.evaluation.every
    if steps > usual.steps:
        assert trial == usual.replaced(steps=steps)


def test_seeds_are_the_tasks_own_members() -> None:
    trial = only(plan_of(tasks=("antmaze-large-play-v0",), seeds=2))
    assert trial.members == (Member(0), Member(1))
    assert trial.settings.items() >= get_task("antmaze-large-play-v0").settings.items()


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tasks": ("hoper-medium-v2",)}, r"'hoper-medium-v2'; did you mean 'hopper-medium-v2'\?"),
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": -2}, "seeds = -2"),
        ({"trials": 0, "preset": "search"}, "--trials 0"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": -1}, "steps = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"diffusion_steps": (5, 0)}, "diffusion_steps = 0"),
        ({"lambda_clip": (0.1, -0.1)}, r"lambda_clip = -0\.1"),
        ({"lambda_clip": (float("nan"),)}, "lambda_clip = nan"),
        ({"target_kl": (-1.0,)}, r"target_kl = -1\.0"),
        ({"target_kl": (float("inf"),)}, "target_kl = inf"),
        ({"evaluate_every": 0}, "every = 0"),
        ({"episodes": -1}, "episodes = -1"),
        ({"candidates": 0}, "candidates = 0"),
        ({"rows": 0}, "rows = 0"),
        ({"checkpoint_minutes": 0.0}, "checkpoint_minutes = 0"),
        ({"data": "minari", "tasks": ("bandit-ring",)}, "bandit-ring has no data of source 'minari', only 'collected'"),
        ({"data": "d4rl", "preset": "demo"}, "bandit-corners has no data of source 'd4rl', only 'collected'"),
    ],
)
@pytest.mark.parametrize("preset", ["paper", "search"])
def test_impossible_values_are_refused(preset: str, flags: dict[str, Any], said: str) -> None:
    """In every preset, also where one of several values is impossible and others are left open."""
    with pytest.raises(UserError, match=said):
        plan_of(**({"preset": preset} | flags))


@pytest.mark.parametrize("name", [".", "..", "../x", "a/b", "a b", "-x", "λ", "x\n", ".hidden"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--name .*letters, digits"):
        plan_of(tasks=TWO, name=name)


# Names, and to JSON and back ------------------------------------------------------------------------------------------


def test_name_says_what_runs() -> None:
    """The same flags give the same name in every process; where to run does not matter, what to run does."""
    usual = plan_of(tasks=TWO)
    assert usual.name.startswith("paper-")
    where = {"results": Path("x"), "cpus_per_trial": 2.0, "gpus_per_trial": 0.5, "concurrent": 1, "quiet": True}
    where |= {"data_dir": (Path("y"),), "tracking_uri": "http://x", "address": "auto"}
    assert plan_of(tasks=TWO, **where) == usual
    others = {"seeds": 2}, {"steps": 7}, {"lambda_clip": (0.7,)}, {"preset": "search"}, {"batch_size": 3}
    names = [plan_of(tasks=TWO, **flags).name for flags in others]
    names += [plan_of(tasks=TWO[::-1]).name, usual.name]
    assert len(set(names)) == len(names)
    assert plan_of(preset="search", tasks=TWO, trials=3).name in names, "more trials of a search are the same search"
    assert plan_of(tasks=TWO, name="Mine-1.2_x").name == "Mine-1.2_x"
    code = (
        "from diffcps.runs.flags import SweepOptions; from diffcps.runs.planning import build; "
        f"print(build(SweepOptions(tasks={TWO})).name)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == usual.name


@pytest.mark.parametrize(
    "flags",
    [{}, {"preset": "ablation"}, {"preset": "demo"}, {"preset": "search", "lambda_clip": (0.1, 0.2)}],
    ids=lambda flags: flags.get("preset", "paper"),
)
def test_plan_round_trip(tmp_path: Path, flags: dict[str, Any]) -> None:
    plan = plan_of(**flags)
    folder = tmp_path / plan.name
    folder.mkdir()
    write_json(folder / "sweep.json", plan.to_dict() | {"command": ["x"], "created": "now"})
    back = load(folder)
    assert back == plan
    assert [trial.key for trial in back.trials] == [trial.key for trial in plan.trials]


def test_unknown_sweep_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'x'.*no sweep"):
        load(tmp_path / "x")
    for name in "one", "two":
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "sweep.json", {})
    with pytest.raises(UserError, match=r"It holds: one, two\."):
        load(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"name": "x", "preset": "p", "trials": [{"task": "a", "stepz": 1}], "axes": [], "search": null}',
     '{"name": "x", "preset": "p", "trials": 5, "axes": [], "search": null}',
     '{"name": "x", "preset": "p", "trials": [], "axes": [{"name": "x", "color": []}], "search": 3}',
     '{"name": "x", "preset": "p", "trials": [], "axes": [], "search": null}'],
)  # fmt: skip
def test_broken_sweep_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json"):
        load(tmp_path)


# Searchers ------------------------------------------------------------------------------------------------------------


def test_grid_runs_every_trial_once_in_order() -> None:
    plan = plan_of(preset="ablation", tasks=TWO)
    keys = [trial.key for trial in plan.trials]
    assert len(keys) == 30
    searcher = grid_searcher(keys)
    suggested = []
    for number, key in enumerate(keys):
        point = searcher.suggest(str(number))
        suggested.append(point["key"])
        assert plan.trial(point).key == key
        if number % 3 == 1:
            searcher.on_trial_complete(str(number - 1), {OBJECTIVE: float(number)})
        if number % 7 == 2:
            searcher.on_trial_complete(str(number - 1), error=True)
    assert suggested == keys


PLAN = plan_of(preset="search", tasks=TWO, trials=6)
ONE = replace(PLAN, trials=PLAN.trials[:1])


def study_of(search: StudyPerTask, task: str) -> optuna.Study:
    study = search.studies[task]._ot_study
    assert study is not None
    return study


def drain(search: StudyPerTask, prefix: str = "t", most: int = 1000) -> list[dict[str, Any]]:
    """Every suggestion up to the end, none of them finished meanwhile."""
    points = []
    for number in range(most):
        point = search.suggest(f"{prefix}{number}")
        if point == Searcher.FINISHED:
            break
        assert point.pop("requested_at") <= time.time()
        points.append(point)
    return points


def test_every_task_gets_its_trials_in_turns() -> None:
    search = StudyPerTask(PLAN)
    assert search.remaining == 12
    points = drain(search)
    assert [point["task"] for point in points] == list(TWO) * 6
    assert search.remaining == 0
    assert search.suggest("more") == Searcher.FINISHED
    for point in points:
        trial = PLAN.trial(point)
        assert point_of(trial, PLAN.axes) == {name: value for name, value in point.items() if name != "task"}
        assert point["diffusion_steps"] in (5, 10, 15, 20)
        assert 0 <= point["lambda_clip"] <= 1
        assert 0.01 <= point["target_kl"] <= 0.3
        assert trial.task == point["task"]
    assert len({PLAN.trial(point).key for point in points}) == 12


def test_scores_reach_their_own_study() -> None:
    search = StudyPerTask(PLAN)
    for number, score in enumerate([1.0, 2.0, 3.0, 4.0]):
        search.suggest(str(number))
        search.on_trial_complete(str(number), {OBJECTIVE: score})
    assert [trial.value for trial in study_of(search, TWO[0]).trials] == [1.0, 3.0]
    assert [trial.value for trial in study_of(search, TWO[1]).trials] == [2.0, 4.0]
    assert study_of(search, TWO[1]).best_value == 4.0, "larger is better"


@pytest.mark.parametrize(
    ("result", "error"),
    [({OBJECTIVE: float("nan")}, False), ({OBJECTIVE: None}, False), ({}, False), (None, False), (None, True),
     ({OBJECTIVE: 3.0}, True)],
)  # fmt: skip
def test_what_is_no_score_is_a_failure(result: Any, error: bool) -> None:
    """Told as failed, so that no trial is left running for ever and none counts as good."""
    search = StudyPerTask(PLAN)
    search.suggest("a")
    search.on_trial_complete("a", result, error)
    (trial,) = study_of(search, TWO[0]).trials
    assert trial.state == optuna.trial.TrialState.FAIL
    assert search.remaining == 11


def finished_trials(count: int) -> list[tuple[RunConfig, float]]:
    """What a launch leaves behind: the first trials that a fresh search suggests, with scores."""
    points = drain(StudyPerTask(PLAN), most=count)
    return [(PLAN.trial(point), float(number)) for number, point in enumerate(points)]


@pytest.mark.parametrize(("done", "open_"), [(1, 0), (3, 0), (5, 2), (0, 4), (12, 0), (1, 1)])
def test_rebuilt_search_goes_on(done: int, open_: int) -> None:
    """Known scores are told, open trials come first, nothing known is suggested again, and the counts add up."""
    known = finished_trials(done + open_)
    finished, unfinished = known[:done], [trial for trial, _ in known[done:]]
    search = StudyPerTask(PLAN, finished, unfinished)
    assert search.remaining == 12 - done
    for task in TWO:
        told = [trial.value for trial in study_of(search, task).trials if trial.state.is_finished()]
        assert told == [score for trial, score in finished if trial.task == task]
    again = [PLAN.trial(point) for point in drain(search)]
    assert len(again) == 12 - done
    assert len({trial.key for trial in again}) == len(again)
    assert {trial.key for trial in again}.isdisjoint(trial.key for trial, _ in finished)
    for task in TWO:
        waiting = [trial for trial in unfinished if trial.task == task]
        assert [trial for trial in again if trial.task == task][: len(waiting)] == waiting
    counts = Counter(trial.task for trial in [*again, *(trial for trial, _ in finished)])
    assert counts == {task: 6 for task in TWO}


def test_many_open_trials_do_not_end_a_search() -> None:
    """A big cluster that dies early leaves none finished: the rebuilt study must not draw its first points again."""
    long = replace(ONE, search=40)
    points = drain(StudyPerTask(long), most=30)
    again = drain(StudyPerTask(long, (), [PLAN.trial(point) for point in points]))
    assert again[:30] == points
    assert len(again) == 40


def test_finished_without_a_score_is_a_failure() -> None:
    (trial, _), *_ = finished_trials(1)
    search = StudyPerTask(PLAN, [(trial, float("nan"))])
    (told,) = study_of(search, trial.task).trials
    assert told.state == optuna.trial.TrialState.FAIL
    assert trial.key not in {PLAN.trial(point).key for point in drain(search)}


def test_more_finished_than_asked_for() -> None:
    search = StudyPerTask(replace(PLAN, search=2), finished_trials(10))
    assert search.remaining == 0
    assert search.suggest("a") == Searcher.FINISHED


def test_small_space_is_tried_once_and_whole() -> None:
    """Two trials of one point would write to one run folder at the same time; Optuna alone repeats its favourite."""
    plan = plan_of(
        preset="search", tasks=TWO, diffusion_steps=(5, 10), lambda_clip=(0.0, 0.1, 0.2), target_kl=(0.03, 0.1)
    )
    search, seen = StudyPerTask(plan), []

    def score(point: dict[str, Any]) -> float:
        return float(5 * point["lambda_clip"] - point["diffusion_steps"])

    for number in range(2 * 12):
        point = search.suggest(str(number))
        seen.append(plan.trial(point))
        search.on_trial_complete(str(number), {OBJECTIVE: score(point)}, error=number == 20)
    assert search.suggest("more") == Searcher.FINISHED
    assert len({trial.key for trial in seen}) == 24
    for task in TWO:
        told = [t for t in study_of(search, task).trials if t.state == optuna.trial.TrialState.COMPLETE]
        assert len(told) == 12 - (task == seen[20].task)
        assert all(trial.value == score(trial.params) for trial in told), "scores stand at their own points"

    done = [(trial, 1.0) for trial in seen[:17]]
    rest = [plan.trial(point) for point in drain(StudyPerTask(plan, done))]
    assert {trial.key for trial in rest} == {trial.key for trial in seen[17:]}
    assert len(rest) == 7


def test_search_of_an_exhausted_space_ends() -> None:
    """A plan that asks for more than there is (one written by hand) ends early instead of repeating itself."""
    few = Axis("diffusion_steps", (5,)), Axis("lambda_clip", (0.1, 0.2)), Axis("target_kl", (0.05,))
    assert len(drain(StudyPerTask(replace(PLAN, axes=few)))) == 2 * 2


def test_unknown_values_are_chosen_from_the_given() -> None:
    axes = (
        Axis("diffusion_steps", (5,)),
        Axis("lambda_clip", (0.25, 0.75)),
        Axis("target_kl", low=0.01, high=0.3, log=True),
    )
    for point in drain(StudyPerTask(replace(ONE, axes=axes, search=20))):
        assert point["diffusion_steps"] == 5
        assert point["lambda_clip"] in (0.25, 0.75)


def test_search_finds_what_is_good() -> None:
    """60 trials of a smooth score: the second half is better than the first, and near the optimum."""
    search, scores = StudyPerTask(replace(ONE, search=60)), []
    for number in range(60):
        point = search.suggest(str(number))
        scores.append(-abs(point["lambda_clip"] - 0.7) - 0.01 * point["diffusion_steps"])
        search.on_trial_complete(str(number), {OBJECTIVE: scores[-1]})
    assert sum(scores[30:]) > sum(scores[:30])
    assert max(scores) > -0.05 - 0.05


def test_state_of_the_searcher_is_never_saved(tmp_path: Path) -> None:
    search = StudyPerTask(PLAN)
    search.save(str(tmp_path / "x"))
    search.restore(str(tmp_path / "x"))
    assert os.listdir(tmp_path) == []
    assert search.remaining == 12


# Estimate -------------------------------------------------------------------------------------------------------------


def test_estimate_scales_and_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of the same computation are timed once; the time goes with the steps and the evaluations."""
    trial = only(plan_of(preset="demo", tasks=("bandit-ring",), steps=100, evaluate_every=30, batch_size=8))
    estimator = Estimator(torch.device("cpu"))
    learning, evaluating = estimator.seconds(trial)
    assert 0.01 < learning < 100
    assert 0 < evaluating < 100
    monkeypatch.setattr(estimator, "_time", None)
    twice = estimator.seconds(trial.replaced(steps=200, members=(Member(7), Member(8), Member(9))))
    assert twice[0] == pytest.approx(2 * learning)
    assert twice[1] == pytest.approx(evaluating * 7 / 4), "4 evaluations of 100 steps, 7 of 200"
    assert estimator.seconds(trial.with_settings(learning_rate=0.5, target_kl=0.01))[0] > 0, "only other numbers"
    with pytest.raises(TypeError):  # what would time it is gone
        estimator.seconds(trial.with_settings(hidden_size=32))


def test_estimate_tells_cloning_from_the_problem_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = only(plan_of(preset="demo", tasks=("bandit-ring",), steps=100, profile="principled"))
    cloned = trial.value("behaviour_steps")
    assert 0 < cloned < 100
    estimator = Estimator(torch.device("cpu"))
    monkeypatch.setattr(estimator, "_time", lambda *_: ([1.0, 10.0], Counter()))
    assert estimator.seconds(trial)[0] == cloned + 10 * (100 - cloned)
    monkeypatch.undo()
    begun: list[int] = []
    update = Learner.update

    def watched(learner: Learner, steps: int) -> Any:
        begun.append(learner.step)
        return update(learner, steps)

    monkeypatch.setattr(Learner, "update", watched)
    each, act = estimator._time(trial, get_task(trial.task))
    assert min(*each, *act.values()) > 0
    half = begun.index(cloned)
    assert half > 1
    assert begun == [0] * half + [cloned] * (len(begun) - half)


def test_run_folder_of_a_trial_bears_its_key(tmp_path: Path) -> None:
    trial = only(plan_of(tasks=("bandit-ring",), steps=2000))
    assert Location(tmp_path).run_folder(trial.key).path == tmp_path / "runs" / trial.key
    assert isinstance(Location(tmp_path).run_folder(trial.key), RunFolder)


def test_what_continues_a_sweep_is_what_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was started; from a wheel there is no script beside the package."""
    command, script = tmp_path / "bin" / "diffcps", tmp_path / "tune" / "sweep_d4rl.py"
    for file in (command, script):
        file.parent.mkdir()
        file.touch()
    monkeypatch.chdir(tmp_path)

    def words(started: str) -> list[str]:
        said = shlex.split(resume_command("x", "results", started, {"also": ("wandb",)}))
        assert said[-6:] == ["--resume", "x", "--results", "results", "--also", "wandb"]
        return said[:-6]

    assert words(str(command)) == [str(command), "sweep"]
    assert words("tune/sweep_d4rl.py") == [sys.executable, "tune/sweep_d4rl.py"]
    assert words("gone/sweep_d4rl.py") == [sys.executable, "tune/sweep_d4rl.py"]
    assert words("/lib/ipykernel_launcher.py") == [sys.executable, "tune/sweep_d4rl.py"]
    module = [sys.executable, "-m", "diffcps"]
    assert words("/site-packages/diffcps/__main__.py") == [*module, "sweep"]
    typed = shlex.split(typed_command(["/site-packages/diffcps/__main__.py", "study", "steps"]))
    assert typed == [*module, "study", "steps"]


def test_every_data_set_of_a_task_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "home"))
    plan = plan_of(tasks=("bandit-ring",), steps=10, vary=("data.rows=100,200",))
    console = Console(record=True, width=120, file=io.StringIO())
    read_data(plan, Location(tmp_path), console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert [line[:2] for line in lines if line and line[0] == "bandit-ring"] == [
        ["bandit-ring", "100"],
        ["bandit-ring", "200"],
    ]
