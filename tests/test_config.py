"""Settings: what is refused and how it is said, the way to JSON and back, and the key of a trial."""

import dataclasses
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trials import member, trial
from trials import members as members_of

from diffcps import algorithms
from diffcps.config import DataConfig, EvaluationConfig, Member, RunConfig, TaskDefinition, Values
from diffcps.config.run import KEEPING
from diffcps.errors import UserError, nearest
from diffcps.tasks.registry import TASKS

WEIGHTED, DIFFCPS = algorithms.get("weighted").settings, algorithms.get("diffcps").settings
CONFIGS = WEIGHTED, DIFFCPS, Member, EvaluationConfig, DataConfig
SETTINGS = [(cls, field) for cls in CONFIGS for field in dataclasses.fields(cls)]
NUMBERS = [(cls, field.name) for cls, field in SETTINGS if isinstance(field.default, float)]
WHOLE = [(cls, field.name) for cls, field in SETTINGS if type(field.default) is int]


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (DIFFCPS, "diffusion_steps", 0),
        (DIFFCPS, "diffusion_steps", -1),
        (DIFFCPS, "hidden_size", 0),
        (DIFFCPS, "batch_size", 0),
        (DIFFCPS, "policy_freq", 0),
        (DIFFCPS, "max_q_candidates", 0),
        (DIFFCPS, "ema_every", 0),
        (DIFFCPS, "ema_start", -1),
        (DIFFCPS, "time_embedding", 2),
        (DIFFCPS, "time_embedding", 7),
        (DIFFCPS, "time_embedding", -16),
        (DIFFCPS, "beta_min", 0.0),
        (DIFFCPS, "beta_max", 0.05),
        (DIFFCPS, "critic_learning_rate", 0.0),
        (DIFFCPS, "lambda_learning_rate", -1e-9),
        (DIFFCPS, "lambda_max", 0.0),
        (DIFFCPS, "discount", 1.01),
        (DIFFCPS, "discount", -0.01),
        (DIFFCPS, "target_rate", 2.0),
        (DIFFCPS, "ema_decay", -0.1),
        (DIFFCPS, "learning_rate", 0.0),
        (DIFFCPS, "lambda_init", -0.1),
        (DIFFCPS, "lambda_clip", -0.1),
        (DIFFCPS, "target_kl", -0.1),
        (DIFFCPS, "slack", -0.1),
        (DIFFCPS, "grad_norm", 0.0),
        (DIFFCPS, "dual", "primal"),
        (WEIGHTED, "temperature", 0.0),
        (Member, "seed", -1),
        (Member, "seed", 2**32),
        (EvaluationConfig, "every", 0),
        (EvaluationConfig, "episodes", -1),
        (EvaluationConfig, "candidates", 0),
        (DataConfig, "rows", 0),
        (DataConfig, "seed", -1),
        (DataConfig, "source", ["d4rl"]),
    ],
)
def test_value_outside_its_range_is_refused(cls: type, name: str, value: Any) -> None:
    """The message names the setting and the value."""
    with pytest.raises(UserError, match=rf"^{name} = {re.escape(repr(value))}: it must be ."):
        cls(**{name: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"steps": -5}, "steps = -5"),
        ({"log_every": 0}, "log_every = 0"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes = 0"),
        ({"task": ""}, "name of a task"),
        ({"members": ()}, "seeds = 0: it must be at least 1"),
        ({"members": (Member(1), Member(), Member(1))}, r"seeds \[1, 0, 1\]"),
        ({"physics": "moon"}, "one of 'd4rl', 'modern'"),
        ({"settings": {"discount": math.nan}}, "discount = nan"),
        ({"settings": {"discount": [0.9]}}, "discount = "),
    ],
)
def test_trial_outside_its_range_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RunConfig(**({"task": "hopper-medium-v2"} | changes))


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5", None, [0.5], 1j], ids=repr)
def test_what_is_no_finite_number_is_refused(cls: type, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} = "):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), WHOLE)
@pytest.mark.parametrize("value", [True, 5.0, "5", None, math.nan, [5]], ids=repr)
def test_what_is_no_whole_number_is_refused(cls: type, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} = .*a whole number"):
        cls(**{name: value})


@pytest.mark.parametrize("value", [1, 0, "true", None], ids=repr)
def test_what_is_no_boolean_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"max_q_backup = .*true or false"):
        DIFFCPS(max_q_backup=value)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": 5},
        {"task": None},
        {"steps": "5"},
        {"members": 2},
        {"members": "ab"},
        {"members": [0, 1]},
        {"members": {"seed": 0}},
        {"members": [{"seed": "0"}]},
        {"algorithm": 5},
        {"algorithm": None},
        {"settings": [["diffusion_steps", 5]]},
        {"settings": {"diffusion_steps": [5]}},
        {"settings": 5},
        {"evaluation": {"episodes": 1.5}},
        {"data": "d4rl"},
        {"data": {"source": 1}},
    ],
    ids=repr,
)
def test_wrong_types_in_json_are_refused(changes: dict[str, Any]) -> None:
    """Never a TypeError or an AttributeError from within, and never accepted."""
    with pytest.raises(UserError):
        RunConfig.from_dict({"task": "bandit-ring"} | changes)


@pytest.mark.parametrize("values", [None, [], "task", 3])
def test_what_is_no_group_of_settings_is_refused(values: Any) -> None:
    with pytest.raises(UserError, match=r"RunConfig = .*a group of settings"):
        RunConfig.from_dict(values)


def test_missing_task_is_named() -> None:
    with pytest.raises(UserError, match="'task'"):
        RunConfig.from_dict({"steps": 5})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"algoritm": {}}, r"RunConfig has no setting 'algoritm'; did you mean 'algorithm'\?$"),
        ({"members": [{"sed": 5}]}, r"Member .*did you mean 'seed'\?$"),
        ({"data": {"row": 5}}, r"DataConfig .*did you mean 'rows'\?$"),
        ({"evaluation": {"ZZZZZZ": 5}}, r"EvaluationConfig has no setting 'ZZZZZZ'\.$"),
    ],
)
def test_unknown_setting_names_the_nearest(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RunConfig.from_dict({"task": "bandit-ring"} | values)


def test_settings_cannot_be_changed_only_replaced() -> None:
    config = RunConfig("bandit-ring")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 5  # type: ignore[misc]
    assert config.replaced(steps=5).steps == 5
    assert config.steps == 2_000_000
    with pytest.raises(UserError, match="steps = 0"):
        config.replaced(steps=0)


@pytest.mark.parametrize(
    ("name", "near"), [("hoper", "hopper"), ("HOPPER", "hopper"), ("walker", "walker2d"), ("qqq", "")]
)
def test_nearest(name: str, near: str) -> None:
    assert nearest(name, ["hopper", "walker2d"]) == (f"; did you mean {near!r}?" if near else "")


# To JSON and back -----------------------------------------------------------------------------------------------------

positive = st.floats(1e-300, 1e300, allow_nan=False)
unit = st.floats(0, 1)
count = st.integers(1, 10**12)
own_settings = st.fixed_dictionaries({}, optional={
    "learning_rate": positive, "lambda_init": st.floats(0, 1e300), "lambda_clip": st.floats(0, 1e300) | st.integers(0, 3),
    "slack": st.none() | st.floats(0, 1), "discount": st.floats(0.1, 1), "ema_decay": unit,
})  # fmt: skip
pack_settings = st.fixed_dictionaries({"behaviour_steps": st.just(10**9)}, optional={
    "diffusion_steps": count, "time_embedding": st.integers(2, 1000).map(lambda n: 2 * n), "beta_min": st.floats(1e-9, 1),
    "max_q_backup": st.booleans(), "policy": st.sampled_from(["diffusion", "gaussian"]),
})  # fmt: skip
members = st.builds(Member, seed=st.integers(0, 2**32 - 1), settings=own_settings.map(Values))
run_configs = st.builds(
    RunConfig,
    task=st.sampled_from(sorted(TASKS)) | st.text(min_size=1),
    members=st.lists(members, min_size=1, max_size=4, unique_by=lambda member: member.seed).map(tuple),
    steps=st.just(2 * 10**9),
    settings=pack_settings.map(Values),
    physics=st.sampled_from(["d4rl", "modern"]),
    data=st.builds(
        DataConfig, source=st.sampled_from(["d4rl", "minari", "collected"]), rows=count, seed=st.integers(0)
    ),
    evaluation=st.builds(EvaluationConfig, every=count, episodes=count, candidates=count),
    log_every=count,
    checkpoint_minutes=positive,
)


@given(run_configs)
@settings(max_examples=100)
def test_round_trip_through_json(config: RunConfig) -> None:
    """Equal, of equal types all the way down, with an equal key; also when the algorithm has completed it."""
    config = algorithms.complete(config)
    assert algorithms.complete(config) == config
    back = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert repr(back) == repr(config)
    assert back.key == config.key
    assert hash(back) == hash(config)


@given(run_configs)
@settings(max_examples=100)
def test_key_is_a_safe_name(config: RunConfig) -> None:
    """One path component on every file system; letters, digits, ``_ . -`` only, which MLflow and Ray accept too."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", config.key)
    assert not config.key.endswith(".")
    assert Path(config.key).name == config.key


def test_omitted_settings_take_their_defaults() -> None:
    assert RunConfig.from_dict({"task": "bandit-ring", "members": [{}]}) == RunConfig("bandit-ring")


# The key --------------------------------------------------------------------------------------------------------------

DEFINITION = TaskDefinition(
    name="minari-a-b-v0",
    minari_id="a/b-v0",
    environment_spec='{"id": "B-v5"}',
    observation_size=3,
    action_size=1,
    max_action=2.0,
    episode_limit=200,
    random_return=-1.0,
    expert_return=100.0,
    score="normalised",
)
BASE = trial("hopper-medium-v2", members=members_of(2), steps=1000)


OTHERS = {
    "d4rl": "collected", "fp32": "bf16", "diffusion": "gaussian", "posterior": "calibrated",
    "behaviour_loss": "elbo", "none": "minus_one", "released": "projected", "online": "average",
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {"constraint": {"covariance": "forward"}, "slack": {"behaviour_steps": 200}}
"""What a setting cannot be changed without."""
BY_NAME = {"student": "one-step"}
"""Other values of settings whose words mean something else in other settings."""


def changed(value: Any) -> Any:
    """Another permitted value of a setting."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHERS[value]
    if value is None:
        return 3
    return value + 2 if isinstance(value, int) else value / 2 + 0.1


def variants() -> dict[str, RunConfig]:
    """``BASE`` with one setting changed, for every setting there is."""
    found: dict[str, RunConfig] = {}
    for group, cls in ("evaluation", EvaluationConfig), ("data", DataConfig):
        for field in dataclasses.fields(cls):
            part = getattr(BASE, group)
            found[f"{group}.{field.name}"] = BASE.replaced(
                **{group: part.replaced(**{field.name: changed(getattr(part, field.name))})}
            )
    for name in DIFFCPS.names():
        base = BASE.with_settings(**NEEDED.get(name, {}))
        value = BY_NAME.get(name) or changed(base.value(name))
        found[f"settings.{name}"] = algorithms.complete(base.with_settings(**{name: value}))
        if name in DIFFCPS.of_member():
            for k in range(2):
                own = [Member(seed, Values({name: value} if seed == k else {})) for seed in range(2)]
                found[f"members[{k}].{name}"] = algorithms.complete(base.replaced(members=tuple(own)))
    found["members.seed"] = BASE.replaced(members=(Member(0), Member(2)))
    found["algorithm"] = trial("hopper-medium-v2", members=BASE.members, steps=1000, algorithm="weighted")
    found["members swapped"] = BASE.replaced(members=BASE.members[::-1])
    found["members"] = BASE.replaced(members=BASE.members[:1])
    found["task"] = BASE.replaced(task="walker2d-medium-v2")
    found["steps"] = BASE.replaced(steps=1001)
    found["profile"] = BASE.replaced(profile="principled")
    found["measures"] = BASE.replaced(measures=("elbo",))
    found["acting"] = BASE.replaced(acting=("candidates=1",))
    found["physics"] = BASE.replaced(physics="modern")
    found["log_every"] = BASE.replaced(log_every=7)
    found["definition: none"] = BASE.replaced(task=DEFINITION.name)
    found["definition"] = BASE.replaced(task=DEFINITION.name, definition=DEFINITION)
    other = DEFINITION.replaced(expert_return=101.0)
    found["definition.expert_return"] = BASE.replaced(task=DEFINITION.name, definition=other)
    return found


def test_key_changes_with_everything_that_determines_the_result() -> None:
    keys = {"itself": BASE.key} | {name: config.key for name, config in variants().items()}
    assert len(set(keys.values())) == len(keys)
    covered = {name.split(".")[0].split("[")[0] for name in variants()} | {*KEEPING, "symbols"}
    assert covered >= {field.name for field in dataclasses.fields(RunConfig)}, "a new setting needs a line here"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"constraint": "elbo"}, "covariance 'posterior'"),
        ({"policy": "gaussian", "covariance": "calibrated"}, "'gaussian'"),
        ({"policy": "mixture", "constraint": "iwae"}, "'elbo'"),
        ({"policy": "deterministic", "constraint": "elbo"}, "no density"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DIFFCPS(**settings)


def test_a_trial_that_cannot_keep_what_it_says_is_refused() -> None:
    with pytest.raises(UserError, match="behaviour_steps = 0"):
        trial(slack=0.1)
    with pytest.raises(UserError, match=r"behaviour_steps = 400.*6000"):
        trial(slack=0.1, behaviour_steps=400, constraint_policy="average")
    with pytest.raises(UserError, match=r"behaviour_steps = 400.*300"):
        trial(slack=0.1, behaviour_steps=400, steps=300)
    with pytest.raises(UserError, match="must be 1"):
        trial(algorithm="bc")
    with pytest.raises(UserError, match="one of 'official', 'principled'"):
        trial(profile="released")
    with pytest.raises(UserError, match=r"weighted.*'official'"):
        trial(algorithm="weighted", profile="principled")


# Settings of the algorithm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "diffcsp"}, "did you mean 'diffcps'"),
        ({"difusion_steps": 5}, "diffcps has no setting 'difusion_steps'; did you mean 'diffusion_steps'"),
        ({"algorithm": "bc", "discount": 0.5}, "bc has no setting 'discount'"),
        ({"algorithm": "weighted", "target_kl": 0.5}, "weighted has no setting 'target_kl'"),
        ({"discount": 10**400}, "discount = 1000"),
        ({"members": (member(0), member(1, targetkl=5))}, "'targetkl'.*'target_kl'"),
        ({"members": (member(0), member(1, batch_size=5))}, "batch_size"),
        ({"members": (member(0), member(1, beta_max=5.0))}, "beta_max"),
        ({"members": (member(0), member(1, discount=0.0))}, "discount"),
    ],
)
def test_settings_that_the_algorithm_cannot_have_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        trial(**changes)


def test_a_trial_tells_every_setting_of_every_member() -> None:
    one = trial(members=(member(5, target_kl=0.1), member(6), member(7, target_kl=0.1, discount=1)), target_kl=0.2)
    assert one.value("diffusion_steps") == one.value("diffusion_steps", member=1) == 5
    assert one.values("target_kl") == (0.1, 0.2, 0.1)
    assert one.values("discount") == (0.99, 0.99, 1.0)
    assert one.value("temperature") is None
    assert one.with_settings(target_kl=1).values("target_kl") == (1.0, 1.0, 1.0)
    assert [own.target_kl for own in algorithms.settings(one)] == [0.1, 0.2, 0.1]
    with pytest.raises(UserError, match=r"'targetkl'.*'target_kl'"):
        one.with_settings(targetkl=0.3)


def test_trials_that_compute_the_same_are_equal() -> None:
    """Whether the pack or the member says a setting, and whether a default is said or not."""
    one = trial(members=(member(0, target_kl=0.2), member(1, target_kl=0.3)), discount=0.99)
    other = trial(members=(member(0), member(1, target_kl=0.3)), target_kl=0.2)
    assert (one, one.key, hash(one)) == (other, other.key, hash(other))
    assert [own.settings for own in one.members] == [{}, {"target_kl": 0.3}]


def test_trials_are_read_without_the_algorithm() -> None:
    code = (
        "import pickle, sys; import diffcps.algorithms, diffcps.config; "
        "trial = pickle.loads(sys.stdin.buffer.read()); print(trial.key, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(BASE), capture_output=True, check=True)
    assert done.stdout.decode().split() == [BASE.key, "False"]


def test_key_does_not_change_with_the_checkpoints() -> None:
    assert BASE.replaced(checkpoint_minutes=7, keep_best=True, keep_checkpoints=3).key == BASE.key


def test_equal_trials_have_equal_keys() -> None:
    """0, 0.0 and -0.0 are the same λ-clip, and 9 the same gradient norm as 9.0."""
    found = [trial(lambda_clip=0, grad_norm=9), trial(lambda_clip=-0.0), trial().with_settings(lambda_clip=0)]
    assert len({one.key for one in found}) == len(set(found)) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "hopper-medium-v2"}, r"name = 'hopper-medium-v2': it must be 'minari-'"),
        ({"name": "minari-../../x"}, "name = "),
        ({"minari_id": ""}, "minari_id = ''"),
        ({"environment_spec": "{"}, "environment_spec is no JSON"),
        ({"environment_spec": "[]"}, r"environment_spec = \[\]"),
        ({"environment_spec": "{}"}, "environment_spec = {}: it must be a group with an 'id'"),
        ({"observation_size": 0}, "observation_size = 0"),
        ({"action_size": 1.5}, r"action_size = 1\.5"),
        ({"max_action": 0.0}, r"max_action = 0\.0"),
        ({"episode_limit": 0}, "episode_limit = 0"),
        ({"random_return": float("nan")}, "random_return = nan"),
        ({"expert_return": float("inf")}, "expert_return = inf"),
        ({"expert_return": -1.0}, r"expert_return = -1\.0: it must be above random_return"),
        ({"score": "best"}, "score = 'best'"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_impossible_definitions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        DEFINITION.replaced(**changes)


def test_a_definition_goes_through_json_within_its_trial() -> None:
    trial = BASE.replaced(task=DEFINITION.name, definition=DEFINITION)
    back = RunConfig.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert back == trial
    assert (back.key, hash(back)) == (trial.key, hash(trial))
    assert isinstance(back.definition, TaskDefinition)
    with pytest.raises(UserError, match=r"'bandit-ring'.*'minari-a-b-v0'"):
        trial.replaced(task="bandit-ring")
    with pytest.raises(UserError, match="definition = 5"):
        RunConfig.from_dict({"task": "bandit-ring", "definition": 5})


def test_key_is_readable() -> None:
    name, settings = "walker2d-medium-replay-v2", {"diffusion_steps": 15, "lambda_clip": 0.3, "target_kl": 0.03 + 1e-17}
    assert re.fullmatch(name + r"_diffcps_T15_clip0\.3_kl0\.03_[0-9a-f]{10}", trial(name, **settings).key)
    assert re.fullmatch(name + r"_weighted_T5_[0-9a-f]{10}", trial(name, algorithm="weighted").key)


def test_key_is_the_same_in_other_processes() -> None:
    code = "from diffcps.config import RunConfig; print(RunConfig('bandit-ring').key)"
    for seed in "1", "2":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == RunConfig("bandit-ring").key
