"""Minari data sets: as a source of data, and as tasks of their own.

A task is made from what a data set records: its flattened observations, its actions, its reference scores, and the
environment that it names for evaluation, or else was recorded in. Reports say that such data are not D4RL's and show no
published numbers beside them. A D4RL file that was imported (``imports``) is a Minari data set of the file's task.

**Mazes with a sparse reward** (AntMaze and PointMaze of gymnasium-robotics) may be recorded as continuing tasks: an
episode continues after the goal is reached and has a reward at every further step. They are learned and evaluated like
D4RL's AntMaze: reaching the goal ends an episode with a return of 1, and a score is the percentage of episodes that
reach it. The environment is made with ``continuing_task=False``, and a step with a reward counts as terminal.

**Reference scores** are those of the data set. Where it has none, a score is the plain return.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcps.config import EvaluationConfig, ScoreKind, TaskDefinition, Values
from diffcps.data import episodes as storage
from diffcps.data.library import Checksum, Holding, Source, distinct
from diffcps.data.transitions import DatasetInfo, Episode, Origin, Transitions, check_actions, checksum, from_episodes
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error, write_json
from diffcps.tasks.registry import TASKS, Task, from_definition, get_task, read_definition, task_folder

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from diffcps.data.checking.recording import Recording

ID = re.compile(r"(?:[-_A-Za-z0-9]+/)*[-_A-Za-z0-9]+-v\d+")
"""Of data sets, such as ``mujoco/hopper/medium-v0``."""

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


class Minari(Source):
    """Minari data sets of a task: what it was made from, or its imported D4RL file."""

    name = "minari"
    says = "Minari data sets and imported D4RL files"

    def load(self, task: Task, path: Path) -> Transitions:
        """See ``load`` here and in ``imports``."""
        from diffcps.data import imports  # it imports this file

        return load(task, path) if task.definition is not None else imports.load(task, path)

    def wanted(self, task: Task) -> str:
        """Minari's id."""
        return task.definition.minari_id if task.definition is not None else imported_id(task)

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """The given folders and Minari's own."""
        return distinct([*directories, root()])

    def every(self, task: Task, directories: Sequence[Path]) -> list[Path]:
        """The first one; imported twice, it is the same."""
        found = find(self.wanted(task), directories)
        return [] if found is None else [found]

    def remedy(self, tasks: Sequence[Task]) -> str:
        """Commands."""
        files = " ".join(str(task.d4rl_file) for task in tasks if task.definition is None)
        lines = [
            f"    diffcps data minari {task.definition.minari_id}" for task in tasks if task.definition is not None
        ]
        if files:
            lines += [f"    diffcps data import {files}", "  or use the D4RL file as it is: --data d4rl"]
        return "\n".join(["  To get them:", *lines])

    def label(self, task: Task, provenance: str) -> str:
        """An imported file counts as the file."""
        if task.definition is not None:
            return "Minari, not D4RL's data"
        from diffcps.data import d4rl

        return d4rl.SOURCE.label(task, provenance)

    def holding(self, path: Path, sha256: Checksum) -> Holding:
        """See ``holding``."""
        return holding(self.name, path)

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """By what the data set says, or else the named task."""
        if not (path / "data").is_dir():
            return None
        own = storage.notes(path)
        return None if "recipe" in own else noted_task(path, own.get("task"), name)

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """See ``Source.record``."""
        from diffcps.data import imports
        from diffcps.data.checking import recording

        if task.definition is None:
            return recording.from_rows(task, imports.read(task, path)[0]), {}
        return recording.from_episodes(task, read(task, path))


SOURCE = Minari()


def holding(source: str, path: Path) -> Holding:
    """A Minari data set on this machine."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        return Holding(source, path, size, int(storage.metadata(path)["total_steps"]))
    except (UserError, KeyError, TypeError):
        return Holding(source, path, size, fault="its metadata.json cannot be read; delete it and make it again.")


def noted_task(path: Path, noted: object, name: str | None) -> Task:
    """The task that a Minari data set notes, or else the one that the user names.

    Raises ``UserError`` when there is neither, or they differ.
    """
    if noted is None and name is None:
        raise UserError(
            f"{path} does not say which task its data belong to: --task NAME (`diffcps data minari ID` makes a task)."
        )
    if noted is not None and name is not None and noted != name:
        raise UserError(f"{path} holds the data of {noted}: leave out --task {name}.")
    return get_task(str(noted if noted is not None else name))


def imported_id(task: Task) -> str:
    """Minari's id of a task's imported D4RL file."""
    return f"d4rl-import/{task.name}-v0"


def root() -> Path:
    """Minari's folder of data sets: ``$MINARI_DATASETS_PATH``, by default ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().absolute()


def find(dataset_id: str, directories: Sequence[Path]) -> Path | None:
    """The folder of a data set, in the first of ``directories`` or Minari's own folder that has it; else ``None``."""
    folders = (folder / dataset_id for folder in SOURCE.places(directories))
    return next((folder for folder in folders if (folder / "data").is_dir()), None)


def task_name(dataset_id: str) -> str:
    """The name of the task made from a data set: ``minari-mujoco-hopper-medium-v0``."""
    return "minari-" + dataset_id.replace("/", "-")


def load(task: Task, path: Path) -> Transitions:
    """The transitions of a task's data set in the folder ``path``, observations flattened.

    Raises ``UserError`` when the set is damaged, or is not what the task was made from.
    """
    return _transitions(task, path, read(task, path))


def read(task: Task, path: Path) -> list[Episode]:
    """The episodes of a task's data set in the folder ``path`` as they are learned from: observations flattened, those
    of a maze ended at its goal, and none without a step.

    Raises ``UserError`` when the set is damaged.
    """
    return _as_evaluated(task, _read(path))


def obtain(dataset_id: str) -> Path:
    """The folder of a data set, which Minari downloads if it is not in ``root()`` yet.

    Raises ``UserError`` for an impossible id, or when it can be neither found nor downloaded.
    """
    if not ID.fullmatch(dataset_id):
        raise UserError(
            f"{dataset_id!r} is no id of a Minari data set: they are made of letters, digits, '-', '_' and '/', and end "
            f"in a version, as mujoco/hopper/medium-v0."
        )
    return find(dataset_id, ()) or _download(dataset_id)


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
    observation_space, action_space = storage.spaces(path)
    metadata = storage.metadata(path)
    if isinstance(name := storage.notes(path).get("task"), str) and name in TASKS:
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

    episodes = _read(path)
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
    info = _transitions(task, path, _as_evaluated(task, episodes)).info
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
    folder = root()
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
    """The specification of the environment for evaluation, and what a score is (see the top of the file)."""
    if "maze" in spec.id.lower() and spec.kwargs.get("reward_type") == "sparse":
        spec.kwargs["continuing_task"] = False
        return spec, "success"
    return spec, "return" if metadata.get("ref_max_score") is None else "normalised"


def other_maze(path: Path) -> str:
    """A sentence if a data set names another maze for evaluation than it was recorded in, else nothing.

    Start and goal may differ; walls are compared.
    """
    metadata = storage.metadata(path)
    walls = [_walls(metadata.get(key)) for key in ("env_spec", "eval_env_spec")]
    if None in walls or walls[0] == walls[1]:
        return ""
    return " It was recorded in another maze than the one in which it says that policies are evaluated."


def _walls(text: object) -> list[list[bool]] | None:
    """Where the maze of a specification has walls; ``None`` if it names no maze."""
    try:
        rows = json.loads(text)["kwargs"]["maze_map"] if isinstance(text, str) else None
        return [[cell == 1 for cell in row] for row in rows] if rows else None
    except (ValueError, KeyError, TypeError):
        return None


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


def _read(path: Path) -> list[Episode]:
    """The episodes of a data set with flattened observations; those without a step are left out."""
    from diffcps.envs import recorded

    return [episode for episode in storage.read(path, recorded.flatten) if len(episode.rewards)]


def _as_evaluated(task: Task, episodes: list[Episode]) -> list[Episode]:
    """The episodes with the same ends as an evaluation of the task."""
    return [_ending_at_the_goal(episode) for episode in episodes] if task.score == "success" else episodes


def check_fit(task: Task, path: Path, episodes: Sequence[Episode], remedy: str) -> None:
    """Raise ``UserError`` when the episodes for, or of, the data set at ``path`` have other sizes or bounds than the task.

    ``remedy`` says what to do about other sizes.
    """
    widths = {
        "observations": (task.observation_size, {e.observations.shape[1] for e in episodes}),
        "actions": (task.action_size, {e.actions.shape[1] for e in episodes}),
    }
    for name, (wanted, found) in widths.items():
        if found != {wanted}:
            raise UserError(
                f"{path}: its {name} are of {' and '.join(map(str, sorted(found)))} numbers, {task.name} needs {wanted}. "
                f"{remedy}"
            )
    check_actions(path, np.concatenate([e.actions for e in episodes]), task)


def _transitions(task: Task, path: Path, episodes: Sequence[Episode]) -> Transitions:
    """Transitions of what ``read`` gives. Raises ``UserError`` when the episodes are not what the task was made from."""
    assert task.definition is not None
    remedy = "If the data set has changed, delete the task's file and run `diffcps data minari` again."
    check_fit(task, path, episodes, remedy)
    origin = Origin(
        source="minari",
        path=path,
        checksum=checksum(episodes),
        provenance="other",
        provenance_note=f"Minari's {task.definition.minari_id}: not D4RL's data.{other_maze(path)}",
    )
    return from_episodes(task, episodes, origin)


def _ending_at_the_goal(episode: Episode) -> Episode:
    """A maze's episode in which every rewarded step is terminal, and which is cut off wherever it ends."""
    truncations = np.zeros(len(episode.rewards), dtype=bool)
    truncations[-1] = episode.truncations[-1] or episode.terminations[-1]
    return replace(episode, terminations=episode.rewards > 0, truncations=truncations)
