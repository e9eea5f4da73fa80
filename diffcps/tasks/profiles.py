"""The trial that an algorithm's published settings make of a task, and what a profile changes of it.

A profile is nothing but settings, each of which can also be set by itself; its name stays in the trial and in every report.
"""

from typing import Any

from diffcps import algorithms
from diffcps.algorithms.settings import Changes
from diffcps.config import DataConfig, Member, RunConfig
from diffcps.tasks.registry import Task, task_of


def official(task: Task, algorithm: str = "diffcps", seeds: int = 5) -> RunConfig:
    """The full-length trial of a task with the algorithm's published settings for it."""
    trial = RunConfig(
        task=task.name,
        algorithm=algorithm,
        members=tuple(Member(seed) for seed in range(seeds)),
        steps=task.steps,
        physics=task.physics,
        data=DataConfig(source=task.sources[0], rows=task.rows),
        evaluation=task.evaluation,
        definition=task.definition,
    )
    if not algorithms.get(algorithm).chooses:
        trial = trial.replaced(evaluation=trial.evaluation.replaced(candidates=1))
    changes = algorithms.get(algorithm).of_task(task)
    return algorithms.complete(_changed(trial.replaced(settings=changes.get("settings", {})), changes))


def under(trial: RunConfig, profile: str) -> RunConfig:
    """A trial of the official profile under another one: what that profile says is changed, all else and the seeds stay.

    Raises:
        ValueError: the trial is of another profile, and its official settings are not known any more.
        UserError: the algorithm has no such profile.
    """
    if trial.profile != "official":
        raise ValueError(f"{trial.key} is under the {trial.profile} profile already")
    trial = trial.replaced(profile=profile)
    changes = algorithms.profile(trial)
    return _changed(trial.with_settings(**changes.get("settings", {})), changes)


def changed_settings(trial: RunConfig) -> list[str]:
    """Settings of a trial that differ from what its profile gives its task (for the tasks of the paper and the official
    profile: from the paper's), e.g. ``hidden_size 128``.

    Seeds and steps are left out: a table has columns for them.
    """
    usual = official(task_of(trial), trial.algorithm, seeds=1)
    changes = algorithms.profile(trial)
    expected: dict[str, Any] = {**usual.settings, **changes.get("settings", {})}
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (expected, {**trial.settings, **member.settings}) for member in trial.members
    ]
    pairs.append((_renamed(vars(_changed(usual, changes).evaluation)), _renamed(vars(trial.evaluation))))
    different = [(key, new[key]) for old, new in pairs for key in new if new[key] != old[key]]
    changed = [
        f"{key} {value if value is None or isinstance(value, str) else format(value, 'g')}" for key, value in different
    ]
    return list(dict.fromkeys(changed))


def _changed(trial: RunConfig, changes: Changes) -> RunConfig:
    """The trial with another length and another evaluation, where ``changes`` say so."""
    evaluation = trial.evaluation.replaced(**changes.get("evaluation", {}))
    return trial.replaced(steps=changes.get("steps", trial.steps), evaluation=evaluation)


def _renamed(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {{"every": "evaluate_every"}.get(key, key): value for key, value in evaluation.items()}
