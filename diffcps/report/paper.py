"""The paper's numbers beside a trial: whether they are comparable, and marks for trials that differ from the paper's."""

from typing import NamedTuple

from diffcps.runs.trial import Trial
from diffcps.tasks import paper

PUBLISHED = "DiffCPS", "Diffusion-QL", "QGPO", "IQL"
"""Columns of the paper's Table 1 that are shown."""
UNVERIFIED = "†"
"""Mark of a published number beside a trial on data that cannot be verified as D4RL's."""
OTHER_DATA, OTHER_ENVIRONMENT = "‡", "§"
"""Marks of a task with other data, or another evaluation environment, than the paper's."""
PAPER_SEEDS = 5


class Published(NamedTuple):
    """The paper's numbers for one row."""

    values: dict[str, str]
    """Column of Table 1 -> the number as printed; empty if the row is not comparable."""
    mark: str = ""
    left_out: str = ""
    """Why the numbers of a task of the paper are left out; empty if they are not."""


def published(trial: Trial) -> Published:
    """The paper's numbers for the task, if this trial is comparable with them."""
    if not trial.task.in_paper or not trial.dataset:
        return Published({})
    if (reason := obstacle(trial)) is not None:
        return Published({}, left_out=reason)
    row = next(row for row in paper.rows("table1") if row["task"] == trial.task.name)
    values = {name: row[name] for name in PUBLISHED if row[name]} | {"DiffCPS_std": row["DiffCPS_std"]}
    return Published(values, mark(trial))


def obstacle(trial: Trial) -> str | None:
    """Why scores published for a task of D4RL cannot be compared with a trial; ``None`` if they can."""
    if other_environment(trial):
        return f"evaluated under {trial.config.physics} physics, the paper under {trial.task.physics}."
    if trial.config.data.hold_out:
        return f"{100 * trial.config.data.hold_out:g} % of the data are held out of learning."
    if data_provenance(trial) == "other":
        return str(trial.dataset.get("provenance_note", "")) or "the origin of the data is not recorded."
    return None


def mark(trial: Trial) -> str:
    """Mark of a published number beside a trial."""
    return UNVERIFIED if data_provenance(trial) == "unverified" else ""


def data_provenance(trial: Trial) -> str:
    """Whether a trial's data are D4RL's: ``verified``, ``unverified`` (name and number of rows agree), or ``other``."""
    return str(trial.dataset.get("provenance", "other"))


def other_environment(trial: Trial) -> bool:
    """Whether policies are evaluated in another environment than the one of the task's own data."""
    return trial.config.physics != trial.task.physics


def marks(trial: Trial) -> str:
    """Marks of a task with D4RL's name but other data or another environment than the paper's; none before the trial starts."""
    if trial.task.d4rl_file is None or not trial.dataset:
        return ""
    second = trial.task.second_version
    data = OTHER_DATA if second or data_provenance(trial) == "other" else ""
    return data + (OTHER_ENVIRONMENT if second or other_environment(trial) else "")


def ablation(trial: Trial) -> dict[float, float]:
    """λ-clip -> score in the paper's figures 4 and 5 (best of its evaluations, T = 5); empty if not comparable."""
    if not published(trial).values:
        return {}
    stem = trial.task.name.rpartition("-")[0]
    rows = [row for row in paper.rows("ablation_lambda_clip") if row["task"] == stem]
    return {float(row["lambda_clip"]): float(row["score"]) for row in rows}
