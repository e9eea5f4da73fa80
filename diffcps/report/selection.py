"""Which policy to trust without an environment: criteria that need none, what they choose, and how well they rank."""

import math
from collections import defaultdict
from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from diffcps import stats
from diffcps.errors import UserError
from diffcps.report.analysis import said
from diffcps.runs.criteria import CRITERIA, UNITS, along, find
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial, varying
from diffcps.text import Column, number, short

FIRST = 1, 5
"""Numbers of policies that are tried in the environment, for the regret."""
_MOST = 10
"""Policies of a task in a table."""
_WIDEST = 44
"""Characters of a policy's settings in a table, so that a terminal has room for its numbers."""


class Candidate(NamedTuple):
    """A policy that may be chosen."""

    trial: Trial
    member: int
    step: int
    """Gradient step of its evaluation: the last one, or an earlier one that the trial keeps the policies of."""
    value: float
    """Of the criterion, higher is better."""
    score: float
    """Of that evaluation; nan without one."""


class Agreement(NamedTuple):
    """How well a criterion ranks policies."""

    policies: int
    correlation: float
    """Spearman's, between the criterion and the last scores."""
    low: float
    high: float
    """95 % interval of it, over policies."""
    regrets: tuple[float, ...]
    """For each number in ``FIRST``: the best score minus the best among so many policies that the criterion puts first."""


def candidates(sweep: Sweep, name: str) -> dict[str, list[Candidate]]:
    """Task -> every policy of a complete trial that has the criterion, the best first; kept ones of earlier evaluations too.

    Raises ``UserError`` for a criterion that is none, or that no trial has.
    """
    criterion = find(name)
    found: dict[str, list[Candidate]] = {}
    for trial in sweep.known:
        if trial.state == "complete":
            known = [candidate for candidate in _of(trial, name) if math.isfinite(candidate.value)]
            found.setdefault(trial.task.name, []).extend(known)
    found = {task: policies for task, policies in found.items() if policies}
    if not found:
        how = " It is no number of these algorithms"
        if criterion.held_out:
            how = f" It needs data that were held out in training: --hold-out 0.1 --measures {criterion.needs}"
        elif criterion.needs:
            how = f" Measure them: diffcps measure {sweep.folder} {criterion.needs}"
        raise UserError(f"no complete trial of {sweep.name} has {criterion.column} ({criterion.says}).{how}.")
    for task, policies in found.items():
        apart = [
            setting
            for setting in UNITS.get(name, ())
            if len({candidate.trial.values(setting) for candidate in policies}) > 1
        ]
        if apart:
            *others, last = (other for other in CRITERIA if other not in UNITS)
            raise UserError(
                f"{name} of {task} cannot order these trials: they differ in {', '.join(apart)}, and its unit "
                f"differs with that. {', '.join(others)} and {last} can order them."
            )
    return {task: sorted(policies, key=lambda candidate: -candidate.value) for task, policies in found.items()}


def available(sweep: Sweep) -> list[str]:
    """The criteria that a sweep's complete trials have."""
    complete = [trial for trial in sweep.known if trial.state == "complete"]
    return [
        name for name in CRITERIA if any(math.isfinite(one.value) for trial in complete for one in _of(trial, name))
    ]


def _of(trial: Trial, name: str) -> list[Candidate]:
    """The policies that a complete trial keeps, with the criterion, higher is better; empty where the trial does not have it."""
    steps, values = along(trial, name)
    scores = dict(zip(trial.evaluations.steps.tolist(), trial.scores.tolist(), strict=True))
    none = [math.nan] * trial.seeds
    return [
        Candidate(trial, member, int(step), value=float(value), score=float(scores.get(int(step), none)[member]))
        for step, row in zip(steps, values, strict=True)
        if step in trial.config.kept_steps
        for member, value in enumerate(row)
    ]


def agreement(own: Sequence[Candidate]) -> Agreement | None:
    """How well the criterion ranks policies of one task, equal ones once; ``None`` where fewer than two have scores."""
    # trials that differ in what changes nothing are one policy, and would make the sample look larger
    scored = list(dict.fromkeys((one.value, one.score) for one in own if math.isfinite(one.score)))
    if len(scored) < 2:
        return None
    values, scores = zip(*scored, strict=True)
    low, high = stats.rank_interval(values, scores, np.random.default_rng(0))
    regrets = tuple(stats.regret(values, scores, count) for count in FIRST)
    correlation = float(stats.rank_correlation(values, scores))
    return Agreement(len(scored), correlation, low, high=high, regrets=regrets)


def verdict(found: Agreement | None) -> str:
    """How much to believe the choice, in a sentence."""
    if found is None:
        return "No scores to compare with: what this criterion is worth is not known here."
    if math.isnan(found.low):
        return f"Too few policies ({found.policies}) to say how well it ranks."
    evidence = f"Spearman {found.correlation:.2f}, 95 % interval [{found.low:.2f}, {found.high:.2f}]"
    if found.high < 0:
        return f"Do not rely on it: over {found.policies} policies it ranks worse than chance ({evidence})."
    if found.low <= 0:
        return (
            f"Do not rely on it: over {found.policies} policies it is not shown to be better than chance ({evidence})."
        )
    below = f"the first is {number(found.regrets[0])} points below the best"
    return f"Over {found.policies} policies it ranks better than chance ({evidence}); {below}."


def caution(own: Sequence[Candidate], name: str) -> str:
    """What to know before trusting the order of one task's policies by a criterion, in a sentence; empty for nothing."""
    moving = [
        setting
        for setting in CRITERIA[name].moved_by
        if len({value for one in own for value in one.trial.values(setting)}) > 1
    ]
    return f"These policies differ in {', '.join(moving)}, which changes {name} directly." if moving else ""


def ranking(own: Sequence[Candidate], name: str) -> list[Column]:
    """The first policies of one task by a criterion as a table."""
    criterion, shown = CRITERIA[name], own[:_MOST]
    by_method: dict[str, list[Trial]] = defaultdict(list)
    for candidate in own:
        by_method[candidate.trial.config.method].append(candidate.trial)
    # the name of a method implies the settings that all its trials share
    names = {method: varying(trials) for method, trials in by_method.items()}
    settings = [said(c.trial, names[c.trial.config.method]) for c in shown]
    if len(by_method) > 1:
        settings = [f"{c.trial.config.method} {text}".rstrip() for c, text in zip(shown, settings, strict=True)]
    better = "higher" if criterion.sign > 0 else "lower"
    return [
        Column("", [str(place) for place in range(1, len(shown) + 1)]),
        Column("settings", [shorten(text, _WIDEST, placeholder=" …") or "–" for text in settings], right=False),
        Column("seed", [str(candidate.trial.config.members[candidate.member].seed) for candidate in shown]),
        Column("step", [short(candidate.step) for candidate in shown]),
        Column(f"{name} ({better} is better)", [f"{criterion.sign * candidate.value:.4g}" for candidate in shown]),
        Column("its score", [number(candidate.score) for candidate in shown]),
    ]


def left_out(sweep: Sweep) -> list[str]:
    """A sentence for each criterion of the sweep that cannot order its trials."""
    return _orders(sweep)[1]


def agreements(sweep: Sweep) -> list[tuple[str, str, Agreement]]:
    """Task, criterion and how well it ranks, for every criterion that can order the sweep's trials, task by task."""
    by_criterion, _ = _orders(sweep)
    rows = [
        (task, name, found)
        for name, own in by_criterion.items()
        for task, policies in own.items()
        if (found := agreement(policies)) is not None
    ]
    return sorted(rows, key=lambda row: row[0])


def _orders(sweep: Sweep) -> tuple[dict[str, dict[str, list[Candidate]]], list[str]]:
    """``candidates`` by each criterion that the sweep has, and why the others have none."""
    orders, reasons = {}, []
    for name in available(sweep):
        try:
            orders[name] = candidates(sweep, name)
        except UserError as error:  # it cannot order trials with different units
            reasons.append(str(error))
    return orders, reasons


def comparison(sweep: Sweep) -> dict[str, list[Column]]:
    """``agreements`` as a table for each task."""
    by_task: dict[str, list[tuple[str, Agreement]]] = defaultdict(list)
    for task, name, found in agreements(sweep):
        by_task[task].append((name, found))
    return {task: _compared(rows) for task, rows in by_task.items()}


def _compared(rows: Sequence[tuple[str, Agreement]]) -> list[Column]:
    """A row for each criterion."""
    return [
        Column("criterion", [name for name, _ in rows], right=False),
        Column("policies", [str(found.policies) for _, found in rows]),
        Column("Spearman, 95 %", [f"{found.correlation:.2f} [{found.low:.2f}, {found.high:.2f}]" for _, found in rows]),
        *(
            Column(f"regret@{count}", [number(found.regrets[place]) for _, found in rows])
            for place, count in enumerate(FIRST)
        ),
    ]
