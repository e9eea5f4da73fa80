"""The tables below the main one: across tasks, over settings, measures, constraint, cost, data."""

import math
from collections.abc import Sequence

from diffcps import stats
from diffcps.report import cost
from diffcps.report.across import Budget, Group, improvements
from diffcps.report.analysis import NEWEST, Beside, Grid, Row, Score, compares, said, setting, symbol, varying
from diffcps.report.document import Sheet
from diffcps.report.paper import PUBLISHED, marks
from diffcps.runs.trial import Trial
from diffcps.text import Column, duration, interval, number, percent, short, significant, stacked, worded


def score(value: Score | None) -> str:
    """``92.0 ± 1.5``; without a spread for a single seed, a dash before the first evaluation."""
    if value is None:
        return "–"
    return number(value.mean) if math.isnan(value.std) else f"{number(value.mean)} ± {number(value.std)}"


def score_interval(value: Score | None) -> str:
    """The interval of a score; nothing where there is none."""
    return "" if value is None else interval(value.low, value.high)


def measured(value: Score | None) -> str:
    """``0.0512 [0.0498, 0.0533]``: three digits, for numbers of any size; a dash where there is none."""
    if value is None:
        return "–"
    ends = "" if math.isnan(value.low) else f" [{significant(value.low)}, {significant(value.high)}]"
    return significant(value.mean) + ends


def cell(row: Row | None) -> str:
    """The last score of a row in a grid, with its state while it is not complete."""
    if row is None or row.last is None:
        return row.trial.state if row else "–"
    return score(row.last) + ("" if row.trial.state == "complete" else f" ({row.trial.state})")


_BUDGETS = 1, 2, 3, 5, 10, 15, 20, 30, 50


def averages(found: Sequence[Group]) -> Sheet:
    """Averages as in the paper: over the complete tasks of a domain, each task with the same weight."""
    rows = [row for group in found for row in group.rows]
    last, newest, best = ([group.mean(kind) for group in found] for kind in ("last", "newest", "best"))
    columns = [
        *_identity(found),
        Column("last", [number(item.value) for item in last]),
        Column("95 % interval", [interval(item.low, item.high) for item in last]),
        Column(newest_title(rows), [number(item.value) for item in newest], drop=2),
        Column("best (oracle)", [number(item.value) for item in best]),
    ]
    if any(math.isfinite(group.published) for group in found) and not compares(rows):
        columns.append(Column("published DiffCPS (best)", [number(group.published) for group in found]))
    return Sheet(tuple(columns))


def aggregates(found: Sequence[Group]) -> Sheet:
    """IQM, median, mean and optimality gap of the last scores, each with its stratified-bootstrap interval."""
    columns = _identity(found)
    for name in stats.AGGREGATES:
        title = f"{name} of last" if name != "optimality gap" else "optimality gap (less is better)"
        cells = [str(group.aggregates[name]) for group in found]
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
        Column("P(X > Y)", [number(item.probability.value, 2) for item in found]),
        Column("95 % interval", [interval(item.probability.low, item.probability.high, 2) for item in found]),
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
    """Last scores over two settings."""
    first, second = item.values
    names = [symbol(name, list(item.cells.values())) for name in item.names]
    columns = [Column(" \\ ".join(names), [worded(value) for value in first])]
    for other in second:
        columns.append(Column(worded(other), [cell(item.cells.get((value, other))) for value in first]))
    return Sheet(tuple(columns))


def beside(found: Sequence[Beside]) -> Sheet:
    """Best scores over λ-clip at T = 5 beside the paper's ablation, which also shows best scores."""
    points = [(item.task, *point) for item in found for point in item.points]
    columns = [
        Column("task", [task for task, *_ in points], right=False),
        Column("λ-clip", [f"{clip:g}" for _, clip, *_ in points]),
        Column("best (oracle)", [score(row.best) for _, _, row, _ in points]),
        Column("evaluations", [str(row.evaluations) for _, _, row, _ in points]),
        Column("published DiffCPS (best)", [f"{value:.1f}{row.published.mark}" for _, _, row, value in points]),
    ]
    return Sheet(tuple(columns))


CONSTRAINT_WORDS = {
    "bounded / κ": "the bounded quantity (the behaviour loss, unless a setting says otherwise) divided by κ.",
    "violations": "share of policy updates in which that of the batch exceeds κ.",
    "Q estimate": "critic's value of the policy's own actions in states of the data; a value far above the discounted return "
    "suggests that the critic overestimates.",
    "return, discounted": "on the critic's scale, with the reward spread evenly over the episode.",
}
"""What columns of ``constraint`` mean; an algorithm has some of them."""


def constraint(table: Sequence[Row]) -> Sheet:
    """λ, behaviour loss against κ, violations, and the critic's estimate against the return; what no trial has is left out."""
    found = [row.diagnosis for row in table]
    columns = [
        *trial_columns(table, varying(table)),
        Column("λ", [number(item.multiplier, 2) for item in found]),
        Column("behaviour loss", [significant(item.behaviour_loss) for item in found]),
        Column("κ", [significant(item.bound) for item in found]),
        Column("bounded / κ", [number(item.ratio, 2) for item in found]),
        Column("violations", [percent(item.violations) for item in found]),
        Column("in the second half", [percent(item.late_violations) for item in found]),
        Column("Q estimate", [significant(item.q_value) for item in found]),
        Column("return, discounted", [significant(item.discounted) for item in found]),
        Column("return", [significant(item.returned) for item in found]),
    ]
    return Sheet(present(columns), tuple(row.trial.state for row in table))


def present(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns in which any row has a value."""
    return tuple(column for column in columns if set(column.cells) - {"–", ""})


def measures(table: Sequence[Row], name: str, columns: Sequence[str]) -> Sheet:
    """The numbers of one measure at the newest evaluation, each with its interval over seeds."""
    rows = [row for row in table if set(columns) & set(row.measured)]
    parts = [
        *trial_columns(rows, varying(table)),
        Column("step", [str(row.trial.measures["step"].iloc[-1]) for row in rows], liftable=True, drop=99),
    ]
    parts += [
        Column(column, [measured(row.measured.get(column)) for row in rows], drop=len(columns) - i if i else 0)
        for i, column in enumerate(columns)
    ]
    return Sheet(tuple(parts), tuple(row.trial.state for row in rows), name)


def costs(table: Sequence[Row]) -> Sheet:
    """Speed of each trial and where its time went."""
    trials = [row.trial for row in table]
    columns = [
        Column("trial", [trial.key for trial in trials], right=False),
        Column("steps per second", [number(cost.rate(trial)) for trial in trials]),
        Column("learner time / wall time", [number(cost.learner_share(trial), 2) for trial in trials]),
        Column("wall time", [duration(cost.wall(trial)) for trial in trials]),
        Column("device time", [duration(cost.device_time(trial)) for trial in trials]),
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


def trial_columns(table: Sequence[Row], settings: Sequence[str]) -> list[Column]:
    """Task, profile and settings of each row, as far as they tell rows apart."""
    columns = [Column("task", [row.trial.task.name for row in table], right=False)]
    profiles = [row.trial.config.profile for row in table]
    columns += [Column("profile", [*profiles], right=False)] if len(set(profiles)) > 1 else []
    said_of = [said(row.trial, settings) for row in table]
    return [*columns, *([Column("setting", said_of, right=False)] if any(said_of) else [])]


def _identity(found: Sequence[Group]) -> list[Column]:
    """Columns that tell groups apart."""
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


# The columns of the main table: one row a trial, our numbers, and the paper's where they are comparable.


def main_columns(table: Sequence[Row], narrow: bool = False) -> list[Column]:
    """All columns; ``narrow`` puts intervals under their scores and shortens words."""
    trials = [row.trial for row in table]
    tasks = [f"{trial.task.name} {marks(trial)}".rstrip() for trial in trials]
    kinds = [row.data.split(",")[0] if narrow else row.data for row in table]
    columns = [Column("task", tasks, right=False)]
    if "algorithm" not in varying(table):
        columns.append(Column("algorithm", [trial.config.algorithm for trial in trials], right=False, liftable=True))
    columns += _setting_columns(table)
    columns.append(Column("data", kinds, right=False, liftable=True, drop=5))
    if {trial.config.profile for trial in trials} != {"official"}:
        columns.append(Column("profile", [trial.config.profile for trial in trials], right=False, liftable=True))
    physics = {trial.config.physics for trial in trials}
    if len(physics) > 1 or any(trial.config.physics != trial.task.physics for trial in trials):
        columns.append(Column("physics", [trial.config.physics for trial in trials], right=False, liftable=True))
    columns += [
        Column("state", [trial.state for trial in trials], right=False, liftable=True, drop=10),
        Column("seeds", [str(trial.seeds) for trial in trials], liftable=True, drop=2),
        Column("steps", [_steps(trial, narrow) for trial in trials], liftable=True, drop=4),
        Column("evaluations × episodes", [_evaluations(row) for row in table], liftable=True, drop=1),
    ]
    last, intervals = [score(row.last) for row in table], [score_interval(row.last) for row in table]
    if narrow:
        columns.append(Column("last", [stacked(*pair) for pair in zip(last, intervals, strict=True)]))
    else:
        columns += [Column("last", last), Column("last, 95 % interval", intervals)]
    columns += [
        Column(newest_title(table), [score(row.newest) for row in table], drop=7),
        Column(best_title(table), [score(row.best) for row in table]),
    ]
    if any(row.published.values for row in table) and not compares(table):
        for name in PUBLISHED[:1] if narrow else PUBLISHED:
            protocol = "published {} (best)" if narrow else _PROTOCOLS.get(name, _OTHERS)
            cells = [_published(row, name) for row in table]
            columns.append(Column(protocol.format(name), cells, drop=9 if name == PUBLISHED[0] else 3))
    columns += [
        Column("behaviour", [number(trial.behaviour_score) for trial in trials], drop=8),
        Column("first", [number(row.first) for row in table], drop=6),
    ]
    if any(math.isfinite(row.diagnosis.multiplier) for row in table):  # not every algorithm has a λ
        columns.append(Column("λ", [number(row.diagnosis.multiplier, 2) for row in table], drop=3))
    return columns


_PROTOCOLS = {"DiffCPS": "published {} (best of its evaluations)"}
_OTHERS = "published {} (as the paper quotes it)"


def best_title(table: Sequence[Row]) -> str:
    """Heading of the oracle's column, with its number of evaluations if trials agree on it."""
    counts = {row.evaluations for row in table if row.evaluations}
    return f"best (oracle over {counts.pop()} evaluations)" if len(counts) == 1 else "best (oracle)"


def newest_title(table: Sequence[Row]) -> str:
    """Heading of the mean over the newest evaluations, with their number if trials agree on it."""
    counts = {min(row.evaluations, NEWEST) for row in table if row.evaluations}
    return f"mean of the last {counts.pop()}" if len(counts) == 1 else f"mean of the last ≤ {NEWEST}"


def _setting_columns(table: Sequence[Row]) -> list[Column]:
    names = varying(table)
    return [
        Column(symbol(name, table), [setting(row.trial, name) for row in table], right=name != "algorithm")
        for name in names
    ]


def _published(row: Row, name: str) -> str:
    values = row.published.values
    if name not in values:
        return "–"
    spread = f" ± {values['DiffCPS_std']}" if name == "DiffCPS" else ""
    return f"{values[name]}{spread}{row.published.mark}"


def _steps(trial: Trial, narrow: bool) -> str:
    def said(count: int) -> str:
        return short(count) if narrow else f"{count:,}"

    step, steps = trial.step, trial.config.steps
    return said(steps) if step >= steps else f"{said(step)}{'/' if narrow else ' of '}{said(steps)}"


def _evaluations(row: Row) -> str:
    evaluation = row.trial.config.evaluation
    if not evaluation.episodes:
        return "not evaluated"
    final = evaluation.episodes_at(last=True)
    more = f" (last: {final})" if final != evaluation.episodes else ""
    return f"{row.evaluations} × {evaluation.episodes}{more}"
