"""The table as CSV: one row a trial, plain numbers, everything that a spreadsheet or a script may want."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffcps.report import cost
from diffcps.report.collect import worded
from diffcps.report.notes import first_line
from diffcps.report.published import OTHER_DATA, OTHER_ENVIRONMENT, PUBLISHED, marks
from diffcps.report.rows import NEWEST, SETTINGS, Row, Score


def table_csv(table: Sequence[Row]) -> str:
    """One line a trial; an empty field is a number that does not exist."""
    return as_csv([_record(row) for row in table], "task")


def as_csv(records: Sequence[Mapping[str, Any]], first: str) -> str:
    """Records as CSV; of none, a header that says ``first``."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]) if records else [first], lineterminator="\n")
    writer.writeheader()
    for record in records:
        missing = {name for name, value in record.items() if isinstance(value, float) and math.isnan(value)}
        writer.writerow({name: None if name in missing else value for name, value in record.items()})
    return out.getvalue()


def _record(row: Row) -> dict[str, Any]:
    trial = row.trial
    found, differing = row.diagnosis, marks(trial)
    return {
        "task": trial.task.name,
        "key": trial.key,
        **{name: "|".join(map(worded, trial.settings[name])) for name in SETTINGS},
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
        "step": trial.status.get("step", 0),
        "steps": trial.config.steps,
        "evaluations": row.evaluations,
        "episodes": trial.config.evaluation.episodes,
        "behaviour": trial.behaviour_score,
        "first": row.first,
        **score_record("last", row.last),
        "newest_evaluations": min(row.evaluations, NEWEST),
        **score_record("newest", row.newest),
        **score_record("best_oracle", row.best),
        "lambda": row.final_lambda,
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
        "error": first_line(trial.status.get("error")) if trial.state == "failed" else None,
    }


def score_record(name: str, score: Score | None) -> dict[str, float | None]:
    """A score as four columns."""
    mean, std, low, high = score or (None, None, None, None)
    return {name: mean, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
