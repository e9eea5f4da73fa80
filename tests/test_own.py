"""A person's own log becomes a data set and a task."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from diffcps import data
from diffcps.config import DataConfig, EvaluationConfig
from diffcps.data import library, own
from diffcps.data.transitions import Episode
from diffcps.errors import UserError
from diffcps.tasks.registry import get_task

ID = "mine/pendulum/test-v0"


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFCPS_HOME", str(tmp_path / "home"))
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
        yield


def act(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip([2.0 * observation[2] + rng.normal()], -2.0, 2.0)


def test_episodes_are_recorded_reproducibly() -> None:
    first, second = own.record("Pendulum-v1", act, 2), own.record("Pendulum-v1", act, 2)
    assert [episode.actions.tolist() for episode in first] == [episode.actions.tolist() for episode in second]
    assert first[0].observations.shape == (201, 3)
    assert first[0].actions.shape == (200, 1)
    assert np.abs(first[0].actions).max() <= 2.0
    assert first[0].truncations.tolist() == [False] * 199 + [True]
    assert not first[0].terminations.any()
    assert first[0].observations[0].tolist() != first[1].observations[0].tolist()
    assert own.record("Pendulum-v1", act, 1, seed=1)[0].actions.tolist() != first[0].actions.tolist()


def test_a_log_becomes_a_task() -> None:
    log = own.record("Pendulum-v1", act, 3)
    task = own.save(ID, "Pendulum-v1", log, (-1200.0, -150.0), {"settings": {"hidden_size": 32}})
    assert task.name == "minari-mine-pendulum-test-v0"
    assert (task.observation_size, task.action_size, task.max_action, task.episode_limit) == (3, 1, 2.0, 200)
    assert task.normalised_score(-675.0) == 50.0
    assert task.settings["hidden_size"] == 32
    assert get_task(task.name) == task
    transitions = data.load(task, DataConfig(source="minari"), ())
    np.testing.assert_array_equal(transitions.observations, np.concatenate([e.observations[:-1] for e in log]))
    np.testing.assert_array_equal(transitions.next_observations, np.concatenate([e.observations[1:] for e in log]))
    np.testing.assert_allclose(transitions.info.returns, [episode.rewards.sum() for episode in log], rtol=1e-6)
    assert not transitions.terminals.any()
    assert library.look_up(task.name, None, ()).task == task
    assert own.save(ID, "Pendulum-v1", log, (-1200.0, -150.0)) == task, "a task that is there is left as it is"


def test_without_references_a_score_is_the_return() -> None:
    task = own.save(ID, "Pendulum-v1", own.record("Pendulum-v1", act, 1))
    assert task.score == "return"
    assert task.normalised_score(-42.0) == -42.0


def test_other_episodes_and_impossible_ids_are_refused() -> None:
    own.save(ID, "Pendulum-v1", own.record("Pendulum-v1", act, 1))
    with pytest.raises(UserError, match=r"holds other episodes.*mine/pendulum/test-v1"):
        own.save(ID, "Pendulum-v1", own.record("Pendulum-v1", act, 1, seed=5))
    with pytest.raises(UserError, match="write it like"):
        own.save("pendulum", "Pendulum-v1", own.record("Pendulum-v1", act, 1))
    with pytest.raises(UserError, match="real numbers"):
        own.save("mine/cartpole-v0", "CartPole-v1", own.record("Pendulum-v1", act, 1))


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (
            lambda e: replace(e, observations=np.repeat(e.observations, 2, axis=1)),
            "of 6 numbers.*Give episodes of Pendulum-v1",
        ),
        (lambda e: replace(e, actions=e.actions[:, 0]), r"float32 of shape \(200,\)"),
        (lambda e: replace(e, actions=5 * e.actions), "outside the bounds ±2"),
        (lambda e: replace(e, rewards=np.where(e.rewards < e.rewards.mean(), np.nan, e.rewards)), "'rewards'.*nan"),
    ],
)
def test_episodes_that_cannot_be_learned_from_are_not_stored(spoilt: Callable[[Episode], Episode], said: str) -> None:
    log = own.record("Pendulum-v1", act, 1)
    with pytest.raises(UserError, match=said):
        own.save(ID, "Pendulum-v1", [spoilt(episode) for episode in log])
    assert own.save(ID, "Pendulum-v1", log).steps == get_task("minari-mine-pendulum-test-v0").steps


def test_no_step_and_a_setting_that_there_is_not_are_refused() -> None:
    log = own.record("Pendulum-v1", act, 1)
    with pytest.raises(UserError, match="no step"):
        own.save(ID, "Pendulum-v1", [])
    none = replace(log[0], **{name: array[: name == "observations"] for name, array in vars(log[0]).items()})
    with pytest.raises(UserError, match="episode 1 has no step"):
        own.save(ID, "Pendulum-v1", [log[0], none])
    with pytest.raises(UserError, match=r"'step'.*steps"):
        own.save(ID, "Pendulum-v1", log, settings={"step": 10})
    task = own.save(ID, "Pendulum-v1", log, settings={"steps": 10, "evaluation": EvaluationConfig(episodes=3)})
    assert (task.steps, task.evaluation.episodes) == (10, 3)


def test_an_array_that_is_given_again_with_other_numbers_is_copied() -> None:
    torque = np.zeros(1, dtype=np.float32)

    def reusing(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        torque[:] = rng.uniform(-2.0, 2.0)
        return torque

    assert len(np.unique(own.record("Pendulum-v1", reusing, 1)[0].actions)) == 200


def test_an_environment_that_cannot_be_played_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'Pendulums-v1'.*NameNotFound"):
        own.record("Pendulums-v1", act, 1)
    with pytest.raises(UserError, match=r"'Pendulums-v1'.*NameNotFound"):
        own.save(ID, "Pendulums-v1", [])
    # without a limit a pendulum swings for ever; the specification that is changed is a registered one's copy
    endless = gymnasium.spec("Pendulum-v1")
    endless = replace(endless, id="Endless-v0", max_episode_steps=None)
    monkeypatch.setitem(gymnasium.registry, "Endless-v0", endless)
    with pytest.raises(UserError, match=r"Endless-v0.*max_episode_steps=1000"):
        own.record("Endless-v0", forbidden, 1)


def forbidden(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    raise AssertionError("it was played")


def test_a_task_is_not_given_other_references(tmp_path: Path) -> None:
    log = own.record("Pendulum-v1", act, 1)
    task = own.save(ID, "Pendulum-v1", log, (-1200.0, -150.0))
    for references, named in (((-1000.0, -150.0), "-1000 and -150"), (None, "none")):
        with pytest.raises(UserError, match=f"-1200 and -150, and not {named}.*mine/pendulum/test-v1"):
            own.save(ID, "Pendulum-v1", log, references)
    assert get_task(task.name) == task
    (tmp_path / "home" / "tasks" / f"{task.name}.json").unlink()  # the data set has them too
    with pytest.raises(UserError, match=r"-1200 and -150.*-1000 and -150"):
        own.save(ID, "Pendulum-v1", log, (-1000.0, -150.0))
    assert own.save(ID, "Pendulum-v1", log, (-1200.0, -150.0)) == task
