"""The registry: every row of the paper's Table 3, D4RL's file names and reference scores, and what is asked by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffcps import algorithms
from diffcps.config import RunConfig, TaskDefinition
from diffcps.errors import UserError
from diffcps.runs.presets import changed_settings, official
from diffcps.tasks import paper
from diffcps.tasks.registry import TASKS, defined, from_definition, get_task, task_folder, task_of

ROWS = paper.rows("hyperparameters")
FILES = {
    "hopper-medium-v2": "hopper_medium-v2.hdf5",
    "hopper-medium-replay-v2": "hopper_medium_replay-v2.hdf5",
    "hopper-medium-expert-v2": "hopper_medium_expert-v2.hdf5",
    "halfcheetah-medium-v2": "halfcheetah_medium-v2.hdf5",
    "halfcheetah-medium-replay-v2": "halfcheetah_medium_replay-v2.hdf5",
    "halfcheetah-medium-expert-v2": "halfcheetah_medium_expert-v2.hdf5",
    "walker2d-medium-v2": "walker2d_medium-v2.hdf5",
    "walker2d-medium-replay-v2": "walker2d_medium_replay-v2.hdf5",
    "walker2d-medium-expert-v2": "walker2d_medium_expert-v2.hdf5",
    "antmaze-umaze-v0": "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5",
    "antmaze-umaze-diverse-v0": "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse.hdf5",
    "antmaze-medium-play-v0": "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse.hdf5",
    "antmaze-medium-diverse-v0": "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse.hdf5",
    "antmaze-large-play-v0": "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse.hdf5",
    "antmaze-large-diverse-v0": "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse.hdf5",
}


def test_the_paper_has_fifteen_tasks() -> None:
    assert {row["task"] for row in ROWS} == set(FILES)
    assert {name for name, task in TASKS.items() if task.in_paper} == set(FILES)
    assert {row["task"] for row in paper.rows("table1")} >= set(FILES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["task"])
def test_hyper_parameters_are_those_of_the_paper(row: dict[str, str]) -> None:
    task = get_task(row["task"])
    (settings,) = algorithms.settings(official(task, seeds=1))
    assert settings.learning_rate == float(row["lr"])
    assert settings.lambda_init == float(row["lambda_init"])
    assert settings.lambda_clip == float(row["lambda_clip"])
    assert settings.target_kl == float(row["target_kl"])
    assert settings.grad_norm == float(row["grad_norm"])
    assert settings.policy_freq == int(row["policy_freq"])
    assert settings.max_q_backup is {"true": True, "false": False}[row["max_q_backup"]]
    assert settings.diffusion_steps == int(row["T"])
    assert settings.reward_transform == {"none": "none", "cql_antmaze": "antmaze"}[row["reward_tune"]]
    assert task.steps == 1000 * int(row["epochs"])
    assert task.evaluation.episodes == int(row["eval_episodes"])
    assert (task.evaluation.every, task.evaluation.candidates) == (50_000, 50)
    # the rest is the same for all
    assert (settings.batch_size, settings.discount, settings.target_rate) == (256, 0.99, 0.005)
    assert (settings.hidden_size, settings.time_embedding) == (256, 16)
    assert (settings.beta_min, settings.beta_max, settings.lambda_max) == (0.1, 10.0, 100.0)
    assert (settings.critic_learning_rate, settings.lambda_learning_rate) == (3e-4, 3e-5)
    assert (settings.ema_decay, settings.ema_every, settings.ema_start) == (0.995, 5, 1000)
    assert settings.max_q_candidates == 10


@pytest.mark.parametrize("name", FILES)
def test_what_d4rl_fixes(name: str) -> None:
    """File, simulator, sizes, limits and reference returns."""
    task = get_task(name)
    family = name.split("-", maxsplit=1)[0]
    assert task.d4rl_file == FILES[name]
    assert task.sources[0] == "d4rl"
    assert task.physics == "d4rl"
    assert task.max_action == 1.0
    sizes = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "antmaze": (29, 8)}
    assert (task.observation_size, task.action_size) == sizes[family]
    assert task.episode_limit == (700 if name.startswith("antmaze-umaze") else 1000)
    references = {
        "hopper": (-20.272305, 3234.3),
        "halfcheetah": (-280.178953, 12135.0),
        "walker2d": (1.629008, 4592.3),
        "antmaze": (0.0, 1.0),
    }
    assert (task.random_return, task.expert_return) == references[family]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("antmaze-umaze-diverse-v0", "antmaze-umaze-v0"),
        ("antmaze-medium-play-v0", "antmaze-medium-diverse-v0"),
        ("hopper-medium-replay-v2", "hopper-expert-v2"),
    ],
)
def test_tasks_that_differ_in_data_only_share_an_environment(name: str, other: str) -> None:
    assert get_task(name).environment == get_task(other).environment


def test_where_data_can_come_from() -> None:
    """Every D4RL task from its file, as it is or imported, or from policies of our own; the file is the default."""
    for task in TASKS.values():
        assert task.sources == (("d4rl", "minari", "collected") if task.d4rl_file else ("collected",))
    for name in "bandit-ring", "pointmaze-umaze":
        assert get_task(name).sources == ("collected",)
        assert get_task(name).d4rl_file is None
        assert not get_task(name).in_paper


@pytest.mark.parametrize("name", TASKS)
def test_score_runs_from_random_to_expert(name: str) -> None:
    task = get_task(name)
    middle = (task.random_return + task.expert_return) / 2
    returns = np.array(
        [[task.random_return, middle], [task.expert_return, 2 * task.expert_return - task.random_return]]
    )
    scores = task.normalised_score(returns.astype(np.float32))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [[0, 50], [100, 200]], atol=1e-4)
    assert task.normalised_score(task.expert_return) == pytest.approx(100)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("hoper-medium-v2", r"'hoper-medium-v2'; did you mean 'hopper-medium-v2'\? Known tasks: antmaze"),
        ("Hopper-Medium-v2", r"did you mean 'hopper-medium-v2'\? "),
        ("antmaze-umase-v0", r"did you mean 'antmaze-umaze-v0'\? "),
        ("ring", r"did you mean 'bandit-ring'\? "),
        ("????", r"no task is called '\?\?\?\?'\. Known tasks: "),
        ("", r"no task is called ''\. Known tasks: "),
    ],
)
def test_unknown_task_names_the_nearest(wrong: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        get_task(wrong)
    assert all(name in str(caught.value) for name in TASKS)


def test_settings_that_are_not_the_papers_are_named() -> None:
    task = get_task("hopper-medium-v2")
    paper = official(task, seeds=2)
    assert changed_settings(paper) == []
    other = paper.with_settings(hidden_size=128, precision="bf16", lambda_clip=0.25)
    other = other.replaced(evaluation=task.evaluation.replaced(every=60))
    assert changed_settings(other) == ["hidden_size 128", "precision bf16", "lambda_clip 0.25", "evaluation.every 60"]


# Tasks that are not built in ------------------------------------------------------------------------------------------

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
    steps=77,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tasks, with one task in it."""
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path))
    task_folder().mkdir()
    (task_folder() / "minari-a-b-v0.json").write_text(json.dumps(DEFINITION.to_dict()))
    return task_folder()


def test_a_task_from_its_file(folder: Path) -> None:
    task = get_task("minari-a-b-v0")
    assert task == from_definition(DEFINITION)
    assert (task.environment.id, task.domain, task.sources, task.physics) == ("B-v5", "", ("minari",), "modern")
    assert (task.steps, task.max_action, task.episode_limit) == (77, 2.0, 200)
    assert task.normalised_score([-1.0, 100.0]).tolist() == [0.0, 100.0]
    assert defined() == ["minari-a-b-v0"]
    with pytest.raises(
        UserError, match=r"'minari-a-c-v0'; did you mean 'minari-a-b-v0'\? Known tasks: .*, minari-a-b-v0\.$"
    ):
        get_task("minari-a-c-v0")


def test_a_trial_carries_its_task(folder: Path) -> None:
    trial = RunConfig("minari-a-b-v0", definition=DEFINITION)
    (folder / "minari-a-b-v0.json").unlink()
    assert task_of(trial) == from_definition(DEFINITION)
    assert changed_settings(trial) == []
    assert task_of(RunConfig("bandit-ring")) is TASKS["bandit-ring"]
    with pytest.raises(UserError, match="'minari-a-b-v0'"):
        task_of(RunConfig("minari-a-b-v0"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ("[1]", r"TaskDefinition = \[1\]"),
        ("\ud800", "does not define a task"),
        (json.dumps(DEFINITION.to_dict() | {"step": 5}), "has no setting 'step'; did you mean 'steps'"),
        (json.dumps(DEFINITION.to_dict() | {"steps": "5"}), "steps = '5'"),
        (json.dumps({"name": "minari-a-b-v0"}), "missing 9 required"),
        (json.dumps(DEFINITION.replaced(name="minari-other-v0").to_dict()), "of another name, 'minari-other-v0'"),
    ],
)
def test_a_file_broken_by_hand_is_named(folder: Path, content: str, said: str) -> None:
    file = folder / "minari-a-b-v0.json"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=said) as caught:
        get_task("minari-a-b-v0")
    assert str(file) in str(caught.value)
    assert "diffcps data minari" in str(caught.value)


def test_no_file_replaces_a_built_in_task(folder: Path) -> None:
    (folder / "hopper-medium-v2.json").write_text("{}")
    assert get_task("hopper-medium-v2") is TASKS["hopper-medium-v2"]


@pytest.mark.parametrize("name", ["../tasks/minari-a-b-v0", "minari-a-b-v0.json", "/etc/passwd", "a\0b", "."])
def test_a_name_leads_to_no_other_file(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="no task is called"):
        get_task(name)
