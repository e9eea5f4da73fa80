"""From flags to trials: what a sweep is going to run, decided before anything starts."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from diffcps import algorithms
from diffcps.errors import UserError
from diffcps.runs import presets
from diffcps.runs.flags import SweepOptions, pairs
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.settings import Setting, find, settings
from diffcps.tasks.registry import TASKS, Task, get_task
from diffcps.training import measures

DEMO_TASKS = "bandit-ring", "hopper-medium-v2", "pointmaze-umaze"
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.in_paper)
_MOST_CHECKED = 1000
"""Points of a search that are checked before it starts; of a larger space, each value by itself."""


def build(options: SweepOptions) -> Plan:
    """The sweep that the flags ask for.

    Raises ``UserError`` for an unknown task, setting or measure, an impossible value, or a measure that does not fit a task.
    """
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: a search needs at least one trial.")
    names = options.tasks or (DEMO_TASKS if options.preset == "demo" else PAPER_TASKS)
    tasks = [get_task(name) for name in dict.fromkeys(names)]
    make = _search if options.preset == "search" or options.search else _grid
    plan = make(options, tasks)
    for trial in plan.trials:
        measures.check(trial)
    digest = hashlib.sha256(json.dumps(plan.to_dict(), sort_keys=True).encode()).hexdigest()[:6]
    name = options.name or f"{options.preset}-{digest}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name {name!r}: use letters, digits, dots, dashes and underscores only.")
    return replace(plan, name=name)


def _grid(options: SweepOptions, tasks: list[Task]) -> Plan:
    """Every combination of the values that are asked for."""
    grids = [presets.grid(task, options.changes(), presets.PRESETS[options.preset]) for task in tasks]
    found = tuple(trial for made, _ in grids for trial in made)
    names = dict.fromkeys(name for _, varied in grids for name in varied)
    axes = [Axis(name, tuple(dict.fromkeys(trial.value(name, 0) for trial in found))) for name in names]
    return Plan("", options.preset, found, tuple(axis for axis in axes if len(axis.choices) > 1))


def _search(options: SweepOptions, tasks: list[Task]) -> Plan:
    """A trial for each task with the settings that are not searched, and what Optuna chooses."""
    algorithm = options.algorithm or "diffcps"
    given = presets.named(options.changes(), algorithm)
    ranges = {find(name, algorithm).name: text for name, text in pairs("search", options.search).items()}
    if twice := ranges.keys() & given.keys():
        raise UserError(f"--search {', '.join(sorted(twice))}: another flag sets it, too.")
    if options.preset == "search":
        usual = {name: setting.search for name, setting in settings(algorithm).items() if setting.search}
        ranges = {name: text for name, text in usual.items() if name not in given} | ranges
    axes = [searched(settings(algorithm)[name], text) for name, text in ranges.items()]
    axes += [Axis(name, values) for name, values in given.items() if len(values) > 1]
    fixed = {name: values for name, values in given.items() if len(values) == 1}
    bases = tuple(presets.made(task, fixed, presets.PRESETS[options.preset]) for task in tasks)
    plan = Plan("", options.preset, trials=bases, axes=tuple(axes), search=options.trials)
    _check(plan)
    return replace(plan, search=min(options.trials, plan.points or options.trials))


def searched(setting: Setting, text: str) -> Axis:
    """What ``--search NAME=LOW:HIGH[:log]`` or ``NAME=A,B,C`` says. Raises ``UserError`` when it says neither."""
    if setting.name in ("algorithm", "profile"):
        raise UserError(f"--search {setting.name}: other settings follow from it. Use --vary {setting.name}=A,B.")
    if ":" not in text:
        return Axis(setting.name, tuple(dict.fromkeys(map(setting.parse, text.split(",")))))
    low, high, *log = text.split(":")
    if not {int, float} & {setting.hint, *get_args(setting.hint)} or log not in ([], ["log"]):
        raise UserError(
            f"--search {setting.name}={text}: write LOW:HIGH, LOW:HIGH:log or A,B,C; it is {setting.values}."
        )
    found = Axis(setting.name, low=setting.parse(low), high=setting.parse(high), log=bool(log))
    if found.low is None or found.high is None or found.low >= found.high or (found.log and found.low <= 0):
        least = "above 0 and " if found.log else ""
        raise UserError(f"--search {setting.name}={text}: LOW must be {least}below HIGH.")
    return found


def _check(plan: Plan) -> None:
    """Raise ``UserError`` for a point of a search that no trial can have."""
    points: Iterable[Mapping[str, Any]] = plan.combinations()
    if plan.points is None or plan.points > _MOST_CHECKED:
        points = [{axis.name: value} for axis in plan.axes for value in axis.choices or (axis.low, axis.high)]
    points = list(points)
    for base in plan.trials:
        for point in points:
            algorithms.complete(base.changed(point))
