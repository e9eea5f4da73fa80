"""Run folders with small networks in them, as trials leave them that have come to their end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import run_folders as synthetic
import torch
import trials

from diffcps import algorithms
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of
from diffcps.training.learner import Learner, Part


def config(task: str = "hopper-medium-v2", *, seeds: int = 2, steps: int = 4, **changes: Any) -> RunConfig:
    """A trial of small networks; ``changes`` are the algorithm and its settings by name."""
    candidates = 4 if algorithms.get(changes.get("algorithm", "diffcps")).chooses else 1
    evaluation = EvaluationConfig(every=steps, episodes=3, candidates=candidates)
    small = {
        "hidden_size": 8, "batch_size": 4, "ema_start": 0, "ema_every": 1, "diffusion_steps": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    small = algorithms.get(changes.get("algorithm", "diffcps")).settings.among(small)
    return trials.trial(task, members=trials.members(seeds), steps=steps, evaluation=evaluation, **small | changes)


def learner(trial: RunConfig, device: str = "cpu", bound: float | None = None, **more: Any) -> Learner:
    """Of the trial, on made-up data with actions in ±1, or in ±``bound`` if that is the bound instead of the task's."""
    task, rng = task_of(trial), np.random.default_rng(0)
    sizes = {
        "observations": task.observation_size,
        "next_observations": task.observation_size,
        "actions": task.action_size,
    }
    data: dict[str, Any] = {name: rng.uniform(-1, 1, (20, size)).astype(np.float32) for name, size in sizes.items()}
    data |= {name: rng.uniform(0, 1, 20).astype(np.float32) for name in ("rewards", "terminals")}
    # some rows go on in the next one
    data["next_observations"][:9], data["terminals"][:9] = data["observations"][1:10], 0.0
    data["actions"] *= bound or 1.0
    return Learner([Part(trial, SimpleNamespace(**data))], bound or task.max_action, device, **more)


def write(root: Path, trial: RunConfig, scores: tuple[float, ...] | None = None, until: int | None = None) -> RunFolder:
    """The run folder of a trial that was trained to its end, or until a step; ``scores`` are its members' last ones."""
    torch.set_num_threads(1)
    folder, own = RunFolder(root / "runs" / trial.key), learner(trial)
    step = trial.steps if until is None else until
    folder.create(trial)
    folder.record_environment(synthetic.environment(trial))
    own.update(step)
    members = len(trial.members)
    last = np.array(scores if scores is not None else range(10, 10 + members), dtype=float)
    task = task_of(trial)
    returns = task.random_return + last[:, None] * (task.expert_return - task.random_return) / 100 * np.ones(3)
    folder.log_returns(step, trial, returns, np.full((members, 3), 9))
    values = {name: np.zeros(members) for name in synthetic.COLUMNS}
    folder.log(step, trial, values, synthetic.COLUMNS)
    folder.save_checkpoint({"learner": own.state_dict(), "scores": [last.tolist()], "seconds": {}}, step)
    state = "complete" if step == trial.steps else "running"
    folder.write_status(
        {
            "state": state,
            "step": step,
            "steps": trial.steps,
            "last": float(last.mean()),
            "notes": [],
            "seconds": {"learning": 1.0},
        }
    )
    return folder
