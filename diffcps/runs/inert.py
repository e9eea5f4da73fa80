"""Settings that make no difference in the trials of a sweep, as its algorithms say: reported before it starts and at its end."""

import contextlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from diffcps import algorithms
from diffcps.config import RunConfig, Value
from diffcps.errors import UserError
from diffcps.runs.plan import Axis, Plan
from diffcps.text import listed, short, worded

if TYPE_CHECKING:
    from diffcps.algorithms.base import Inert

_PARTS = 10
"""Values of a range that are tried."""
_MOST_CORNERS = 64
"""Combinations of the ends of the other axes that are tried."""
_MOST_TASKS, _MOST_VALUES = 3, 6
Alike = dict[Value, "Inert"]
"""Values of a setting without effect, for the same reason."""


def notes(trials: Sequence[RunConfig], without: Sequence[str] = ()) -> list[str]:
    """A sentence for each setting and reason, with its values and tasks; settings in ``without`` are left out."""
    found: dict[tuple[str, str, str], Alike] = defaultdict(dict)
    tasks: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for trial in dict.fromkeys(trials):
        for name, reason in algorithms.inert(trial).items():
            if name not in without:
                key = str(trial.symbols.get(name, name)), reason.effect, reason.why
                found[key] |= dict.fromkeys(trial.values(name), reason)
                tasks[key][trial.task] = None
    return [_sentence(key[0], _values(alike), alike, tasks=[*tasks[key]]) for key, alike in found.items()]


def warnings(plan: Plan) -> list[str]:
    """A sentence for each axis of which at least two values give the same, or nearly the same, results."""
    tasks: dict[str, dict[str, None]] = defaultdict(dict)
    said: dict[str, tuple[str, str, Alike]] = {}
    for base in plan.trials if plan.search else {trial.task: trial for trial in plan.trials}.values():
        for axis in plan.axes:
            alike = {value: why for value in _tried(axis) if (why := _inert(plan, base, axis=axis, value=value))}
            if len(alike) < (2 if axis.choices else len(_tried(axis))):
                continue
            values = _values(alike) if axis.choices else f"from {axis}"
            name = str(base.symbols.get(axis.name, axis.name))
            key = f"{name} {values} {next(iter(alike.values())).why}"
            said[key] = name, values, alike
            tasks[key][base.task] = None
    return [_sentence(*parts, tasks=[*tasks[key]]) for key, parts in said.items()]


def _sentence(name: str, values: str, alike: Alike, *, tasks: Sequence[str]) -> str:
    """``λ-clip 0, 0.1: no effect, because λ starts at 1 and …; 0.1 has an effect after about 60k steps (…).``"""
    effect = max((reason.effect for reason in alike.values()), key=lambda text: text != "no effect")
    why = next(iter(alike.values())).why
    nearest = min(alike, key=lambda value: alike[value].steps)
    steps = alike[nearest].steps
    rounded = int(float(f"{steps:.2g}")) if math.isfinite(steps) else 0
    needs = f"; {worded(nearest)} has an effect after about {short(rounded)} steps" if rounded else ""
    return f"{name} {values}: {effect}, because {why}{needs} ({listed(tasks, _MOST_TASKS)})."


def _values(alike: Alike) -> str:
    ordered: list[Any] = sorted(alike, key=lambda value: (isinstance(value, str), value))
    return listed([worded(value) for value in ordered], _MOST_VALUES)


def _tried(axis: Axis) -> list[Value]:
    """The values of an axis; of a range, the middle of each of its parts."""
    if axis.low is None or axis.high is None:
        return list(axis.choices)
    ends = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
    middles = [ends[0] + (ends[1] - ends[0]) * (part + 0.5) / _PARTS for part in range(_PARTS)]
    found = [math.exp(middle) if axis.log else middle for middle in middles]
    return [*dict.fromkeys(round(value) for value in found)] if isinstance(axis.low, int) else [*found]


def _inert(plan: Plan, base: RunConfig, *, axis: Axis, value: Value) -> "Inert | None":
    """Why a value of an axis makes no difference with any values of the other axes; ``None`` where it does."""
    found = [algorithms.inert(trial).get(axis.name) for trial in _with(plan, base, axis, value)]
    return found[-1] if found and all(found) else None


def _with(plan: Plan, base: RunConfig, axis: Axis, value: Value) -> Iterator[RunConfig]:
    """The trials of a task that have a value; of a search, those with the ends of its other axes."""
    if plan.search is None:
        yield from (trial for trial in plan.trials if trial.task == base.task and value in trial.values(axis.name))
        return
    others = [other for other in plan.axes if other != axis]
    corners = itertools.product(*(dict.fromkeys((_tried(other)[0], _tried(other)[-1])) for other in others))
    for ends in itertools.islice(corners, _MOST_CORNERS):
        values = {other.name: end for other, end in zip(others, ends, strict=True)}
        # a corner where settings do not fit each other is no trial
        with contextlib.suppress(UserError):
            yield algorithms.complete(base.changed(values | {axis.name: value}))
