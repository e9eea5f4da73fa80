"""The registry of tasks.

A task is an environment, a data set, reference scores, an episode limit, and hyper-parameters. One
entry holds everything that the platform knows about ``hopper-medium-v2``: other modules ask the entry and never look at a
task's name. Tasks that a person makes from Minari data sets are files of the same facts (``TaskDefinition``) in
``$DIFFCPS_HOME/tasks``.
"""

import json
import re
from dataclasses import fields
from pathlib import Path

from diffcps.config import RunConfig, TaskDefinition, home
from diffcps.errors import UserError, nearest
from diffcps.tasks import Environment, Task, entries

__all__ = [
    "MORE", "PATTERNS", "TASKS", "Environment", "Task", "defined", "from_definition", "get_task", "read_definition",
    "task_folder", "task_of",
]  # fmt: skip

TASKS = {task.name: task for task in entries.tasks()}
PATTERNS = tuple(pattern for family in entries.FAMILIES for pattern in family.patterns)
"""Names of further tasks, which are made when they are asked for."""
MORE = tuple(name for family in entries.FAMILIES for name in family.names)
"""Those names among them that can be listed."""


def get_task(name: str) -> Task:
    """The task of that name: a built-in one, or one of ``task_folder()``.

    Raises ``UserError`` naming the nearest one when there is none, and the file when it does not define a task.
    """
    file = task_folder() / f"{name}.json"
    if name not in TASKS and re.fullmatch(r"[A-Za-z0-9_.-]+", name) and file.is_file():
        return from_definition(read_definition(file))
    return _built_in(name)


def task_of(config: RunConfig) -> Task:
    """The task of a trial, from its configuration alone. Raises ``UserError`` when it has no definition and is not built in."""
    return from_definition(config.definition) if config.definition is not None else _built_in(config.task)


def task_folder() -> Path:
    """The folder of the tasks that are not built in, one JSON file each; it need not exist."""
    return home() / "tasks"


def defined() -> list[str]:
    """Names of the tasks that are not built in, in alphabetical order."""
    return sorted(file.stem for file in task_folder().glob("minari-*.json"))


def read_definition(file: Path) -> TaskDefinition:
    """The content of a task's file. Raises ``UserError`` naming the file when it is not what such a file must be."""
    mend = "Repair it, or delete it and run `diffcps data minari ID` again."
    try:
        definition = TaskDefinition.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{file} does not define a task: {error} {mend}") from error
    if definition.name != file.stem:
        raise UserError(f"{file} defines a task of another name, {definition.name!r}. {mend}")
    return definition


def from_definition(definition: TaskDefinition) -> Task:
    """The task that a definition describes."""
    text = definition.environment_spec
    same = {field.name for field in fields(Task)} & {field.name for field in fields(definition)}
    return Task(
        **{name: getattr(definition, name) for name in same},
        domain="",
        environment=Environment(json.loads(text)["id"], specification=text),
        sources=("minari",),
        goal_rewards=definition.score == "success",
        terminals_end=definition.score != "success",
        definition=definition,
    )


def _built_in(name: str) -> Task:
    if name in TASKS:
        return TASKS[name]
    for family in entries.FAMILIES:
        if (task := family.make(name)) is not None:
            return task
    known = [*sorted(TASKS), *PATTERNS, *defined()]
    near = nearest(name, [*known, *MORE]) or "."
    raise UserError(f"no task is called {name!r}{near} Known tasks: {', '.join(known)}.")
