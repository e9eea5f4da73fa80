"""One sweep on a terminal: its plan, its trials, what is wrong with any, and how to continue it."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console

from diffcps import text
from diffcps.cli.sweep_facts import advice, commits, folder_of, in_one_pack_with, tracking_uri
from diffcps.cli.tables import how_long_ago, print_table
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial, ascending, symbols, varying
from diffcps.text import STYLES, Column, duration, if_known, say

_NARROW = 110
"""On a narrower terminal steps are written `1.2M`."""
_RECENT_SECONDS = 30.0
_FOLDERS_SHOWN = 3
"""Most run folders that are named for the same trouble."""


def show(sweep: Sweep, console: Console) -> None:
    """One line a trial; the plan above, troubles and advice below."""
    say(console, _heading(sweep), "bold")
    if sweep.trouble:
        say(console, sweep.trouble, "red")
    if sweep.holder and sweep.plan is None:
        say(console, f"{sweep.holder.who} is reading or collecting its data; no trial has started.")
    for line in _plan(sweep) if sweep.plan else []:
        say(console, line)
    if sweep.trials:
        columns, agreed = text.lifted(_trial_columns(sweep.trials, narrow=console.width < _NARROW))
        if agreed:
            say(console, agreed, "dim")
        print_table(console, columns, [STYLES[trial.state] for trial in sweep.trials])
    for line in _troubles(sweep):
        say(console, line, "red")
    for line in _notes(sweep):
        say(console, line)


def _heading(sweep: Sweep) -> str:
    parts = [f"{sweep.name}: {sweep.state}"]
    if sweep.plan is not None:
        parts.append(f"{text.tally(sweep.counts)} of {sweep.total}")
    if left := sweep.seconds_left():
        parts.append(f"about {duration(left)} left")
    if sweep.touched is not None:
        parts.append(f"touched {how_long_ago(sweep.touched)}")
    return " · ".join(parts)


def _plan(sweep: Sweep) -> list[str]:
    """The plan in a few lines: tasks, seeds, settings, data, commit, MLflow, folder."""
    plan = sweep.plan
    assert plan is not None
    tasks = list(dict.fromkeys(config.task for config in plan.trials))
    seeds = sorted({member.seed for config in plan.trials for member in config.members})
    steps = sorted({config.steps for config in plan.trials})
    begun = f", begun {sweep.description['created']}" if "created" in sweep.description else ""
    held = f", held by {sweep.holder.who} for {duration(time.time() - sweep.holder.since)}" if sweep.holder else ""
    lines = [
        f"preset {plan.preset}{begun}{held}",
        f"{text.counted(len(tasks), 'task')}: {', '.join(tasks)}",
        f"seeds {text.span(seeds)}; steps {', '.join(f'{count:,}' for count in steps)}; {_settings(sweep)}",
        f"data: {_data(sweep)}",
        f"commit {', '.join(commits(sweep)) or 'unknown until a trial starts'}",
    ]
    if uri := tracking_uri(sweep):
        lines.append(f"MLflow: {uri}")
    return [*lines, f"folder: {sweep.where}"]


def _settings(sweep: Sweep) -> str:
    """The values of the settings that vary, and of those with a symbol."""
    plan = sweep.plan
    assert plan is not None
    if plan.search:
        known = {name: symbol for config in plan.trials for name, symbol in config.symbols.items()}
        space = "; ".join(f"{known.get(axis.name, axis.name)} from {axis}" for axis in plan.axes)
        rules = f"by {plan.objective}" + (f", pruned by {plan.prune}" if plan.prune else "")
        return f"Optuna chooses {space} {rules}; {text.counted(plan.search, 'trial')} a task"
    parts = []
    for name, symbol in _shown(sweep.known).items():
        values = sorted({value for trial in sweep.known for value in trial.values(name)}, key=ascending)
        parts.append(f"{symbol} {', '.join(map(text.worded, values))}")
    return "; ".join(parts)


def _shown(trials: Sequence[Trial]) -> dict[str, str]:
    """Setting -> its symbol or name, for settings with a symbol and for those that vary between trials."""
    return symbols(trials) | {name: symbols(trials).get(name, name) for name in varying(trials)}


def _data(sweep: Sweep) -> str:
    """Source and provenance; tasks are named if they differ in it."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in sweep.trials:
        if trial.stored:
            source, known = trial.config.data.source, trial.dataset.get("provenance")
            # data made here are never D4RL's, so there is nothing to verify
            kind = f"{source} ({known})" if known and not trial.dataset.get("made_here") else source
            groups[kind][trial.config.task] = None
    return "; ".join(kind if len(groups) == 1 else f"{kind}: {', '.join(tasks)}" for kind, tasks in groups.items())


def _seeds(trial: Trial) -> str:
    """How many seeds it has, and which where they do not begin with 0."""
    if not trial.stored:
        return ""
    seeds = [member.seed for member in trial.config.members]
    return str(len(seeds)) if seeds[0] == 0 else f"{len(seeds)} (seed{'s' * (len(seeds) > 1)} {text.span(seeds)})"


def _trial_columns(trials: Sequence[Trial], narrow: bool) -> list[Column]:
    number = text.short if narrow else "{:,}".format
    speeds = [trial.speed for trial in trials]
    settings = [
        Column(symbol, [_values(trial, name)[:10] for trial in trials], liftable=True)
        for name, symbol in _shown([trial for trial in trials if trial.stored]).items()
    ]
    return [
        Column("task", [trial.config.task if trial.stored else trial.key for trial in trials], right=False),
        *_named(trials),
        *settings,
        Column("seeds", [_seeds(trial) for trial in trials], liftable=True, drop=1),
        Column("pack", _packs(trials), drop=1),
        Column("state", [trial.doing or trial.state for trial in trials], right=False),
        Column("steps", [text.progress(trial.step, trial.steps, number) for trial in trials]),
        Column("steps/s", [f"{speed:.1f}" if speed else "" for speed in speeds], drop=2),
        Column("last", [if_known(trial.number("last")) for trial in trials]),
        Column("best (oracle)", [if_known(trial.number("best")) for trial in trials], drop=3),
        Column("time left", [if_known(trial.seconds_left, duration) for trial in trials]),
        Column("updated", [how_long_ago(trial.updated) for trial in trials], drop=4),
    ]


def _packs(trials: Sequence[Trial]) -> list[str]:
    """A number for the pack that each trial trains in, the same for those in one; empty for a trial that trains alone."""
    numbers: dict[frozenset[str], int] = {}
    found = []
    for trial in trials:
        pack = frozenset([trial.key, *in_one_pack_with(trial)])
        found.append(str(numbers.setdefault(pack, len(numbers) + 1)) if len(pack) > 1 else "")
    return found


def _named(trials: Sequence[Trial]) -> list[Column]:
    """Algorithm and profile; the first is among the settings where it varies."""
    known = [trial for trial in trials if trial.stored]
    names = ("profile",) if "algorithm" in varying(known) else ("algorithm", "profile")
    return [
        Column(
            name,
            [str(trial.config.value(name)) if trial.stored else "" for trial in trials],
            right=False,
            liftable=True,
        )
        for name in names
    ]


def _values(trial: Trial, name: str) -> str:
    return ", ".join(map(text.worded, trial.values(name))) if trial.stored else ""


def _troubles(sweep: Sweep) -> list[str]:
    """Failures and damages with the files that have the details; trials with the same trouble are put together."""
    same: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in sweep.trials:
        if trial.trouble and trial.state != "pruned":
            same[trial.state, trial.trouble].append(trial)
    lines = []
    for (state, trouble), trials in same.items():
        count = "" if len(trials) == 1 else f" {len(trials)} trials:"
        lines.append(f"{state}:{count} {trouble}")
        lines += [f"  {folder_of(sweep, trial)}/status.json" for trial in trials[:_FOLDERS_SHOWN]]
        if len(trials) > _FOLDERS_SHOWN:
            lines.append(f"  and {len(trials) - _FOLDERS_SHOWN} more, listed by --json")
    return lines


def _notes(sweep: Sweep) -> list[str]:
    """Explanations of the table, and what to do next."""
    notes = []
    now = time.time()
    fresh = [
        trial
        for trial in sweep.trials
        if trial.state == "interrupted" and trial.updated and now - trial.updated < _RECENT_SECONDS
    ]
    if fresh and sweep.holder is None:
        notes.append(
            f"No process holds the sweep, but {text.counted(len(fresh), 'trial')} reported seconds ago: either the main job "
            "was just killed, or it runs on a machine with file locks that are not visible here."
        )
    if sweep.counts["interrupted"]:
        notes.append("interrupted: its worker or the main job was killed; it continues from its last checkpoint.")
    notes += [f"pruned: {trial.key}: {trial.trouble}" for trial in sweep.trials if trial.state == "pruned"]
    if next_step := advice(sweep):
        notes.append(next_step)
    if any(trial.number("last") is not None for trial in sweep.trials):
        notes.append(f"Table and curves: diffcps report {sweep.name} --results {sweep.results}")
    return notes
