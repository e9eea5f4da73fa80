"""The rows of a trial under MLflow's names, the same from a running loop and from a run folder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from diffcps.runs.trials import Trial


class Row(NamedTuple):
    """The metrics of one step."""

    step: int
    timestamp: int
    """Milliseconds since 1970. Part of a metric's identity in the store: a row that is sent twice is stored once."""
    values: Mapping[str, NDArray[Any]]
    """Name -> ``[K]``."""

    def metrics(self, index: int) -> list["Metric"]:
        """Metrics for run ``index`` of a trial: 0 is the trial's own, with means over members; k + 1 is member k's.

        Values that are not finite are left out: a store turns infinity into 1.8e308, which flattens a chart. From the
        metric ``step`` a resumed trial reads the newest step of a run.
        """
        from mlflow.entities import Metric

        values = {name: float(v.mean() if index == 0 else v[index - 1]) for name, v in self.values.items()}
        finite = {"step": float(self.step)} | {name: value for name, value in values.items() if np.isfinite(value)}
        return [Metric(name, value, self.timestamp, self.step) for name, value in finite.items()]


def named(metrics: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Metrics under MLflow's names; the evaluation score is ``score``, the objective of a search."""
    names = {"evaluation/score": "score", "evaluation/best": "score_best"}
    return {names.get(name, name): np.asarray(value, dtype=np.float64) for name, value in metrics.items()}


def rows_of(trial: "Trial") -> list[Row]:
    """Every row of a run folder as a sink sends it, in order of steps."""
    if trial.metrics.empty:
        return []
    table: dict[int, dict[str, ArrayLike]] = {}
    for name in trial.metrics.columns.drop(["step", "member", "seed"]):
        for step, values in zip(*trial.metric(name), strict=True):
            table.setdefault(int(step), {})[f"training/{name}"] = values
    steps, returns, lengths = trial.evaluations
    best = np.fmax.accumulate(trial.scores)
    for index, step in enumerate(steps):
        table.setdefault(int(step), {}).update({
            "evaluation/score": trial.scores[index],
            "evaluation/best": best[index],
            "evaluation/return": returns[index].mean(axis=1),
            "evaluation/length": lengths[index].mean(axis=1),
        })  # fmt: skip
    for name in trial.measures.columns.drop(["step", "member", "seed"], errors="ignore"):
        for step, values in zip(*trial.measure(name), strict=True):
            table.setdefault(int(step), {})[f"measures/{name}"] = values
    timestamp = int((trial.folder / "metrics.csv").stat().st_mtime * 1000)
    return [Row(step, timestamp, named(table[step])) for step in sorted(table)]
