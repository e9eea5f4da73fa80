"""From flags to trials: what a sweep is going to run, decided before anything starts."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffcps import algorithms
from diffcps.config import Member, RunConfig
from diffcps.data import library
from diffcps.errors import UserError
from diffcps.runs.plan import Plan, SearchSpace
from diffcps.sweep.options import SweepOptions
from diffcps.tasks import profiles
from diffcps.tasks.registry import TASKS, Task, get_task, task_of
from diffcps.training import measures

DEMO_TASKS = "bandit-ring", "hopper-medium-v2", "pointmaze-umaze"
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.in_paper)
POINT = "diffusion_steps", "lambda_clip", "target_kl"
"""What a search chooses, in the order of ``varied``'s arguments."""


def build(options: SweepOptions) -> Plan:
    """The sweep that the flags ask for.

    Raises ``UserError`` for an unknown task or measure, an impossible value, or a measure that does not fit a task.
    """
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: a trial needs at least one seed.")
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: a search needs at least one trial.")
    names = options.tasks or (DEMO_TASKS if options.preset == "demo" else PAPER_TASKS)
    tasks = [get_task(name) for name in dict.fromkeys(names)]
    make = _demo_trial if options.preset == "demo" else profiles.official
    base = [_overridden(make(task, options.algorithm or "diffcps"), options) for task in tasks]
    search = None
    if options.preset == "search":
        keys = "diffusion_steps", "lambda_clip", "target_kl"
        given = {key: tuple(dict.fromkeys(getattr(options, key))) for key in keys}
        search = SearchSpace(trials=options.trials, **{key: value for key, value in given.items() if value})
        if (points := search.points()) is not None:
            search = replace(search, trials=min(search.trials, len(points)))
        trials = base
        _grid(base[0], options)  # refuses an impossible value now rather than in a worker
    else:
        trials = [variant for trial in base for variant in _grid(trial, options)]
    for trial in trials:
        measures.check(trial)
    plan = Plan("", options.preset, tuple(trials), search)
    digest = hashlib.sha256(json.dumps(plan.to_dict(), sort_keys=True).encode()).hexdigest()[:6]
    name = options.name or f"{options.preset}-{digest}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name {name!r}: use letters, digits, dots, dashes and underscores only.")
    return Plan(name, options.preset, tuple(trials), search)


def varied(
    trial: RunConfig, diffusion_steps: int | None, lambda_clip: float | None, target_kl: float | None
) -> RunConfig:
    """The trial with another T, λ-clip and κ in all of its members; ``None`` where its algorithm has no such setting."""
    point = dict(zip(POINT, (diffusion_steps, lambda_clip, target_kl), strict=True))
    return trial.with_settings(**{name: value for name, value in point.items() if value is not None})


def trial_of(plan: Plan, point: Mapping[str, Any]) -> RunConfig:
    """The trial that a suggested point stands for."""
    if "key" in point:
        return next(trial for trial in plan.trials if trial.key == point["key"])
    base = next(trial for trial in plan.trials if trial.task == point["task"])
    return varied(base, point["diffusion_steps"], point["lambda_clip"], point["target_kl"])


def _demo_trial(task: Task, algorithm: str) -> RunConfig:
    """A trial of about two minutes on one core that visibly learns: 2 seeds, small nets, fast policies."""
    trial = profiles.official(task, algorithm)
    usual = {"steps": 8000, "hidden_size": 128, "learning_rate": 3e-3, "episodes": 10, "candidates": 10, "rows": 50_000}
    usual |= {"batch_size": 128, "ema_start": 200, "critic_learning_rate": 1e-3}
    demo = usual | dict(task.demo)
    steps, candidates = demo["steps"], min(demo["candidates"], trial.evaluation.candidates)
    return trial.with_settings(**{name: value for name, value in demo.items() if name in trial.settings}).replaced(
        members=trial.members[:2],
        steps=steps,
        data=library.configured(task, task.sources[-1], demo["rows"]),
        evaluation=trial.evaluation.replaced(every=steps // 10, episodes=demo["episodes"], candidates=candidates),
        log_every=steps // 50,
        checkpoint_minutes=0.5,
    )


_SETTINGS = (
    "batch_size", "precision", "policy", "covariance", "last_step_noise", "constraint", "dual", "behaviour_steps",
    "constraint_policy", "slack",
)  # fmt: skip
"""Flags that are settings of the algorithm under the same name."""


def _given(options: SweepOptions, names: Sequence[str]) -> dict[str, Any]:
    """Those of the flags that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _overridden(trial: RunConfig, options: SweepOptions) -> RunConfig:
    """The trial with the single-valued flags applied."""
    changes: dict[str, Any] = {}
    if options.seeds is not None:
        changes["members"] = tuple(Member(seed) for seed in range(options.seeds))
    if options.steps is not None:
        changes["steps"] = options.steps
        # a short run keeps at least five evaluations, and as many rows as a curve needs
        fifth = max(1, options.steps // 5)
        changes["evaluation"] = trial.evaluation.replaced(every=min(trial.evaluation.every, fifth))
        changes["log_every"] = min(trial.log_every, max(1, options.steps // 50))
    evaluation = changes.get("evaluation", trial.evaluation)
    flags = {"every": options.evaluate_every, "episodes": options.episodes, "candidates": options.candidates}
    changes["evaluation"] = evaluation.replaced(**{key: value for key, value in flags.items() if value is not None})
    trial = trial.replaced(**changes)
    if options.policy is not None:  # before the profile, which gives a covariance to chains alone
        trial = trial.with_settings(policy=options.policy)
    if options.profile is not None:
        trial = profiles.under(trial, options.profile)
    trial = trial.with_settings(**_given(options, _SETTINGS))
    changes = {"measures": options.measures}
    if options.checkpoint_minutes is not None:
        changes["checkpoint_minutes"] = options.checkpoint_minutes
    task = task_of(trial)
    if options.physics in task.environment.physics:
        changes["physics"] = options.physics
    source = options.data or trial.data.source
    rows = trial.data.rows if options.rows is None and source == trial.data.source else options.rows
    changes["data"] = library.configured(task, source, rows)
    return algorithms.complete(trial.replaced(**changes))


def _grid(trial: RunConfig, options: SweepOptions) -> list[RunConfig]:
    """The trial for every combination of the T, λ-clip and κ asked for."""
    ablation = options.preset == "ablation"
    steps = options.diffusion_steps or ((5, 15, 20) if ablation else (trial.value("diffusion_steps"),))
    clips = options.lambda_clip or (task_of(trial).ablation if ablation else (trial.value("lambda_clip"),))
    kls = options.target_kl or (trial.value("target_kl"),)
    # a value given twice is one trial
    points = itertools.product(steps, clips, kls)
    return list(dict.fromkeys(algorithms.complete(varied(trial, *point)) for point in points))
