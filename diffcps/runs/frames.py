"""Reads run folders, whatever state they are in, into trials and data frames. Needs no MLflow and no Ray."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs.folder import RunFolder
from diffcps.tasks.profiles import changed_settings
from diffcps.tasks.registry import Task, task_of

FloatArray = NDArray[np.float64]
SHOWN = "behaviour_loss", "lambda", "policy_q", "constraint", "target_kl"
"""Training metrics that a report shows."""


class Evaluations(NamedTuple):
    """All evaluations of one trial: n of them, K members, each of as many episodes as it had."""

    steps: NDArray[np.int64]
    """Gradient step of each, ``[n]``."""
    returns: tuple[FloatArray, ...]
    """Raw returns of each, ``[K, E]``; the last one may have more episodes than those before it."""
    lengths: tuple[FloatArray, ...]
    """Episode lengths in environment steps of each, ``[K, E]``."""

    def mean(self, values: Iterable[FloatArray], members: int) -> FloatArray:
        """Mean over the episodes of each evaluation, ``[n, K]``."""
        return np.array([value.mean(axis=1) for value in values]).reshape(-1, members)


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

    @cached_property
    def settings(self) -> Mapping[str, tuple[Any, ...]]:
        """The algorithm and each of its settings -> the values of the members, each once, in ascending order."""
        return {"algorithm": (self.config.algorithm,)} | {name: self.shared(name) for name in self.config.settings}

    def shared(self, name: str) -> tuple[Any, ...]:
        """The values that the members have for a setting, each once, in ascending order."""
        return tuple(sorted(set(self.config.values(name)), key=lambda value: (value is not None, value)))

    @cached_property
    def evaluations(self) -> Evaluations:
        """Every evaluation that is wholly in ``returns.csv``."""
        frame = read_rows(self.folder / "returns.csv") if self.folder else pd.DataFrame()
        if frame.empty:
            return Evaluations(np.zeros(0, dtype=np.int64), (), ())
        if not frame["step"].is_monotonic_increasing:
            frame = frame.sort_values("step", kind="stable")
        values = frame[["step", "member", "episode", "return", "length"]].to_numpy(np.float64)
        steps, starts = np.unique(values[:, 0], return_index=True)
        found = []
        for step, rows in zip(steps.astype(np.int64), np.split(values, starts[1:]), strict=True):
            shape = self.seeds, self.config.evaluation.episodes_at(bool(step == self.config.steps))
            if len(rows) == shape[0] * shape[1]:  # else a kill has cut it short
                ordered = rows[np.lexsort((rows[:, 2], rows[:, 1]))]
                found.append((step, ordered[:, 3].reshape(shape), ordered[:, 4].reshape(shape)))
        return Evaluations(
            np.array([step for step, *_ in found], dtype=np.int64),
            tuple(returns for _, returns, _ in found),
            tuple(lengths for *_, lengths in found),
        )

    @cached_property
    def scores(self) -> FloatArray:
        """Normalised score of each evaluation and member, mean over episodes, ``[n, K]``."""
        found = self.evaluations
        return found.mean(map(self.task.normalised_score, found.returns), self.seeds)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """``metrics.csv``: step, member, seed, then every training metric."""
        return read_rows(self.folder / "metrics.csv") if self.folder else pd.DataFrame()

    def metric(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one training metric; nan where a member's row was cut short."""
        if name in SHOWN:
            return self._shown[name]
        return _by_member(self.metrics, (name,), self.seeds)[name]

    def newest(self, name: str) -> float:
        """Mean over members of a training metric in the last row that has it for all of them; nan without one."""
        _, values = self.metric(name)
        values = values[~np.isnan(values).any(axis=1)]
        return float(values[-1].mean()) if len(values) else float("nan")

    @cached_property
    def _shown(self) -> Mapping[str, tuple[NDArray[np.int64], FloatArray]]:
        """What a report shows, without the rest: a thousand trials of full length would fill the memory."""
        frame = read_rows(self.folder / "metrics.csv", ("step", "member", *SHOWN)) if self.folder else pd.DataFrame()
        return _by_member(frame, SHOWN, self.seeds)

    @cached_property
    def changes(self) -> tuple[str, ...]:
        """Settings that differ from the task's own; see ``profiles.changed_settings``."""
        return tuple(changed_settings(self.config))

    @cached_property
    def measures(self) -> pd.DataFrame:
        """``measures.csv``: step, member, seed, then every measure; empty where nothing was measured."""
        return read_rows(self.folder / "measures.csv") if self.folder else pd.DataFrame()

    def measure(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one column of the measures."""
        return _by_member(self.measures, (name,), self.seeds)[name]

    @cached_property
    def samples(self) -> pd.DataFrame:
        """``samples.csv``: step, member, seed, a_0, …; empty where no actions were left."""
        return read_rows(self.folder / "samples.csv") if self.folder else pd.DataFrame()

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
                    **{name: _plain(values) for name, values in trial.settings.items()},
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
                        "return": trial.evaluations.mean(returns, trial.seeds).ravel(),
                        "length": trial.evaluations.mean(lengths, trial.seeds).ravel(),
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
    listed = [(values, RunConfig.from_dict(values)) for values in description.get("trials", ())]
    known = {config.key: (values, config) for values, config in listed}
    found: dict[str, Trial] = {}
    unreadable = []
    for path in sorted(candidates, key=lambda path: ((path / "config.json").stat().st_mtime, path.name)):
        try:
            trial = read_trial(path, known)
            found[trial.key] = trial
        except UserError as error:
            unreadable.append(str(error))

    search = description.get("search")
    trials = []
    for key, (_, config) in ({} if search else known).items():
        trials.append(found.pop(key) if key in found else Trial(key, config, task_of(config)))
    trials += found.values()
    expected = len(listed) * int(search["trials"]) if search else len(trials)
    if not trials and not unreadable and not description:
        raise UserError(f"{folder} holds no sweep and no run folder. Give the folder of a sweep, results/NAME.")
    return Sweep(folder, description, tuple(trials), expected, tuple(unreadable))


def read_trial(path: Path, known: Mapping[str, tuple[Mapping[str, Any], RunConfig]] | None = None) -> Trial:
    """Read one run folder. Raises ``UserError`` naming the file that is damaged.

    ``known``: by their keys trials that have been read already, as values and checked, which need not be checked again.
    """
    folder = RunFolder(path)
    values, config = (known or {}).get(path.name, (None, None))
    if config is None or read_json(path / "config.json") != values:
        config = folder.config
    return Trial(config.key, config, task_of(config), folder.status, folder.environment, path)


def read_rows(file: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The whole rows of a CSV that may still be written to, or that a kill has cut short; empty without a file.

    ``columns`` are those to read, where the file has them; by default all.
    """
    if not file.exists():
        return pd.DataFrame()
    content = file.read_bytes()
    width = content.partition(b"\n")[0].count(b",")
    if not content.endswith(b"\n") or content.count(b",") != width * content.count(b"\n"):
        lines = content.splitlines(keepends=True)
        content = b"".join(line for line in lines if line.endswith(b"\n") and line.count(b",") == width)
    if content.count(b"\n") < 2:
        return pd.DataFrame()
    return pd.read_csv(io.BytesIO(content), usecols=None if columns is None else lambda name: name in columns)


def _by_member(
    frame: pd.DataFrame, names: Sequence[str], members: int
) -> dict[str, tuple[NDArray[np.int64], FloatArray]]:
    """Steps ``[n]`` and values ``[n, K]`` of columns of ``metrics.csv``; without rows where it does not have one."""
    found = {name: (np.zeros(0, dtype=np.int64), np.zeros((0, members))) for name in names}
    present = [name for name in names if name in frame]
    if not frame.empty and present:
        steps, index = np.unique(frame["step"].to_numpy(np.int64), return_inverse=True)
        values = np.full((len(present), len(steps), members), np.nan)
        values[:, index, frame["member"].to_numpy(np.int64)] = frame[present].to_numpy(np.float64).T
        found |= {name: (steps, values[i]) for i, name in enumerate(present)}
    return found


def _plain(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else ", ".join(map(worded, values))


def worded(value: Any) -> str:
    """A setting's value in few characters."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return value if isinstance(value, str) else f"{value:.4g}"
