"""Every setting of a trial but those of its algorithm, with defaults and rules.

Each frozen dataclass checks itself when it is made, turns into a plain dictionary and back, and refuses unknown keys. The
settings of an algorithm are plain values here; their defaults and rules are in the file of the algorithm.
"""

import os
from pathlib import Path

from diffcps.config.plain import Plain, Value, Values
from diffcps.config.run import (
    ALGORITHM,
    Actor,
    DataConfig,
    EvaluationConfig,
    Member,
    Physics,
    RunConfig,
    ScoreKind,
    TaskDefinition,
)

__all__ = [
    "ALGORITHM",
    "Actor",
    "DataConfig",
    "EvaluationConfig",
    "Member",
    "Physics",
    "Plain",
    "RunConfig",
    "ScoreKind",
    "TaskDefinition",
    "Value",
    "Values",
    "home",
]


def home() -> Path:
    """Where the project keeps what it makes outside of results: ``$DIFFCPS_HOME``, by default ``~/.diffcps``."""
    return Path(os.environ.get("DIFFCPS_HOME") or "~/.diffcps").expanduser().absolute()
