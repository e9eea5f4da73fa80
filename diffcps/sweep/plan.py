"""From flags to trials: what a sweep is going to run, decided before anything starts."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffcps.config import DataConfig, RunConfig
from diffcps.errors import UserError
from diffcps.runs.plan import Plan, SearchSpace
from diffcps.sweep.options import SweepOptions
from diffcps.tasks import profiles
from diffcps.tasks.registry import TASKS, Task, get_task, task_of

DEMO_TASKS = "bandit-ring", "hopper-medium-v2", "pointmaze-umaze"
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.in_paper)
POINT = "diffusion_steps", "lambda_clip", "target_kl"
"""What a search chooses, in the order of ``varied``'s arguments."""


def build(options: SweepOptions) -> Plan:
    """The sweep that the flags ask for. Raises ``UserError`` for an unknown task or an impossible value."""
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: a trial needs at least one seed.")
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: a search needs at least one trial.")
    names = options.tasks or (DEMO_TASKS if options.preset == "demo" else PAPER_TASKS)
    tasks = [get_task(name) for name in dict.fromkeys(names)]
    base = [_demo_trial(task) if options.preset == "demo" else _paper_trial(task) for task in tasks]
    base = [_overridden(trial, options) for trial in base]
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
    plan = Plan("", options.preset, tuple(trials), search)
    digest = hashlib.sha256(json.dumps(plan.to_dict(), sort_keys=True).encode()).hexdigest()[:6]
    name = options.name or f"{options.preset}-{digest}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name {name!r}: use letters, digits, dots, dashes and underscores only.")
    return Plan(name, options.preset, tuple(trials), search)


def varied(trial: RunConfig, diffusion_steps: int, lambda_clip: float, target_kl: float) -> RunConfig:
    """The trial with another T, λ-clip and κ in all of its members."""
    return trial.replaced(
        algorithm=trial.algorithm.replaced(diffusion_steps=int(diffusion_steps)),
        members=tuple(
            member.replaced(lambda_clip=float(lambda_clip), target_kl=float(target_kl)) for member in trial.members
        ),
    )


def trial_of(plan: Plan, point: Mapping[str, Any]) -> RunConfig:
    """The trial that a suggested point stands for."""
    if "key" in point:
        return next(trial for trial in plan.trials if trial.key == point["key"])
    base = next(trial for trial in plan.trials if trial.task == point["task"])
    return varied(base, point["diffusion_steps"], point["lambda_clip"], point["target_kl"])


def _paper_trial(task: Task) -> RunConfig:
    """The full-length trial of a task with the hyper-parameters that the paper gives it, 5 seeds."""
    data = DataConfig(source=task.sources[0])
    if data.source == "collected":
        data = data.replaced(rows=task.rows)
    return RunConfig(
        task=task.name,
        members=_seeded(task.member, 5),
        steps=task.steps,
        physics=task.physics,
        data=data,
        algorithm=task.algorithm,
        evaluation=task.evaluation,
        definition=task.definition,
    )


def _demo_trial(task: Task) -> RunConfig:
    """A trial of about two minutes on one core that visibly learns: 2 seeds, small nets, fast policies."""
    trial = _paper_trial(task)
    usual = {"steps": 8000, "hidden_size": 128, "learning_rate": 3e-3, "episodes": 10, "candidates": 10, "rows": 50_000}
    demo = usual | dict(task.demo)
    steps = demo["steps"]
    changes = {name: demo[name] for name in ("hidden_size", "diffusion_steps", "policy_freq") if name in demo}
    algorithm = trial.algorithm.replaced(batch_size=128, ema_start=200, critic_learning_rate=1e-3, **changes)
    return trial.replaced(
        members=tuple(member.replaced(learning_rate=demo["learning_rate"]) for member in trial.members[:2]),
        steps=steps,
        algorithm=algorithm,
        data=DataConfig(source=task.sources[-1], rows=demo["rows"]),
        evaluation=trial.evaluation.replaced(
            every=steps // 10, episodes=demo["episodes"], candidates=demo["candidates"]
        ),
        log_every=steps // 50,
        checkpoint_minutes=0.5,
    )


def _seeded(member: Any, seeds: int) -> tuple[Any, ...]:
    return tuple(member.replaced(seed=seed) for seed in range(seeds))


_SHARED = (
    "batch_size", "precision", "algorithm", "policy", "covariance", "last_step_noise", "constraint", "dual",
    "behaviour_steps", "held_policy",
)  # fmt: skip
"""Flags that are settings of the pack under the same name."""


def _given(options: SweepOptions, names: Sequence[str]) -> dict[str, Any]:
    """Those of the flags that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _overridden(trial: RunConfig, options: SweepOptions) -> RunConfig:
    """The trial with the single-valued flags applied."""
    changes: dict[str, Any] = {}
    if options.seeds is not None:
        changes["members"] = _seeded(trial.members[0], options.seeds)
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
        trial = trial.replaced(algorithm=trial.algorithm.replaced(policy=options.policy))
    if options.profile is not None:
        trial = profiles.under(trial, options.profile)
    changes = {"algorithm": trial.algorithm.replaced(**_given(options, _SHARED))}
    changes["members"] = tuple(member.replaced(**_given(options, ("slack",))) for member in trial.members)
    if trial.algorithm.algorithm != changes["algorithm"].algorithm == "bc" and options.candidates is None:
        changes["evaluation"] = trial.evaluation.replaced(candidates=1)  # there are no values to choose by
    if options.checkpoint_minutes is not None:
        changes["checkpoint_minutes"] = options.checkpoint_minutes
    task = task_of(trial)
    if options.physics in task.environment.physics:
        changes["physics"] = options.physics
    source = options.data or trial.data.source
    # who turns from D4RL's data to collected ones means as many
    usual = task.rows if source != trial.data.source else trial.data.rows
    rows = usual if options.rows is None else options.rows
    collected = trial.data.replaced(source=source, rows=rows)
    # a file is read whole: a number of rows must not make another trial of it
    changes["data"] = collected if source == "collected" else trial.data.replaced(source=source)
    if changes["data"].source not in task.sources:
        having = ", ".join(name for name, other in TASKS.items() if changes["data"].source in other.sources)
        raise UserError(
            f"{task.name} has no {changes['data'].source} data, only {' and '.join(task.sources)}. "
            f"Tasks that have: {having}."
        )
    return trial.replaced(**changes)


def _grid(trial: RunConfig, options: SweepOptions) -> list[RunConfig]:
    """The trial for every combination of the T, λ-clip and κ asked for."""
    first = trial.members[0]
    ablation = options.preset == "ablation"
    steps = options.diffusion_steps or ((5, 15, 20) if ablation else (trial.algorithm.diffusion_steps,))
    clips = options.lambda_clip or (task_of(trial).ablation if ablation else (first.lambda_clip,))
    kls = options.target_kl or (first.target_kl,)
    # a value given twice is one trial
    return list(dict.fromkeys(varied(trial, *point) for point in itertools.product(steps, clips, kls)))
