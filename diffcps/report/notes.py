"""What stands under the tables: how far the sweep has come, what the words mean, what failed and why."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffcps.data import library
from diffcps.report import diagnostics
from diffcps.report.analysis import NEWEST, Row
from diffcps.report.published import (
    OTHER_DATA,
    OTHER_ENVIRONMENT,
    PAPER_SEEDS,
    UNVERIFIED,
    data_provenance,
    marks,
    other_environment,
)
from diffcps.runs.frames import Sweep, Trial

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
        f"is just the two). mean of the last: each seed's mean over its newest {NEWEST} evaluations, of all where it has fewer. "
        "best: each seed's highest evaluation, chosen by looking at them all: an oracle, not comparable with last.",
    ]
    shown = [row for row in table if row.published.values]
    if shown:
        versions = dict.fromkeys(f", {row.trial.task.paper_note}" for row in shown if row.trial.task.paper_note)
        notes.append(
            "published: the paper's Table 1 (DiffCPS: best of its evaluations, mean ± std, with the paper's settings and "
            f"full length{''.join(versions)}); compare it with best, never with last. Other methods: as that table quotes them."
        )
    if any(row.published.mark for row in shown):
        notes.append(f"{UNVERIFIED} the data have D4RL's name and row count; nothing is published to verify them with.")
    seen = "".join(marks(row.trial) for row in table)
    if OTHER_DATA in seen:
        notes.append(f"{OTHER_DATA} the data are not the paper's.")
    if OTHER_ENVIRONMENT in seen:
        notes.append(f"{OTHER_ENVIRONMENT} judged in another environment, or under other physics, than the paper's.")
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
        if library.source(row.trial.config.data.source).rows(row.trial.task) is not None
        and row.trial.config.physics != row.trial.task.physics
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
    """Tasks that are made from Minari's data sets, and tasks whose scores are not normalised."""
    tasks = {row.trial.task.name: row.trial.task for row in table}
    sets = [
        f"{name} ({task.definition.minari_id}, evaluated in {task.environment.id})"
        for name, task in tasks.items()
        if task.definition is not None
    ]
    notes = []
    if sets:
        notes.append(
            "Learned from Minari's own data sets, not D4RL's data, and evaluated in the environments recorded with them, "
            f"which are not D4RL's either: {', '.join(sets)}."
        )
    kinds = {
        "success": "A score is the percentage of episodes that reach the goal, which ends them",
        "return": "A score is the plain return, not normalised, for the data set has no reference scores",
    }
    for kind, said in kinds.items():
        if names := [name for name, task in tasks.items() if task.score == kind]:
            notes.append(f"{said}: {', '.join(names)}.")
    return notes


def troubles(sweep: Sweep) -> list[str]:
    """One line for each failed trial and each damaged folder."""
    lines = [
        f"Failed: {trial.key} at step {trial.status.get('step', 0)}: {first_line(trial.status.get('error'))}"
        for trial in sweep.trials
        if trial.state == "failed"
    ]
    return [*lines, *(f"Unreadable: {sentence}" for sentence in sweep.unreadable)]


def remarks(sweep: Sweep) -> list[str]:
    """What trials had to say of themselves: what a resume worked around, what turned out slower than asked for."""
    return [f"{trial.key}: {note}" for trial in sweep.trials for note in trial.status.get("notes", ())]


def first_line(text: object) -> str:
    """The first line of an error, short enough for a table's foot."""
    line = (str(text or "").strip().splitlines() or ["no reason was recorded"])[0]
    return line if len(line) <= 300 else line[:299] + "…"


# What a sweep was made with, and in what it departs from the paper: everything a referee would ask.


def provenance(sweep: Sweep) -> list[str]:
    """Cost, versions, commit, device and profile, each said once where all trials agree."""
    started = [trial for trial in sweep.trials if trial.environment]
    if not started:
        return []
    versions = [", ".join(f"{k} {v}" for k, v in t.environment.get("versions", {}).items()) for t in started]
    facts = [
        ("Profile", _agreed(trial.config.profile for trial in sweep.trials)),
        ("Physics", _agreed(trial.config.physics for trial in sweep.trials)),
        ("Device", _agreed(str(trial.environment.get("device")) for trial in started)),
        ("Gradient steps", _agreed(engine(trial) for trial in started)),
        ("Commit", _agreed(str(trial.environment.get("git_commit")) for trial in started)),
        ("Versions", _agreed(versions)),
    ]
    for trial in started:
        facts += [(f"Earlier attempt of {trial.key}", _attempt(old)) for old in trial.environment.get("earlier", ())]
    return [*diagnostics.summary(started), *(f"{name}: {value}" for name, value in facts)]


def _attempt(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("versions") or {}).items())
    return f"{environment.get('device')}; commit {environment.get('git_commit')}; {versions}"


def deviations(sweep: Sweep) -> list[str]:
    """In what the trials depart from the paper's protocol; for a task that is not the paper's, from its own settings."""
    by_kind: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in sweep.trials:
        task = trial.task
        if trial.config.profile != "official":
            by_kind[f"The {trial.config.profile} profile and not the paper's own settings"][task.name] = None
        if changes := trial.changes:
            by_kind[
                f"Not the {'task' if trial.config.profile == 'official' else 'profile'}'s own settings, {task.name}"
            ] |= dict.fromkeys(changes)
        if trial.config.steps < task.steps:
            by_kind[f"Shorter than the task's {task.steps:_} gradient steps".replace("_", " ")][task.name] = None
        if task.in_paper and trial.seeds != PAPER_SEEDS:
            by_kind[f"Another number of seeds than the paper's {PAPER_SEEDS}"][f"{task.name} {trial.seeds}"] = None
        if task.d4rl_file and trial.dataset and data_provenance(trial) == "other":
            by_kind["Data that are not D4RL's"][task.name] = None
        if other_environment(trial):
            by_kind[f"Physics other than {task.physics}"][f"{task.name} {trial.config.physics}"] = None
    lines = [f"{kind}: {', '.join(found)}" for kind, found in by_kind.items()]
    simulators = {trial.environment.get("versions", {}).get("mujoco") for trial in sweep.trials if trial.task.d4rl_file}
    if known := sorted(version for version in simulators if version):
        lines.append(
            f"Simulator: MuJoCo {', '.join(known)}, where D4RL's own environments use mujoco-py (MuJoCo 2.1 or before)"
        )
    return lines


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


def _agreed(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else "differs between trials: " + "; ".join(distinct)
