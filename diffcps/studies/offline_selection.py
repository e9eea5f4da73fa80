"""Which number of a trained policy tells, without an environment, how good it is?"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from diffcps.config import RunConfig
from diffcps.report import selection
from diffcps.runs.read import Sweep
from diffcps.studies import drawing
from diffcps.studies.results import Results, locomotion_trial
from diffcps.studies.study import Page, Scale, Study

TASKS = "hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-replay-v2"
HELD_OUT = 0.1
CHANGES: tuple[dict[str, Any], ...] = (
    {}, {"diffusion_steps": 2}, {"diffusion_steps": 15}, {"lambda_init": 0.3}, {"lambda_init": 3.0}, {"target_kl": 0.3},
    {"discount": 0.95}, {"learning_rate": 1e-3},
)  # fmt: skip
"""Settings of DiffCPS that differ from the task's, one trial each."""
OTHERS = "dql", "bc"
LENGTHS = 0.2, 1.0
"""Lengths of a trial, as shares of the study's."""


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Policies that differ in T, λ, κ, γ, learning rate, algorithm and length: at least 30 on each task."""
    names = scale.tasks or (TASKS[:1] if scale.quick else TASKS)
    small: dict[str, Any] = {"hidden_size": 32, "batch_size": 32, "ema_start": 100} if scale.quick else {}
    kinds = [("diffcps", change) for change in (CHANGES[:2] if scale.quick else CHANGES)]
    kinds += [(name, {}) for name in (OTHERS[:1] if scale.quick else OTHERS)]
    length = scale.steps or (600 if scale.quick else 100_000)
    found = []
    for name in names:
        for kind, change in kinds:
            for share in LENGTHS[-1:] if scale.quick else LENGTHS:
                steps = max(1, round(share * length))
                measures = ("fqe", "critic") if kind in ("diffcps", "dql") else ("fqe",)
                candidates = 1 if kind == "bc" or scale.quick else 10
                made = dataclasses.replace(scale, steps=steps)
                found.append(
                    locomotion_trial(
                        name, made, steps=(600, steps), rows=50_000 if not scale.quick else 5_000, seeds=(2, 3), evaluations=1,
                        measures=measures, evaluation={"episodes": 2 if scale.quick else 20, "candidates": candidates},
                        algorithm=kind, **({"data.hold_out": HELD_OUT} | small | change),
                    )
                )  # fmt: skip
    return tuple(dict.fromkeys(found))


def page(results: Results) -> Page:
    """Rank correlation and regret of every criterion, by task, and a figure of each against the true scores."""
    sweep = Sweep(results.trials[0].folder.parent.parent, "", results.trials)
    rows = selection.agreements(sweep)
    table = pd.DataFrame(
        [
            {"task": task, "criterion": name, "policies": found.policies, "Spearman": found.correlation, "low": found.low,
             "high": found.high} | {f"regret@{n}": value for n, value in zip(selection.FIRST, found.regrets, strict=True)}
            for task, name, found in rows
        ]
    )  # fmt: skip
    findings = [f"{task}, {name}: {selection.verdict(found)}" for task, name, found in rows]
    names = list(dict.fromkeys(name for _, name, _ in rows))
    tasks = {trial.task.name for trial in sweep.known}
    better = {name: {task for task, own, found in rows if own == name and found.low > 0} for name in names}
    sure = [name for name in names if better[name] == tasks]
    first = f"On every task better than chance: {', '.join(sure) or 'no criterion'}."
    if not rows:
        first = "No task has two policies with scores, so no criterion can be compared with them."
    orders = [(name, own) for name in names for own in selection.candidates(sweep, name).values()]
    cautions = dict.fromkeys(filter(None, (selection.caution(own, name) for name, own in orders)))
    return Page(
        (first, *findings, *cautions, *selection.left_out(sweep)),
        {"How criteria rank policies": table},
        {"criteria": _figure(sweep, names)},
    )


def _figure(sweep: Sweep, names: list[str]) -> Any:
    """A panel for each task and criterion: true score over the criterion."""
    tasks = list(dict.fromkeys(trial.task.name for trial in sweep.known))
    figure, axes = drawing.panels(len(tasks) * len(names), columns=max(1, len(names)))
    for i, task in enumerate(tasks):
        for j, name in enumerate(names):
            own = selection.candidates(sweep, name).get(task, [])
            values, scores = (np.array([getattr(candidate, what) for candidate in own]) for what in ("value", "score"))
            one = axes[i * len(names) + j]
            one.plot(values, scores, "o", ms=4)
            one.set(xlabel=f"{name} (right is better)", ylabel="score", title=task)
            one.title.set_fontsize(7)
    return figure


STUDY = Study(
    name="offline-selection",
    title="Choosing without an environment",
    question=(
        "Criteria that need no simulator against the true scores of policies that differ in T, λ, κ, algorithm and length: do "
        "they rank, and what is lost by trusting them?"
    ),
    trials=trials,
    page=page,
)
