"""What a sweep was made with, and in what it departs from the paper: everything a referee would ask."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from diffcps.report import cost
from diffcps.report.collect import Sweep, Trial
from diffcps.report.published import PAPER_SEEDS, data_provenance, other_environment


def provenance(sweep: Sweep) -> list[str]:
    """Cost, versions, commit, device and profile, each said once where all trials agree."""
    started = [trial for trial in sweep.trials if trial.environment]
    if not started:
        return []
    versions = [", ".join(f"{k} {v}" for k, v in t.environment.get("versions", {}).items()) for t in started]
    facts = [
        ("Profile", _agreed(trial.config.profile for trial in sweep.trials)),
        ("Physics", _agreed(trial.config.physics for trial in sweep.trials)),
        ("Device", _agreed(str(trial.environment.get("device")) for trial in started)),
        ("Gradient steps", _agreed(engine(trial) for trial in started)),
        ("Commit", _agreed(str(trial.environment.get("git_commit")) for trial in started)),
        ("Versions", _agreed(versions)),
    ]
    for trial in started:
        facts += [(f"Earlier attempt of {trial.key}", _attempt(old)) for old in trial.environment.get("earlier", ())]
    return [*cost.summary(started), *(f"{name}: {value}" for name, value in facts)]


def _attempt(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("versions") or {}).items())
    return f"{environment.get('device')}; commit {environment.get('git_commit')}; {versions}"


def deviations(sweep: Sweep) -> list[str]:
    """In what the trials depart from the paper's protocol; for a task that is not the paper's, from its own settings."""
    by_kind: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in sweep.trials:
        task = trial.task
        if trial.config.profile != "official":
            by_kind[f"The {trial.config.profile} profile and not the paper's own settings"][task.name] = None
        if changes := trial.changes:
            by_kind[
                f"Not the {'task' if trial.config.profile == 'official' else 'profile'}'s own settings, {task.name}"
            ] |= dict.fromkeys(changes)
        if trial.config.steps < task.steps:
            by_kind[f"Shorter than the task's {task.steps:_} gradient steps".replace("_", " ")][task.name] = None
        if task.in_paper and trial.seeds != PAPER_SEEDS:
            by_kind[f"Another number of seeds than the paper's {PAPER_SEEDS}"][f"{task.name} {trial.seeds}"] = None
        if task.d4rl_file and trial.dataset and data_provenance(trial) == "other":
            by_kind["Data that are not D4RL's"][task.name] = None
        if other_environment(trial):
            by_kind[f"Physics other than {task.physics}"][f"{task.name} {trial.config.physics}"] = None
    lines = [f"{kind}: {', '.join(found)}" for kind, found in by_kind.items()]
    simulators = {trial.environment.get("versions", {}).get("mujoco") for trial in sweep.trials if trial.task.d4rl_file}
    if known := sorted(version for version in simulators if version):
        lines.append(
            f"Simulator: MuJoCo {', '.join(known)}, where D4RL's own environments use mujoco-py (MuJoCo 2.1 or before)"
        )
    return lines


def engine(trial: Trial) -> str:
    """How the trial's gradient steps were run and why, over how many workers and packs where that is more than one."""
    chosen = trial.environment.get("engine")
    said = "as before engines were recorded"
    if chosen:
        same = chosen["used"] == chosen["asked"]
        said = chosen["reason"] if same else f"{chosen['used']}, for {chosen['asked']} did not work here"
    workers, sizes = trial.environment.get("workers", 1), trial.environment.get("pack_sizes", ())
    said += f"; {workers} workers" if workers > 1 else ""
    return said + (f"; packs of at most {max(sizes)} seeds, the most that fit" if len(sizes) > 1 else "")


def _agreed(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else "differs between trials: " + "; ".join(distinct)
