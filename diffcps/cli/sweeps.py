"""``diffcps sweeps show NAME``: one line a trial, and what to know of the sweep above and below."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from diffcps.runs.plan import SearchSpace
from diffcps.runs.read import SweepEntry, TrialEntry
from diffcps.text import STYLES, Column, ago, duration, fitting, lifted, progress, short, shown, table, tally

# What the list and the view of one sweep say in the same words.

_PIPED_WIDTH = 200


def wide_console() -> Console:
    """The terminal; into a pipe or a file nothing is left out for want of room."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _PIPED_WIDTH))


def line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, for the terminal itself to break: a path or a command can then be copied."""
    console.print(Text(text, style=style), soft_wrap=True)


def columns(console: Console, parts: Sequence[Column], styles: Sequence[str]) -> None:
    """Print those columns that say anything and for which there is room, and name those for which there is none."""
    shown, dropped = fitting([column for column in parts if any(column.cells)], console.width)
    console.print(table(shown, "", styles), Text(), crop=False)
    if dropped:
        line(console, f"No room here for {', '.join(dropped)}; a wider window and --json have them.", "dim")


def moment(at: float | None) -> str:
    """How long ago that was."""
    return "" if at is None else ago(time.time() - at)


def score(value: float | None) -> str:
    """A score with one decimal."""
    return "" if value is None else f"{value:.1f}"


def how_to_go_on(sweep: SweepEntry) -> str | None:
    """A sentence and, in its second line, the command; ``None`` where there is nothing to go on with."""
    if sweep.state == "stopped":
        return f"To go on with {sweep.name}:\n  {sweep.resume}"
    if sweep.state == "some failed":
        return f"To try what failed in {sweep.name} again:\n  {sweep.resume}"
    return None


# ``diffcps sweeps``: one line a sweep.


def show(sweeps: Sequence[SweepEntry], results: str, console: Console) -> None:
    """Print the sweeps of a results folder, what is wrong with any, and how to go on with the newest unfinished one."""
    if not sweeps:
        line(console, f"There is no sweep in {results}. Sweeps are started with python tune/sweep_d4rl.py.")
        return
    left = [sweep.seconds_left() for sweep in sweeps]
    counts = [_counts(sweep) for sweep in sweeps]
    number = {name: [str(count[name] or "") for count in counts] for name in counts[0]}
    of = [
        f"{count['complete']}/{sweep.total}" if sweep.plan else "" for count, sweep in zip(counts, sweeps, strict=True)
    ]
    columns(
        console,
        [
            Column("sweep", [sweep.name for sweep in sweeps], right=False),
            Column("state", [sweep.state for sweep in sweeps], right=False),
            Column("preset", [sweep.plan.preset if sweep.plan else "" for sweep in sweeps], right=False, drop=1),
            Column("done", of),
            Column("running", number["running"], drop=5),
            Column("failed", number["failed"], drop=6),
            Column("to go", number["to_go"], drop=4),
            Column("last", [score(sweep.mean("last")) for sweep in sweeps], drop=3),
            Column("best (oracle)", [score(sweep.mean("best")) for sweep in sweeps], drop=2),
            Column("time left", ["" if seconds is None else duration(seconds) for seconds in left]),
            Column("touched", [moment(sweep.touched) for sweep in sweeps]),
        ],
        [STYLES[sweep.state] for sweep in sweeps],
    )
    if any(sweep.mean("last") is not None for sweep in sweeps):
        line(console, "last, best: mean over the trials that have been evaluated.", "dim")
    for sweep in sweeps:
        if sweep.trouble:
            line(console, f"{sweep.name}: {sweep.trouble}", "red")
    for advice in [advice for sweep in sweeps if (advice := how_to_go_on(sweep))][:1]:
        line(console, advice)
    line(console, f"Trial by trial: diffcps sweeps show {sweeps[0].name} --results {results}", "dim")


def record(sweep: SweepEntry) -> dict[str, Any]:
    """Plain values."""
    return {
        "name": sweep.name,
        "folder": sweep.where,
        "state": sweep.state,
        "preset": sweep.plan.preset if sweep.plan else None,
        "counts": {**_counts(sweep), "total": sweep.total},
        "last_mean": sweep.mean("last"),
        "best_oracle_mean": sweep.mean("best"),
        "seconds_left": sweep.seconds_left(),
        "touched": sweep.touched,
        "held_by": sweep.holder.who if sweep.holder else None,
        "held_since": sweep.holder.since if sweep.holder else None,
        "resume": sweep.resume if how_to_go_on(sweep) else None,
        "trouble": sweep.trouble or None,
    }


def _counts(sweep: SweepEntry) -> dict[str, int]:
    """Trials that are done, being worked on, in need of a person, and those that only have to be gone on with."""
    count = sweep.counts
    return {
        "complete": count["complete"],
        "running": count["running"],
        "failed": count["failed"] + count["damaged"],
        "to_go": count["pending"] + count["stopped"] + count["interrupted"],
    }


_NARROW = 110
"""Below so many columns steps are written ``1.2M``."""
_RECENT_SECONDS = 30.0
_FOLDERS_SHOWN = 3
"""Most run folders that are named for one and the same trouble."""


def show_showing(sweep: SweepEntry, console: Console) -> None:
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


def record_showing(sweep: SweepEntry) -> dict[str, Any]:
    """Plain values: those of the list, and each trial."""
    environments = {trial.key: trial.environment for trial in sweep.trials}
    return record(sweep) | {
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
    from diffcps.tracking.labels import SHOWN

    plan = sweep.plan
    assert plan is not None
    if plan.search:
        return f"Optuna chooses {_space(plan.search)}; {_several(plan.search.trials, 'trial')} a task"
    settings: dict[str, set[float]] = defaultdict(set)
    for config in plan.trials:
        for setting, symbol in SHOWN.items():
            settings[symbol] |= {value for value in config.values(setting) if value is not None}
    return "; ".join(
        f"{name} {', '.join(f'{value:g}' for value in sorted(values))}" for name, values in settings.items() if values
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
        groups[f"{source} ({known})" if known else source].append(config.task)
    one = len(groups) == 1
    return "; ".join(name if one else f"{name}: {', '.join(dict.fromkeys(tasks))}" for name, tasks in groups.items())


def _columns(trials: tuple[TrialEntry, ...], narrow: bool) -> list[Column]:
    from diffcps.tracking.labels import SHOWN, common

    configs = [trial.config for trial in trials]
    number = short if narrow else "{:,}".format
    speed = [trial.number("steps_per_second") for trial in trials]
    left = [trial.seconds_left for trial in trials]
    return [
        Column(
            "task", [config.task if config else trial.key for config, trial in zip(configs, trials, strict=True)], False
        ),
        *(
            Column(
                symbol,
                [common(c, range(len(c.members)), setting)[:10] if c else "" for c in configs],
                liftable=True,
            )
            for setting, symbol in SHOWN.items()
        ),
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
        "diffusion_steps": config.value("diffusion_steps") if config else None,
        "lambda_clip": list(config.values("lambda_clip")) if config else None,
        "target_kl": list(config.values("target_kl")) if config else None,
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


# ``diffcps sweeps``: what a results folder holds, and how to go on with it.


@dataclass(frozen=True)
class ListSweeps:
    """Every sweep with its state, its trials and the time it still takes."""


@dataclass(frozen=True)
class ShowSweep:
    """One sweep: its plan, each of its trials, what failed and why, and how to go on."""

    name: tyro.conf.Positional[str]
    """Name of the sweep, or the path of its folder."""


@dataclass(frozen=True)
class Sweeps:
    """List the sweeps in a results folder, or show one of them. Only reads; a running sweep may be looked at."""

    what: Annotated[ListSweeps, tyro.conf.subcommand("list")] | Annotated[ShowSweep, tyro.conf.subcommand("show")] = (
        ListSweeps()
    )
    """What to look at."""
    results: Annotated[str, tyro.conf.arg(aliases=["--storage"], metavar="PLACE")] = "results"
    """Where the sweeps are: a folder, or a URL such as ``s3://bucket/prefix``."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print plain values for scripts: times in seconds, moments in seconds since 1970, ``null`` for what is not known."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.storage.results import opened

        console = wide_console()
        with opened(self.results) as results:
            if isinstance(self.what, ShowSweep):
                sweep = results.find(self.what.name)
                if self.json:
                    _print(record_showing(sweep), console)
                else:
                    show_showing(sweep, console)
            else:
                sweeps = results.sweeps()
                if self.json:
                    _print([record(sweep) for sweep in sweeps], console)
                else:
                    show(sweeps, results.name, console)


def _print(values: Any, console: Console) -> None:
    console.out(json.dumps(values, indent=2, allow_nan=False), highlight=False)
