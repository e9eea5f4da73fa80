"""The text under the tables: progress of the sweep, meaning of the columns, failures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffcps.report import cost
from diffcps.report.analysis import NEWEST, Row, compares
from diffcps.report.paper import (
    OTHER_DATA,
    OTHER_ENVIRONMENT,
    PAPER_SEEDS,
    UNVERIFIED,
    data_provenance,
    marks,
    other_environment,
)
from diffcps.runs import inert
from diffcps.runs.joined import joined
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial
from diffcps.text import counted, tally


def progress(sweep: Sweep) -> str:
    """The number of trials in each state, in one line."""
    counts = {"not started" if state == "pending" else state: count for state, count in sweep.counts.items()}
    return f"{counted(sweep.total, 'trial')}: {tally(counts)}."


def footnotes(table: Sequence[Row]) -> list[str]:
    """What a reader must know to read the numbers right."""
    without_effect = inert.notes([row.trial.config for row in table])
    return [*_columns(table), *without_effect, *_marks(table), *_physics(table), *_recorded(table), *_left_out(table)]


def _columns(table: Sequence[Row]) -> list[str]:
    notes = [
        "Scores are normalised: 100·(R − random)/(expert − random), where R is the return. behaviour: score of the data "
        "set's own trajectories.",
        "last: the newest evaluation; of a complete trial, the evaluation of its final checkpoint. Mean ± standard "
        "deviation over seeds, with the 95 % percentile-bootstrap interval of the mean. The interval is too narrow for "
        "fewer than about 5 seeds; for 2 seeds its ends are the two scores.",
        f"mean of the last: each seed's mean over its newest {NEWEST} evaluations, or over all if there are fewer. best: "
        "each seed's highest evaluation. It is chosen by looking at all of them, so it is an oracle: do not compare it "
        "with last. first: the first evaluation, mean over seeds; it shows how much was learned since.",
    ]
    if any(math.isfinite(row.diagnosis.multiplier) for row in table):
        said = "λ: as the policy's loss uses it, so clipped; mean over seeds and over the steps of the newest row of metrics."
        notes.append(said)
    shown = [row for row in table if row.published.values]
    if shown and not compares(table):
        versions = dict.fromkeys(f", {row.trial.task.paper_note}" for row in shown if row.trial.task.paper_note)
        notes.append(
            "published: Table 1 of the paper. Its DiffCPS scores are the best of a run's evaluations, mean ± standard "
            f"deviation, with the paper's settings and full length{''.join(versions)}. Compare them with best, never with "
            "last. The other methods are as that table quotes them."
        )
    return notes


def _marks(table: Sequence[Row]) -> list[str]:
    seen = "".join(marks(row.trial) for row in table) + "".join(row.published.mark for row in table)
    meanings = {
        UNVERIFIED: "the data have D4RL's name and number of rows, but no checksum is published to verify them.",
        OTHER_DATA: "the data are not the paper's.",
        OTHER_ENVIRONMENT: "evaluated in another environment, or under other physics, than in the paper.",
    }
    return [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in seen]


def _physics(table: Sequence[Row]) -> list[str]:
    """Where data and evaluation do not share one simulator."""
    notes = []
    foreign = [row for row in table if _foreign(row.trial) and row.trial.config.physics == "d4rl"]
    if foreign:
        notes.append(
            f"Evaluated under D4RL's physics, on data that are not D4RL's: {_tasks(foreign)}. If the data were recorded "
            "with a current MuJoCo, use --physics modern."
        )
    made_here = [row for row in table if row.trial.dataset.get("made_here")]
    if mixed := [row for row in made_here if other_environment(row.trial)]:
        notes.append(
            f"Data collected under {mixed[0].trial.task.physics} physics, policies evaluated under other physics: "
            f"{_tasks(mixed)}."
        )
    return notes


def _foreign(trial: Trial) -> bool:
    """Whether a file has the name of D4RL's data but other content."""
    named = trial.task.d4rl_file is not None and not trial.dataset.get("made_here")
    return named and trial.dataset.get("provenance") == "other"


def _recorded(table: Sequence[Row]) -> list[str]:
    """Tasks that are made from Minari's data sets, and tasks with scores that are not normalised."""
    tasks = {row.trial.task.name: row.trial.task for row in table}
    sets = [
        f"{name} ({task.definition.minari_id}, environment {task.environment.id})"
        for name, task in tasks.items()
        if task.definition is not None
    ]
    notes = []
    if sets:
        notes.append(
            "Trained on Minari's own data sets and evaluated in the environments recorded with them; neither is D4RL's: "
            f"{', '.join(sets)}."
        )
    if silent := [row for row in table if not row.trial.config.evaluation.episodes]:
        notes.append(f"Not evaluated, so without scores: {_tasks(silent)}.")
    kinds = {
        "success": "The score is the percentage of episodes that reach the goal; reaching it ends an episode",
        "return": "The score is the return, not normalised: the data set has no reference scores",
    }
    for kind, said in kinds.items():
        if names := [name for name, task in tasks.items() if task.score == kind]:
            notes.append(f"{said}: {', '.join(names)}.")
    return notes


def _left_out(table: Sequence[Row]) -> list[str]:
    reasons: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        if row.published.left_out:
            reasons[row.published.left_out].append(row)
    return [f"Published numbers left out for {_tasks(rows)}: {why}" for why, rows in reasons.items()]


def _tasks(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row.trial.task.name for row in rows))


def troubles(sweep: Sweep) -> list[str]:
    """A line for each failed trial and each file that cannot be read."""
    lines = []
    for trial in sweep.trials:
        if trial.state == "failed":
            lines.append(f"Failed: {trial.key} at step {trial.step}: {trial.trouble}")
        lines += [f"Unreadable: {damage}" for damage in trial.damages]
    return lines


def remarks(sweep: Sweep) -> list[str]:
    """Why trials were pruned, and notes that trials left: checkpoints that were skipped, engines that did not work."""
    pruned = [trial for trial in sweep.trials if trial.state == "pruned"]
    ended = [f"Pruned: {trial.key} at step {trial.step}: {trial.trouble}" for trial in pruned]
    return ended + [f"{trial.key}: {note}" for trial in sweep.trials for note in trial.notes]


# How a sweep was run, and where it departs from the paper: what a referee would ask.


def provenance(sweep: Sweep) -> list[str]:
    """Cost, versions, commit, device and profile. A fact that all trials share is stated once."""
    started = [trial for trial in sweep.known if trial.environment]
    if not started:
        return []
    versions = [", ".join(f"{k} {v}" for k, v in t.environment.get("versions", {}).items()) for t in started]
    facts = [
        ("Profile", _agreed(trial.config.profile for trial in sweep.known)),
        ("Physics", _agreed(trial.config.physics for trial in sweep.known)),
        ("Device", _agreed(str(trial.environment.get("device")) for trial in started)),
        ("Gradient steps", _agreed(engine(trial) for trial in started)),
        ("Commit", _agreed(str(trial.environment.get("git_commit")) for trial in started)),
        ("Versions", _agreed(versions)),
    ]
    for trial in started:
        facts += [(f"Earlier attempt of {trial.key}", _attempt(old)) for old in trial.environment.get("earlier", ())]
    return [*cost.summary(started), *(f"{name}: {value}" for name, value in facts)]


def _attempt(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("versions") or {}).items())
    return f"{environment.get('device')}; commit {environment.get('git_commit')}; {versions}"


def deviations(sweep: Sweep) -> list[str]:
    """Departures from the paper's protocol; for a task that the paper does not have, from the task's own settings."""
    by_kind: dict[str, list[Trial]] = defaultdict(list)
    of_settings: dict[str, list[Trial]] = defaultdict(list)
    trials = joined(sweep.trials)
    for trial in trials:
        task, profile = trial.task, trial.config.profile
        if profile != "official":
            by_kind[f"Profile {profile} instead of the paper's settings"].append(trial)
        if changes := trial.changes:
            owner = "task" if profile == "official" else "profile"
            of_settings[f"Settings that differ from the {owner}'s, {', '.join(changes)}"].append(trial)
        if trial.config.steps < task.steps:
            by_kind[f"Shorter than the task's {task.steps:,} gradient steps"].append(trial)
        if task.in_paper and trial.seeds != PAPER_SEEDS:
            by_kind[f"{counted(trial.seeds, 'seed')}, where the paper has {PAPER_SEEDS}"].append(trial)
        if task.d4rl_file and trial.dataset and data_provenance(trial) == "other":
            by_kind["Data that are not D4RL's"].append(trial)
        if other_environment(trial):
            by_kind[f"Physics {trial.config.physics} instead of {task.physics}"].append(trial)
    lines = [f"{kind}: {_on_tasks(found, trials)}" for kind, found in of_settings.items()]
    lines += [f"{kind}: {_tasks_of(found, trials)}" for kind, found in by_kind.items()]
    simulators = {trial.environment.get("versions", {}).get("mujoco") for trial in sweep.known if trial.task.d4rl_file}
    if versions := sorted(version for version in simulators if version):
        lines.append(
            f"Simulator: MuJoCo {', '.join(versions)}; D4RL's own environments use mujoco-py (MuJoCo 2.1 or before)"
        )
    return lines


def _tasks_of(found: Iterable[Trial], every: Sequence[Trial]) -> str:
    """The tasks of some trials; ``all 15 tasks`` where those are the tasks of ``every`` trial."""
    names = dict.fromkeys(trial.task.name for trial in found)
    whole = len(names) > 1 and names.keys() == {trial.task.name for trial in every}
    return f"all {len(names)} tasks" if whole else ", ".join(names)


def _on_tasks(found: Sequence[Trial], every: Sequence[Trial]) -> str:
    """The same by algorithm, where there are several: ``sfbc, qgpo on all 15 tasks; iql on hopper-medium-v2``."""
    if len({trial.config.algorithm for trial in every}) == 1:
        return _tasks_of(found, every)
    own: dict[str, list[Trial]] = defaultdict(list)
    for trial in found:
        own[trial.config.algorithm].append(trial)
    together: dict[str, list[str]] = defaultdict(list)
    for algorithm, trials in own.items():
        together[_tasks_of(trials, every)].append(algorithm)
    return "; ".join(f"{', '.join(algorithms)} on {tasks}" for tasks, algorithms in together.items())


def engine(trial: Trial) -> str:
    """How gradient steps were run and why, and the number of workers and packs where there are several."""
    chosen = trial.environment.get("engine")
    said = "not recorded"
    if chosen:
        same = chosen["used"] == chosen["asked"]
        said = chosen["reason"] if same else f"{chosen['used']}, because {chosen['asked']} did not work here"
    workers, sizes = trial.environment.get("workers", 1), trial.environment.get("pack_sizes", ())
    said += f"; {workers} workers" if workers > 1 else ""
    if shared := trial.environment.get("together"):
        said += f"; one pack with {counted(len(shared['with']), 'other trial')}"
    return said + (f"; packs of at most {max(sizes)} seeds, the most that fit" if len(sizes) > 1 else "")


def _agreed(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else "differs between trials: " + "; ".join(distinct)
