"""From the flags of a sweep to its plan."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from diffcps import algorithms
from diffcps.config import ALGORITHM, RunConfig
from diffcps.errors import UserError, nearest
from diffcps.runs import criteria
from diffcps.runs.criteria import SCORE
from diffcps.runs.flags import SweepOptions, pairs
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.presets import PRESETS, grid, made, named
from diffcps.runs.settings import Setting, find, has, settings
from diffcps.tasks.registry import TASKS, Task, get_task

DEMO_TASKS = "bandit-corners", "pendulum-swingup"
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.in_paper)
_TABLE1 = "diffcps", "dql", "idql", "iql", "cql", "sfbc", "qgpo", "bc"
ALGORITHMS_OF = {
    "table1": _TABLE1,
    "baselines": (*_TABLE1, "td3bc", "rebrac", "awac", "crr", "edp", "dac", "fql", "bdpo"),
}
"""Preset -> what it compares; the others train one algorithm."""
_MOST_CHECKED = 1000
"""Points of a search that are checked before it starts; of a larger space, each value by itself."""


def build(options: SweepOptions) -> Plan:
    """The sweep that the flags ask for.

    Raises ``UserError`` for an unknown task or setting, or an impossible value.
    """
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: a search needs at least one trial.")
    if options.objective not in (known := (SCORE, *criteria.CRITERIA)):
        raise UserError(
            f"--objective {options.objective}{nearest(options.objective, known) or ':'} It is one of {', '.join(known)}."
        )
    names = options.tasks or (DEMO_TASKS if options.preset == "demo" else PAPER_TASKS)
    tasks = [get_task(name) for name in dict.fromkeys(names)]
    make = _search if options.preset == "search" or options.search else _grid
    plan = replace(make(options, tasks), prune=options.prune)
    # without the number of trials: the same search with more of them is the same sweep
    digest = hashlib.sha256(json.dumps(plan.to_dict() | {"search": None}, sort_keys=True).encode()).hexdigest()[:6]
    name = options.name or f"{options.preset}-{digest}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name {name!r}: use letters, digits, dots, dashes and underscores only.")
    return replace(plan, name=name)


def _changes(options: SweepOptions) -> dict[str, Any]:
    """What the flags change, and the algorithms that the preset compares unless a flag names others."""
    algorithms_of = ALGORITHMS_OF.get(options.preset)
    return ({"algorithm": algorithms_of} if algorithms_of else {}) | options.changes()


def _grid(options: SweepOptions, tasks: list[Task]) -> Plan:
    """Every combination of the values that are asked for."""
    changes = _changes(options)
    grids = [grid(task, changes, PRESETS[options.preset]) for task in tasks]
    found = tuple(trial for made, _ in grids for trial in made)
    names = dict.fromkeys(name for _, varied in grids for name in varied)
    axes = [
        Axis(name, tuple(dict.fromkeys(trial.value(name, 0) for trial in found if has(name, trial.algorithm))))
        for name in names
    ]
    if options.objective != SCORE:
        raise UserError(
            f"--objective {options.objective}: only a search maximises anything. Add --search NAME=LOW:HIGH or --preset search."
        )
    if options.prune in ("median", "asha"):
        raise UserError(
            f"--prune {options.prune} compares the trials of a search. Of a grid, --prune divergence ends some."
        )
    return Plan("", options.preset, found, tuple(axis for axis in axes if len(axis.choices) > 1))


def _search(options: SweepOptions, tasks: list[Task]) -> Plan:
    """A trial for each task with the settings that are not searched, and what Optuna chooses."""
    changes = _changes(options)
    algorithm = changes.get("algorithm", ALGORITHM)
    if isinstance(algorithm, tuple):
        raise UserError(f"a search has one algorithm, and these are {len(algorithm)}: {', '.join(algorithm)}.")
    changes = _with_measure(changes, options.objective)
    given = named(changes, algorithm)
    ranges = {find(name, algorithm).name: text for name, text in pairs("search", options.search).items()}
    if twice := ranges.keys() & given.keys():
        raise UserError(f"--search {', '.join(sorted(twice))}: another flag sets it, too.")
    if options.preset == "search":
        usual = {name: setting.search for name, setting in settings(algorithm).items() if setting.search}
        ranges = {name: text for name, text in usual.items() if name not in given} | ranges
    axes = [searched(settings(algorithm)[name], text) for name, text in ranges.items()]
    axes += [Axis(name, values) for name, values in given.items() if len(values) > 1]
    fixed = {name: values for name, values in given.items() if len(values) == 1}
    bases = tuple(made(task, fixed, PRESETS[options.preset]) for task in tasks)
    objective = options.objective
    if objective == SCORE and (silent := [base.task for base in bases if not base.evaluation.episodes]):
        raise UserError(
            f"a search goes by the score, and policies of {', '.join(silent)} are not evaluated (0 episodes). --objective names "
            "what needs no environment."
        )
    _check_objective(objective, bases)
    _check_axes(objective, [axis.name for axis in axes])
    plan = Plan("", options.preset, trials=bases, axes=tuple(axes), search=options.trials, objective=objective)
    _check(plan)
    return replace(plan, search=min(options.trials, plan.points or options.trials))


def _with_measure(changes: Mapping[str, Any], objective: str) -> dict[str, Any]:
    """The changes, with the measure that gives the objective, if one does."""
    needs = criteria.find(objective).needs if objective != SCORE else ""
    asked = changes.get("measures", [])
    asked = asked.split(",") if isinstance(asked, str) else asked
    return {**changes, "measures": [*asked, needs]} if needs and needs not in asked else dict(changes)


def _check_objective(objective: str, bases: Iterable[RunConfig]) -> None:
    """Raise ``UserError`` for an objective that trials of a search will not have."""
    if objective == SCORE:
        return
    criterion = criteria.find(objective)
    for base in bases:
        if criterion.held_out and not base.data.hold_out:
            raise UserError(f"--objective {objective} is measured on data that are held out: add --hold-out 0.1.")
        known = algorithms.metrics(base)
        lacking = [name for name in (criterion.column, criterion.less) if name and name not in known]
        if not criterion.needs and lacking:
            raise UserError(
                f"--objective {objective}: {base.algorithm} has no {lacking[0]} while it learns. --objective fqe goes with every "
                "algorithm."
            )


def _check_axes(objective: str, axes: Sequence[str]) -> None:
    """Raise ``UserError`` for an objective that cannot order trials which differ in these settings."""
    can = [
        name
        for name, each in criteria.CRITERIA.items()
        if not {*criteria.UNITS.get(name, ()), *each.moved_by} & {*axes}
    ]
    others = f"{', '.join(can)} can order them, as far as these trials have them."
    if units := [name for name in axes if name in criteria.UNITS.get(objective, ())]:
        raise UserError(
            f"--objective {objective} cannot order trials that differ in {', '.join(units)}: it has another unit in each. "
            f"{others}"
        )
    moving = criteria.find(objective).moved_by if objective != SCORE else ()
    if moved := [name for name in axes if name in moving]:
        raise UserError(
            f"--objective {objective}: {', '.join(moved)} changes it directly, so the search would only find the end of that "
            f"range. Give {moved[0]} one value, or choose another objective: {others}"
        )


def searched(setting: Setting, text: str) -> Axis:
    """What ``--search NAME=LOW:HIGH[:log]`` or ``NAME=A,B,C`` says. Raises ``UserError`` when it says neither."""
    if setting.name in ("algorithm", "profile", "student"):
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
