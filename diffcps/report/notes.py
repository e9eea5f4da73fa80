"""What stands under the tables: how far the sweep has come, what the words mean, what failed and why."""

from collections import defaultdict
from collections.abc import Sequence

from diffcps.report.collect import Sweep
from diffcps.report.published import OTHER_DATA, OTHER_ENVIRONMENT, UNVERIFIED, marks
from diffcps.report.rows import NEWEST, Row

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
        maze = ", AntMaze on v0" if any(row.trial.task.domain == "antmaze" for row in shown) else ""
        notes.append(
            "published: the paper's Table 1 (DiffCPS: best of its evaluations, mean ± std, with the paper's settings and "
            f"full length{maze}); compare it with best, never with last. Other methods: as that table quotes them."
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
