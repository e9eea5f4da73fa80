"""The table as a terminal shows it, as Markdown and as CSV; the numbers come from ``rows``."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from diffcps.report import facts
from diffcps.report.collect import Sweep, Trial
from diffcps.report.rows import PUBLISHED, Average, Grid, Row, Score, averages, grids, rows, setting, varying
from diffcps.terminal import STYLES, Column, fitting, lifted, short
from diffcps.terminal import table as rich_table

_SETTINGS = {"diffusion_steps": "T", "lambda_clip": "λ-clip", "target_kl": "κ"}


@dataclass(frozen=True, eq=False)
class Table:
    """Everything that a report says in words and numbers."""

    sweep: Sweep
    rows: list[Row]
    averages: list[Average]
    grids: list[Grid]

    @classmethod
    def of(cls, sweep: Sweep) -> "Table":
        """Compute all numbers of a sweep."""
        table = rows(sweep)
        return cls(sweep, table, averages(table), grids(table))

    @property
    def best_title(self) -> str:
        """The heading of the oracle's column, with the number of evaluations it looks at."""
        counts = {row.evaluations for row in self.rows if row.evaluations}
        return f"best (oracle over {counts.pop()} evaluations)" if len(counts) == 1 else "best (oracle)"

    def markdown(self) -> str:
        """The whole report as Markdown."""
        parts = [f"# {self.sweep.name}", facts.progress(self.sweep)]
        if self.rows:
            parts.append(_markdown_table(self._columns()))
        if self.averages:
            parts += ["## Averages over complete tasks", _markdown_table(self._average_columns())]
        for grid in self.grids:
            parts += [f"## {grid.task}: last score over T and λ-clip", _markdown_table(_grid_columns(grid))]
        parts += facts.footnotes(self.rows)
        troubles, provenance = facts.troubles(self.sweep), facts.provenance(self.sweep)
        if troubles:
            parts += ["## What went wrong", "\n".join(f"* {_escaped(line)}" for line in troubles)]
        if provenance:
            parts += ["## Made with", "\n".join(f"* {_escaped(line)}" for line in provenance)]
        if any(row.evaluations for row in self.rows):
            parts += ["## Cost of each trial", _markdown_table(self._cost_columns())]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """One row a trial with plain numbers; an empty field is a number that does not exist."""
        records = [_record(row) for row in self.rows]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(records[0]) if records else ["task"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue()

    def terminal(self, width: int = 120) -> RenderableType:
        """The same for a console ``width`` columns wide; columns for which there is no room are named instead."""
        parts: list[RenderableType] = [Text(facts.progress(self.sweep))]
        columns = self._columns(narrow=True)
        columns, agreed = lifted(columns)
        if agreed:
            parts.append(Text(agreed, style="dim"))
        if self.rows:
            styles = [STYLES.get(row.trial.state, "") for row in self.rows]
            shown, dropped = fitting(columns, width)
            parts += [rich_table(shown, self.sweep.name, styles), Text()]
            if dropped:
                parts.append(Text(f"No room here for {', '.join(dropped)}: see table.md.", style="dim"))
        if self.averages:
            columns = fitting(self._average_columns(), width)[0]
            parts += [rich_table(columns, "Averages over complete tasks"), Text()]
        for grid in self.grids:
            parts += [rich_table(_grid_columns(grid), f"{grid.task}: last score over T and λ-clip"), Text()]
        parts += [Text(note, style="dim") for note in facts.footnotes(self.rows)]
        parts += [Text(line, style="red") for line in facts.troubles(self.sweep)]
        parts += [Text(line, style="dim") for line in facts.provenance(self.sweep)]
        return Group(*parts)

    def _columns(self, narrow: bool = False) -> list[Column]:
        table = self.rows
        trials = [row.trial for row in table]
        columns = [Column("task", [trial.task.name for trial in trials], right=False), *self._setting_columns()]
        kinds = [row.data.split(",")[0] if narrow else row.data for row in table]
        columns.append(Column("data", kinds, right=False, liftable=True, drop=5))
        physics = {trial.config.physics for trial in trials}
        if len(physics) > 1 or any(trial.config.physics != trial.task.physics for trial in trials):
            columns.append(Column("physics", [trial.config.physics for trial in trials], right=False, liftable=True))
        columns += [
            Column("state", [trial.state for trial in trials], right=False, liftable=True, drop=9),
            Column("seeds", [str(trial.seeds) for trial in trials], liftable=True, drop=2),
            Column("steps", [_steps(trial, narrow) for trial in trials], liftable=True, drop=4),
            Column("evaluations × episodes", [_evaluations(row) for row in table], liftable=True, drop=1),
            Column("behaviour", [_number(trial.behaviour_score) for trial in trials], drop=7),
            Column("first", [_number(row.first) for row in table], drop=6),
        ]
        if narrow:
            columns.append(Column("last", ["\n".join(filter(None, _score(row.last))) for row in table]))
        else:
            columns.append(Column("last", [_score(row.last)[0] for row in table]))
            columns.append(Column("last, 95 % interval", [_score(row.last)[1] for row in table]))
        columns.append(Column(self.best_title, [_score(row.best)[0] for row in table]))
        multipliers = [_number(row.final_lambda, 2) for row in table]
        columns.append(Column("λ", multipliers, drop=3))
        shown = [name for name in PUBLISHED if any(row.published.values for row in table)]
        for name in shown[:1] if narrow else shown:
            protocol = (" (best)" if narrow else " (best of its evaluations)") if name == "DiffCPS" else ""
            columns.append(Column(f"published {name}{protocol}", [_published(row, name) for row in table], drop=8))
        return columns

    def _setting_columns(self) -> list[Column]:
        def said(row: Row, name: str) -> str:
            return ", ".join(f"{value:.4g}" for value in setting(row.trial, name))

        return [Column(_SETTINGS[name], [said(row, name) for row in self.rows]) for name in varying(self.rows)]

    def _average_columns(self) -> list[Column]:
        found = self.averages
        columns = [
            Column("domain", [item.domain for item in found], right=False),
            Column("data", [item.data for item in found], right=False),
            Column("tasks", [str(item.tasks) for item in found]),
            Column("last", [_number(item.last) for item in found]),
            Column("95 % interval", [_interval(item.low, item.high) for item in found]),
            Column("IQM of last", [_number(item.iqm) for item in found], drop=2),
            Column("its interval", [_interval(item.iqm_low, item.iqm_high) for item in found], drop=1),
            Column("best (oracle)", [_number(item.best) for item in found]),
        ]
        if any(math.isfinite(item.published) for item in found):
            columns.append(Column("published DiffCPS (best)", [_number(item.published) for item in found]))
        return columns

    def _cost_columns(self) -> list[Column]:
        trials = [row.trial for row in self.rows if row.evaluations]
        return [
            Column("trial", [trial.key for trial in trials], right=False),
            Column("steps per second", [_number(facts.rate(trial)) for trial in trials]),
            Column("learner time / wall time", [_number(facts.learner_share(trial), 2) for trial in trials]),
            Column("wall time", [facts.duration(facts.wall(trial)) for trial in trials]),
            Column("spent on", [facts.spent(trial).partition("; ")[2] or "–" for trial in trials], right=False),
        ]


def _grid_columns(grid: Grid) -> list[Column]:
    columns = [Column("T \\ λ-clip", [str(steps) for steps in grid.diffusion_steps])]
    for clip in grid.lambda_clips:
        cells = [grid.cells.get((steps, clip)) for steps in grid.diffusion_steps]
        columns.append(Column(f"{clip:g}", [_cell(row) for row in cells]))
    return columns


def _cell(row: Row | None) -> str:
    if row is None or row.last is None:
        return row.trial.state if row else "–"
    return _score(row.last)[0] + ("" if row.trial.state == "complete" else f" ({row.trial.state})")


def _record(row: Row) -> dict[str, Any]:
    trial = row.trial
    record: dict[str, Any] = {
        "task": trial.task.name,
        "key": trial.key,
        **{name: "|".join(f"{value:g}" for value in setting(trial, name)) for name in _SETTINGS},
        "profile": trial.config.profile,
        "physics": trial.config.physics,
        "data": row.data,
        "provenance": trial.dataset.get("provenance"),
        "score": trial.task.score,
        "dataset_rows": trial.dataset.get("rows"),
        "dataset_checksum": trial.dataset.get("checksum"),
        "state": trial.state,
        "seeds": trial.seeds,
        "step": trial.status.get("step", 0),
        "steps": trial.config.steps,
        "evaluations": row.evaluations,
        "episodes": trial.config.evaluation.episodes,
        "behaviour": trial.behaviour_score,
        "first": row.first,
        **_score_record("last", row.last),
        **_score_record("best_oracle", row.best),
        "lambda": row.final_lambda,
        **{f"published_{name}": row.published.values.get(name) for name in (*PUBLISHED, "DiffCPS_std")},
        "steps_per_second": facts.rate(trial),
        "learner_share": facts.learner_share(trial),
        "wall_seconds": facts.wall(trial),
        "git_commit": trial.environment.get("git_commit"),
        "error": facts.first_line(trial.status.get("error")) if trial.state == "failed" else None,
    }
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}


def _score_record(name: str, score: Score | None) -> dict[str, float | None]:
    mean, std, low, high = score or (None, None, None, None)
    return {name: mean, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}


def _score(score: Score | None) -> tuple[str, str]:
    """``92.0 ± 1.5`` and ``[90.8, 93.1]``; without a spread for a single seed."""
    if score is None:
        return "–", ""
    if math.isnan(score.std):
        return f"{_number(score.mean)}", ""
    return f"{_number(score.mean)} ± {_number(score.std)}", _interval(score.low, score.high)


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
    return f"{row.evaluations} × {row.trial.config.evaluation.episodes}"


def _number(value: float, digits: int = 1) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.1f}, {high:.1f}]"


def _markdown_table(columns: Sequence[Column]) -> str:
    lines = [[_escaped(column.title) for column in columns], ["--:" if column.right else ":--" for column in columns]]
    lines += [[_escaped(cell) for cell in cells] for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|<*_`":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
