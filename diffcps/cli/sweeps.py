"""`diffcps sweeps`: the sweeps in a results folder, their trials, and how to continue them."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from diffcps import text
from diffcps.runs.read import Sweep
from diffcps.runs.trials import Trial, ascending, symbols, varying
from diffcps.text import STYLES, Column, duration, if_known, say

_PIPED_WIDTH = 200
_NARROW = 110
"""On a narrower terminal steps are written `1.2M`."""
_RECENT_SECONDS = 30.0
_FOLDERS_SHOWN = 3
"""Most run folders that are named for the same trouble."""


@dataclass(frozen=True)
class ListSweeps:
    """Every sweep with its state, its trials and its time left."""


@dataclass(frozen=True)
class ShowSweep:
    """One sweep: its plan, its trials, why trials failed, and the command that continues it."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of the sweep, or the path of its folder."""


@dataclass(frozen=True)
class Sweeps:
    """List the sweeps in a results folder, or show one of them. Reads only; safe while a sweep runs."""

    what: Annotated[ListSweeps, tyro.conf.subcommand("list")] | Annotated[ShowSweep, tyro.conf.subcommand("show")] = (
        ListSweeps()
    )
    """What to show."""
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Where the sweeps are: a folder, or a URL such as `s3://bucket/prefix`."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON for scripts: durations in seconds, times in seconds since 1970, `null` for unknown values."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.storage.location import opened

        console = _console()
        with opened(self.results) as results:
            if isinstance(self.what, ShowSweep):
                sweep = results.find(self.what.name)
                if self.json:
                    _print_json(_details(sweep), console)
                else:
                    _show(sweep, console)
            else:
                sweeps = results.sweeps()
                if self.json:
                    _print_json([_record(sweep) for sweep in sweeps], console)
                else:
                    _list(sweeps, results.name, console)


# All sweeps -----------------------------------------------------------------------------------------------------------


def _list(sweeps: Sequence[Sweep], results: str, console: Console) -> None:
    """One line a sweep, what is wrong with any, and how to continue the newest unfinished one."""
    if not sweeps:
        say(console, f"There is no sweep in {results}. Start one with diffcps sweep.")
        return
    counts = [_counts(sweep) for sweep in sweeps]
    number = {name: [str(count[name] or "") for count in counts] for name in counts[0]}
    done = [f"{n['complete']}/{sweep.total}" if sweep.plan else "" for n, sweep in zip(counts, sweeps, strict=True)]
    columns = [
        Column("sweep", [sweep.name for sweep in sweeps], right=False),
        Column("state", [sweep.state for sweep in sweeps], right=False),
        Column("preset", [sweep.plan.preset if sweep.plan else "" for sweep in sweeps], right=False, drop=1),
        Column("done", done),
        Column("running", number["running"], drop=5),
        Column("failed", number["failed"], drop=6),
        Column("pruned", number["pruned"], drop=6),
        Column("to go", number["to_go"], drop=4),
        Column("last", [if_known(sweep.mean("last")) for sweep in sweeps], drop=3),
        Column("best (oracle)", [if_known(sweep.mean("best")) for sweep in sweeps], drop=2),
        Column("time left", [if_known(sweep.seconds_left(), duration) for sweep in sweeps]),
        Column("touched", [_moment(sweep.touched) for sweep in sweeps]),
    ]
    _table(console, columns, [STYLES[sweep.state] for sweep in sweeps])
    if any(sweep.mean("last") is not None for sweep in sweeps):
        say(console, "last, best: mean over the evaluated trials, where their tasks are of one domain.", "dim")
    for sweep in sweeps:
        if sweep.trouble:
            say(console, f"{sweep.name}: {sweep.trouble}", "red")
    for advice in [advice for sweep in sweeps if (advice := _advice(sweep))][:1]:
        say(console, advice)
    say(console, f"Each trial: diffcps sweeps show {sweeps[0].name} --results {results}", "dim")


def _record(sweep: Sweep) -> dict[str, Any]:
    """Plain values of one sweep."""
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
        "resume": sweep.resume if _advice(sweep) else None,
        "trouble": sweep.trouble or None,
    }


def _counts(sweep: Sweep) -> dict[str, int]:
    """Number of trials by what is to be done with them."""
    count = sweep.counts
    return {
        "complete": count["complete"],
        "running": count["running"],
        "failed": count["failed"] + count["damaged"],
        "pruned": count["pruned"],
        "to_go": count["pending"] + count["stopped"] + count["interrupted"],
    }


# One sweep ------------------------------------------------------------------------------------------------------------


def _show(sweep: Sweep, console: Console) -> None:
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
        _table(console, columns, [STYLES[trial.state] for trial in sweep.trials])
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
        parts.append(f"touched {_moment(sweep.touched)}")
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
        f"commit {', '.join(_commits(sweep)) or 'unknown until a trial starts'}",
    ]
    if uri := _mlflow(sweep):
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
        Column("updated", [_moment(trial.updated) for trial in trials], drop=4),
    ]


def _packs(trials: Sequence[Trial]) -> list[str]:
    """A number for the pack that each trial trains in, the same for those in one; empty for a trial that trains alone."""
    numbers: dict[frozenset[str], int] = {}
    found = []
    for trial in trials:
        pack = frozenset([trial.key, *_others(trial)])
        found.append(str(numbers.setdefault(pack, len(numbers) + 1)) if len(pack) > 1 else "")
    return found


def _others(trial: Trial) -> list[str]:
    """The keys of the trials that train in one pack with it."""
    return list(trial.environment.get("together", {}).get("with", []))


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
        lines += [f"  {_folder(sweep, trial)}/status.json" for trial in trials[:_FOLDERS_SHOWN]]
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
    if advice := _advice(sweep):
        notes.append(advice)
    if any(trial.number("last") is not None for trial in sweep.trials):
        notes.append(f"Table and curves: diffcps report {sweep.name} --results {sweep.results}")
    return notes


def _details(sweep: Sweep) -> dict[str, Any]:
    """Plain values of one sweep and of each of its trials."""
    return _record(sweep) | {
        "created": sweep.description.get("created"),
        "commits": _commits(sweep),
        "mlflow": _mlflow(sweep),
        "trials": [_trial_record(trial, _folder(sweep, trial)) for trial in sweep.trials],
    }


def _trial_record(trial: Trial, folder: str) -> dict[str, Any]:
    config, facts = trial.stored, trial.dataset
    return {
        "key": trial.key,
        "task": config.task if config else None,
        "profile": config.profile if config else None,
        "settings": {name: _plain(values) for name, values in trial.settings.items()} if config else None,
        "seeds": [member.seed for member in config.members] if config else None,
        "in_one_pack_with": _others(trial),
        "state": trial.state,
        "step": trial.step,
        "steps": trial.steps,
        "steps_per_second": trial.speed,
        "last": trial.number("last"),
        "best_oracle": trial.number("best"),
        "seconds_left": trial.seconds_left,
        "updated": trial.updated,
        "trouble": trial.trouble or None,
        "folder": folder,
        "git_commit": trial.environment.get("git_commit"),
        "data": {name: facts.get(name) for name in ("source", "provenance", "rows", "checksum")} if facts else None,
    }


def _plain(values: Sequence[Any]) -> Any:
    """A setting's one value, or a list if members differ in it."""
    return values[0] if len(values) == 1 else list(values)


def _folder(sweep: Sweep, trial: Trial) -> str:
    return f"{sweep.where}/runs/{trial.key}"


def _commits(sweep: Sweep) -> list[str]:
    return sorted({str(commit) for trial in sweep.trials if (commit := trial.environment.get("git_commit"))})


def _mlflow(sweep: Sweep) -> str | None:
    uri = sweep.description.get("tracking_uri")
    return text.redacted(str(uri)) if uri else None


def _advice(sweep: Sweep) -> str | None:
    """A sentence and, on its second line, the command; `None` if there is nothing to continue."""
    if sweep.state == "stopped":
        return f"To continue {sweep.name}:\n  {sweep.resume}"
    if sweep.state == "some failed":
        return f"To try the failed trials of {sweep.name} again:\n  {sweep.resume}"
    return None


# Printing -------------------------------------------------------------------------------------------------------------


def _console() -> Console:
    """The terminal; wide enough for every column if the output is a pipe or a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _PIPED_WIDTH))


def _table(console: Console, columns: Sequence[Column], styles: Sequence[str]) -> None:
    """Print the columns that are not empty and that fit, and name those that do not."""
    shown, dropped = text.fitting([column for column in columns if any(column.cells)], console.width)
    console.print(text.terminal_table(shown, "", styles), Text(), crop=False)
    if dropped:
        say(console, f"Columns left out: {', '.join(dropped)}. Use a wider window or --json.", "dim")


def _print_json(values: Any, console: Console) -> None:
    console.out(json.dumps(values, indent=2, allow_nan=False), highlight=False)


def _moment(at: float | None) -> str:
    return "" if at is None else text.ago(time.time() - at)
