"""``diffcps sweeps show NAME``: one line a trial, and what to know of the sweep above and below."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from diffcps.cli.sweeps import listing
from diffcps.cli.sweeps.printing import columns, how_to_go_on, line, moment, score
from diffcps.distributed.catalogue import SweepEntry, TrialEntry
from diffcps.distributed.display import duration, progress, tally
from diffcps.distributed.plan import SearchSpace
from diffcps.terminal import STYLES, Column, lifted, short
from diffcps.tracking.labels import common
from diffcps.tracking.store import shown

_NARROW = 110
"""Below so many columns steps are written ``1.2M``."""
_RECENT_SECONDS = 30.0
_FOLDERS_SHOWN = 3
"""Most run folders that are named for one and the same trouble."""


def show(sweep: SweepEntry, console: Console) -> None:
    """Print everything that is known of the sweep."""
    line(console, _heading(sweep), "bold")
    if sweep.trouble:
        line(console, sweep.trouble, "red")
    if sweep.holder and sweep.plan is None:
        line(console, f"{sweep.holder.who} reads or collects its data; nothing of it has begun.")
    if sweep.plan is not None:
        for text in _plan(sweep):
            line(console, text)
    if sweep.trials:
        parts, agreed = lifted(_columns(sweep.trials, console.width < _NARROW))
        if agreed:
            line(console, agreed, "dim")
        columns(console, parts, [STYLES[trial.state] for trial in sweep.trials])
    for text in _troubles(sweep):
        line(console, text, "red")
    for text in _notes(sweep):
        line(console, text)


def record(sweep: SweepEntry) -> dict[str, Any]:
    """Plain values: those of the list, and each trial."""
    environments = {trial.key: trial.environment for trial in sweep.trials}
    return listing.record(sweep) | {
        "created": sweep.description.get("created"),
        "commits": _commits(environments.values()),
        "mlflow": _mlflow(sweep),
        "trials": [_trial_record(trial, _run_folder(sweep, trial), environments[trial.key]) for trial in sweep.trials],
    }


def _heading(sweep: SweepEntry) -> str:
    parts = [f"{sweep.name}: {sweep.state}"]
    if sweep.plan is not None:
        parts.append(f"{tally(sweep.counts)} of {sweep.total}")
    if (left := sweep.seconds_left()) is not None:
        parts.append(f"about {duration(left)} left")
    if sweep.touched is not None:
        parts.append(f"touched {moment(sweep.touched)}")
    return " · ".join(parts)


def _plan(sweep: SweepEntry) -> list[str]:
    """What was asked for and with what it is made, in a few lines."""
    plan = sweep.plan
    assert plan is not None
    tasks = list(dict.fromkeys(config.task for config in plan.trials))
    seeds = sorted({member.seed for config in plan.trials for member in config.members})
    steps = sorted({config.steps for config in plan.trials})
    begun = f", begun {sweep.description['created']}" if "created" in sweep.description else ""
    held = f", held by {sweep.holder.who} for {duration(time.time() - sweep.holder.since)}" if sweep.holder else ""
    lines = [
        f"preset {plan.preset}{begun}{held}",
        f"{_several(len(tasks), 'task')}: {', '.join(tasks)}",
        f"seeds {_span(seeds)}; steps {', '.join(f'{count:,}' for count in steps)}; {_varied(sweep)}",
    ]
    environments = [(trial.config.task, trial.environment) for trial in sweep.trials if trial.config]
    lines.append(f"data: {_data(sweep, {task: values for task, values in environments if values})}")
    commits = _commits(values for _, values in environments)
    lines.append(f"commit {', '.join(commits) or 'not known before a trial has started'}")
    if uri := _mlflow(sweep):
        lines.append(f"MLflow: {uri}")
    return [*lines, f"folder: {sweep.where}"]


def _varied(sweep: SweepEntry) -> str:
    """The values of T, λ-clip and κ."""
    plan = sweep.plan
    assert plan is not None
    if plan.search:
        return f"Optuna chooses {_space(plan.search)}; {_several(plan.search.trials, 'trial')} a task"
    settings: dict[str, set[float]] = defaultdict(set)
    for config in plan.trials:
        settings["T"].add(config.algorithm.diffusion_steps)
        settings["λ-clip"] |= {member.lambda_clip for member in config.members}
        settings["κ"] |= {member.target_kl for member in config.members}
    return "; ".join(
        f"{name} {', '.join(f'{value:g}' for value in sorted(values))}" for name, values in settings.items()
    )


def _space(space: SearchSpace) -> str:
    def said(values: Iterable[float], otherwise: str) -> str:
        return ", ".join(f"{value:g}" for value in values) or otherwise

    clip, bound = said(space.lambda_clip, "0 to 1"), said(space.target_kl, "0.01 to 0.3")
    return f"T from {said(space.diffusion_steps, '')}; λ-clip from {clip}; κ from {bound}"


def _data(sweep: SweepEntry, environments: Mapping[str, Mapping[str, Any]]) -> str:
    """Source and provenance, once for all tasks that have the same."""
    assert sweep.plan is not None
    groups: dict[str, list[str]] = defaultdict(list)
    for config in sweep.plan.trials:
        source, dataset = config.data.source, environments.get(config.task, {}).get("dataset")
        known = isinstance(dataset, Mapping) and dataset.get("provenance")
        # what is collected is never D4RL's: there is nothing to verify
        groups[f"{source} ({known})" if known and source != "collected" else source].append(config.task)
    one = len(groups) == 1
    return "; ".join(name if one else f"{name}: {', '.join(dict.fromkeys(tasks))}" for name, tasks in groups.items())


def _columns(trials: tuple[TrialEntry, ...], narrow: bool) -> list[Column]:
    configs = [trial.config for trial in trials]
    number = short if narrow else "{:,}".format
    speed = [trial.number("steps_per_second") for trial in trials]
    left = [trial.seconds_left for trial in trials]
    return [
        Column(
            "task", [config.task if config else trial.key for config, trial in zip(configs, trials, strict=True)], False
        ),
        Column("T", [str(config.algorithm.diffusion_steps) if config else "" for config in configs], liftable=True),
        Column("λ-clip", [common(c.members, "lambda_clip")[:10] if c else "" for c in configs], liftable=True),
        Column("κ", [common(c.members, "target_kl")[:10] if c else "" for c in configs], liftable=True),
        Column("seeds", [str(len(config.members)) if config else "" for config in configs], liftable=True, drop=1),
        Column("state", [trial.state for trial in trials], right=False),
        Column("steps", [progress(trial.step, trial.steps, number) for trial in trials]),
        Column("steps/s", [f"{value:.1f}" if value else "" for value in speed], drop=2),
        Column("last", [score(trial.number("last")) for trial in trials]),
        Column("best (oracle)", [score(trial.number("best")) for trial in trials], drop=3),
        Column("time left", ["" if seconds is None else duration(seconds) for seconds in left]),
        Column("updated", [moment(trial.updated) for trial in trials], drop=4),
    ]


def _troubles(sweep: SweepEntry) -> list[str]:
    """What went wrong and where the details are, once for all trials in which it was the same."""
    same: dict[tuple[str, str], list[TrialEntry]] = defaultdict(list)
    for trial in sweep.trials:
        if trial.trouble:
            same[trial.state, trial.trouble].append(trial)
    lines = []
    for (state, trouble), trials in same.items():
        count = "" if len(trials) == 1 else f" {len(trials)} trials:"
        lines.append(f"{state}:{count} {trouble}")
        lines += [f"  {_run_folder(sweep, trial)}/status.json" for trial in trials[:_FOLDERS_SHOWN]]
        if len(trials) > _FOLDERS_SHOWN:
            lines.append(f"  and {len(trials) - _FOLDERS_SHOWN} more, which --json names")
    return lines


def _run_folder(sweep: SweepEntry, trial: TrialEntry) -> str:
    return f"{sweep.where}/runs/{trial.key}"


def _notes(sweep: SweepEntry) -> list[str]:
    """What cannot be seen in the table, and what to do next."""
    notes = []
    count = sweep.counts
    fresh = [
        t for t in sweep.trials if t.state == "interrupted" and t.updated and time.time() - t.updated < _RECENT_SECONDS
    ]
    if fresh and sweep.holder is None:
        notes.append(
            f"Nobody holds the sweep, yet {_several(len(fresh), 'trial')} reported seconds ago: the main job has just "
            "been killed, or it runs on a machine whose file locks are not seen here."
        )
    if count["interrupted"]:
        notes.append(
            "interrupted: was running when its worker or the main job was killed; goes on from its last checkpoint."
        )
    if advice := how_to_go_on(sweep):
        notes.append(advice)
    if any(trial.number("last") is not None for trial in sweep.trials):
        notes.append(f"Table and curves: diffcps report {sweep.name} --results {sweep.results}")
    return notes


def _trial_record(trial: TrialEntry, folder: str, environment: Mapping[str, Any]) -> dict[str, Any]:
    config = trial.config
    dataset = environment.get("dataset")
    facts = dataset if isinstance(dataset, Mapping) else {}
    return {
        "key": trial.key,
        "task": config.task if config else None,
        "diffusion_steps": config.algorithm.diffusion_steps if config else None,
        "lambda_clip": [member.lambda_clip for member in config.members] if config else None,
        "target_kl": [member.target_kl for member in config.members] if config else None,
        "seeds": [member.seed for member in config.members] if config else None,
        "state": trial.state,
        "step": trial.step,
        "steps": trial.steps,
        "steps_per_second": trial.number("steps_per_second"),
        "last": trial.number("last"),
        "best_oracle": trial.number("best"),
        "seconds_left": trial.seconds_left,
        "updated": trial.updated,
        "trouble": trial.trouble or None,
        "folder": folder,
        "git_commit": environment.get("git_commit"),
        "data": {name: facts.get(name) for name in ("source", "provenance", "rows", "checksum")} if facts else None,
    }


def _commits(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({str(values["git_commit"]) for values in environments if values.get("git_commit")})


def _mlflow(sweep: SweepEntry) -> str | None:
    uri = sweep.description.get("tracking_uri")
    return shown(str(uri)) if uri else None


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _span(numbers: list[int]) -> str:
    """``0 to 4`` where none is missing, else each one."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
