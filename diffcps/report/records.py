"""The table as CSV: one row a trial, plain numbers, for spreadsheets and scripts."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffcps.report import cost, literature
from diffcps.report.analysis import NEWEST, Row, Score, quantities, varying
from diffcps.report.paper import OTHER_DATA, OTHER_ENVIRONMENT, PUBLISHED, marks
from diffcps.runs.trial import symbols
from diffcps.text import worded


def table_csv(table: Sequence[Row]) -> str:
    """One line a trial; a field is empty if its number does not exist."""
    settings = list(dict.fromkeys([*symbols([row.trial for row in table]), *varying(table)]))
    shown = [column for columns in quantities(table).values() for column in columns]
    return as_csv(
        [
            _identity(row, settings) | _record(row) | _measured(row, shown) | _acting(row) | literature.record(row)
            for row in table
        ],
        "task",
    )


def as_csv(records: Sequence[Mapping[str, Any]], first: str) -> str:
    """Records as CSV; without records, a header with ``first`` alone."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record)) or [first]
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        missing = {name for name, value in record.items() if isinstance(value, float) and math.isnan(value)}
        writer.writerow({name: None if name in missing else value for name, value in record.items()})
    return out.getvalue()


def _identity(row: Row, settings: Sequence[str]) -> dict[str, Any]:
    trial = row.trial
    known = {"task": trial.task.name, "key": trial.key, "algorithm": "|".join(trial.values("algorithm"))}
    return known | {name: "|".join(map(worded, trial.values(name))) for name in settings}


def _record(row: Row) -> dict[str, Any]:
    trial = row.trial
    found, differing = row.diagnosis, marks(trial)
    return {
        "profile": trial.config.profile,
        "physics": trial.config.physics,
        "data": row.data,
        "provenance": trial.dataset.get("provenance"),
        "data_differ_from_paper": OTHER_DATA in differing,
        "environment_differs_from_paper": OTHER_ENVIRONMENT in differing,
        "changed_settings": "|".join(trial.changes),
        "score": trial.task.score,
        "dataset_rows": trial.dataset.get("rows"),
        "dataset_checksum": trial.dataset.get("checksum"),
        "state": trial.state,
        "seeds": trial.seeds,
        "step": trial.step,
        "steps": trial.config.steps,
        "evaluations": row.evaluations,
        "episodes": trial.config.evaluation.episodes,
        "behaviour": trial.behaviour_score,
        "first": row.first,
        **score_record("last", row.last),
        "newest_evaluations": min(row.evaluations, NEWEST),
        **score_record("newest", row.newest),
        **score_record("best_oracle", row.best),
        "lambda": found.multiplier,
        "behaviour_loss": found.behaviour_loss,
        "loss_over_kappa": found.ratio,
        "violation_rate": found.violations,
        "violation_rate_second_half": found.late_violations,
        "q_estimate": found.q_value,
        "return_discounted": found.discounted,
        "return": found.returned,
        **{f"published_{name}": row.published.values.get(name) for name in (*PUBLISHED, "DiffCPS_std")},
        "published_protocol": "DiffCPS: best of its evaluations" if row.published.values else None,
        "steps_per_second": cost.rate(trial),
        "learner_share": cost.learner_share(trial),
        "wall_seconds": cost.wall(trial),
        "device_seconds": cost.device_time(trial),
        "device": trial.environment.get("device"),
        "git_commit": trial.environment.get("git_commit"),
        "error": trial.trouble or None,
    }


def _measured(row: Row, columns: Sequence[str]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for column in columns:
        found |= score_record(f"measure_{column}", row.measured.get(column))
    return found


def _acting(row: Row) -> dict[str, float | None]:
    """Last scores by other ways to act, such as ``last_candidates_1``."""
    found: dict[str, float | None] = {}
    for way, value in row.ways.items():
        found |= score_record(f"last_{way.column.removeprefix('score_')}", value)
    return found


def score_record(name: str, score: Score | None) -> dict[str, float | None]:
    """A score as four columns."""
    mean, std, low, high = score or (None, None, None, None)
    return {name: mean, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
