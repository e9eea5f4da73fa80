"""Facts of a sweep and of its trials, as plain values for scripts and for the tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from diffcps import text
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial


def record(sweep: Sweep) -> dict[str, Any]:
    """Plain values of one sweep."""
    return {
        "name": sweep.name,
        "folder": sweep.where,
        "state": sweep.state,
        "preset": sweep.plan.preset if sweep.plan else None,
        "counts": {**counts(sweep), "total": sweep.total},
        "last_mean": sweep.mean("last"),
        "best_oracle_mean": sweep.mean("best"),
        "seconds_left": sweep.seconds_left(),
        "touched": sweep.touched,
        "held_by": sweep.holder.who if sweep.holder else None,
        "held_since": sweep.holder.since if sweep.holder else None,
        "resume": sweep.resume if advice(sweep) else None,
        "trouble": sweep.trouble or None,
    }


def counts(sweep: Sweep) -> dict[str, int]:
    """Number of trials by what is to be done with them."""
    count = sweep.counts
    return {
        "complete": count["complete"],
        "running": count["running"],
        "failed": count["failed"] + count["damaged"],
        "pruned": count["pruned"],
        "to_go": count["pending"] + count["stopped"] + count["interrupted"],
    }


def in_one_pack_with(trial: Trial) -> list[str]:
    """The keys of the trials that train in one pack with it."""
    return list(trial.environment.get("together", {}).get("with", []))


def details(sweep: Sweep) -> dict[str, Any]:
    """Plain values of one sweep and of each of its trials."""
    return record(sweep) | {
        "created": sweep.description.get("created"),
        "commits": commits(sweep),
        "mlflow": tracking_uri(sweep),
        "trials": [_trial_record(trial, folder_of(sweep, trial)) for trial in sweep.trials],
    }


def _trial_record(trial: Trial, folder: str) -> dict[str, Any]:
    config, facts = trial.stored, trial.dataset
    return {
        "key": trial.key,
        "task": config.task if config else None,
        "profile": config.profile if config else None,
        "settings": {name: _plain(values) for name, values in trial.settings.items()} if config else None,
        "seeds": [member.seed for member in config.members] if config else None,
        "in_one_pack_with": in_one_pack_with(trial),
        "state": trial.state,
        "step": trial.step,
        "steps": trial.steps,
        "steps_per_second": trial.speed,
        "last": trial.number("last"),
        "best_oracle": trial.number("best"),
        "seconds_left": trial.seconds_left,
        "updated": trial.updated,
        "trouble": trial.trouble or None,
        "folder": folder,
        "git_commit": trial.environment.get("git_commit"),
        "data": {name: facts.get(name) for name in ("source", "provenance", "rows", "checksum")} if facts else None,
    }


def _plain(values: Sequence[Any]) -> Any:
    """A setting's one value, or a list if members differ in it."""
    return values[0] if len(values) == 1 else list(values)


def folder_of(sweep: Sweep, trial: Trial) -> str:
    """Where a trial of the sweep is stored."""
    return f"{sweep.where}/runs/{trial.key}"


def commits(sweep: Sweep) -> list[str]:
    """The commits that its trials ran on."""
    return sorted({str(commit) for trial in sweep.trials if (commit := trial.environment.get("git_commit"))})


def tracking_uri(sweep: Sweep) -> str | None:
    """Its MLflow store, without a password."""
    uri = sweep.description.get("tracking_uri")
    return text.redacted(str(uri)) if uri else None


def advice(sweep: Sweep) -> str | None:
    """A sentence and, on its second line, the command; `None` if there is nothing to continue."""
    if sweep.state == "stopped":
        return f"To continue {sweep.name}:\n  {sweep.resume}"
    if sweep.state == "some failed":
        return f"To try the failed trials of {sweep.name} again:\n  {sweep.resume}"
    return None
