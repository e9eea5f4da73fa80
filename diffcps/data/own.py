"""Data of one's own as a task: episodes recorded in a Gymnasium environment become a Minari data set and a task."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffcps.config import TaskDefinition
from diffcps.data import minari, minari_files, minari_tasks
from diffcps.data.transitions import Episode
from diffcps.envs import recorded
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, from_definition, get_task, read_definition, task_folder

Act = Callable[[NDArray[np.floating[Any]], np.random.Generator], NDArray[np.floating[Any]]]
"""A behaviour: from an observation ``[o]`` to an action ``[a]``."""


def record(environment: str, act: Act, count: int, seed: int = 0) -> list[Episode]:
    """``count`` episodes of a behaviour in a Gymnasium environment; the same seed gives the same episodes.

    Args:
        environment: its id, such as ``Pendulum-v1``.
        act: the behaviour, which is also given a generator for what is random about it.
        count: episodes.
        seed: of the environment's starts and of the behaviour.

    Raises:
        UserError: the environment cannot be made here, or has no limit of steps: an episode might never end.
    """
    made = recorded.flattened(_make(environment))
    if made.spec is None or made.spec.max_episode_steps is None:
        made.close()
        raise UserError(
            f"{environment} has no limit of steps, so that an episode of it may never end. Register it with one, as in "
            f"gymnasium.register('Limited-v0', gymnasium.spec({environment!r}).entry_point, max_episode_steps=1000), and "
            "record that."
        )
    rng = np.random.default_rng(seed)
    found = [_episode(made, act, rng) for _ in range(count)]
    made.close()
    return found


def _make(environment: str) -> "gymnasium.Env[Any, Any]":
    """The environment of an id. Raises ``UserError`` when it cannot be made here, with the reason."""
    try:
        return gymnasium.make(environment)
    # an id may name a class of any package, and that class may raise anything
    except Exception as error:
        raise UserError(
            f"the environment {environment!r} cannot be made here ({type(error).__name__}: {error}). Give an id that "
            "gymnasium.pprint_registry() lists, after installing and importing the package that it comes from."
        ) from error


def _episode(environment: "gymnasium.Env[Any, Any]", act: Act, rng: np.random.Generator) -> Episode:
    observation, _ = environment.reset(seed=int(rng.integers(2**31)))
    # copies: an environment or a behaviour may give the same array again, with other numbers
    observations, actions, rewards = [np.array(observation, dtype=np.float32)], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(np.array(act(observation, rng), dtype=np.float32))
        observation, reward, terminated, truncated, _ = environment.step(actions[-1])
        observations.append(np.array(observation, dtype=np.float32))
        rewards.append(float(reward))
    ends = np.zeros((2, len(rewards)), dtype=bool)
    ends[:, -1] = terminated, truncated and not terminated
    return Episode(np.stack(observations), np.stack(actions), np.array(rewards), *ends)


def save(
    dataset_id: str,
    environment: str,
    episodes: Sequence[Episode],
    references: tuple[float, float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Task:
    """Store episodes as a Minari data set in Minari's folder and define a task that is evaluated in ``environment``.

    Sweeps, ``diffcps train`` and ``diffcps data`` then know the task by its name. A task that exists already keeps the
    settings in its file, and its references.

    Args:
        dataset_id: Minari's id for it, ``mine/pendulum-v0``.
        environment: id of the Gymnasium environment.
        episodes: what was recorded, observations flat.
        references: returns that count as a score of 0 and of 100; without them a score is the plain return.
        settings: fields of ``TaskDefinition`` that differ from its defaults, ``steps`` or ``settings`` for example.

    Raises:
        UserError: the id is impossible or taken by other episodes or a task of other references, the environment cannot
            be made here or has spaces that cannot be learned from, the episodes are not of it, or there is no such setting.
    """
    if not minari.ID.fullmatch(dataset_id):
        raise UserError(f"{dataset_id!r} is no id of a Minari data set: write it like mine/pendulum-v0.")
    for number, episode in enumerate(episodes):
        if len(episode.rewards) == 0:
            raise UserError(f"{dataset_id}: episode {number} has no step. Leave it out.")
    draft = _draft(dataset_id, environment, episodes, references)
    changes = dict(settings or {})
    TaskDefinition.from_dict(vars(draft) | changes)  # refuses a setting that there is not, before anything is stored
    file = task_folder() / f"{draft.name}.json"
    if file.exists():
        _refuse_other_references(dataset_id, read_definition(file), draft, file)
    path = minari.find(dataset_id, ())
    if path is None:
        path, task = minari.root() / dataset_id, from_definition(draft)
        minari_files.check(path, episodes)
        minari.check_fit(task, path, episodes, f"Give episodes of {environment}.")
        about: dict[str, Any] = {"env_spec": draft.environment_spec, "description": f"Recorded in {environment}."}
        about |= {} if references else {"ref_min_score": None, "ref_max_score": None}
        minari_files.write(minari.root(), dataset_id, task=task, episodes=episodes, about=about, own={})
    elif minari_files.notes(path).get("checksum") != minari_files.checksum(episodes):
        raise UserError(f"{path} holds other episodes. Delete it, or give these another version: {_next(dataset_id)}.")
    definition = minari_tasks.describe(dataset_id).definition
    _refuse_other_references(dataset_id, definition, draft, path)
    minari_tasks.register(TaskDefinition.from_dict(vars(definition) | changes))
    return get_task(definition.name)


def _draft(
    dataset_id: str, environment: str, episodes: Sequence[Episode], references: tuple[float, float] | None
) -> TaskDefinition:
    """The task of the episodes, without settings of its own."""
    with contextlib.closing(_make(environment)) as made:
        spec = made.spec
        assert spec is not None
        observation_size = recorded.observation_size(made.observation_space)
        action_size, bound = recorded.action_bounds(made.action_space)
    longest = max((len(episode.rewards) for episode in episodes), default=0)
    if longest == 0:
        raise UserError(f"{dataset_id}: there is no step to store. Record some episodes first.")
    low, high = references or (0.0, 100.0)
    return TaskDefinition(
        name=minari_tasks.task_name(dataset_id), minari_id=dataset_id, environment_spec=spec.to_json(),
        observation_size=observation_size, action_size=action_size, max_action=bound,
        episode_limit=spec.max_episode_steps or longest,
        random_return=low, expert_return=high, score="return" if references is None else "normalised",
    )  # fmt: skip


def _refuse_other_references(dataset_id: str, there: TaskDefinition, asked: TaskDefinition, where: Path) -> None:
    """Raise ``UserError`` when scores of what is there count from other references than those that were asked for."""
    if there.minari_id != dataset_id or there.score == "success":  # another's file is refused anyway; a maze needs none
        return
    known, wanted = ((t.random_return, t.expert_return) for t in (there, asked))
    if there.score == asked.score and np.allclose(known, wanted, rtol=1e-9, atol=0.0):
        return
    shown = [
        f"{low:g} and {high:g}" if score == "normalised" else "none"
        for score, (low, high) in ((there.score, known), (asked.score, wanted))
    ]
    raise UserError(
        f"{where} has references already: {shown[0]}, and not {shown[1]}. Give the same, or delete "
        f"{minari.root() / dataset_id} and {task_folder() / asked.name}.json, or give it another version: "
        f"{_next(dataset_id)}."
    )


def _next(dataset_id: str) -> str:
    stem, _, version = dataset_id.rpartition("-v")
    return f"{stem}-v{int(version) + 1}"
