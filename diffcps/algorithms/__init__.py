"""Learning algorithms: one file each, with the same functions in the same order.

An algorithm is imported, and torch with it, only when it is asked for: reading a trial needs neither.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from diffcps.algorithms.settings import Changes
from diffcps.config import RunConfig
from diffcps.errors import UserError, nearest

_ALGORITHMS = {
    "diffcps": ".diffcps",
    "awr": ".awr",
    "bc": ".bc",
}
"""Name -> module, relative to this package."""


def names() -> list[str]:
    """Every algorithm."""
    return list(_ALGORITHMS)


def get(name: str) -> ModuleType:
    """The algorithm of that name. Raises ``UserError`` naming the nearest one when there is none."""
    if name not in _ALGORITHMS:
        raise UserError(f"no algorithm is called {name!r}{nearest(name, names()) or '.'} Known: {', '.join(names())}.")
    return importlib.import_module(_ALGORITHMS[name], __name__)


def settings(trial: RunConfig) -> tuple[Any, ...]:
    """The settings of each member as the algorithm's own dataclass, defaults filled in.

    Raises ``UserError`` when the algorithm has no such setting, or a value breaks a rule.
    """
    cls = get(trial.algorithm).Settings
    found = tuple(_typed(cls, trial.algorithm, {**trial.settings, **member.settings}) for member in trial.members)
    cls.check_pack(found)
    return found


def complete(trial: RunConfig) -> RunConfig:
    """The trial with every setting of its algorithm, those that it does not have from the defaults.

    Raises ``UserError`` as ``settings`` does, and when settings, length and evaluation do not fit together.
    """
    algorithm, found = get(trial.algorithm), settings(trial)
    profile(trial)
    for own in found:
        algorithm.check(trial, own)
    values = [own.to_dict() for own in found]
    members = tuple(member.replaced(settings=own) for member, own in zip(trial.members, values, strict=True))
    return trial.replaced(settings=values[0], members=members, symbols=get(trial.algorithm).Settings.symbols())


def profile(trial: RunConfig) -> Changes:
    """What the profile of a trial changes of its task's settings. Raises ``UserError`` when there is no such profile."""
    profiles = get(trial.algorithm).PROFILES
    if trial.profile not in profiles:
        known = ", ".join(map(repr, profiles))
        raise UserError(f"profile = {trial.profile!r}: with {trial.algorithm} it must be one of {known}.")
    changes: Changes = profiles[trial.profile](trial)
    return changes


def _typed(cls: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = cls.names()
    for key in values:
        if key not in known:
            raise UserError(f"{name} has no setting {key!r}{nearest(key, known) or '.'}")
    return cls.from_dict(values)
