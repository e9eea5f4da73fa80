"""Settings: what is refused and how it is said, the way to JSON and back, and the key of a trial."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcps.config import AlgorithmConfig, DataConfig, EvaluationConfig, MemberConfig, RunConfig, TaskDefinition
from diffcps.errors import UserError, nearest
from diffcps.tasks.registry import TASKS

CONFIGS = AlgorithmConfig, MemberConfig, EvaluationConfig, DataConfig
SETTINGS = [(cls, field) for cls in CONFIGS for field in dataclasses.fields(cls)]
NUMBERS = [(cls, field.name) for cls, field in SETTINGS if isinstance(field.default, float)]
WHOLE = [(cls, field.name) for cls, field in SETTINGS if type(field.default) is int]


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (AlgorithmConfig, "diffusion_steps", 0),
        (AlgorithmConfig, "diffusion_steps", -1),
        (AlgorithmConfig, "hidden_size", 0),
        (AlgorithmConfig, "batch_size", 0),
        (AlgorithmConfig, "policy_freq", 0),
        (AlgorithmConfig, "max_q_candidates", 0),
        (AlgorithmConfig, "ema_every", 0),
        (AlgorithmConfig, "ema_start", -1),
        (AlgorithmConfig, "time_embedding", 2),
        (AlgorithmConfig, "time_embedding", 7),
        (AlgorithmConfig, "time_embedding", -16),
        (AlgorithmConfig, "beta_min", 0.0),
        (AlgorithmConfig, "beta_max", 0.05),
        (AlgorithmConfig, "critic_learning_rate", 0.0),
        (AlgorithmConfig, "lambda_learning_rate", -1e-9),
        (AlgorithmConfig, "lambda_max", 0.0),
        (AlgorithmConfig, "discount", 1.01),
        (AlgorithmConfig, "discount", -0.01),
        (AlgorithmConfig, "target_rate", 2.0),
        (AlgorithmConfig, "ema_decay", -0.1),
        (MemberConfig, "seed", -1),
        (MemberConfig, "seed", 2**32),
        (MemberConfig, "learning_rate", 0.0),
        (MemberConfig, "lambda_init", -0.1),
        (MemberConfig, "lambda_speed", -0.1),
        (MemberConfig, "lambda_clip", -0.1),
        (MemberConfig, "target_kl", -0.1),
        (MemberConfig, "grad_norm", 0.0),
        (EvaluationConfig, "every", 0),
        (EvaluationConfig, "episodes", 0),
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
        ({"members": (MemberConfig(seed=1), MemberConfig(), MemberConfig(seed=1))}, r"seeds \[1, 0, 1\]"),
        ({"physics": "moon"}, "one of 'd4rl', 'modern'"),
        ({"profile": "released"}, "one of 'official', 'principled'"),
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
        AlgorithmConfig(max_q_backup=value)


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
        {"algorithm": [["diffusion_steps", 5]]},
        {"algorithm": {"diffusion_steps": "5"}},
        {"algorithm": {"discount": 10**400}},
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
        ({"algorithm": {"difusion_steps": 5}}, r"AlgorithmConfig .*did you mean 'diffusion_steps'\?$"),
        ({"members": [{"targetkl": 5}]}, r"MemberConfig .*did you mean 'target_kl'\?$"),
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
member_configs = st.builds(
    MemberConfig,
    seed=st.integers(0, 2**32 - 1),
    learning_rate=positive,
    lambda_init=st.floats(0, 1e300),
    lambda_clip=st.floats(0, 1e300) | st.integers(0, 3),
    target_kl=st.floats(0, 1e300),
    grad_norm=positive,
)
algorithm_configs = st.builds(
    AlgorithmConfig,
    diffusion_steps=count,
    time_embedding=st.integers(2, 1000).map(lambda n: 2 * n),
    beta_min=st.floats(1e-9, 1),
    beta_max=st.floats(1, 1e9),
    discount=unit,
    target_rate=unit,
    ema_decay=unit,
    max_q_backup=st.booleans(),
    ema_start=st.integers(0, 10**9),
    lambda_learning_rate=st.floats(0, 1),
)
run_configs = st.builds(
    RunConfig,
    task=st.sampled_from(sorted(TASKS)) | st.text(min_size=1),
    members=st.lists(member_configs, min_size=1, max_size=4, unique=True).map(tuple),
    steps=count,
    physics=st.sampled_from(["d4rl", "modern"]),
    data=st.builds(
        DataConfig, source=st.sampled_from(["d4rl", "minari", "collected"]), rows=count, seed=st.integers(0)
    ),
    algorithm=algorithm_configs,
    evaluation=st.builds(EvaluationConfig, every=count, episodes=count, candidates=count),
    log_every=count,
    checkpoint_minutes=positive,
)


@given(run_configs)
@settings(max_examples=100, deadline=None)
def test_round_trip_through_json(config: RunConfig) -> None:
    """Equal, of equal types all the way down, with an equal key; also after a second trip."""
    back = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert repr(back) == repr(config)
    assert back.key == config.key
    assert hash(back) == hash(config)


@given(run_configs)
@settings(max_examples=100, deadline=None)
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
BASE = RunConfig("hopper-medium-v2", members=(MemberConfig(seed=0), MemberConfig(seed=1)), steps=1000)


OTHERS = {
    "d4rl": "collected", "fp32": "bf16", "diffcps": "awr", "diffusion": "gaussian", "posterior": "calibrated",
    "behaviour_loss": "elbo", "released": "projected", "online": "average",
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "constraint": {"algorithm": {"covariance": "forward"}},
    "slack": {"algorithm": {"behaviour_steps": 200}},
}
"""What a setting cannot be changed without."""


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
    for group, cls in ("algorithm", AlgorithmConfig), ("evaluation", EvaluationConfig), ("data", DataConfig):
        for field in dataclasses.fields(cls):
            part = getattr(BASE, group)
            part = part.replaced(**NEEDED.get(field.name, {}).get(group, {}))
            found[f"{group}.{field.name}"] = BASE.replaced(
                **{group: part.replaced(**{field.name: changed(getattr(part, field.name))})}
            )
    for k, member in enumerate(BASE.members):
        for field in dataclasses.fields(MemberConfig):
            other = member.replaced(**{field.name: changed(getattr(member, field.name))})
            members = tuple(other if i == k else m for i, m in enumerate(BASE.members))
            algorithm = BASE.algorithm.replaced(**NEEDED.get(field.name, {}).get("algorithm", {}))
            found[f"members[{k}].{field.name}"] = BASE.replaced(members=members, algorithm=algorithm)
    found["members swapped"] = BASE.replaced(members=BASE.members[::-1])
    found["members"] = BASE.replaced(members=BASE.members[:1])
    found["task"] = BASE.replaced(task="walker2d-medium-v2")
    found["steps"] = BASE.replaced(steps=1001)
    found["profile"] = BASE.replaced(profile="principled")
    found["measures"] = BASE.replaced(measures=("elbo",))
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
    covered = {name.split(".")[0].split("[")[0] for name in variants()} | {"checkpoint_minutes"}
    assert covered >= {field.name for field in dataclasses.fields(RunConfig)}, "a new setting needs a line here"


def test_keys_of_built_in_tasks_stay_what_they_were_before_there_were_definitions() -> None:
    """Run folders are found by them."""
    assert RunConfig("bandit-ring").key == "bandit-ring_T5_clip0_kl0.05_dad08bff5d"
    assert BASE.key == "hopper-medium-v2_T5_clip0_kl0.05_38b234bc6c"
    assert "definition" not in BASE.to_dict()


def test_settings_that_came_later_are_written_only_where_they_say_something() -> None:
    """A trial without them keeps its key; one with them is read back with them."""
    assert not {"covariance", "slack", "final_episodes", "measures"} & set(str(BASE.to_dict()).split("'"))
    principled = BASE.replaced(
        algorithm=AlgorithmConfig(covariance="calibrated", dual="projected", behaviour_steps=100),
        members=(MemberConfig(slack=0.1),),
        measures=("elbo",),
    )
    assert RunConfig.from_dict(json.loads(json.dumps(principled.to_dict()))) == principled
    assert RunConfig.from_dict(BASE.to_dict()) == BASE


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"constraint": "elbo"}, "the last step has none"),
        ({"policy": "gaussian", "covariance": "calibrated"}, "belong to a diffusion policy"),
        ({"policy": "mixture", "constraint": "iwae"}, "has 'elbo', exactly"),
        ({"policy": "deterministic", "constraint": "elbo"}, "has no density"),
        ({"algorithm": "bc", "held_policy": "average"}, "'bc' has none"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AlgorithmConfig(**settings)


def test_a_trial_that_cannot_keep_what_it_says_is_refused() -> None:
    with pytest.raises(UserError, match="behaviour_steps = 0"):
        BASE.replaced(members=(MemberConfig(slack=0.1),))
    cloned = AlgorithmConfig(behaviour_steps=400, held_policy="average")
    with pytest.raises(UserError, match="behaviour_steps = 400: it must be at least 6000"):
        BASE.replaced(algorithm=cloned, members=(MemberConfig(slack=0.1),))
    with pytest.raises(UserError, match="candidates must be 1"):
        BASE.replaced(algorithm=AlgorithmConfig(algorithm="bc"))


def test_key_does_not_change_with_the_checkpoints() -> None:
    assert BASE.replaced(checkpoint_minutes=7).key == BASE.key


def test_equal_trials_have_equal_keys() -> None:
    """0, 0.0 and -0.0 are the same λ-clip, and 9 the same gradient norm as 9.0."""
    members = MemberConfig(lambda_clip=0, grad_norm=9), MemberConfig(lambda_clip=-0.0), MemberConfig(lambda_clip=0.0)
    keys = {RunConfig("bandit-ring", members=(member,)).key for member in members}
    assert len(set(members)) == 1
    assert len(keys) == 1


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
        ({"reward_transform": "double"}, "reward_transform = 'double'"),
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
    with pytest.raises(UserError, match="task = 'bandit-ring': it must be as in its definition, 'minari-a-b-v0'"):
        trial.replaced(task="bandit-ring")
    with pytest.raises(UserError, match="definition = 5"):
        RunConfig.from_dict({"task": "bandit-ring", "definition": 5})


def test_key_is_readable() -> None:
    config = RunConfig(
        "walker2d-medium-replay-v2",
        members=(MemberConfig(lambda_clip=0.3, target_kl=0.030000000000000002),),
        algorithm=AlgorithmConfig(diffusion_steps=15),
    )
    assert re.fullmatch(r"walker2d-medium-replay-v2_T15_clip0\.3_kl0\.03_[0-9a-f]{10}", config.key)


def test_key_is_the_same_in_other_processes() -> None:
    code = "from diffcps.config import RunConfig; print(RunConfig('bandit-ring').key)"
    for seed in "1", "2":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == RunConfig("bandit-ring").key


def test_a_setting_that_earlier_versions_had_is_passed_over():
    """It never changed a result, so a run folder with it stays readable, under its key."""
    config = RunConfig("hopper-medium-v2")
    assert RunConfig.from_dict(config.to_dict() | {"checkpoint_every": 10_000}) == config
    with pytest.raises(UserError, match="checkpoint_ever'"):
        RunConfig.from_dict(config.to_dict() | {"checkpoint_ever": 10_000})
