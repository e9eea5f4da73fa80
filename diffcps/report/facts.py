"""What stands under the table: what its words mean, what it was made with, what it cost, what failed and why."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffcps.profiles import changed_settings
from diffcps.report.collect import Sweep, Trial
from diffcps.report.rows import UNVERIFIED, Row

_TRIALS_SHOWN = 3
"""Most trials whose time is told one by one; of more, the worst and the median."""
_STATES = "complete", "running", "stopped", "failed", "pending"


def progress(sweep: Sweep) -> str:
    """How far the sweep has come, in one line."""
    counts = {state: sum(trial.state == state for trial in sweep.trials) for state in _STATES}
    counts["pending"] += sweep.expected - len(sweep.trials)
    said = [f"{count} {'not started' if state == 'pending' else state}" for state, count in counts.items() if count > 0]
    return f"{sweep.expected} trial{'s' if sweep.expected != 1 else ''}: {', '.join(said)}."


def footnotes(table: Sequence[Row]) -> list[str]:
    """What a reader must know to read the numbers right."""
    notes = [
        "Scores are normalised: 100·(R − random)/(expert − random). behaviour: the data set's own trajectories. "
        "λ: mean over the steps of the newest row and over seeds.",
        "last: the newest evaluation (of the final checkpoint, where the trial is complete), mean ± standard deviation "
        "over seeds, with the 95 % percentile-bootstrap interval of the mean (too narrow below some 5 seeds; with 2 it "
        "is just the two). "
        "best: each seed's highest evaluation, chosen by looking at them all: an oracle, not comparable with last.",
    ]
    shown = [row for row in table if row.published.values]
    if shown:
        maze = ", AntMaze on v0" if any(row.trial.task.domain == "antmaze" for row in shown) else ""
        notes.append(
            "published: the paper's Table 1 (DiffCPS: best of its evaluations, mean ± std, with the paper's settings and "
            f"full length{maze}); compare it with best, never with last."
        )
    if any(row.published.mark for row in shown):
        notes.append(f"{UNVERIFIED} the data have D4RL's name and row count; nothing is published to verify them with.")
    foreign = [
        row.trial.task.name for row in table if row.data == "not D4RL's own" and row.trial.config.physics == "d4rl"
    ]
    if foreign:
        notes.append(
            f"Evaluated under D4RL's physics on data that are not D4RL's: {', '.join(dict.fromkeys(foreign))}. If they "
            "were recorded on today's MuJoCo, --physics modern is what fits them."
        )
    mixed = [
        row.trial.task.name
        for row in table
        if row.trial.config.data.source == "collected" and row.trial.config.physics != row.trial.task.physics
    ]
    if mixed:
        notes.append(
            f"Data collected under {table[0].trial.task.physics} physics, policies judged under another: "
            f"{', '.join(dict.fromkeys(mixed))}."
        )
    notes += _recorded(table)
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in table:
        if row.published.left_out and row.trial.task.name not in reasons[row.published.left_out]:
            reasons[row.published.left_out].append(row.trial.task.name)
    notes += [f"Published numbers left out for {', '.join(tasks)}: {why}" for why, tasks in reasons.items()]
    return notes


def _recorded(table: Sequence[Row]) -> list[str]:
    """What must be known of tasks that are made from Minari's data sets."""
    tasks = {row.trial.task.name: row.trial.task for row in table if row.trial.task.definition is not None}
    if not tasks:
        return []
    sets = [
        f"{name} ({task.definition.minari_id}, judged in {task.environment.removeprefix('recorded:')})"
        for name, task in tasks.items()
        if task.definition is not None
    ]
    notes = [
        "Learned from Minari's own data sets, not D4RL's data, and judged in the environments recorded with them, which "
        f"are not D4RL's either: {', '.join(sets)}."
    ]
    kinds = {
        "success": "A score is the percentage of episodes that reach the goal, which ends them",
        "return": "A score is the plain return, not normalised, for the data set has no reference scores",
    }
    for kind, said in kinds.items():
        if names := [name for name, task in tasks.items() if task.score == kind]:
            notes.append(f"{said}: {', '.join(names)}.")
    return notes


def troubles(sweep: Sweep) -> list[str]:
    """One line for each failed trial, each damaged folder and each thing that a resume had to work around."""
    lines = [
        f"Failed: {trial.key} at step {trial.status.get('step', 0)}: {first_line(trial.status.get('error'))}"
        for trial in sweep.trials
        if trial.state == "failed"
    ]
    lines += [f"Unreadable: {sentence}" for sentence in sweep.unreadable]
    lines += [f"{trial.key}: {note}" for trial in sweep.trials for note in trial.status.get("notes", ())]
    return lines


def provenance(sweep: Sweep) -> list[str]:
    """Cost, versions, commit, device and profile, each said once where all trials agree."""
    started = [trial for trial in sweep.trials if trial.environment]
    if not started:
        return []
    versions = [", ".join(f"{k} {v}" for k, v in t.environment.get("versions", {}).items()) for t in started]
    facts = [
        ("Profile", _agreed(trial.config.profile for trial in sweep.trials)),
        *_changed(sweep.trials),
        ("Physics", _agreed(trial.config.physics for trial in sweep.trials)),
        ("Device", _agreed(str(trial.environment.get("device")) for trial in started)),
        ("Gradient steps", _agreed(engine(trial) for trial in started)),
        ("Commit", _agreed(str(trial.environment.get("git_commit")) for trial in started)),
        ("Versions", _agreed(versions)),
    ]
    for trial in started:
        facts += [(f"Earlier attempt of {trial.key}", _attempt(old)) for old in trial.environment.get("earlier", ())]
    return [*_cost(started), *(f"{name}: {value}" for name, value in facts)]


def _attempt(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("versions") or {}).items())
    return f"{environment.get('device')}; commit {environment.get('git_commit')}; {versions}"


def _changed(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """For each task, what differs from the paper's settings, once for all of its trials."""
    by_task: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in trials:
        by_task[trial.task.name] |= dict.fromkeys(changed_settings(trial.config))
    return [
        (f"Not the task's own settings, {task}", ", ".join(changes)) for task, changes in by_task.items() if changes
    ]


def engine(trial: Trial) -> str:
    """How the trial's gradient steps were run and why, over how many workers and packs where that is more than one."""
    chosen = trial.environment.get("engine")
    said = "as before engines were recorded"
    if chosen:
        same = chosen["used"] == chosen["asked"]
        said = chosen["reason"] if same else f"{chosen['used']}, for {chosen['asked']} did not work here"
    workers, sizes = trial.environment.get("workers", 1), trial.environment.get("pack_sizes", ())
    said += f"; {workers} workers" if workers > 1 else ""
    return said + (f"; packs of at most {max(sizes)} seeds, the most that fit" if len(sizes) > 1 else "")


def rate(trial: Trial) -> float:
    """Gradient steps per second of learning, all K members at once, over the whole trial; nan before there is one."""
    learning = trial.status.get("seconds", {}).get("learning", 0.0)
    return float(trial.status.get("step", 0) / learning) if learning > 0 else float("nan")


def learner_share(trial: Trial) -> float:
    """Learner time divided by the trial's wall time."""
    seconds = trial.status.get("seconds", {})
    return float(seconds["learning"] / wall(trial)) if wall(trial) > 0 else float("nan")


def wall(trial: Trial) -> float:
    """Seconds from when the trial was asked for to its end, over all its attempts."""
    return float(sum(trial.status.get("seconds", {}).values()))


def first_line(text: object) -> str:
    """The first line of an error, short enough for a table's foot."""
    line = (str(text or "").strip().splitlines() or ["no reason was recorded"])[0]
    return line if len(line) <= 300 else line[:299] + "…"


def _cost(started: Sequence[Trial]) -> list[str]:
    rates = [rate(trial) for trial in started if np.isfinite(rate(trial))]
    if not rates:
        return []
    timed = sorted((trial for trial in started if wall(trial) > 0), key=learner_share)
    total = sum(wall(trial) for trial in timed)
    lines = [
        f"Speed: {_range(rates, '{:.3g}')} gradient steps per second, all seeds of a trial at once; {duration(total)} over "
        "all trials."
    ]
    if len(timed) <= _TRIALS_SHOWN:
        return lines + [f"Time of {trial.key}: {spent(trial)}." for trial in timed]
    worst, median = timed[0], timed[(len(timed) - 1) // 2]
    return [
        *lines,
        f"Time of the trial with the smallest share of learning, {worst.key}: {spent(worst)}.",
        f"Time of the trial with the median share: {spent(median)}.",
    ]


def spent(trial: Trial) -> str:
    """What a trial's time went to: ``learning 93 % of 512 s; evaluation 21 s, start 6 s, …``, the largest first."""
    seconds = {name: value for name, value in trial.status["seconds"].items() if name != "learning" and value >= 0.05}
    others = [f"{name} {_brief(seconds[name])}" for name in sorted(seconds, key=lambda name: -seconds[name])]
    share = f"learning {100 * learner_share(trial):.0f} % of {duration(wall(trial))}"
    return share + (f"; {', '.join(others)}" if others else "")


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _agreed(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else "differs between trials: " + "; ".join(distinct)
