"""The further tables: across tasks, over T and λ-clip, the constraint, cost, data."""

import math
from collections.abc import Sequence

from diffcps import stats
from diffcps.report import cost, numbers
from diffcps.report.document import Sheet
from diffcps.report.groups import Budget, Group, improvements
from diffcps.report.rows import Row, said, varying
from diffcps.report.sensitivity import Beside, Grid
from diffcps.terminal import Column

_BUDGETS = 1, 2, 3, 5, 10, 15, 20, 30, 50


def averages(found: Sequence[Group]) -> Sheet:
    """The paper's kind of average: over the complete tasks of a domain, every task counting the same."""
    last, newest, best = ([group.mean(kind) for group in found] for kind in ("last", "newest", "best"))
    columns = [
        *_identity(found),
        Column("last", [numbers.number(item.value) for item in last]),
        Column("95 % interval", [numbers.interval(item.low, item.high) for item in last]),
        Column("mean of the newest evaluations", [numbers.number(item.value) for item in newest], drop=2),
        Column("best (oracle)", [numbers.number(item.value) for item in best]),
    ]
    if any(math.isfinite(group.published) for group in found):
        columns.append(Column("published DiffCPS (best)", [numbers.number(group.published) for group in found]))
    return Sheet(tuple(columns))


def aggregates(found: Sequence[Group]) -> Sheet:
    """IQM, median, mean and optimality gap of the last scores, each with its stratified-bootstrap interval."""
    columns = _identity(found)
    for name in stats.AGGREGATES:
        title = f"{name} of last" if name != "optimality gap" else "optimality gap (less is better)"
        cells = [numbers.estimate(group.aggregates[name]) for group in found]
        columns.append(Column(title, cells, drop={"median": 1, "mean": 2, "optimality gap": 3}.get(name, 0)))
    return Sheet(tuple(columns))


def improvement(families: Sequence[Sequence[Group]]) -> Sheet | None:
    """P(X > Y) of the last scores for pairs of configurations; ``None`` where no two share a task."""
    found = [item for family in families for item in improvements(family)]
    if not found:
        return None
    columns = [Column("domain", [item.first.domain for item in found], right=False, liftable=True)]
    if len({item.first.data for item in found}) > 1:
        columns.append(Column("data", [item.first.data for item in found], right=False))
    profiles = {group.profile for item in found for group in (item.first, item.second)}

    def named(group: Group) -> str:
        return f"{group.profile} {group.configuration}".rstrip() if len(profiles) > 1 else group.configuration

    columns += [
        Column("X", [named(item.first) for item in found], right=False),
        Column("Y", [named(item.second) for item in found], right=False),
        Column("tasks", [str(len(item.tasks)) for item in found], liftable=True),
        Column("P(X > Y)", [numbers.number(item.probability.value, 2) for item in found]),
        Column("95 % interval", [numbers.interval(item.probability.low, item.probability.high, 2) for item in found]),
    ]
    return Sheet(tuple(columns))


def budget(found: Sequence[Budget]) -> Sheet:
    """Expected highest last score of k configurations tried online."""
    most = max(len(item.mean) for item in found)
    columns = [
        Column("task", [item.task for item in found], right=False),
        Column("data", [item.data for item in found], right=False, liftable=True),
        Column("configurations", [str(len(item.mean)) for item in found], liftable=True),
    ]
    for k in dict.fromkeys([*(count for count in _BUDGETS if count < most), most]):
        cells = [f"{item.mean[k - 1]:.1f} ± {item.std[k - 1]:.1f}" if k <= len(item.mean) else "–" for item in found]
        columns.append(
            Column(f"{k} tried" if k > 1 else "1 tried", cells, drop=k if k in {2, 15, 30} and k < most else 0)
        )
    return Sheet(tuple(columns))


def grid(item: Grid) -> Sheet:
    """Last scores over T and λ-clip."""
    columns = [Column("T \\ λ-clip", [str(steps) for steps in item.diffusion_steps])]
    for clip in item.lambda_clips:
        columns.append(
            Column(f"{clip:g}", [numbers.cell(item.cells.get((steps, clip))) for steps in item.diffusion_steps])
        )
    return Sheet(tuple(columns))


def beside(found: Sequence[Beside]) -> Sheet:
    """Best scores over λ-clip at T = 5 beside the paper's ablation, which shows best scores too."""
    points = [(item.task, *point) for item in found for point in item.points]
    columns = [
        Column("task", [task for task, *_ in points], right=False),
        Column("λ-clip", [f"{clip:g}" for _, clip, *_ in points]),
        Column("best (oracle)", [numbers.score(row.best) for _, _, row, _ in points]),
        Column("evaluations", [str(row.evaluations) for _, _, row, _ in points]),
        Column("published DiffCPS (best)", [f"{value:.1f}{row.published.mark}" for _, _, row, value in points]),
    ]
    return Sheet(tuple(columns))


def constraint(table: Sequence[Row]) -> Sheet:
    """λ, behaviour loss against κ, violations, and the critic's estimate against the return."""
    names = varying(table)
    found = [row.diagnosis for row in table]
    columns = [
        Column("task", [row.trial.task.name for row in table], right=False),
        *([Column("setting", [said(row.trial, names) for row in table], right=False)] if names else []),
        Column("λ", [numbers.number(item.multiplier, 2) for item in found]),
        Column("behaviour loss", [numbers.significant(item.behaviour_loss) for item in found]),
        Column("κ", [numbers.significant(item.bound) for item in found]),
        Column("bounded / κ", [numbers.number(item.ratio, 2) for item in found]),
        Column("violations", [numbers.percent(item.violations) for item in found]),
        Column("in the second half", [numbers.percent(item.late_violations) for item in found]),
        Column("Q estimate", [numbers.significant(item.q_value) for item in found]),
        Column("return, discounted", [numbers.significant(item.discounted) for item in found]),
        Column("return", [numbers.significant(item.returned) for item in found]),
    ]
    return Sheet(tuple(columns), tuple(row.trial.state for row in table))


def costs(table: Sequence[Row]) -> Sheet:
    """Speed, and what the time of each trial went to."""
    trials = [row.trial for row in table]
    columns = [
        Column("trial", [trial.key for trial in trials], right=False),
        Column("steps per second", [numbers.number(cost.rate(trial)) for trial in trials]),
        Column("learner time / wall time", [numbers.number(cost.learner_share(trial), 2) for trial in trials]),
        Column("wall time", [numbers.duration(cost.wall(trial)) for trial in trials]),
        Column("device time", [numbers.duration(cost.device_time(trial)) for trial in trials]),
        Column("spent on", [cost.spent(trial).partition("; ")[2] or "–" for trial in trials], right=False),
        Column("device", [str(trial.environment.get("device", "–")) for trial in trials], right=False, liftable=True),
    ]
    return Sheet(tuple(columns), tuple(trial.state for trial in trials))


def data(table: Sequence[Row]) -> Sheet | None:
    """Each data set once, with its checksum; ``None`` before one was loaded."""
    found = {(row.trial.task.name, row.trial.dataset.get("checksum", "–")): row for row in table if row.trial.dataset}
    if not found:
        return None
    sets = [row.trial.dataset for row in found.values()]
    columns = [
        Column("task", [task for task, _ in found], right=False),
        Column("data", [row.data for row in found.values()], right=False),
        Column("rows", [str(item.get("rows", "–")) for item in sets]),
        Column("trajectories", [str(item.get("trajectories", "–")) for item in sets]),
        Column("checksum", [checksum for _, checksum in found], right=False),
    ]
    return Sheet(tuple(columns))


def _identity(found: Sequence[Group]) -> list[Column]:
    """What tells groups apart."""
    columns = [
        Column("domain", [group.domain for group in found], right=False),
        Column("data", [group.data for group in found], right=False, liftable=True, drop=5),
        Column("tasks", [str(len(group.rows)) for group in found], liftable=True, drop=4),
    ]
    for title, values in {
        "physics": [group.physics for group in found],
        "profile": [group.profile for group in found],
        "configuration": [group.configuration for group in found],
    }.items():
        if len(set(values)) > 1:
            columns.insert(1, Column(title, values, right=False))
    return columns
