"""Reads run folders, whatever state they are in, into trials and data frames. Needs no MLflow and no Ray."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffcps.config import MemberConfig, RunConfig
from diffcps.errors import UserError
from diffcps.runs import RunFolder, read_json
from diffcps.tasks import Task, task_of

FloatArray = NDArray[np.float64]


class Evaluations(NamedTuple):
    """All evaluations of one trial: n of them, K members, E episodes each."""

    steps: NDArray[np.int64]
    """Gradient step of each, ``[n]``."""
    returns: FloatArray
    """Raw returns, ``[n, K, E]``."""
    lengths: FloatArray
    """Episode lengths in environment steps, ``[n, K, E]``."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial as its run folder tells it; one that has not started has only its configuration."""

    key: str
    config: RunConfig
    task: Task
    status: Mapping[str, Any] = field(default_factory=lambda: {"state": "pending", "step": 0})
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def state(self) -> str:
        """``pending``, ``running``, ``complete``, ``failed`` or ``stopped``."""
        return str(self.status["state"])

    @property
    def seeds(self) -> int:
        """K."""
        return len(self.config.members)

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What ``environment.json`` says of the data set; empty before the trial has started."""
        return self.environment.get("dataset", {})

    def shared(self, name: str) -> tuple[float, ...]:
        """The values that the members have for a setting of ``MemberConfig``, each once, in ascending order."""
        return tuple(sorted({getattr(member, name) for member in self.config.members}))

    @cached_property
    def evaluations(self) -> Evaluations:
        """Every evaluation that is wholly in ``returns.csv``."""
        members, episodes = self.seeds, self.config.evaluation.episodes
        frame = read_rows(self.folder / "returns.csv") if self.folder else pd.DataFrame()
        if frame.empty:
            nothing = np.zeros((0, members, episodes))
            return Evaluations(np.zeros(0, dtype=np.int64), nothing, nothing)
        whole = frame.groupby("step")["return"].transform("size") == members * episodes
        frame = frame[whole].sort_values(["step", "member", "episode"], kind="stable")
        steps = np.unique(frame["step"].to_numpy(np.int64))
        shape = len(steps), members, episodes
        returns, lengths = (frame[name].to_numpy(np.float64).reshape(shape) for name in ("return", "length"))
        return Evaluations(steps, returns, lengths)

    @cached_property
    def scores(self) -> FloatArray:
        """Normalised score of each evaluation and member, mean over episodes, ``[n, K]``."""
        return self.task.normalised_score(self.evaluations.returns).mean(axis=2)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """``metrics.csv``: step, member, seed, then every training metric."""
        return read_rows(self.folder / "metrics.csv") if self.folder else pd.DataFrame()

    def metric(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one training metric, at the steps that all members have."""
        return self._by_member(self.metrics, name)

    @cached_property
    def measures(self) -> pd.DataFrame:
        """``measures.csv``: step, member, seed, then every measure; empty where nothing was measured."""
        return read_rows(self.folder / "measures.csv") if self.folder else pd.DataFrame()

    def measure(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one column of the measures."""
        return self._by_member(self.measures, name)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """``samples.csv``: step, member, seed, a_0, …; empty where no actions were left."""
        return read_rows(self.folder / "samples.csv") if self.folder else pd.DataFrame()

    def _by_member(self, frame: pd.DataFrame, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        if frame.empty or name not in frame:
            return np.zeros(0, dtype=np.int64), np.zeros((0, self.seeds))
        wide = frame.pivot_table(index="step", columns="member", values=name, dropna=False)
        wide = wide.reindex(columns=range(self.seeds))
        return wide.index.to_numpy(np.int64), wide.to_numpy(np.float64)

    @property
    def behaviour_score(self) -> float:
        """Normalised score of the data set's own trajectories; nan where none is complete."""
        value = self.dataset.get("behaviour_return")
        return float("nan") if value is None else float(self.task.normalised_score(value))


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep, or any folder of run folders."""

    folder: Path
    description: Mapping[str, Any]
    """The content of ``sweep.json``; empty where there is none."""
    trials: tuple[Trial, ...]
    expected: int
    """Trials that there are when it is complete; a search chooses its trials as it goes."""
    unreadable: tuple[str, ...] = ()
    """One sentence for each run folder that could not be read."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.description.get("name") or self.folder.resolve().name)

    @property
    def is_search(self) -> bool:
        """Whether trials were chosen on the way rather than listed before."""
        return bool(self.description.get("search"))

    def trial_frame(self) -> pd.DataFrame:
        """One row a trial: identity, settings, data, state."""
        return pd.DataFrame(
            [
                {
                    "key": trial.key,
                    "task": trial.task.name,
                    "state": trial.state,
                    "diffusion_steps": trial.config.algorithm.diffusion_steps,
                    **{name: _plain(trial.shared(name)) for name in MemberConfig.__dataclass_fields__},
                    "seeds": trial.seeds,
                    "step": int(trial.status.get("step", 0)),
                    "steps": trial.config.steps,
                    "evaluations": len(trial.scores),
                    "episodes": trial.config.evaluation.episodes,
                    "physics": trial.config.physics,
                    "profile": trial.config.profile,
                    "data": trial.config.data.source,
                    "provenance": trial.dataset.get("provenance"),
                    "rows": trial.dataset.get("rows"),
                    "behaviour_score": trial.behaviour_score,
                    "error": trial.status.get("error"),
                }
                for trial in self.trials
            ]
        )

    def evaluation_frame(self) -> pd.DataFrame:
        """One row an evaluation and member: step, score and mean return and length over its episodes."""
        parts = []
        for trial in self.trials:
            steps, returns, lengths = trial.evaluations
            count = len(steps)
            parts.append(
                pd.DataFrame(
                    {
                        "key": trial.key,
                        "task": trial.task.name,
                        "step": np.repeat(steps, trial.seeds),
                        "member": np.tile(np.arange(trial.seeds), count),
                        "seed": np.tile([member.seed for member in trial.config.members], count),
                        "score": trial.scores.ravel(),
                        "return": returns.mean(axis=2).ravel(),
                        "length": lengths.mean(axis=2).ravel(),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def collect(folder: Path) -> Sweep:
    """Read a sweep's folder, any folder of run folders, or a single run folder.

    Trials come in the order of ``sweep.json``, those it does not list in the order in which they were made.

    Raises ``UserError`` when there is nothing to report on.
    """
    folder = Path(folder)
    file = folder / "sweep.json"
    description = read_json(file) if file.exists() else {}
    if (folder / "config.json").exists():
        candidates = [folder]
    else:
        root = folder / "runs" if (folder / "runs").is_dir() else folder
        candidates = [path.parent for path in root.glob("*/config.json")]
    found: dict[str, Trial] = {}
    unreadable = []
    for path in sorted(candidates, key=lambda path: ((path / "config.json").stat().st_mtime, path.name)):
        try:
            trial = read_trial(path)
            found[trial.key] = trial
        except UserError as error:
            unreadable.append(str(error))

    search = description.get("search")
    listed = [RunConfig.from_dict(values) for values in description.get("trials", ())]
    planned = [] if search else listed
    trials = [found.pop(config.key) if config.key in found else _pending(config) for config in planned]
    trials += found.values()
    expected = len(listed) * int(search["trials"]) if search else len(trials)
    if not trials and not unreadable and not description:
        raise UserError(f"{folder} holds no sweep and no run folder. Give the folder of a sweep, results/NAME.")
    return Sweep(folder, description, tuple(trials), expected, tuple(unreadable))


def read_trial(path: Path) -> Trial:
    """Read one run folder. Raises ``UserError`` naming the file that is damaged."""
    folder = RunFolder(path)
    config = folder.config
    return Trial(config.key, config, task_of(config), folder.status, folder.environment, path)


def read_rows(file: Path) -> pd.DataFrame:
    """The whole rows of a CSV that may still be written to, or that a kill has cut short; empty without a file."""
    if not file.exists():
        return pd.DataFrame()
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    width = lines[0].count(",") if lines else 0
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == width]
    return pd.read_csv(io.StringIO("".join(whole))) if len(whole) > 1 else pd.DataFrame()


def _pending(config: RunConfig) -> Trial:
    return Trial(config.key, config, task_of(config))


def _plain(values: tuple[float, ...]) -> float | str:
    return values[0] if len(values) == 1 else ", ".join(f"{value:g}" for value in values)
