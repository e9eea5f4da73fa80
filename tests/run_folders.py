"""Run folders as trials leave them, written through the run folder's own functions with made-up numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import trials

from diffcps.config import DataConfig, EvaluationConfig, RunConfig
from diffcps.data import library
from diffcps.files import write_json
from diffcps.runs import presets
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import Axis, Plan
from diffcps.tasks.registry import get_task, task_of

COLUMNS = (*trials.metrics(trials.trial()), "steps_per_second")
STEPS, EVERY, ROW, EPISODES = 400, 100, 50, 3


def config(task: str = "hopper-medium-v2", *, seeds: int = 3, **changes: Any) -> RunConfig:
    """A trial of 400 steps with 4 evaluations; ``changes`` are fields of the run or settings of its algorithm."""
    entry = get_task(task)
    judged = changes.pop("evaluation", EvaluationConfig(every=EVERY, episodes=EPISODES))
    official = presets.official(entry, seeds=seeds)
    settings = {name: changes.pop(name) for name in official.settings if name in changes}
    source = changes.pop("source", "d4rl" if entry.d4rl_file else "collected")
    fields = {"steps": STEPS, "log_every": ROW, "physics": entry.physics} | changes
    return official.with_settings(**settings).replaced(evaluation=judged, data=DataConfig(source=source), **fields)


def environment(trial: RunConfig, **dataset: Any) -> dict[str, Any]:
    """The content of ``environment.json``; D4RL's own data unless told otherwise."""
    provenance = dataset.get("provenance", "verified")
    source, task = library.source(trial.data.source), task_of(trial)
    facts = {
        "source": trial.data.source,
        "label": source.label(task, provenance),
        "made_here": source.makes,
        "path": "data.hdf5",
        "checksum": "c0ffee" * 10 + "beef",
        "provenance": "verified",
        "provenance_note": "D4RL's data: it agrees.",
        "rows": 1_000_000,
        "trajectories": 100,
        "behaviour_return": 1000.0,
    }
    return {
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "git_commit": "0123456789ab",
        "host": "here",
        "device": "cpu: test",
        "threads": 1,
        "dataset": facts | dataset,
    }


def returns_at(trial: RunConfig, step: int, lift: float = 0.0) -> np.ndarray:
    """[K, E] returns: 10 a seed, 1 an episode, growing up to the third evaluation and lower at the fourth; plus ``lift``."""
    level = {100: 500.0, 200: 1000.0, 300: 2000.0, 400: 1500.0}[step]
    return lift + level + 10.0 * np.arange(len(trial.members))[:, None] + np.arange(EPISODES)


def write(
    root: Path, trial: RunConfig, state: str = "complete", until: int = STEPS, *, lift: float = 0.0, **dataset: Any
) -> RunFolder:
    """A run folder in ``root/runs``; ``pending`` leaves it as a trial that has been given its folder and no more."""
    folder = RunFolder(root / "runs" / trial.key)
    folder.create(trial)
    if state == "pending":
        return folder
    folder.record_environment(environment(trial, **dataset))
    seeds = len(trial.members)
    for step in range(ROW, until + 1, ROW):
        write_row(folder, trial, step)
        if step % EVERY == 0:
            folder.log_returns(step, trial, returns_at(trial, step, lift), np.full((seeds, EPISODES), 9))
    status = {"state": state, "step": until, "steps": trial.steps, "notes": []}
    status["seconds"] = {"learning": 9.0, "evaluation": 0.5, "checkpoint": 0.5}
    if state == "failed":
        status["error"] = "RuntimeError: the | disk [is] full\nand more"
    folder.write_status(status)
    return folder


def row(trial: RunConfig, step: int) -> dict[str, np.ndarray]:
    """Metrics ``[K]`` of one step; λ falls to 0.5 at step 400."""
    seeds = np.arange(len(trial.members), dtype=float)
    values = {name: seeds + step / 100 for name in COLUMNS}
    values["constraint"] = values["behaviour_loss"]
    values["target_kl"] = np.array(trial.values("target_kl"))
    values["violation"] = (values["constraint"] > values["target_kl"]).astype(float)
    return values | {"lambda": np.full(len(seeds), 200.0 / step), "steps_per_second": np.full(len(seeds), 40.0)}


def write_row(folder: RunFolder, trial: RunConfig, step: int) -> None:
    folder.log(step, trial, row(trial, step), COLUMNS)


def describe(root: Path, *trials: RunConfig, axes: tuple[Axis, ...] = (), search: int | None = None) -> Path:
    """Write ``sweep.json`` for these trials; returns the sweep's folder."""
    root.mkdir(parents=True, exist_ok=True)
    plan = Plan(root.name, "paper", trials, axes, search)
    write_json(root / "sweep.json", plan.to_dict() | {"command": ["tune/sweep_d4rl.py", "--steps", "400"]})
    return root
