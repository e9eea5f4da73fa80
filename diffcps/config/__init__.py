"""Every setting of a run, its default, and the rule it must satisfy.

These frozen dataclasses are the only home of a default. Each checks itself when it is made, turns into a plain
dictionary and back, and refuses unknown keys, so a configuration that exists is a configuration that can run.
"""

import os
from pathlib import Path

from diffcps.config.algorithm import (
    Actor,
    Algorithm,
    AlgorithmConfig,
    Constraint,
    Covariance,
    Dual,
    MemberConfig,
    PolicyClass,
    Precision,
)
from diffcps.config.run import (
    DataConfig,
    EvaluationConfig,
    Physics,
    Profile,
    RewardTransform,
    RunConfig,
    ScoreKind,
    TaskDefinition,
)

__all__ = [
    "Actor",
    "Algorithm",
    "AlgorithmConfig",
    "Constraint",
    "Covariance",
    "DataConfig",
    "Dual",
    "EvaluationConfig",
    "MemberConfig",
    "Physics",
    "PolicyClass",
    "Precision",
    "Profile",
    "RewardTransform",
    "RunConfig",
    "ScoreKind",
    "TaskDefinition",
    "home",
]


def home() -> Path:
    """Where the project keeps what it makes outside of results: ``$DIFFCPS_HOME``, by default ``~/.diffcps``."""
    return Path(os.environ.get("DIFFCPS_HOME") or "~/.diffcps").expanduser().absolute()
