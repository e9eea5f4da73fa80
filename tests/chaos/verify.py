"""What a sweep has left, held against an undisturbed one's: nothing lost, nothing twice, and the same to the last bit."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import load

Snapshot = dict[Path, tuple[int, int]]


def snapshot(folder: RunFolder) -> Snapshot:
    """Every file of a run folder with its time and size, but for what a process removes as it ends: its watchdog's file."""
    files = {file: file.stat() for file in folder.path.rglob("*") if file.is_file() and file != folder.trace}
    return {file: (facts.st_mtime_ns, facts.st_size) for file, facts in files.items()}


def folders(sweep: Path) -> dict[str, RunFolder]:
    """The run folder of every trial that the sweep should have, by key."""
    return {trial.key: RunFolder(sweep / "runs" / trial.key) for trial in load(sweep).trials}


def differences(folder: RunFolder, reference: RunFolder) -> Iterator[str]:
    """What of a trial is not as in the undisturbed one: rows without their speed, raw returns, the final checkpoint."""
    if not folder.done:
        yield f"it is {folder.status['state']}: {folder.status.get('error', '')}"
        return
    rows, expected = (_rows(each) for each in (folder, reference))
    if not rows.equals(expected):
        yield f"metrics.csv differs: {len(rows)} rows for {len(expected)}"
    if (folder.path / "returns.csv").read_bytes() != (reference.path / "returns.csv").read_bytes():
        yield "returns.csv differs"
    states = [each.load_checkpoint()[0] for each in (folder, reference)]
    for name in ("learner", "scores"):
        if not _equal(*[(state or {}).get(name) for state in states]):
            yield f"the final checkpoint's {name} differs"


def _rows(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder.path / "metrics.csv", dtype=str).drop(columns="steps_per_second")


def _equal(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def mlflow_faults(uri: str, sweep: Path) -> Iterator[str]:
    """Runs that the store lacks or has twice, and curves with a step missing, twice, or of another value."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(sweep.name)
    if experiment is None:
        yield "there is no experiment"
        return
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    found = Counter(_key(run) for run in runs)
    expected = {("sweep", "", "")}
    for key, folder in folders(sweep).items():
        expected |= {("trial", key, "")} | {("member", key, str(k)) for k in range(len(folder.config.members))}
    yield from (f"run {key} is there {found[key]} times" for key in expected | found.keys() if found[key] != 1)
    for run in runs:
        if run.info.status != "FINISHED":
            yield f"run {_key(run)} is {run.info.status}"
        if run.data.tags["level"] != "sweep":
            yield from _curve_faults(client, run, RunFolder(sweep / "runs" / run.data.tags["config_key"]))


def _key(run: Run) -> tuple[str, str, str]:
    tags = run.data.tags
    return tags["level"], tags.get("config_key", ""), tags.get("member", "") if tags["level"] == "member" else ""


def _curve_faults(client: MlflowClient, run: Run, folder: RunFolder) -> Iterator[str]:
    rows = pd.read_csv(folder.path / "metrics.csv")
    member = run.data.tags["member"] if run.data.tags["level"] == "member" else None
    for name in rows.columns.difference(["step", "member", "seed", "steps_per_second"]):
        table = rows.pivot_table(index="step", columns="member", values=name)
        values = table.mean(axis=1) if member is None else table[int(member)]
        history = sorted(client.get_metric_history(run.info.run_id, f"training/{name}"), key=lambda metric: metric.step)
        if [metric.step for metric in history] != list(values.index):
            counts = Counter(metric.step for metric in history)
            missing, twice = set(values.index) - counts.keys(), [step for step, count in counts.items() if count > 1]
            yield f"run {_key(run)}: {name} lacks steps {sorted(missing)[:5]}, has twice {sorted(twice)[:5]}"
        elif not np.allclose([metric.value for metric in history], values, rtol=1e-6, atol=1e-9):
            yield f"run {_key(run)}: {name} has other values than the run folder"
