"""Environments made from recorded specifications, and observations flattened alike in data and environment."""

import json

import gymnasium
import minari_sets
import numpy as np
import pytest
from gymnasium import spaces

from diffcps import envs
from diffcps.config import TaskDefinition
from diffcps.envs import recorded
from diffcps.envs.simulations import OneByOne
from diffcps.errors import UserError
from diffcps.tasks.registry import from_definition

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def spec_of(name: str, **arguments: object) -> str:
    environment = gymnasium.make(name, disable_env_checker=True, **arguments)
    text = environment.spec.to_json()
    environment.close()
    return text


HOPPER = spec_of("Hopper-v5")
POINT = spec_of("PointMaze_UMaze-v3", continuing_task=False)
ANT = spec_of("AntMaze_UMaze-v4", continuing_task=False)


@pytest.mark.parametrize("spec", [HOPPER, POINT, ANT])
def test_data_and_environment_are_flattened_alike(spec: str) -> None:
    """By Gymnasium's rule, in Gymnasium's order of keys, whatever the order of the keys in the data."""
    plain, flat = (
        recorded.made(recorded.read_spec(spec), 5),
        recorded.flattened(recorded.made(recorded.read_spec(spec), 5)),
    )
    observations, vectors = [plain.reset(seed=3)[0]], [flat.reset(seed=3)[0]]
    plain.action_space.seed(0)
    for _ in range(4):
        action = plain.action_space.sample()
        observations.append(plain.step(action)[0])
        vectors.append(flat.step(action)[0])
    stacked = minari_sets.stacked(observations)
    if isinstance(stacked, dict):
        stacked = dict(reversed(stacked.items()))
    ours = recorded.flatten(plain.observation_space, stacked)
    theirs = [spaces.flatten(plain.observation_space, observation) for observation in observations]
    np.testing.assert_array_equal(ours, np.stack(theirs))
    np.testing.assert_array_equal(ours, np.stack(vectors))
    assert recorded.observation_size(plain.observation_space) == ours.shape[1]


@pytest.mark.parametrize("spec", [HOPPER, POINT, ANT])
def test_episodes_are_set_by_their_seeds_and_cut_off_at_the_limit(spec: str) -> None:
    """The same as one environment at a time; an environment that has ended is left alone."""
    many = OneByOne([recorded.flattened(recorded.made(recorded.read_spec(spec), 6)) for _ in range(3)])
    one = recorded.flattened(recorded.made(recorded.read_spec(spec), 6))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.5, 1.5, (6, 3, one.action_space.shape[0])).astype(np.float32)
    for _ in range(2):  # the second time after other episodes
        seen, active = [many.reset([5, 6, 5])], np.array([True, True, True])
        rewards, ended = np.zeros((6, 3)), np.zeros((6, 3), bool)
        for t in range(6):
            observations, rewards[t], ended[t] = many.step(actions[t], active)
            seen.append(observations)
            active = active & ~ended[t]
        assert not active.any()
        for i, seed in enumerate((5, 6, 5)):
            observation, done = one.reset(seed=seed)[0], False
            np.testing.assert_array_equal(seen[0][i], observation.astype(np.float32))
            for t in range(6):
                if not done:
                    clipped = np.clip(actions[t, i], one.action_space.low, one.action_space.high)
                    observation, reward, terminated, truncated, _ = one.step(clipped)
                    done = terminated or truncated
                    assert (rewards[t, i], ended[t, i]) == (reward, done)
                else:
                    assert (rewards[t, i], ended[t, i]) == (0.0, False)
                np.testing.assert_array_equal(seen[t + 1][i], observation.astype(np.float32))
    with pytest.raises(ValueError, match="not finite"):
        many.step(np.full((3, *one.action_space.shape), np.nan), np.array([True, False, False]))
    with pytest.raises(ValueError, match="2 seeds for 3"):
        many.reset([1, 2])
    many.close()


def test_a_task_with_a_definition_is_made_through_the_usual_door() -> None:
    task = from_definition(TaskDefinition("minari-x-v0", "x-v0", POINT, 8, 2, 1.0, 4, 0.0, 1.0, "success", steps=10))
    environments = envs.make_vector(task, "modern", 2)
    assert isinstance(environments, OneByOne)
    assert environments.reset([1, 2]).shape == (2, 8)
    single = envs.make(task, "modern")
    assert single.observation_space.shape == (8,)
    assert single.spec.max_episode_steps == 4


def test_reaching_the_goal_ends_a_maze_that_does_not_continue() -> None:
    environment = recorded.made(recorded.read_spec(POINT), 300)
    environment.reset(seed=0, options={"goal_cell": np.array([1, 1]), "reset_cell": np.array([3, 1])})
    point = environment.unwrapped
    point.point_env.set_state(point.goal.copy(), np.zeros(2))
    _, reward, terminated, *_ = environment.step(np.zeros(2, np.float32))
    assert (reward, terminated) == (1.0, True)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Discrete(4), r"its x are of Discrete\(4\)"),
        (spaces.Text(5), "its x are of Text"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), r"its x are of Box\(0, 255, \(8, 8, 3\), uint8\).*no images"),
        (spaces.Tuple([BOX, BOX]), "its x are of Tuple"),
        (spaces.Dict({"a": BOX, "mission": spaces.Text(5)}), r"its x\['mission'\] are of Text"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), r"its x\['a'\]\['b'\] are of Discrete"),
    ],
)
def test_spaces_that_cannot_be_learned_from_are_named(space: spaces.Space, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recorded.observation_size(space, "its x")


def test_nested_and_many_dimensional_observations_are_flattened() -> None:
    space = spaces.Dict({"b": spaces.Box(-1, 1, (2, 2), np.float64), "a": spaces.Dict({"z": BOX, "c": BOX})})
    samples = [space.sample() for _ in range(3)]
    flat = recorded.flatten(space, minari_sets.stacked(samples))
    np.testing.assert_array_equal(flat, [spaces.flatten(space, sample) for sample in samples])
    assert recorded.observation_size(space) == flat.shape[1] == 10
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        recorded.flatten(BOX, np.zeros((4, 2)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-1.0, np.array([1.0, 2.0], np.float32)),
        spaces.Box(-2.0, 1.0, (2,)),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0.0, 1.0, (2,)),
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.Box(-1, 1, (2,), np.int64),
    ],
    ids=str,
)
def test_actions_without_one_bound_are_refused(space: spaces.Space) -> None:
    with pytest.raises(UserError, match=r"actions are of (Box|Discrete)"):
        recorded.action_bounds(space)
    assert recorded.action_bounds(spaces.Box(-0.4, 0.4, (17,))) == (17, pytest.approx(0.4))


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", "{}", '{"id": 5}', '{"id": "A-v0", "additional_wrappers": [{"a": 1}]}']
)
def test_what_is_no_specification_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="specification"):
        recorded.read_spec(text)


def test_specifications_of_older_versions_are_read() -> None:
    values = json.loads(HOPPER) | {"apply_api_compatibility": False, "autoreset": False}
    assert recorded.read_spec(json.dumps(values)).id == "Hopper-v5"


@pytest.mark.parametrize(
    "changes",
    [
        {"entry_point": "no_such_package.envs:Robot"},
        {"entry_point": "gymnasium.envs.mujoco.hopper_v5:Robot"},
        {"kwargs": {"wings": 2}},
        {"entry_point": None},
    ],
)
def test_an_environment_that_cannot_be_made_here(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"Hopper-v5"):
        recorded.made(recorded.read_spec(json.dumps(json.loads(HOPPER) | changes)), 10)
