"""From flags to trials: the one place where the settings of a trial are made.

Each stage is a dictionary of changes by the names of settings, and a later one wins: the task, what the algorithm publishes
for it, the profile, the preset, the flags. A profile may look at all the others, for it depends on the length of the trial.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from diffcps import algorithms
from diffcps.algorithms import ways
from diffcps.algorithms.settings import Changes
from diffcps.config import Member, RunConfig, Values
from diffcps.data import library
from diffcps.errors import UserError, nearest
from diffcps.runs import criteria
from diffcps.runs.criteria import SCORE
from diffcps.runs.flags import SweepOptions, pairs
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.settings import SEEDS, Setting, find, has, names_of, settings
from diffcps.tasks.registry import TASKS, Task, get_task, task_of
from diffcps.text import worded

DEMO_TASKS = "bandit-corners", "pendulum-swingup"
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.in_paper)
_MOST_CHECKED = 1000
"""Points of a search that are checked before it starts; of a larger space, each value by itself."""
Preset = Callable[[Task, RunConfig], Mapping[str, Any]]
"""Changes for a task, given the trial with the published settings of the algorithm. Settings that the algorithm
does not have are left out; a tuple is several values."""


def paper(task: Task, usual: RunConfig) -> Mapping[str, Any]:
    """Full length and published settings."""
    return {}


def demo(task: Task, usual: RunConfig) -> Mapping[str, Any]:
    """About a minute on one core, and visible learning: 3 seeds, small networks, fast policies."""
    changes: dict[str, Any] = {
        "seeds": 3, "steps": 8000, "data": task.sources[-1], "rows": 50_000, "checkpoint_minutes": 0.5,
        "episodes": 10, "candidates": min(usual.evaluation.candidates, 10),
        "batch_size": 128, "behaviour_batch_size": 128, "hidden_size": 128, "ema_start": 200,
        "learning_rate": 3e-3, "critic_learning_rate": 1e-3,
    }  # fmt: skip
    changes |= task.demo
    return {"evaluate_every": changes["steps"] // 10, "log_every": changes["steps"] // 50} | changes


def ablation(task: Task, usual: RunConfig) -> Mapping[str, Any]:
    """The grid T × λ-clip of the paper's figures 3, 4 and 5.

    Raises ``UserError`` when the algorithm has neither.
    """
    if usual.value("diffusion_steps") is None is usual.value("lambda_clip"):
        raise UserError(f"{usual.algorithm} has no T and no λ-clip to vary. Name settings with --vary NAME=V1,V2.")
    return {"diffusion_steps": (5, 15, 20), "lambda_clip": task.ablation}


PRESETS: dict[str, Preset] = {
    "paper": paper, "demo": demo, "search": paper, "ablation": ablation, "table1": paper, "baselines": paper,
}  # fmt: skip
_TABLE1 = "diffcps", "dql", "idql", "iql", "cql", "sfbc", "qgpo", "bc"
ALGORITHMS_OF = {"table1": _TABLE1, "baselines": (*_TABLE1, "td3bc", "rebrac", "awac", "crr", "edp", "dac", "fql")}
"""Preset -> what it compares; the others train one algorithm."""


def official(task: Task, algorithm: str = "diffcps", seeds: int = SEEDS) -> RunConfig:
    """The full-length trial of a task with the algorithm's published settings for it."""
    found = algorithms.get(algorithm)
    trial = RunConfig(
        task=task.name,
        algorithm=algorithm,
        settings=Values(found.settings().to_dict()),
        members=tuple(Member(seed) for seed in range(seeds)),
        steps=task.steps,
        physics=task.physics,
        data=library.configured(task),
        evaluation=task.evaluation,
        definition=task.definition,
    )
    if not found.chooses:
        trial = trial.changed({"evaluation.candidates": 1})
    return algorithms.complete(trial.changed(_flat(found.of_task(task))))


def made(task: Task, changes: Mapping[str, Any], preset: Preset = paper) -> RunConfig:
    """One trial of a task. Raises ``UserError`` as ``grid`` does, and when it is several trials."""
    trials, _ = grid(task, changes, preset)
    if len(trials) > 1:
        raise UserError(f"these settings make {len(trials)} trials, and one is wanted: give each setting one value.")
    return trials[0]


def grid(task: Task, changes: Mapping[str, Any], preset: Preset = paper) -> tuple[list[RunConfig], list[str]]:
    """Every trial of a task, each once, and the names of the settings that have several values.

    There is a trial for each combination of these values. Several algorithms are compared, so all are evaluated as often and
    over as many episodes as the task says, each by its own rule of acting; those that choose among several candidates are
    at the end also evaluated with a single one.

    Args:
        task: the task.
        changes: settings by full or short name. A text is read as the type of the setting; a tuple is several values.
        preset: what is changed before them.

    Raises:
        UserError: a setting does not exist, does not take a value, or does not fit the others; or the task has no such data.
    """
    found: list[RunConfig] = []
    names = changes.get("algorithm", "diffcps")
    varied = ["algorithm"] if isinstance(names, tuple) else []
    several = names if isinstance(names, tuple) else (names,)
    for name in several:
        usual = official(task, name)
        if varied:
            shared = task.evaluation
            usual = usual.changed({"evaluation.every": shared.every, "evaluation.episodes": shared.episodes})
        # of several algorithms a setting changes those that have it; `find` refuses one that none of them has
        own = {key: value for key, value in changes.items() if has(key, name) or not any(has(key, n) for n in several)}
        if varied and not algorithms.teaches(name):
            own.pop("student", None)
        if varied:
            own["acting"] = _compared(changes.get("acting", []), name, several)
            own |= _profiles(changes, name, several)
        given = named({**own, "algorithm": name}, name)
        known = {key: value for key, value in preset(task, usual).items() if key in names_of(name)}
        base = {key: values for key, values in named(known, name).items() if key not in given}
        varied += [key for key, values in (given | base).items() if len(values) > 1]
        for values in itertools.product(*given.values(), *base.values()):
            point = dict(zip([*given, *base], values, strict=True))
            found.append(_trial(task, usual, point, {key for key in point if key in given}))
    return list(dict.fromkeys(found)), list(dict.fromkeys(varied))


def _profiles(changes: Mapping[str, Any], name: str, several: Sequence[str]) -> dict[str, Any]:
    """The profiles of one of several algorithms: those asked for that it has, else the published one.

    Raises ``UserError`` for one that none of them has.
    """
    if "profile" not in changes:
        return {}
    asked = changes["profile"] if isinstance(changes["profile"], tuple) else (changes["profile"],)
    known = {other: algorithms.get(other).profiles for other in several}
    for profile in asked:
        if not any(profile in own for own in known.values()):
            having = "; ".join(f"{other} has {', '.join(own)}" for other, own in known.items())
            raise UserError(f"profile = {profile!r}: no algorithm here has it: {having}.")
    return {"profile": tuple(profile for profile in asked if profile in known[name]) or "official"}


def _compared(asked: str | Sequence[str], name: str, several: Sequence[str]) -> list[str]:
    """Other ways to act of one of several algorithms: a single candidate, and those asked for that it has.

    Raises ``UserError`` for one that none of them has.
    """
    known = {other: ways.names(algorithms.get(other)) for other in several}
    found = [ways.ONE] if "candidates" in known[name] else []
    for way, value in ways.parts([asked] if isinstance(asked, str) else asked):
        if way in known[name]:
            found.append(f"{way}={value}")
        elif not any(way in own for own in known.values()):
            having = "; ".join(f"{other} has {', '.join(own) or 'nothing'}" for other, own in known.items())
            raise UserError(f"acting {way}={value}: no algorithm here has that to vary: {having}.")
    return found


def named(changes: Mapping[str, Any], algorithm: str) -> dict[str, tuple[Any, ...]]:
    """The values of each changed setting by its full name, each once. Raises ``UserError`` as ``grid`` does."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, value in changes.items():
        setting = find(name, algorithm)
        if setting.name in found:
            raise UserError(f"{setting.name} is given twice.")
        values = value if isinstance(value, tuple) else (value,)
        found[setting.name] = tuple(dict.fromkeys(map(setting.parse, values)))
    return found


def changed_settings(trial: RunConfig) -> list[str]:
    """The settings that ``changed`` finds, e.g. ``hidden_size 128``."""
    return [f"{name} {worded(value)}" for name, values in changed(trial).items() for value in values]


def changed(trial: RunConfig) -> dict[str, list[Any]]:
    """Settings of a trial that differ from what its profile gives its task (for the tasks of the paper and the official
    profile: from the paper's), with those values of its members that differ.

    Seeds and steps are left out: a table has columns for them.
    """
    usual = official(task_of(trial), trial.algorithm, seeds=1).changed(_flat(algorithms.profile(trial)))
    names = [*trial.settings, *(f"evaluation.{name}" for name in vars(trial.evaluation)), "data.hold_out"]
    found = {
        name: [value for value in dict.fromkeys(trial.values(name)) if value != usual.value(name)] for name in names
    }
    return {name: values for name, values in found.items() if values}


def _trial(task: Task, usual: RunConfig, changes: Mapping[str, Any], flags: Container[str]) -> RunConfig:
    """The trial with these changes by preset and flags; ``flags`` are the names of the latter."""
    changes = dict(changes)
    if (steps := changes.get("steps", usual.steps)) < usual.steps:
        # a short run keeps at least five evaluations, and as many rows as a curve needs
        for name, least in ("evaluation.every", 5), ("log_every", 50):
            if name not in flags:
                changes[name] = min(changes.get(name, usual.value(name)), max(1, steps // least))
    if not usual.evaluation.episodes and "evaluation.episodes" not in flags:
        changes.pop("evaluation.episodes", None)  # no preset makes a task one that can be evaluated
    if changes.get("physics") not in task.environment.physics:
        changes.pop("physics", None)
    data = library.configured(task, changes.get("data.source"), changes.get("data.rows"))
    changes |= {"data.source": data.source, "data.rows": data.rows}
    if library.source(data.source).rows(task) is None and not changes.get("data.hold_out"):
        changes.pop("data.seed", None)  # nothing is drawn
    profile = _flat(algorithms.profile(usual.changed(changes)))
    return algorithms.complete(usual.changed({**profile, **changes}))


def _flat(changes: Changes) -> dict[str, Any]:
    """What an algorithm changes, by the names of settings."""
    found = {**changes.get("settings", {})}
    found |= {f"evaluation.{name}": value for name, value in changes.get("evaluation", {}).items()}
    return found | {name: value for name, value in changes.items() if name not in ("settings", "evaluation")}


# A whole sweep -------------------------------------------------------------------------------------------------------


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
    algorithm = changes.get("algorithm", "diffcps")
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
    if units := [axis.name for axis in axes if axis.name in criteria.UNITS.get(objective, ())]:
        raise UserError(
            f"--objective {objective} cannot order trials that differ in {', '.join(units)}: it has another unit in each. "
            "--objective td or fqe can."
        )
    moving = criteria.find(objective).moved_by if objective != SCORE else ()
    if moved := [axis.name for axis in axes if axis.name in moving]:
        raise UserError(
            f"--objective {objective}: {', '.join(moved)} changes it directly, so the search would only find the end of that "
            f"range. Give {moved[0]} one value, or choose another objective."
        )
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
