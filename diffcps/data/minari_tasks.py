"""Tasks of Minari data sets: made from what a data set records, and kept as files.

A task has a data set's flattened observations, its actions, its reference scores, and the environment that it names for
evaluation, or else was recorded in.

**Mazes with a sparse reward** (AntMaze and PointMaze of gymnasium-robotics) are evaluated with ``continuing_task=False``,
as ``minari`` reads them: reaching the goal ends an episode.

**Reference scores** are those of the data set. Where it has none, a score is the plain return.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcps.config import EvaluationConfig, ScoreKind, TaskDefinition, Values
from diffcps.data import minari, minari_files
from diffcps.data.transitions import DatasetInfo
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error, write_json
from diffcps.tasks.registry import TASKS, from_definition, read_definition, task_folder

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

_WITHOUT = "To train and export without scores, add --no-evaluation to `diffcps data minari`."

_LEVELS = {"simple": "medium", "medium": "medium", "expert": "expert"}


@dataclass(frozen=True)
class Found:
    """A data set, and the task that is made from it."""

    definition: TaskDefinition
    info: DatasetInfo
    observations: str
    """Its observation space as text."""
    settings_of: str | None
    """The built-in task that the hyper-parameters are copied from; ``None`` for the defaults."""


def task_name(dataset_id: str) -> str:
    """The name of the task made from a data set: ``minari-mujoco-hopper-medium-v0``."""
    return "minari-" + dataset_id.replace("/", "-")


def obtain(dataset_id: str) -> Path:
    """The folder of a data set, which Minari downloads if it is not in ``minari.root()`` yet.

    Raises ``UserError`` for an impossible id, or when it can be neither found nor downloaded.
    """
    if not minari.ID.fullmatch(dataset_id):
        raise UserError(
            f"{dataset_id!r} is no id of a Minari data set: they are made of letters, digits, '-', '_' and '/', and end "
            f"in a version, as mujoco/hopper/medium-v0."
        )
    return minari.find(dataset_id, ()) or _download(dataset_id)


def describe(dataset_id: str, evaluated: bool = True) -> Found:
    """Read a data set, downloading it if need be, and define the task that it makes.

    Args:
        dataset_id: Minari's id.
        evaluated: whether policies are evaluated; if not, the environment is not made and trials have no scores.

    Raises ``UserError`` as ``obtain`` does; when the set is damaged or records no environment; when its spaces cannot be
    learned from or are not those of its environment; and when it is an imported D4RL file, which has its own task.
    """
    from diffcps.envs import recorded

    path = obtain(dataset_id)
    observation_space, action_space = minari_files.spaces(path)
    metadata = minari_files.metadata(path)
    if isinstance(name := minari_files.notes(path).get("task"), str) and name in TASKS:
        raise UserError(f"{dataset_id} is the D4RL file of {name}, imported. Use that task: {name} --data minari.")
    text = _environment_text(dataset_id, metadata, evaluated)
    where = f"{dataset_id}: its"
    size = recorded.observation_size(observation_space, f"{where} observations")
    try:
        action_size, bound = recorded.action_bounds(action_space)
    except UserError as error:
        raise UserError(f"{where} {error}") from error

    spec, score = _evaluated(recorded.read_spec(text), metadata)
    if evaluated:
        _check_environment(dataset_id, spec, size, (action_size, bound))

    episodes = minari.flat_episodes(path)
    low, high = _references(dataset_id, metadata, score)
    model = TASKS.get(_nearest(dataset_id) or "")
    settings = model.settings if model else Values()
    if score == "success":
        settings = Values({**settings, "reward_transform": "antmaze"})
    evaluation = model.evaluation if model else EvaluationConfig()
    definition = TaskDefinition(
        name=task_name(dataset_id),
        minari_id=dataset_id,
        environment_spec=spec.to_json(),
        observation_size=size,
        action_size=action_size,
        max_action=bound,
        episode_limit=spec.max_episode_steps or max(len(episode.rewards) for episode in episodes),
        random_return=low,
        expert_return=high,
        score=score,
        settings=settings,
        evaluation=evaluation if evaluated else evaluation.replaced(episodes=0),
        **({"steps": model.steps} if model else {}),
    )
    task = from_definition(definition)
    info = minari.transitions(task, path, episodes).info
    return Found(definition, info, observations=str(observation_space), settings_of=model.name if model else None)


def register(definition: TaskDefinition) -> tuple[Path, bool]:
    """Write a task's file into ``task_folder()``: its path, and whether it was written now.

    A file that is there already is left as it is, for a person may have changed its hyper-parameters. Raises
    ``UserError`` when it defines a task of another data set, or the folder cannot be written.
    """
    file = task_folder() / f"{definition.name}.json"
    if file.exists():
        there = read_definition(file)
        if there.minari_id != definition.minari_id:
            raise UserError(
                f"{file} defines the task of another data set already, {there.minari_id}. Move it away to have one of "
                f"{definition.minari_id}."
            )
        return file, False
    with unwritable_as_user_error(file, "Choose another folder by DIFFCPS_HOME."):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, definition.to_dict())
    return file, True


def _download(dataset_id: str) -> Path:
    """Have Minari download a data set into a folder of its own, then move it to its place, whole."""
    folder = minari.root()
    variable = "MINARI_DATASETS_PATH"
    before = os.environ.get(variable)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial_root:
            os.environ[variable] = partial_root
            try:
                from minari.storage import hosting

                hosting.download_dataset(dataset_id)
            finally:
                if before is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = before
            target = folder / dataset_id
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(Path(partial_root) / dataset_id, target)
    except ImportError as error:
        raise UserError(
            f"{dataset_id} is not in {folder}, and Minari lacks a package to download it with ({error})."
        ) from error
    # Minari asks one of several services through libraries that share no class of errors
    except Exception as error:
        raise UserError(
            f"{dataset_id} is not in {folder}, and Minari could not download it ({type(error).__name__}: {error}). Check "
            f"the id with `minari list remote` and the network, or copy the data set into that folder."
        ) from error
    return target


def _evaluated(spec: "EnvSpec", metadata: Mapping[str, Any]) -> tuple["EnvSpec", ScoreKind]:
    """The specification of the environment for evaluation, and what a score is (see the top of this file)."""
    if "maze" in spec.id.lower() and spec.kwargs.get("reward_type") == "sparse":
        spec.kwargs["continuing_task"] = False
        return spec, "success"
    return spec, "return" if metadata.get("ref_max_score") is None else "normalised"


def _references(dataset_id: str, metadata: Mapping[str, Any], score: ScoreKind) -> tuple[float, float]:
    """Returns that count as a score of 0 and of 100."""
    if score != "normalised":
        return 0.0, 1.0 if score == "success" else 100.0
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
        raise UserError(
            f"{dataset_id}: its reference scores are {low!r} and {high!r}; there must be two numbers, the second larger."
        )
    return float(low), float(high)


def _nearest(dataset_id: str) -> str | None:
    """The built-in task of the same robot and level, for its hyper-parameters; ``None`` when there is none."""
    if found := re.fullmatch(r"mujoco/(hopper|halfcheetah|walker2d)/(simple|medium|expert)-v\d+", dataset_id):
        return f"{found[1]}-{_LEVELS[found[2]]}-v2"
    if found := re.fullmatch(r"D4RL/antmaze/(.+)-v\d+", dataset_id):
        return f"antmaze-{found[1]}-v0"
    return None


def _environment_text(dataset_id: str, metadata: Mapping[str, Any], evaluated: bool) -> str:
    """The specification for evaluation as JSON. Raises ``UserError`` when there is none and policies shall be evaluated."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if isinstance(text, str):
        return text
    if evaluated:
        raise UserError(f"{dataset_id} records no environment (env_spec), so policies cannot be evaluated. {_WITHOUT}")
    return '{"id": "not-recorded", "additional_wrappers": []}'


def _check_environment(dataset_id: str, spec: "EnvSpec", size: int, actions: tuple[int, float]) -> None:
    """Raise ``UserError`` when the environment cannot be made, or a data set's observations or actions are not of it."""
    from diffcps.envs import recorded

    try:
        environment = recorded.made(spec, spec.max_episode_steps)
    except UserError as error:
        raise UserError(f"{error} {_WITHOUT}") from error
    with contextlib.closing(environment):
        theirs = recorded.observation_size(
            environment.observation_space, f"{dataset_id}: the observations of {spec.id}"
        )
        their_actions = recorded.action_bounds(environment.action_space)
    another = "Another version of the environment was recorded; install the one that fits."
    if theirs != size:
        raise UserError(
            f"{dataset_id}: its observations are of {size} numbers, those of its environment {spec.id} of {theirs}. {another}"
        )
    if their_actions != actions:
        raise UserError(
            f"{dataset_id}: its actions are {actions[0]} numbers in ±{actions[1]:g}, those of its environment {spec.id} are "
            f"{their_actions[0]} in ±{their_actions[1]:g}. {another}"
        )
