"""Settings by name: what a person may type, the order in which settings win, and what varies or is searched."""

import io
import itertools
from typing import Any

import optuna.distributions as optuna
import pytest
from rich.console import Console

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.planning import ALGORITHMS_OF, build
from diffcps.runs.presets import PRESETS, grid, made
from diffcps.runs.settings import find, settings
from diffcps.sweep import dry_run
from diffcps.sweep.search import StudyPerTask, distributions, point_of
from diffcps.tasks.registry import get_task
from diffcps.tracking import labels

RING = get_task("bandit-ring")


def plan_of(**flags: Any) -> Plan:
    return build(SweepOptions(**{"tasks": ("bandit-ring",), "preset": "demo"} | flags))


def values(plan: Plan, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(trial.value(name) for name in names) for trial in plan.trials]


# What a person may type -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", algorithms.names())
def test_every_setting_can_be_set_and_says_what_it_is(algorithm: str) -> None:
    """From a text, under its full name; a default is a value that it takes."""
    usual = made(RING, {"algorithm": algorithm})
    for name, setting in settings(algorithm).items():
        assert setting.help.endswith((".", "…", "DiffCPS."))
        assert setting.values
        if name not in ("data.source", "seeds", "steps"):
            value = usual.value(name)
            text = ",".join(value) if isinstance(value, tuple) else "none" if value is None else str(value)
            assert setting.parse(text) == value
    assert usual == made(RING, {"algorithm": algorithm, **{name: usual.value(name) for name in usual.settings}})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("learning-rate", "2", 2.0),
        ("hidden_size", "1e2", 100),
        ("hidden_size", "1_000", 1000),
        ("last_step_noise", "True", True),
        ("slack", "none", None),
        ("slack", "0", 0.0),
        ("dual", "pi", "pi"),
        ("evaluation.every", "7", 7),
        ("evaluate_every", "7", 7),
        ("rows", "70", 70),
        ("data", "d4rl", "d4rl"),
        ("measures", "density, modes", ("density", "modes")),
    ],
)
def test_a_text_becomes_the_value_of_the_setting(name: str, text: str, value: Any) -> None:
    found = find(name, "diffcps").parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        ({"settings": ("learning_rat=1",)}, ("learning_rat", "'learning_rate'")),
        ({"settings": ("evaluation.evry=1",)}, ("evaluation.evry", "'evaluation.every'")),
        ({"settings": ("target_kl=1",), "algorithm": "weighted"}, ("weighted", "target_kl", "diffcps settings weighted")),
        ({"algorithm": "diffcsp"}, ("diffcsp", "'diffcps'")),
        ({"profile": "principald"}, ("principald", "'principled'")),
        ({"settings": ("learning_rate=fast",)}, ("learning_rate", "'fast'", "number", "Adam's", "0.0003")),
        ({"settings": ("hidden_size=1.5",)}, ("hidden_size", "1.5", "whole number")),
        ({"settings": ("hidden_size=-1",)}, ("hidden_size", "-1", "positive", "Width")),
        ({"settings": ("slack=-1",)}, ("slack", "-1", "zero or more")),
        ({"settings": ("dual=free",)}, ("dual", "'free'", "'softplus'")),
        ({"settings": ("last_step_noise=1",)}, ("last_step_noise", "'1'", "true or false")),
        ({"settings": ("steps",)}, ("--set steps", "NAME=VALUE")),
        ({"settings": ("steps=",)}, ("--set steps=", "NAME=VALUE")),
        ({"settings": ("steps=5", "steps=6")}, ("steps", "twice")),
        ({"settings": ("evaluate_every=5", "evaluation.every=6")}, ("evaluation.every", "twice")),
        ({"steps": 5, "vary": ("steps=6,7",)}, ("--vary", "steps")),
        ({"vary": ("learning_rate=1e-3,fast",)}, ("learning_rate", "'fast'")),
        ({"vary": ("algorithm=weighted,bcc",)}, ("'bcc'", "'bc'")),
        ({"algorithms": ("iql", "td3cb")}, ("td3cb", "'td3bc'")),
        ({"algorithms": ("iql", "bc"), "algorithm": "bc"}, ("--algorithms",)),
        ({"settings": ("stepz=5", "tempratur=2")}, ("diffcps has no setting 'stepz'", "'steps'", "'tempratur'")),
        ({"algorithms": ("iql", "bc"), "settings": ("policy_frek=1", "hiden_size=2")}, (
            "None of iql, bc has a setting 'policy_frek'; did you mean 'policy_freq'? None of iql, bc has a setting 'hiden_size'",
        )),
        ({"algorithms": ("iql", "bc"), "search": ("learning_rate=1e-4:1e-3",)}, ("one algorithm", "iql, bc")),
        ({"preset": "table1", "search": ("discount=0.9:0.99",)}, ("one algorithm", "diffcps, dql")),
        ({"algorithm": "qgpo", "settings": ("behaviour_share=0.7",)}, ("energy_share", "0.3")),
        ({"algorithm": "sfbc", "settings": ("behaviour_share=1",)}, ("behaviour_share", "1")),
        ({"algorithms": ("iql", "td3bc"), "diffusion_steps": (5,)}, ("iql", "diffusion_steps")),
        ({"search": ("learning_rate=1e-3:1e-4",)}, ("learning_rate=1e-3:1e-4", "LOW", "HIGH")),
        ({"search": ("lambda_clip=0:1:log",)}, ("lambda_clip", "above 0")),
        ({"search": ("learning_rate=1e-4:1:lin",)}, ("learning_rate", "LOW:HIGH")),
        ({"search": ("dual=pi:released",)}, ("dual", "'softplus'")),
        ({"search": ("discount=0.5:2",)}, ("discount = 2", "between 0 and 1")),
        ({"search": ("policy=gaussian,diffusion",), "profile": "principled"}, ("covariance", "'gaussian'")),
        ({"search": ("profile=official,principled",)}, ("--search profile", "--vary profile")),
        ({"search": ("steps=5,6",), "steps": 5}, ("--search steps",)),
        ({"preset": "ablation", "algorithm": "bc", "settings": ("policy=gaussian",)}, ()),
    ],
)  # fmt: skip
def test_a_wrong_name_or_value_is_refused_with_the_right_one(flags: dict[str, Any], facts: tuple[str, ...]) -> None:
    if not facts:
        assert plan_of(**flags).count == 3
        return
    with pytest.raises(UserError) as refused:
        plan_of(**flags)
    assert not [fact for fact in facts if fact not in str(refused.value)], str(refused.value)


# Which setting wins ---------------------------------------------------------------------------------------------------


def test_a_later_stage_wins() -> None:
    """Task, what the algorithm publishes, profile, preset, flags."""
    usual = made(RING, {})
    assert (usual.value("lambda_clip"), usual.value("dual"), usual.steps) == (0.3, "released", RING.steps)
    profile = made(RING, {"profile": "principled"})
    assert (profile.value("lambda_clip"), profile.value("dual"), profile.profile) == (0.0, "projected", "principled")
    preset = made(RING, {"profile": "principled"}, lambda task, trial: {"dual": "pi", "steps": 100, "expectile": 0.7})
    assert (preset.value("dual"), preset.steps, preset.value("behaviour_steps")) == ("pi", 100, 50)
    flags = made(RING, {"profile": "principled", "dual": "softplus"}, lambda task, trial: {"dual": "pi"})
    assert flags.value("dual") == "softplus"


def test_preset_takes_what_the_algorithm_has() -> None:
    for algorithm in algorithms.names():
        trial = made(RING, {"algorithm": algorithm}, PRESETS["demo"])
        assert (trial.value("hidden_size"), len(trial.members), trial.steps) == (64, 3, 2000)


def test_one_trial_is_one_trial() -> None:
    with pytest.raises(UserError, match="2 trials"):
        made(RING, {"learning_rate": (1e-3, 1e-4)})
    assert made(RING, {"learning_rate": (1e-3, "0.001")}) == made(RING, {"learning_rate": 1e-3})


# What varies and what is searched -------------------------------------------------------------------------------------


def test_every_setting_can_vary() -> None:
    plan = plan_of(vary=("learning_rate=1e-3,3e-4", "hidden_size=32,64"), diffusion_steps=(2, 3))
    names = "diffusion_steps", "learning_rate", "hidden_size"
    assert values(plan, *names) == list(itertools.product((2, 3), (1e-3, 3e-4), (32, 64)))
    assert plan.axes == (
        Axis("diffusion_steps", (2, 3)), Axis("learning_rate", (1e-3, 3e-4)), Axis("hidden_size", (32, 64)),
    )  # fmt: skip
    assert Plan.from_dict(plan.to_dict()) == plan
    plan = plan_of(vary=("evaluation.candidates=1,2", "steps=100,200"))
    assert values(plan, "evaluation.candidates", "steps", "evaluation.every") == [
        (1, 100, 20), (1, 200, 40), (2, 100, 20), (2, 200, 40),
    ]  # fmt: skip


def test_a_setting_of_another_algorithm_varies_and_is_searched() -> None:
    """One field in ``iql.py``: the grid, its axis, Optuna's range, and a member of a pack follow."""
    plan = plan_of(algorithm="iql", vary=("expectile=0.5,0.7,0.9",))
    assert values(plan, "expectile") == [(0.5,), (0.7,), (0.9,)]
    assert plan.axes == (Axis("expectile", (0.5, 0.7, 0.9)),)
    plan = plan_of(algorithm="iql", search=("expectile=0.5:0.95",), trials=2)
    assert distributions(plan.axes) == {"expectile": optuna.FloatDistribution(0.5, 0.95)}
    plan = plan_of(algorithm="iql", preset="search", trials=2)
    assert {axis.name for axis in plan.axes} == {"expectile", "inverse_temperature"}


def test_algorithms_and_profiles_can_vary() -> None:
    """Other settings follow from them."""
    plan = plan_of(
        algorithms=("diffcps", "idql", "bc"), tasks=("hopper-medium-v2",), preset="paper", diffusion_steps=(7,)
    )
    assert len({(trial.evaluation.every, trial.evaluation.episodes) for trial in plan.trials}) == 1, "one protocol"
    assert [trial.evaluation.candidates for trial in plan.trials] == [50, 128, 1], "each by its own rule"
    assert [trial.steps for trial in plan.trials] == [2_000_000, 3_000_000, 2_000_000]
    plan = plan_of(algorithms=("diffcps", "iql"), diffusion_steps=(3, 4))
    assert [trial.value("diffusion_steps") for trial in plan.trials] == [3, 4, None], "it changes those that have it"
    assert plan_of(preset="table1", steps=10).count == len(ALGORITHMS_OF["table1"])
    plan = plan_of(vary=("algorithm=diffcps,bc",), preset="paper")
    assert values(plan, "algorithm", "evaluation.candidates") == [("diffcps", 1), ("bc", 1)]
    assert [trial.value("target_kl") for trial in plan.trials] == [0.05, None]
    plan = plan_of(vary=("profile=official,principled",))
    assert values(plan, "profile", "dual") == [("official", "released"), ("principled", "projected")]
    assert values(plan_of(vary=("measures=density,samples",)), "measures") == [(("density",),), (("samples",),)]
    assert values(plan_of(measures=("density", "samples")), "measures") == [(("density", "samples"),)]


def test_values_given_twice_are_one_trial() -> None:
    assert plan_of(vary=("learning_rate=1e-3,0.001,1e-3",)).count == 1
    assert plan_of(search=("hidden_size=32,64,32",)).count == 2


@pytest.mark.parametrize(
    ("text", "axis", "distribution"),
    [
        ("learning_rate=1e-4:1e-2:log", Axis("learning_rate", low=1e-4, high=1e-2, log=True),
         optuna.FloatDistribution(1e-4, 1e-2, log=True)),
        ("lambda_clip=0:1", Axis("lambda_clip", low=0.0, high=1.0), optuna.FloatDistribution(0.0, 1.0)),
        ("hidden_size=32:64", Axis("hidden_size", low=32, high=64), optuna.IntDistribution(32, 64)),
        ("slack=none,0.1", Axis("slack", (None, 0.1)), optuna.CategoricalDistribution([None, 0.1])),
        ("dual=pi,softplus", Axis("dual", ("pi", "softplus")), optuna.CategoricalDistribution(["pi", "softplus"])),
        ("max_q_backup=true,false", Axis("max_q_backup", (True, False)), optuna.CategoricalDistribution([True, False])),
        ("candidates=1,5", Axis("evaluation.candidates", (1, 5)), optuna.CategoricalDistribution([1, 5])),
    ],
)  # fmt: skip
def test_any_setting_can_be_searched(text: str, axis: Axis, distribution: object) -> None:
    plan = plan_of(search=(text,), behaviour_steps=100, trials=2)
    assert plan.axes == (axis,)
    assert distributions(plan.axes) == {axis.name: distribution}
    search = StudyPerTask(plan)
    point = search.suggest("a")
    trial = plan.trial(point)
    assert trial.value(axis.name) == point[axis.name]
    assert point_of(trial, plan.axes) == {axis.name: point[axis.name]}
    assert algorithms.complete(trial) == trial


def test_a_search_changes_its_axes_one_by_one() -> None:
    """The preset's own stay, what a flag gives is fixed, several values are a choice."""
    plan = plan_of(
        preset="search", settings=("lambda_clip=0.2",), vary=("hidden_size=32,64",), search=("target_kl=0.1:1",)
    )
    assert {axis.name: str(axis) for axis in plan.axes} == {
        "diffusion_steps": "5, 10, 15, 20", "target_kl": "0.1 to 1", "hidden_size": "32, 64",
    }  # fmt: skip
    assert values(plan, "lambda_clip") == [(0.2,)]


def test_five_whole_axes_are_tried_exactly_once() -> None:
    plan = plan_of(
        search=(
            "hidden_layers=1:2",
            "dual=pi,softplus",
            "max_q_backup=true,false",
            "batch_size=8,16",
            "lambda_init=1,2",
        ),
        trials=100,
    )
    assert plan.count == plan.search == plan.points == 32
    search, seen = StudyPerTask(plan), []
    for number in range(32):
        seen.append(plan.trial(search.suggest(str(number))))
        search.on_trial_complete(str(number), {"score": float(number)})
    assert len({trial.key for trial in seen}) == 32
    assert search.remaining == 0


# What is seen of it ---------------------------------------------------------------------------------------------------


def test_dry_run_and_labels_follow_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run.Estimator, "seconds", lambda self, trial: (1.0, 2.0))

    def shown(plan: Plan) -> str:
        console = Console(file=io.StringIO(), width=400)
        dry_run.show(plan, SweepOptions(), console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    text = shown(plan_of(vary=("learning_rate=1e-3,3e-4",)))
    for fact in "learning_rate", "0.0003", "0.001", "λ-clip", "κ", "T", "2 trials":
        assert fact in text
    text = shown(plan_of(search=("learning_rate=1e-4:1e-2:log",)))
    assert "from 0.0001 to 0.01 (logarithmic)" in text
    text = shown(plan_of(vary=("profile=official,principled",)))
    assert "dual projected" in text
    assert "hidden_size" not in text, "no trial differs in it"
    text = shown(plan_of(tasks=("bandit-ring", "pointmaze-umaze"), algorithms=("diffcps", "iql")))
    assert "expectile 0.7" in text
    assert "expectile 0.9" in text
    assert "target_rate" not in text, "that another algorithm has no such setting is no difference"
    trial = made(RING, {"learning_rate": 1e-3})
    assert labels.name(trial, range(5)) == "bandit-ring diffcps T=5 λ-clip=0.3 κ=0.05"
    assert labels.parameters(trial, range(5))["learning_rate"] == "0.001"


def test_grid_of_trials_names_what_varies() -> None:
    found, names = grid(RING, {"learning_rate": ("1e-3", "1e-4"), "hidden_size": 32})
    assert names == ["learning_rate"]
    assert [trial.value("learning_rate") for trial in found] == [1e-3, 1e-4]
    assert all(isinstance(trial, RunConfig) and trial.value("hidden_size") == 32 for trial in found)
