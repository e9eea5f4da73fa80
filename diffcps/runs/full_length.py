"""The command that runs a configuration at its task's full length, with the usual number of seeds."""

import shlex
from collections.abc import Sequence
from typing import Any

from diffcps.config import RunConfig
from diffcps.data import library
from diffcps.runs.presets import changed
from diffcps.tasks.registry import task_of

_OF_LENGTH = "evaluation.every", "evaluation.episodes"
"""Settings that a short trial changes and a long one need not."""


def command(trial: RunConfig, data_directories: Sequence[str] = ()) -> str:
    """The command: task, data, algorithm, profile, and every setting that differs from those that the profile gives."""
    task = task_of(trial)
    usual = library.configured(task, trial.data.source)
    given = {
        "algorithm": (trial.algorithm, "diffcps"),
        "profile": (trial.profile, "official"),
        "physics": (trial.physics, task.physics),
        "data": (trial.data.source, library.configured(task).source),
        "rows": (trial.data.rows, usual.rows),
    }
    words = ["diffcps", "sweep", "--tasks", trial.task]
    for flag, (value, default) in given.items():
        words += [f"--{flag}", str(value)] if value != default else []
    settings = {name: values[0] for name, values in changed(trial).items() if name not in _OF_LENGTH}
    settings |= {"data.seed": trial.data.seed} if trial.data.seed != usual.seed else {}
    for name, value in settings.items():
        words += ["--set", f"{name}={_text(value)}"]
    words += ["--data-dir", *data_directories] if data_directories else []
    return shlex.join(words)


def _text(value: Any) -> str:
    """A value as ``Setting.parse`` reads it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
