"""The plan of a sweep: its trials, as ``sweep.json`` keeps them, and the command that continues it."""

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json

SYMBOLS = {"diffusion_steps": "T", "lambda_clip": "λ-clip", "target_kl": "κ"}
"""Setting -> its symbol in tables, figures and names; other settings go by their name. These come first in lists."""
OBJECTIVE = "score"
"""The one name of what is maximised: the last score, mean over seeds."""


@dataclass(frozen=True)
class SearchSpace:
    """What Optuna may choose for each task; several given values are a choice among them."""

    diffusion_steps: tuple[int, ...] = (5, 10, 15, 20)
    """T."""
    lambda_clip: tuple[float, ...] = ()
    """λ-clip; empty = anything from 0 to 1."""
    target_kl: tuple[float, ...] = ()
    """κ; empty = anything from 0.01 to 0.3, on a logarithmic scale."""
    trials: int = 30
    """Trials per task."""

    def points(self) -> list[tuple[int, float, float]] | None:
        """Every (T, λ-clip, κ) that there is to choose from; ``None`` when there is no end of them."""
        if not (self.lambda_clip and self.target_kl):
            return None
        return list(itertools.product(self.diffusion_steps, self.lambda_clip, self.target_kl))


@dataclass(frozen=True)
class Plan:
    """A whole sweep: its name, its trials, and for a search what is chosen."""

    name: str
    preset: str
    trials: tuple[RunConfig, ...]
    """Every trial; for a search one per task, holding what is not searched."""
    search: SearchSpace | None = None

    @property
    def count(self) -> int:
        """Trials that the sweep consists of when it is complete."""
        return len(self.trials) * (self.search.trials if self.search else 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "preset": self.preset,
            "trials": [trial.to_dict() for trial in self.trials],
            "search": asdict(self.search) if self.search else None,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of ``to_dict``."""
        search = None
        if values["search"]:
            lists = {key: tuple(value) for key, value in values["search"].items() if key != "trials"}
            search = SearchSpace(**lists, trials=values["search"]["trials"])
        trials = tuple(RunConfig.from_dict(trial) for trial in values["trials"])
        return cls(values["name"], values["preset"], trials, search)


def load(folder: Path) -> Plan:
    """The plan in a sweep's folder. Raises ``UserError`` when there is none, or one that makes no sense."""
    file = folder / "sweep.json"
    if not file.exists():
        known = sorted(file.parent.name for file in folder.parent.glob("*/sweep.json"))
        known_text = f"Sweeps there: {', '.join(known)}." if known else "There is no sweep in that folder at all."
        raise UserError(f"no sweep is called {folder.name!r} in {folder.parent}. {known_text}")
    return parsed(read_json(file), file)


def parsed(values: Any, file: Path) -> Plan:
    """The plan in the content of ``file``, a ``sweep.json``. Raises ``UserError`` when it makes no sense."""
    try:
        return Plan.from_dict(values)
    except (AttributeError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{file} does not describe a sweep: {error}") from error


REPEATED = "address", "cpus_per_trial", "gpus_per_trial", "workers_per_trial", "concurrent"
"""Flags of a launch that the command to continue the sweep repeats."""

_SCRIPT = "tune/sweep_d4rl.py"


def repeated(command: Sequence[str]) -> dict[str, str]:
    """The flags of ``REPEATED`` in a recorded command, with their values."""
    flags = {}
    for word, after in zip(command, [*command[1:], ""], strict=True):
        name, given, value = word.partition("=")
        flag = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flag in REPEATED:
            flags[flag] = value if given else after
    return flags


def python() -> str:
    """This process's Python, as a command in the current folder."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def resume_command(name: str, results: object, script: str, flags: Mapping[str, object]) -> str:
    """The command that continues the sweep ``name``, in the current folder and with this process's Python.

    Args:
        name: of the sweep.
        results: the folder or URL that holds it.
        script: what it was started with; if that cannot be found from here, the project's own is used.
        flags: those of ``REPEATED`` that are not at their default.
    """
    if not script.endswith(".py") or not Path(script).exists():
        own = Path(__file__).parents[2] / _SCRIPT
        script = _SCRIPT if Path(_SCRIPT).exists() or not own.exists() else str(own)
    words = [python(), script, "--resume", name, "--results", results]
    for flag, value in flags.items():
        words += [f"--{flag.replace('_', '-')}", value]
    return shlex.join(map(str, words))
