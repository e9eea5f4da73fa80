"""Minari data sets as a source of data: of tasks made from them (``minari_tasks``), and imported D4RL files (``imports``).

Reports say that data of the first kind are not D4RL's and show no published numbers beside them. An imported file is a
Minari data set of the file's task.

**Mazes with a sparse reward** (AntMaze and PointMaze of gymnasium-robotics) may be recorded as continuing tasks: an
episode continues after the goal is reached and has a reward at every further step. They are learned and evaluated like
D4RL's AntMaze: reaching the goal ends an episode with a return of 1, and a score is the percentage of episodes that
reach it. A step with a reward counts as terminal, and ``minari_tasks`` makes the environment accordingly.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcps.data import minari_files
from diffcps.data.library import Holding, Sha256Of, Source, distinct, named_folders
from diffcps.data.transitions import Episode, Origin, Transitions, check_actions, checksum, from_episodes
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

if TYPE_CHECKING:
    from diffcps.data.checking.recording import Recording

ID = re.compile(r"(?:[-_A-Za-z0-9]+/)*[-_A-Za-z0-9]+-v\d+")
"""Of data sets, such as ``mujoco/hopper/medium-v0``."""


class Minari(Source):
    """Minari data sets of a task: what it was made from, or its imported D4RL file."""

    name = "minari"
    says = "Minari data sets and imported D4RL files"

    def load(self, task: Task, path: Path) -> Transitions:
        """Those of the task made from it, or of the file that was imported."""
        from diffcps.data import imports  # it imports this file

        return load(task, path) if task.definition is not None else imports.load(task, path)

    def wanted(self, task: Task) -> str:
        """Minari's id."""
        return task.definition.minari_id if task.definition is not None else imported_id(task)

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """The given folders, those of ``DIFFCPS_DATA``, and Minari's own; raises as ``named_folders`` does."""
        return distinct([*named_folders(directories), root()])

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

    def holding(self, path: Path, sha256: Sha256Of) -> Holding:
        """See ``Source.holding``."""
        return minari_files.holding(self.name, path)

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """By what the data set says, or else the named task."""
        if not (path / "data").is_dir():
            return None
        own = minari_files.notes(path)
        return None if "recipe" in own else minari_files.noted_task(path, own.get("task"), name)

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """See ``Source.record``."""
        from diffcps.data import imports
        from diffcps.data.checking import recording

        if task.definition is None:
            return recording.from_rows(task, imports.read(task, path)[0]), {}
        return recording.from_episodes(task, read(task, path))


SOURCE = Minari()


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


def load(task: Task, path: Path) -> Transitions:
    """The transitions of a task's data set in the folder ``path``, observations flattened.

    Raises ``UserError`` when the set is damaged, or is not what the task was made from.
    """
    return transitions(task, path, flat_episodes(path))


def read(task: Task, path: Path) -> list[Episode]:
    """The episodes of a task's data set in the folder ``path`` as they are learned from: observations flattened, those
    of a maze ended at its goal, and none without a step.

    Raises ``UserError`` when the set is damaged.
    """
    return _as_evaluated(task, flat_episodes(path))


def other_maze(path: Path) -> str:
    """A sentence if a data set names another maze for evaluation than it was recorded in, else nothing.

    Start and goal may differ; walls are compared.
    """
    metadata = minari_files.metadata(path)
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


def flat_episodes(path: Path) -> list[Episode]:
    """The episodes of a data set with flattened observations; those without a step are left out."""
    from diffcps.envs import recorded

    return [episode for episode in minari_files.read(path, recorded.flatten) if len(episode.rewards)]


def _as_evaluated(task: Task, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with the same ends as an evaluation of the task."""
    return [_ending_at_the_goal(episode) for episode in episodes] if task.score == "success" else list(episodes)


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


def transitions(task: Task, path: Path, episodes: Sequence[Episode]) -> Transitions:
    """What a task learns from ``flat_episodes``. Raises ``UserError`` when they are not what the task was made from."""
    assert task.definition is not None
    episodes = _as_evaluated(task, episodes)
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
