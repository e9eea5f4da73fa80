"""Collected data sets on disk: made once, found again, and refused when they were made under other conditions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcps.config import DataConfig, home
from diffcps.data import minari_files
from diffcps.data.collecting import behaviour
from diffcps.data.library import Holding, Progress, Sha256Of, Source, distinct, named_folders
from diffcps.data.transitions import Episode, Origin, Transitions, checksum, from_episodes
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

if TYPE_CHECKING:
    from diffcps.data.checking.recording import Recording

COLLECTION = 1
"""Version of the collecting code and of the shipped policies; raise it when either changes what is collected."""

_NOTE = "Collected on this machine by DiffCPS with its own behaviour policy: not D4RL's data."


class Collected(Source):
    """Data sets made on this machine by the behaviour policies that come with the project."""

    name = "collected"
    says = "collected data, made when they are first needed"
    makes = True

    def load(self, task: Task, path: Path) -> Transitions:
        """See ``Source.load``."""
        found = minari_files.read(path)
        origin = Origin(
            source=self.name, path=path, checksum=checksum(found), provenance="other", provenance_note=_NOTE
        )
        return from_episodes(task, found, origin)

    def places(self, directories: Sequence[Path]) -> list[Path]:
        """The given folders, those of ``DIFFCPS_DATA``, and the one that data are made in; raises as ``named_folders`` does."""
        return distinct([*named_folders(directories), root()])

    def wanted(self, task: Task) -> str:
        """Of any rows and seed."""
        return f"diffcps/{task.name}-collected-*"

    def every(self, task: Task, directories: Sequence[Path]) -> list[Path]:
        """Those of all rows and seeds."""
        found = (path for folder in self.places(directories) for path in sorted(folder.glob(self.wanted(task))))
        return [path for path in found if (path / "data").is_dir()]

    def find(self, task: Task, data: DataConfig, directories: Sequence[Path]) -> Path | None:
        """The one of these rows and this seed. Raises ``UserError`` when it was made under other conditions."""
        paths = (folder / dataset_id(task, data) for folder in self.places(directories))
        path = next((path for path in paths if path.is_dir()), None)
        if path is not None:
            _check_recipe(path, task, data)
        return path

    def make(self, task: Task, data: DataConfig, progress: Progress | None = None, folder: Path | None = None) -> Path:
        """Collect it, by default into ``root()``. Raises ``UserError`` when the folder cannot be written."""
        # the simulator takes a second to import
        from diffcps.data.collecting.collect import collect

        return write(task, data, collect(task, data, progress), folder or root())

    def remedy(self, tasks: Sequence[Task]) -> str:
        """The command that makes them."""
        return f"  Make some: diffcps data collect {' '.join(task.name for task in tasks)}"

    def label(self, task: Task, provenance: str) -> str:
        """Said to be not D4RL's where a D4RL file has the task's name."""
        return "collected, not D4RL's" if task.d4rl_file else "collected"

    def holding(self, path: Path, sha256: Sha256Of) -> Holding:
        """See ``Source.holding``."""
        return minari_files.holding(self.name, path)

    def recognise(self, path: Path, name: str | None) -> Task | None:
        """By the recipe in it."""
        recipe = _noted(path).get("recipe")
        return minari_files.noted_task(path, recipe.get("task"), name) if isinstance(recipe, dict) else None

    def record(self, task: Task, path: Path) -> "tuple[Recording | None, dict[str, str]]":
        """See ``Source.record``."""
        from diffcps.data.checking import recording

        return recording.from_episodes(task, minari_files.read(path))


SOURCE = Collected()


def root() -> Path:
    """The folder of collected data sets; it may not exist yet."""
    return home() / "collected"


def dataset_id(task: Task, data: DataConfig) -> str:
    """Minari's id for a collected data set, ``namespace/name-v0``."""
    return f"diffcps/{task.name}-collected-s{data.seed}-{data.rows}-v{COLLECTION}"


def write(task: Task, data: DataConfig, found: Sequence[Episode], folder: Path) -> Path:
    """Store collected episodes under ``folder`` and return the data set's path; raises as ``minari_files.write`` does."""
    about = {
        "algorithm_name": "behaviour policy of DiffCPS",
        "description": f"{data.rows} steps of {task.environment.id} for the task {task.name}. {_NOTE}",
    }
    own: dict[str, Any] = {"recipe": _recipe(task, data), "note": _NOTE}
    if task.robot is not None:
        own["policies"] = asdict(behaviour.load(task.robot).facts)
    return minari_files.write(folder, dataset_id(task, data), task, found, about=about, own=own)


def _recipe(task: Task, data: DataConfig) -> dict[str, Any]:
    """What determines the rows of a collected data set, apart from the versions of the simulator."""
    recipe: dict[str, Any] = {
        "task": task.name,
        "physics": task.physics,
        "rows": data.rows,
        "seed": data.seed,
        "episode_limit": task.episode_limit,
        "collection": COLLECTION,
    }
    if task.robot is not None:
        recipe["policy"] = behaviour.load(task.robot).checksum
    return recipe


def _noted(path: Path) -> dict[str, Any]:
    """What ``write`` notes of a data set; empty where there is none that can be read."""
    try:
        return minari_files.notes(path)
    except UserError:
        return {}


def _check_recipe(path: Path, task: Task, data: DataConfig) -> None:
    """Raise ``UserError`` when the data set at ``path`` was made under other conditions than the task has now."""
    recipe, noted = _recipe(task, data), _noted(path)
    if not noted:
        raise UserError(f"{path} has no readable metadata. Delete it, and it is collected again.")
    found = noted.get("recipe")
    if found != recipe:
        changed = [key for key, value in recipe.items() if not isinstance(found, dict) or found.get(key) != value]
        raise UserError(
            f"{path} was collected under other conditions than {task.name} has now (other {', '.join(changed)}). Delete "
            f"or move it, and it is collected again, or name another data folder."
        )
