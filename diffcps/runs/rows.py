"""The rows of a run folder as arrays and data frames. pandas is imported when rows are read: drivers read none."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps.runs.folder import IDENTITY
from diffcps.stats import FloatArray
from diffcps.text import worded

if TYPE_CHECKING:
    import pandas as pd

    from diffcps.runs.trial import Trial


class Evaluations(NamedTuple):
    """All n evaluations of a trial of K members; E episodes each."""

    steps: NDArray[np.int64]
    """Gradient step of each, ``[n]``."""
    returns: tuple[FloatArray, ...]
    """Raw returns of each, ``[K, E]``; the last evaluation may have more episodes than the others."""
    lengths: tuple[FloatArray, ...]
    """Episode lengths of each in environment steps, ``[K, E]``."""

    def mean(self, values: Iterable[FloatArray], members: int) -> FloatArray:
        """Mean over the episodes of each evaluation, ``[n, K]``."""
        return np.array([value.mean(axis=1) for value in values]).reshape(-1, members)


def read_rows(file: Path, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """The intact rows of a CSV that may be growing or cut by a kill; empty without a file.

    Rows with too few or too many cells, and rows with a cell that is no number, are left out. ``columns`` are those to
    read, if the file has them; by default all.
    """
    import pandas as pd

    if not file.exists():
        return pd.DataFrame()
    content = file.read_bytes()
    width = content.partition(b"\n")[0].count(b",")
    if not content.endswith(b"\n") or content.count(b",") != width * content.count(b"\n") or b"\0" in content:
        lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n") and b"\0" not in line]
        content = b"".join(line for line in lines if line.count(b",") == width)
    if content.count(b"\n") < 2:
        return pd.DataFrame()
    wanted: Callable[[str], bool] | None = None if columns is None else lambda name: name in columns
    frame = pd.read_csv(io.BytesIO(content), usecols=wanted, encoding_errors="replace")
    if any(not pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes):
        numbers = frame.apply(pd.to_numeric, errors="coerce")
        kept = numbers[(numbers.isna() == frame.isna()).all(axis=1)]
        frame = kept.astype({name: np.int64 for name in IDENTITY if name in kept}).reset_index(drop=True)
    return frame


def evaluations(frame: "pd.DataFrame", members: int, episodes: Callable[[int], int]) -> Evaluations:
    """The complete evaluations in ``returns.csv``; ``episodes(step)`` is the number that an evaluation has."""
    if frame.empty:
        return Evaluations(np.zeros(0, dtype=np.int64), (), ())
    if not frame["step"].is_monotonic_increasing:
        frame = frame.sort_values("step", kind="stable")
    values = frame[["step", "member", "episode", "return", "length"]].to_numpy(np.float64)
    steps, starts = np.unique(values[:, 0], return_index=True)
    found = []
    for step, rows in zip(steps.astype(np.int64), np.split(values, starts[1:]), strict=True):
        shape = members, episodes(int(step))
        if len(rows) == shape[0] * shape[1]:  # else a kill has cut it
            ordered = rows[np.lexsort((rows[:, 2], rows[:, 1]))]
            found.append((step, ordered[:, 3].reshape(shape), ordered[:, 4].reshape(shape)))
    return Evaluations(
        np.array([step for step, *_ in found], dtype=np.int64),
        tuple(returns for _, returns, _ in found),
        tuple(lengths for *_, lengths in found),
    )


def by_member(
    frame: "pd.DataFrame", names: Sequence[str], members: int
) -> dict[str, tuple[NDArray[np.int64], FloatArray]]:
    """Column -> steps ``[n]`` and values ``[n, K]``; nan for a member whose row is missing, n = 0 for a missing column."""
    found = {name: (np.zeros(0, dtype=np.int64), np.zeros((0, members))) for name in names}
    present = [name for name in names if name in frame]
    if not frame.empty and present:
        steps, index = np.unique(frame["step"].to_numpy(np.int64), return_inverse=True)
        values = np.full((len(present), len(steps), members), np.nan)
        values[:, index, frame["member"].to_numpy(np.int64)] = frame[present].to_numpy(np.float64).T
        found |= {name: (steps, values[i]) for i, name in enumerate(present)}
    return found


def record(trial: "Trial") -> dict[str, Any]:
    """A trial in one row: identity, settings, data, state."""
    config = trial.config
    settings = {
        name: values[0] if len(values) == 1 else ", ".join(map(worded, values))
        for name, values in trial.settings.items()
    }
    return (
        {"key": trial.key, "task": trial.task.name, "state": trial.state}
        | settings
        | {
            "seeds": trial.seeds,
            "step": trial.step,
            "steps": config.steps,
            "evaluations": len(trial.scores),
            "episodes": config.evaluation.episodes,
            "physics": config.physics,
            "profile": config.profile,
            "data": config.data.source,
            "provenance": trial.dataset.get("provenance"),
            "rows": trial.dataset.get("rows"),
            "behaviour_score": trial.behaviour_score,
            "error": trial.status.get("error"),
        }
    )


def evaluated(trial: "Trial") -> dict[str, Any]:
    """Column -> a value for each evaluation and member of a trial."""
    steps, returns, lengths = trial.evaluations
    return {
        "key": trial.key,
        "task": trial.task.name,
        "step": np.repeat(steps, trial.seeds),
        "member": np.tile(np.arange(trial.seeds), len(steps)),
        "seed": np.tile([member.seed for member in trial.config.members], len(steps)),
        "score": trial.scores.ravel(),
        "return": trial.evaluations.mean(returns, trial.seeds).ravel(),
        "length": trial.evaluations.mean(lengths, trial.seeds).ravel(),
    }
