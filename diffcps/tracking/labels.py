"""What MLflow is told of a trial: name, tags and parameters of a run, and its rows under MLflow's names."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffcps.config import RunConfig
from diffcps.runs.folder import IDENTITY
from diffcps.runs.plan import Plan
from diffcps.text import redacted, worded

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from diffcps.runs.read import Sweep
    from diffcps.runs.trial import Trial


IN_EVERY_ROW = "training/steps_per_second"
"""A metric that every row has: its steps are those that a run has already."""
Key = tuple[str, str, str]
"""Level (``sweep``, ``trial``, ``member``), key of the trial, index of the member in its pack: identifies a run."""

SWEEP: Key = "sweep", "", ""


def keys(config: RunConfig) -> list[Key]:
    """Keys of a trial's run and of the run of each member, ``[1 + K]``."""
    return [("trial", config.key, ""), *(("member", config.key, str(k)) for k in range(len(config.members)))]


def name(config: RunConfig, members: Sequence[int]) -> str:
    """Name of a run: the configuration of one member or of the whole pack."""
    settings = [f"{symbol}={common(config, members, name)}" for name, symbol in config.symbols.items()]
    return " ".join([config.task, config.method, *settings])


def tags(config: RunConfig, members: Sequence[int], environment: Mapping[str, Any]) -> dict[str, str]:
    """Tags to filter by; ``environment`` is the content of ``environment.json``, empty before the trial has started."""
    known = {
        "config_key": config.key,
        "task": config.task,
        "algorithm": config.algorithm,
        **{name: common(config, members, name) for name in config.symbols},
        "seed": ", ".join(str(config.members[k].seed) for k in members),
        "profile": config.profile,
        "physics": config.physics,
        "data_source": config.data.source,
        # MLflow's column "Source", which is otherwise the program of whatever process made the run
        "mlflow.source.name": "diffcps",
        "mlflow.source.type": "LOCAL",
    }
    if policy := common(config, members, "policy"):
        known["policy"] = policy
    if config.definition is not None:
        known |= {"minari_id": config.definition.minari_id, "score": config.definition.score}
    if environment:
        dataset = environment["dataset"]
        known |= {
            "dataset_checksum": str(dataset["checksum"]),
            "provenance": str(dataset["provenance"]),
            "git_commit": str(environment["git_commit"]),
            "mlflow.source.git.commit": str(environment["git_commit"]),
            "device": str(environment["device"]),
        }
    return known


def sweep_tags(sweep: str, description: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a sweep's own run; ``description`` is the content of ``sweep.json``."""
    known = {"mlflow.runName": sweep, "sweep": sweep, "level": "sweep"}
    known |= {key: str(description[key]) for key in ("preset", "created") if key in description}
    if command := description.get("command"):
        words = [redacted(word) for word in command]
        known["command"] = shlex.join(words)
        known["mlflow.source.name"] = "/".join(Path(words[0]).parts[-2:])
        known["mlflow.source.type"] = "LOCAL"
    return known


EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of a sweep's experiment: MLflow's word for the kind that trains models."""


def experiment_note(sweep: str) -> str:
    """Description of a sweep's experiment, in Markdown."""
    return (
        f"The sweep **{sweep}**: one run for the sweep, below it one for each trial, and below that one for each seed. The "
        f"run `{sweep}` has the table as its description, and the scores of all trials. `score` is the normalised score of "
        "an evaluation, `score_best` the highest so far (an oracle), `behaviour` the score of the data's own trajectories."
    )


def sweep_parameters(plan: Plan | None) -> dict[str, str]:
    """What a sweep runs as it begins, as parameters of its own run."""
    if plan is None:
        return {}

    def listed(values: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))[:6000]

    known = {
        "tasks": listed(trial.task for trial in plan.trials),
        "algorithms": listed(trial.algorithm for trial in plan.trials),
        "profiles": listed(trial.profile for trial in plan.trials),
        "data_sources": listed(trial.data.source for trial in plan.trials),
        "steps": listed(trial.steps for trial in plan.trials),
        "seeds": listed(len(trial.members) for trial in plan.trials),
        "trials": str(plan.count),
    }
    known |= {"objective": plan.objective} if plan.search else {}
    known |= {"prune": plan.prune} if plan.prune else {}
    return known | {f"axis {axis.name}"[:250]: str(axis)[:6000] for axis in plan.axes}


def sweep_scores(sweep: "Sweep") -> dict[str, float]:
    """Numbers of a sweep's own run: trials by state and in all, for each task the highest last score and that of the data."""
    found = {f"trials_{state}": float(sweep.counts[state]) for state in ("complete", "pruned", "failed")}
    found["trials_planned"] = float(sweep.total)
    for trial in sweep.known:
        last, task = trial.number("last"), re.sub(r"[^\w./: -]", "-", trial.config.task)
        if last is not None and trial.state != "pruned":
            found[f"last/{task}"] = max(last, found.get(f"last/{task}", last))
        if np.isfinite(trial.behaviour_score):
            found[f"behaviour/{task}"] = trial.behaviour_score
    return found


def parameters(config: RunConfig, members: Sequence[int]) -> dict[str, str]:
    """Every setting, flat, under its own name. Settings in which members differ are parameters of the members' runs only.

    ``config.run.KEEPING`` is left out: it may change when a trial is resumed, and MLflow's parameters cannot change.
    """
    values = config.to_dict()
    flat = {setting: values[setting] for setting in ("task", "algorithm", "steps", "profile", "physics", "log_every")}
    flat["seeds"] = len(config.members)
    flat |= {f"data_{setting}": value for setting, value in values["data"].items()}
    flat |= {f"evaluation_{setting}": value for setting, value in values["evaluation"].items()}
    if len(members) == 1:
        flat["seed"] = config.members[members[0]].seed
    for setting in config.settings:
        if len(own := {config.value(setting, k) for k in members}) == 1:
            flat[setting] = own.pop()
    return {setting: str(value) for setting, value in flat.items()}


def common(config: RunConfig, members: Sequence[int], setting: str) -> str:
    """The value of a setting, or all values if members differ; empty if the algorithm does not have it."""
    values = [config.value(setting, k) for k in members]
    return ", ".join(dict.fromkeys(worded(value, digits=10) for value in values if value is not None))


# The rows of a trial under MLflow's names, the same from a running loop and from a run folder -------------------------


class Row(NamedTuple):
    """The metrics of one step."""

    step: int
    timestamp: int
    """Milliseconds since 1970. Part of a metric's identity in the store: a row that is sent twice is stored once."""
    values: Mapping[str, NDArray[Any]]
    """Name -> ``[K]``."""

    def metrics(self, index: int) -> list["Metric"]:
        """Metrics for run ``index`` of a trial: 0 is the trial's own, with means over members; k + 1 is member k's.

        Values that are not finite are left out: a store turns infinity into 1.8e308, which flattens a chart.
        """
        from mlflow.entities import Metric

        values = {name: float(v.mean() if index == 0 else v[index - 1]) for name, v in self.values.items()}
        return [Metric(name, value, self.timestamp, self.step) for name, value in values.items() if np.isfinite(value)]


def named(metrics: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Metrics under MLflow's names; the evaluation score is ``score``, the objective of a search."""
    names = {"evaluation/score": "score", "evaluation/best": "score_best"}
    return {names.get(name, name): np.asarray(value, dtype=np.float64) for name, value in metrics.items()}


def rows_of(trial: "Trial") -> list[Row]:
    """Every row of a run folder as a sink sends it, in order of steps."""
    if trial.metrics.empty:
        return []
    table: dict[int, dict[str, ArrayLike]] = {}
    for name in trial.metrics.columns.drop([*IDENTITY]):
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
    for name in trial.measured:
        for step, values in zip(*trial.measure(name), strict=True):
            table.setdefault(int(step), {})[f"measures/{name}"] = values
    timestamp = int((trial.folder / "metrics.csv").stat().st_mtime * 1000)
    return [Row(step, timestamp, named(table[step])) for step in sorted(table)]
