"""The paper's numbers beside a trial: which may stand there, and what marks a trial that differs from the paper's."""

from typing import NamedTuple

from diffcps.runs.frames import Trial
from diffcps.tasks import paper
from diffcps.tasks.registry import ROW_TOLERANCE

PUBLISHED = "DiffCPS", "Diffusion-QL", "QGPO", "IQL"
"""Columns of the paper's Table 1 that are shown."""
UNVERIFIED = "†"
"""Marks a published number beside a data set that nobody can check against D4RL's."""
OTHER_DATA, OTHER_ENVIRONMENT = "‡", "§"
"""Mark a task whose data, or whose evaluation environment, is not the paper's."""
PAPER_SEEDS = 5


class Published(NamedTuple):
    """What stands in the paper's columns of a row."""

    values: dict[str, str]
    """Column of Table 1 -> the number as printed; empty where the row is not comparable."""
    mark: str = ""
    left_out: str = ""
    """Why the paper's numbers are left out although the task is one of the paper's."""


def published(trial: Trial) -> Published:
    """The paper's numbers for the task, where they may stand beside this trial."""
    if not trial.task.in_paper or not trial.dataset:
        return Published({})
    if other_environment(trial):
        reason = f"evaluated under {trial.config.physics} physics, the paper under {trial.task.physics}."
        return Published({}, left_out=reason)
    provenance = data_provenance(trial)
    if provenance == "other":
        note = str(trial.dataset.get("provenance_note", ""))
        return Published({}, left_out=note or "nothing tells where the data come from.")
    row = next(row for row in paper.rows("table1") if row["task"] == trial.task.name)
    values = {name: row[name] for name in PUBLISHED if row[name]} | {"DiffCPS_std": row["DiffCPS_std"]}
    return Published(values, UNVERIFIED if provenance == "unverified" else "")


def data_provenance(trial: Trial) -> str:
    """Whether a trial's data are D4RL's: ``verified``; ``unverified``, where only name and size say so; or ``other``."""
    provenance = trial.dataset.get("provenance")
    whole = abs(int(trial.dataset.get("rows", 0)) - trial.task.rows) <= ROW_TOLERANCE * trial.task.rows
    if provenance == "verified":
        return "verified"
    return "unverified" if provenance == "unverified" and whole else "other"


def other_environment(trial: Trial) -> bool:
    """Whether policies are judged in another environment than the one the task's own data were recorded in."""
    return trial.config.physics != trial.task.physics


def marks(trial: Trial) -> str:
    """The marks of a task with D4RL's name: its data, or its environment, are not the paper's; nothing before it started."""
    if trial.task.d4rl_file is None or not trial.dataset:
        return ""
    second = trial.task.second_version
    data = OTHER_DATA if second or data_provenance(trial) == "other" else ""
    return data + (OTHER_ENVIRONMENT if second or other_environment(trial) else "")


def ablation(trial: Trial) -> dict[float, float]:
    """λ-clip -> the paper's score (best of its evaluations, T = 5) in its figures 4 and 5; empty where not comparable."""
    if not published(trial).values:
        return {}
    stem = trial.task.name.rpartition("-")[0]
    rows = [row for row in paper.rows("ablation_lambda_clip") if row["task"] == stem]
    return {float(row["lambda_clip"]): float(row["score"]) for row in rows}
