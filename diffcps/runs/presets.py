"""The one place where the settings of a trial are made.

Each layer is a dictionary of changes by the names of settings, and a later one wins: the task, what the algorithm publishes
for it, the profile, the preset, the flags. A profile sees all the others, because it depends on the length of the trial.
"""

import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from diffcps import algorithms
from diffcps.algorithms import ways
from diffcps.algorithms.settings import Changes
from diffcps.config import ALGORITHM, Member, RunConfig, Values
from diffcps.data import library
from diffcps.errors import UserError
from diffcps.runs.settings import SEEDS, check_names, find, has, names_of
from diffcps.tasks.registry import Task, task_of
from diffcps.text import worded

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


def official(task: Task, algorithm: str = ALGORITHM, seeds: int = SEEDS) -> RunConfig:
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
    names = changes.get("algorithm", ALGORITHM)
    varied = ["algorithm"] if isinstance(names, tuple) else []
    several = names if isinstance(names, tuple) else (names,)
    check_names(changes, several)
    for name in several:
        usual = official(task, name)
        if varied:
            shared = task.evaluation
            usual = usual.changed({"evaluation.every": shared.every, "evaluation.episodes": shared.episodes})
        # of several algorithms a setting changes those that have it
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
    check_names(changes, [algorithm])
    found: dict[str, tuple[Any, ...]] = {}
    for name, value in changes.items():
        setting = find(name, algorithm)
        if setting.name in found:
            raise UserError(f"{setting.name} is given twice.")
        values = value if isinstance(value, tuple) else (value,)
        found[setting.name] = tuple(dict.fromkeys(map(setting.parse, values)))
    return found


def changed_settings(config: RunConfig) -> list[str]:
    """The settings that ``changed`` finds, e.g. ``hidden_size 128``."""
    return [f"{name} {worded(value)}" for name, values in changed(config).items() for value in values]


def changed(config: RunConfig) -> dict[str, list[Any]]:
    """Settings of a trial that differ from what its profile gives its task (for the tasks of the paper and the official
    profile: from the paper's), with those values of its members that differ.

    Seeds and steps are left out: a table has columns for them.
    """
    usual = official(task_of(config), config.algorithm, seeds=1).changed(_flat(algorithms.profile(config)))
    found = {
        name: [value for value in dict.fromkeys(config.values(name)) if value != usual.value(name)]
        for name in config.compared
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
    if not library.source(data.source).makes and not changes.get("data.hold_out"):
        changes.pop("data.seed", None)  # nothing is drawn
    profile = _flat(algorithms.profile(usual.changed(changes)))
    return algorithms.complete(usual.changed({**profile, **changes}))


def _flat(changes: Changes) -> dict[str, Any]:
    """What an algorithm changes, by the names of settings."""
    found = {**changes.get("settings", {})}
    found |= {f"evaluation.{name}": value for name, value in changes.get("evaluation", {}).items()}
    return found | {name: value for name, value in changes.items() if name not in ("settings", "evaluation")}
