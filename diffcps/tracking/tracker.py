"""Finds or makes the runs of a sweep, writes rows to them, and makes them agree with the run folders."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of
from diffcps.text import first_line, redacted
from diffcps.tracking import labels
from diffcps.tracking.labels import Row, rows_of
from diffcps.tracking.store import artifact_location, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    from diffcps.runs.read import Sweep
    from diffcps.runs.trial import Trial

_BATCH = 900
"""Metrics in one request; MLflow takes 1000."""
_NOTE = 7900
"""Characters of a description; MLflow takes 8000."""
_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "running": "KILLED",
}
"""State of a trial -> status of its runs, once it is no longer in progress."""

Found = Mapping[labels.Key, "Run"]
Finished = tuple["Trial", list[str], "Run | None"]
"""A complete trial, the ids of its runs ``[1 + K]``, and its own run as it was found."""


class Tracker:
    """One sweep in an MLflow store. Creating the object has no side effects.

    Args:
        uri: the store, as ``check`` returned it.
        sweep: name of the sweep and of its experiment; unique in the store.
    """

    def __init__(self, uri: str, sweep: str) -> None:
        self.uri = uri
        self.sweep = sweep

    @cached_property
    def client(self) -> "MlflowClient":
        """The connection."""
        return connect(self.uri)

    @cached_property
    def experiment(self) -> str:
        """Id of the sweep's experiment; created if missing, restored if deleted."""
        found = self.client.get_experiment_by_name(self.sweep)
        if found is None:
            made = str(self.client.create_experiment(self.sweep, artifact_location(self.uri, self.sweep)))
            described = labels.EXPERIMENT | {"mlflow.note.content": labels.experiment_note(self.sweep)}
            for name, value in described.items():
                self.client.set_experiment_tag(made, name, value)
            return made
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def sweep_run(self) -> str:
        """Id of the sweep's own run, found or made; ``reconcile`` says later what the sweep runs."""
        known = self._find("tags.level = 'sweep'").get(labels.SWEEP)
        return self._renewed(known, labels.sweep_tags(self.sweep, {}), {})

    def trial_runs(self, config: RunConfig, environment: Mapping[str, Any]) -> list[str]:
        """Ids of a trial's run and of the run of each of its members, found or made; ``[1 + K]``.

        ``environment`` is the content of ``environment.json``; empty if the trial never started.
        """
        found = self._find(f"tags.config_key = '{config.key}'")
        return self._trial_runs(config, environment, found, self.sweep_run())

    def send(self, runs: Sequence[str], rows: Sequence[Row]) -> None:
        """Write rows to the runs ``[1 + K]`` of a trial: means to the trial's run, its own values to each member's."""
        for index, run in enumerate(runs):
            self._log([metric for row in rows for metric in row.metrics(index)], run)

    def progress(self, run: str) -> int:
        """The newest step written to a run; −1 before the first."""
        return max(self._steps(run, labels.IN_EVERY_ROW), default=-1)

    def set_status(self, run: str, status: str) -> None:
        """Set one of MLflow's states, if it changes."""
        if self.client.get_run(run).info.status == status:
            return
        if status == "RUNNING":
            self.client.update_run(run, status)
        else:
            self.client.set_terminated(run, status)

    def fail(self, folder: RunFolder) -> None:
        """Say of the runs that a trial has that it has failed, and why; ``reconcile`` sends the rows that they lack."""
        for run in self._find(f"tags.config_key = '{folder.path.name}'").values():
            self._set_error(run.info.run_id, folder.status)
            self.set_status(run.info.run_id, "FAILED")

    def monitor(self, run: str, seconds: float) -> "SystemMetricsMonitor":
        """Start MLflow's monitor of this machine, which logs ``system/…`` metrics to a run and continues them after a resume."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        started = SystemMetricsMonitor(run, sampling_interval=seconds, resume_logging=True, tracking_uri=self.uri)
        started.start()
        return started

    def log_models(self, runs: Sequence[str], folder: RunFolder) -> None:
        """Make the missing models of a trial's members; ``runs`` ``[1 + K]`` are the trial's.

        Raises ``UserError`` if the folder has no intact checkpoint.
        """
        from diffcps.tracking import models  # imports torch, which takes a second

        if models.complete(self.client, self.experiment, runs, folder):
            self.client.set_tag(runs[0], "models", str(len(runs) - 1))

    def register_choice(self, folder: RunFolder, member: int, step: int, by: str) -> str:
        """Let the alias of choices made offline point to a policy; returns its URI. See ``models.register_choice``."""
        from diffcps.tracking import models

        runs = self.trial_runs(folder.config, folder.environment)
        return models.register_choice(
            self.client, self.experiment, self.sweep, runs=runs, folder=folder, member=member, step=step, by=by
        )

    def reconcile(self, folder: Path, running: bool = False) -> None:
        """Make the store agree with a sweep's folder: every run once, every row once, each run with its status.

        Reads run folders only. With ``running`` the sweep is in progress: running trials send their own rows and are
        skipped. Without it no trial is in progress, and one with the status 'running' was killed.

        Raises ``UserError`` if the store fails; call it again to continue. Errors of models are raised last.
        """
        # imported here: it takes a second, and workers do not need it
        from diffcps.runs.read import collect

        sweep = collect(folder)
        try:
            complete = self._reconcile(sweep, running)
        except Exception as error:  # any error of the store: it must not look like an error of the sweep
            raise UserError(
                f"the MLflow store {redacted(self.uri)} could not be updated: {first_line(error)} The run folders in {folder} "
                "are not affected; resume the sweep to fill in what the store lacks."
            ) from error
        if not running and (failures := self._complete_models(complete)):
            raise UserError(
                f"the MLflow store {redacted(self.uri)} has all metrics, but not all models of policies: {failures[0]}"
                + (f" ({len(failures)} errors in all.)" if len(failures) > 1 else "")
            )

    def _reconcile(self, sweep: "Sweep", running: bool) -> list[Finished]:
        """Everything but the models; returns the complete trials; their models may be missing."""
        found = self._find("", tidy=True)
        tags, params = labels.sweep_tags(self.sweep, sweep.description), labels.sweep_parameters(sweep.plan)
        parent = self._renewed(found.get(labels.SWEEP), tags, params, labels.sweep_scores(sweep))
        complete: list[Finished] = []
        for trial in sweep.trials:
            if trial.state in ("pending", "damaged") or (running and trial.state == "running"):
                continue
            runs = self._trial_runs(trial.config, trial.environment, found, parent)
            before = [found.get(key) for key in labels.keys(trial.config)]
            self._complete(trial, runs, before)
            if trial.state == "complete":
                complete.append((trial, runs, before[0]))
        for file in ("table.html", "table.md", "table.csv", "table.tex", "sweep.json"):
            if (sweep.folder / file).exists():
                self.client.log_artifact(parent, str(sweep.folder / file))
        if (sweep.folder / "figures").is_dir():
            self.client.log_artifacts(parent, str(sweep.folder / "figures"), "figures")
        if (sweep.folder / "table.md").exists():
            self.client.set_tag(parent, "mlflow.note.content", _note((sweep.folder / "table.md").read_text("utf-8")))
        self.set_status(parent, "RUNNING" if running else _sweep_status(sweep))
        return complete

    def _complete(self, trial: "Trial", runs: Sequence[str], before: Sequence["Run | None"]) -> None:
        """Send what the store lacks of one trial's rows, and set the status of its runs."""
        rows = rows_of(trial)
        status, count = _STATUS[trial.state], str(sum(len(row.values) for row in rows))
        for index, (run, known) in enumerate(zip(runs, before, strict=True)):
            if known and known.data.tags.get("values") == count and known.info.status == status:
                continue
            self._log([metric for row in self._lacking(run, rows) for metric in row.metrics(index)], run)
            self.client.set_tag(run, "values", count)
            if trial.state == "failed":
                self._set_error(run, trial.status)
            if trial.state == "pruned":
                self.client.set_tag(run, "pruned", trial.trouble[:5000])
            if trial.state != "failed" and known and "error" in known.data.tags:
                self.client.delete_tag(run, "error")
            self.set_status(run, status)

    def _lacking(self, run: str, rows: Sequence[Row]) -> Iterator[Row]:
        """What a run does not have of these rows: all of a row, or what its evaluation has found, which can come much later."""
        found = {name for row in rows for name in row.values if not name.startswith("training/")}
        evaluated = "score" if "score" in found else min(found, default=None)
        present = self._steps(run, labels.IN_EVERY_ROW)
        complete = self._steps(run, evaluated) if evaluated else set()
        for row in rows:
            if row.step not in present:
                yield row
            elif evaluated in row.values and row.step not in complete:
                yield row._replace(values={name: values for name, values in row.values.items() if name in found})

    def _complete_models(self, complete: Sequence[Finished]) -> list[str]:
        """Make the missing models of complete trials and register the best; returns a sentence for each failure.

        A damaged checkpoint of one trial, or a registry without access, does not affect the other trials.
        """
        from diffcps.tracking import models

        failures = []
        for trial, runs, known in complete:
            made = known is not None and known.data.tags.get("models") == str(trial.seeds)
            # no models without a checkpoint: it was deleted, or is on another machine
            if made or not any((trial.folder / "checkpoint").glob("step_*.pt")):
                continue
            try:
                self.log_models(runs, RunFolder(trial.folder))
            except Exception as error:  # any error of a store or a disk
                failures.append(str(error) if isinstance(error, UserError) else first_line(error))
        try:
            models.register_best(self.client, self.experiment, self.sweep)
        except Exception as error:  # a server may refuse access to its registry
            failures.append(f"the best policies are not registered: {first_line(error)}")
        return failures

    def _trial_runs(self, config: RunConfig, environment: Mapping[str, Any], found: Found, parent: str) -> list[str]:
        runs: list[str] = []
        for index, key in enumerate(labels.keys(config)):
            members = [index - 1] if index else range(len(config.members))
            title = labels.name(config, members)
            tags = labels.tags(config, members, environment) | {
                "sweep": self.sweep,
                "level": key[0],
                "member": key[2],
                "mlflow.runName": f"seed {config.members[members[0]].seed} · {title}" if index else title,
                "mlflow.parentRunId": runs[0] if index else parent,
            }
            shown = {"behaviour": task_of(config).behaviour_score(environment.get("dataset") or {})}
            runs.append(self._renewed(found.get(key), tags, labels.parameters(config, members), shown))
        known = found.get(labels.keys(config)[0])
        if environment and not (known and known.inputs and known.inputs.dataset_inputs):
            self._log_dataset(runs[0], config, environment["dataset"])
        return runs

    def _renewed(
        self,
        known: "Run | None",
        tags: Mapping[str, str],
        params: Mapping[str, str],
        summary: Mapping[str, float] | None = None,
    ) -> str:
        """Id of a run with these tags, parameters and single numbers; it is created, or completed after a kill.

        MLflow refuses another value of a parameter. So those of a sweep that has grown stay as it began.
        """
        from mlflow.entities import Metric, Param, RunTag

        params = {name: value for name, value in params.items() if not (known and name in known.data.params)}
        shown = {name: value for name, value in (summary or {}).items() if math.isfinite(value)}
        wanted = ((tags, "tags"), (params, "params"), (shown, "metrics"))
        if known and all(values.items() <= getattr(known.data, kind).items() for values, kind in wanted):
            return str(known.info.run_id)
        run = known or self.client.create_run(self.experiment, tags=dict(tags))
        self.client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, int(1000 * time.time()), 0) for name, value in shown.items()],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()] if known else [],
        )
        return str(run.info.run_id)

    def _log_dataset(self, run: str, config: RunConfig, dataset: Mapping[str, Any]) -> None:
        """Log the data set as an MLflow input of the trial's run; the digest is the beginning of its checksum."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = CodeDatasetSource({"source": str(dataset["source"]), "path": str(dataset["path"])})
        entity = Dataset(config.task, str(dataset["checksum"])[:36], "code", source.to_json())
        self.client.log_inputs(run, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _set_error(self, run: str, status: Mapping[str, Any]) -> None:
        self.client.set_tag(run, "error", str(status.get("error", ""))[:5000])

    def _steps(self, run: str, name: str) -> set[int]:
        """The steps at which a run has a metric."""
        return {int(metric.step) for metric in self.client.get_metric_history(run, name)}

    def _log(self, metrics: Sequence["Metric"], run: str) -> None:
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + _BATCH])

    def _find(self, where: str, tidy: bool = False) -> dict[labels.Key, "Run"]:
        """Runs of the sweep, the oldest of each key; ``tidy`` deletes younger duplicates, which two workers can create."""
        found: dict[labels.Key, Run] = {}
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment], where, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                tags = run.data.tags
                key = tags.get("level", ""), tags.get("config_key", ""), tags.get("member", "")
                if key in found and tidy:
                    self.client.delete_run(run.info.run_id)
                found.setdefault(key, run)
            token = page.token
            if not token:
                return found


def _sweep_status(sweep: "Sweep") -> str:
    states = {trial.state for trial in sweep.trials}
    if states <= {"complete", "pruned"} and len(sweep.trials) == sweep.total:
        return "FINISHED"
    return "FAILED" if "failed" in states and states <= {"complete", "pruned", "failed"} else "KILLED"


def _note(table: str) -> str:
    """The table, cut between two lines if it is too long for a description."""
    if len(table) <= _NOTE:
        return table
    return table[: table.rindex("\n", 0, _NOTE - 80)] + "\n\nShortened: the whole table is the artifact table.md."
