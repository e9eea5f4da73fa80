"""Commands that are printed: to continue a sweep, and to run one configuration at full length."""

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffcps.config import ALGORITHM, RunConfig
from diffcps.data import library
from diffcps.runs.presets import changed
from diffcps.tasks.registry import task_of

_SCRIPT = "tune/sweep_d4rl.py"
_MODULE = "__main__.py"
"""What a command starts with that was typed as ``python -m diffcps``."""
_OF_LENGTH = "evaluation.every", "evaluation.episodes"
"""Settings that a short trial changes and a long one need not."""


def repeated(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The flags of ``MachineFlags``, and ``also``, in a recorded command, with their values."""
    from diffcps.runs.flags import MachineFlags  # tyro takes half a second to import

    known = {flag.name for flag in fields(MachineFlags)} | {"also"}
    flags = {}
    for number, word in enumerate(command):
        name, given, value = word.partition("=")
        flag = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flag in known:
            after = itertools.takewhile(lambda other: not other.startswith("--"), command[number + 1 :])
            flags[flag] = (value,) if given else tuple(after)
    return flags


def python() -> str:
    """This process's Python, as a command in the current folder."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def typed_command(command: Sequence[str]) -> str:
    """A recorded command as it was typed, with this process's Python if it is a script: it also continues what it began."""
    if Path(command[0]).name == _MODULE:
        return shlex.join([python(), "-m", "diffcps", *command[1:]])
    return shlex.join([python(), *command] if command[0].endswith(".py") else command)


def resume_command(name: str, results: object, started: str, flags: Mapping[str, object]) -> str:
    """The command that continues the sweep ``name``, in the current folder and with this process's Python.

    Args:
        name: of the sweep.
        results: the folder or URL that holds it.
        started: what it was started with, ``sys.argv[0]``; empty if that is not known.
        flags: those of ``MachineFlags``, and ``also``, that are not at their default.
    """
    words = [*_sweeping(started), "--resume", name, "--results", results]
    for flag, value in flags.items():
        words += [f"--{flag.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
    return shlex.join(map(str, words))


def _sweeping(started: str) -> list[str]:
    """What runs a sweep here: what it was started with, else the project's script, else this process's package."""
    path = Path(started)
    if path.name == "diffcps" and path.exists():
        return [started, "sweep"]
    if path.name.startswith("sweep_") and path.exists():
        return [python(), started]
    for script in (Path(_SCRIPT), Path(__file__).parents[2] / _SCRIPT):
        if script.exists() and path.name != _MODULE:
            return [python(), str(script)]
    return [python(), "-m", "diffcps", "sweep"]


def full_length_command(config: RunConfig, data_directories: Sequence[str] = ()) -> str:
    """The command that runs a configuration at its task's full length, with the usual number of seeds.

    It names task, data, algorithm, profile, and every setting that differs from those that the profile gives.
    """
    task = task_of(config)
    usual = library.configured(task, config.data.source)
    given = {
        "algorithm": (config.algorithm, ALGORITHM),
        "profile": (config.profile, "official"),
        "physics": (config.physics, task.physics),
        "data": (config.data.source, library.configured(task).source),
        "rows": (config.data.rows, usual.rows),
    }
    words = ["diffcps", "sweep", "--tasks", config.task]
    for flag, (value, default) in given.items():
        words += [f"--{flag}", str(value)] if value != default else []
    settings = {name: values[0] for name, values in changed(config).items() if name not in _OF_LENGTH}
    settings |= {"data.seed": config.data.seed} if config.data.seed != usual.seed else {}
    for name, value in settings.items():
        words += ["--set", f"{name}={_text(value)}"]
    words += ["--data-dir", *data_directories] if data_directories else []
    return shlex.join(words)


def _text(value: Any) -> str:
    """A value as ``Setting.parse`` reads it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
