"""The columns of the main table: a row a trial, our numbers, the paper's beside them where they may stand there."""

from collections.abc import Sequence

from diffcps.report import numbers
from diffcps.report.collect import Trial
from diffcps.report.published import PUBLISHED, marks
from diffcps.report.rows import NEWEST, SETTINGS, Row, setting, varying
from diffcps.terminal import Column, short


def main_columns(table: Sequence[Row], narrow: bool = False) -> list[Column]:
    """All columns; ``narrow`` puts an interval under its score and shortens what can be said more shortly."""
    trials = [row.trial for row in table]
    tasks = [f"{trial.task.name} {marks(trial)}".rstrip() for trial in trials]
    kinds = [row.data.split(",")[0] if narrow else row.data for row in table]
    columns = [Column("task", tasks, right=False), *_setting_columns(table)]
    columns.append(Column("data", kinds, right=False, liftable=True, drop=5))
    if len({trial.config.profile for trial in trials}) > 1:
        columns.append(Column("profile", [trial.config.profile for trial in trials], right=False))
    physics = {trial.config.physics for trial in trials}
    if len(physics) > 1 or any(trial.config.physics != trial.task.physics for trial in trials):
        columns.append(Column("physics", [trial.config.physics for trial in trials], right=False, liftable=True))
    columns += [
        Column("state", [trial.state for trial in trials], right=False, liftable=True, drop=10),
        Column("seeds", [str(trial.seeds) for trial in trials], liftable=True, drop=2),
        Column("steps", [_steps(trial, narrow) for trial in trials], liftable=True, drop=4),
        Column("evaluations × episodes", [_evaluations(row) for row in table], liftable=True, drop=1),
    ]
    last, intervals = [numbers.score(row.last) for row in table], [numbers.score_interval(row.last) for row in table]
    if narrow:
        columns.append(Column("last", [numbers.stacked(*pair) for pair in zip(last, intervals, strict=True)]))
    else:
        columns += [Column("last", last), Column("last, 95 % interval", intervals)]
    columns += [
        Column(newest_title(table), [numbers.score(row.newest) for row in table], drop=7),
        Column(best_title(table), [numbers.score(row.best) for row in table]),
    ]
    if any(row.published.values for row in table):
        for name in PUBLISHED[:1] if narrow else PUBLISHED:
            protocol = "published {} (best)" if narrow else _PROTOCOLS.get(name, _OTHERS)
            cells = [_published(row, name) for row in table]
            columns.append(Column(protocol.format(name), cells, drop=9 if name == PUBLISHED[0] else 3))
    return [
        *columns,
        Column("behaviour", [numbers.number(trial.behaviour_score) for trial in trials], drop=8),
        Column("first", [numbers.number(row.first) for row in table], drop=6),
        Column("λ", [numbers.number(row.final_lambda, 2) for row in table], drop=3),
    ]


_PROTOCOLS = {"DiffCPS": "published {} (best of its evaluations)"}
_OTHERS = "published {} (as the paper quotes it)"


def best_title(table: Sequence[Row]) -> str:
    """The heading of the oracle's column, with the number of evaluations it looks at."""
    counts = {row.evaluations for row in table if row.evaluations}
    return f"best (oracle over {counts.pop()} evaluations)" if len(counts) == 1 else "best (oracle)"


def newest_title(table: Sequence[Row]) -> str:
    """The heading of the mean over the newest evaluations, with their number where trials agree on it."""
    counts = {min(row.evaluations, NEWEST) for row in table if row.evaluations}
    return f"mean of the last {counts.pop()}" if len(counts) == 1 else f"mean of the last ≤ {NEWEST}"


def _setting_columns(table: Sequence[Row]) -> list[Column]:
    names = varying(table)
    return [Column(SETTINGS.get(name, name), [setting(row.trial, name) for row in table]) for name in names]


def _published(row: Row, name: str) -> str:
    values = row.published.values
    if name not in values:
        return "–"
    spread = f" ± {values['DiffCPS_std']}" if name == "DiffCPS" else ""
    return f"{values[name]}{spread}{row.published.mark}"


def _steps(trial: Trial, narrow: bool) -> str:
    def said(count: int) -> str:
        return short(count) if narrow else f"{count:_}".replace("_", " ")

    step, steps = int(trial.status.get("step", 0)), trial.config.steps
    return said(steps) if step >= steps else f"{said(step)}{'/' if narrow else ' of '}{said(steps)}"


def _evaluations(row: Row) -> str:
    evaluation = row.trial.config.evaluation
    final = evaluation.episodes_at(last=True)
    more = f" (last: {final})" if final != evaluation.episodes else ""
    return f"{row.evaluations} × {evaluation.episodes}{more}"
