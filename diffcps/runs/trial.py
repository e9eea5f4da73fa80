"""One trial as its run folder describes it, in every state, damaged ones included.

The status is read at once. Everything else (``environment.json``, rows) is read when it is asked for, so that drivers and
``diffcps sweeps`` need no pandas.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.folder import IDENTITY, RunFolder
from diffcps.runs.presets import changed_settings
from diffcps.runs.rows import Evaluations, by_member, evaluations, read_rows
from diffcps.runs.status import State, StatusFile
from diffcps.stats import FloatArray
from diffcps.tasks.registry import Task, task_of
from diffcps.text import duration, first_line, is_number

if TYPE_CHECKING:
    import pandas as pd

TrialState = Literal["complete", "pruned", "running", "failed", "stopped", "interrupted", "pending", "damaged"]
"""``stopped``: shut down cleanly. ``interrupted``: killed; the status is 'running', but no process works on it.
``pending``: not started. ``pruned``: ended early by the sweep's rule, for good. ``damaged``: status or configuration
unreadable."""
QUIET_SECONDS = 1800.0
"""A status that is older counts as interrupted even if a process holds the sweep. Between two statuses is at most an
evaluation or the compilation of a step: minutes, on the slowest machines."""
SHOWN = "behaviour_loss", "lambda", "policy_q", "constraint", "target_kl", "violation"
"""Training metrics that a report shows; they are read without the others, which would fill the memory for a large sweep."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial as its run folder describes it."""

    key: str
    folder: Path
    """Its run folder, which exists once the trial has started."""
    state: TrialState
    stored: RunConfig | None = None
    """Its configuration; ``None`` if it cannot be read."""
    status: StatusFile = field(default_factory=StatusFile)
    trouble: str = ""
    """Why it failed or was pruned, or what is damaged: one line without passwords."""
    updated: float | None = None
    """``time.time()`` of its newest status."""
    doing: str = ""
    """What it does while it takes no steps, ``compiling, 40 s``; else empty."""

    # What it is

    @property
    def config(self) -> RunConfig:
        """Its configuration. Raises ``UserError`` if it cannot be read."""
        if self.stored is None:
            raise UserError(self.trouble)
        return self.stored

    @cached_property
    def task(self) -> Task:
        """Its task."""
        return task_of(self.config)

    @property
    def seeds(self) -> int:
        """K."""
        return len(self.config.members)

    @cached_property
    def settings(self) -> Mapping[str, tuple[Any, ...]]:
        """The algorithm, each of its settings and those of evaluation -> the values of the members, each once, ascending."""
        found = {name: set(self.config.values(name)) for name in self.config.compared}
        return {"algorithm": (self.config.algorithm,)} | {
            name: tuple(sorted(values, key=ascending)) for name, values in found.items()
        }

    def values(self, name: str) -> tuple[Any, ...]:
        """The values that the members have for a setting, each once, ascending; empty if the algorithm does not have it."""
        return self.settings.get(name, ())

    @cached_property
    def changes(self) -> tuple[str, ...]:
        """Settings that differ from the task's; see ``presets.changed_settings``."""
        return tuple(changed_settings(self.config))

    # How far it is

    def number(self, name: str) -> float | None:
        """A number of the status (``steps_per_second``, ``last``, ``best``); ``None`` if it has none."""
        value = self.status.get(name)
        return float(value) if is_number(value) and math.isfinite(value) else None

    @property
    def step(self) -> int:
        """Gradient steps so far."""
        return int(self.number("step") or 0)

    @property
    def speed(self) -> float | None:
        """Gradient steps per second of learning, all K members at once, over the whole trial; ``None`` before the first."""
        return speed_of(self.status)

    @property
    def notes(self) -> list[str]:
        """Notes that it left: checkpoints that were skipped, engines that did not work."""
        found = self.status.get("notes")
        return [str(note) for note in found] if isinstance(found, list) else []

    @property
    def steps(self) -> int:
        """Gradient steps of the whole trial; 0 if unknown."""
        return self.stored.steps if self.stored else int(self.number("steps") or 0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its end; ``None`` unless it takes steps and its speed is known."""
        speed = self.number("steps_per_second")
        if self.state != "running" or self.doing or not speed or self.step >= self.steps:
            return None
        told = self.number("seconds_left")
        return (self.steps - self.step) / speed if told is None else told

    # What it ran on

    @property
    def environment(self) -> Mapping[str, Any]:
        """The content of ``environment.json``; empty before the trial has started, or if it cannot be read."""
        return self._environment[0]

    @cached_property
    def _environment(self) -> tuple[Mapping[str, Any], str]:
        """Content, and what is wrong with it."""
        file = self.folder / "environment.json"
        try:
            values = RunFolder(self.folder).environment
        except (UserError, OSError) as error:
            return {}, first_line(error)
        return (values, "") if isinstance(values, Mapping) else ({}, f"{file} holds no facts on an environment.")

    @property
    def damages(self) -> list[str]:
        """A sentence for each file that cannot be read, or that has lost rows since the trial ended."""
        damaged = [self.trouble] if self.state == "damaged" else []
        return [*damaged, *filter(None, [self._environment[1]]), *self._cut()]

    def _cut(self) -> Iterator[str]:
        """A sentence for each CSV of a complete trial without a row of its last step."""
        if self.state != "complete":
            return
        for name in ("metrics.csv", "returns.csv") if self.config.evaluation.episodes else ("metrics.csv",):
            rows = self.rows(name, IDENTITY)
            if rows.empty or rows["step"].max() < self.steps:
                yield (
                    f"{self.folder / name} has no row of step {self.steps:,}, where the trial ended: it was damaged later. "
                    "Restore it from a copy, or delete its folder and run again."
                )

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Facts on the data set; empty before the trial has started."""
        found = self.environment.get("dataset")
        return found if isinstance(found, Mapping) else {}

    @property
    def behaviour_score(self) -> float:
        """Normalised score of the data set's own trajectories; nan if none is complete."""
        return self.task.behaviour_score(self.dataset)

    # What it recorded

    def rows(self, name: str, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The intact rows of a CSV in its run folder; see ``rows.read_rows``."""
        return read_rows(self.folder / name, columns)

    @cached_property
    def evaluations(self) -> Evaluations:
        """Every complete evaluation in ``returns.csv``."""
        config = self.config
        rows = self.rows("returns.csv")
        return evaluations(rows, self.seeds, lambda step: config.evaluation.episodes_at(step == config.steps))

    @cached_property
    def scores(self) -> FloatArray:
        """Normalised score of each evaluation and member, mean over episodes, ``[n, K]``."""
        found = self.evaluations
        return found.mean(map(self.task.normalised_score, found.returns), self.seeds)

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """``metrics.csv``: step, member, seed, then every training metric."""
        return self.rows("metrics.csv")

    @cached_property
    def _shown(self) -> Mapping[str, tuple[NDArray[np.int64], FloatArray]]:
        return by_member(self.rows("metrics.csv", (*IDENTITY, *SHOWN)), SHOWN, self.seeds)

    def metric(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one training metric; nan for a member whose row is missing."""
        return self._shown[name] if name in SHOWN else by_member(self.metrics, (name,), self.seeds)[name]

    def newest(self, name: str) -> float:
        """Mean over members of a training metric in the last row that has it for all of them; nan without one."""
        _, values = self.metric(name)
        values = values[~np.isnan(values).any(axis=1)]
        return float(values[-1].mean()) if len(values) else float("nan")

    @cached_property
    def measures(self) -> "pd.DataFrame":
        """Step, member, seed, then every measured quantity, in training and afterwards; empty if nothing was measured."""
        along, afterwards = (self.rows(name) for name in ("measures.csv", "afterwards.csv"))
        if along.empty or afterwards.empty:
            return afterwards if along.empty else along
        names = dict.fromkeys([*along, *afterwards])
        both = along.set_index([*IDENTITY]).combine_first(afterwards.set_index([*IDENTITY]))
        return both.reset_index()[[*names]]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the quantities in ``measures``."""
        return tuple(name for name in self.measures.columns if name not in IDENTITY)

    def measure(self, name: str) -> tuple[NDArray[np.int64], FloatArray]:
        """Steps ``[n]`` and values ``[n, K]`` of one measured quantity."""
        return by_member(self.measures, (name,), self.seeds)[name]

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """``samples.csv``: step, member, seed, then what measures left to look at; empty if that was nothing."""
        return self.rows("samples.csv")


def read_trial(folder: Path, config: RunConfig | None = None, alive: float = 0.0) -> Trial:
    """One trial.

    Args:
        folder: its run folder.
        config: its configuration; by default it is read.
        alive: ``time.time()`` before which a status 'running' means that the trial was interrupted.
    """
    run = RunFolder(folder)
    try:
        config = run.config if config is None else config
        status = run.status
        if not isinstance(status, Mapping) or status.get("state") not in get_args(State):
            raise UserError(f"{folder / 'status.json'} holds no status of a trial.")
    except (UserError, OSError) as error:
        return Trial(folder.name, folder, "damaged", config, trouble=first_line(error))
    found = Trial(folder.name, folder, status["state"], config, status=status, doing=_doing(status, alive))
    updated = found.number("updated") or modified(folder / "status.json")
    if found.state == "failed":
        return replace(found, updated=updated, trouble=first_line(status.get("error") or "no reason was recorded"))
    if found.state == "pruned":
        return replace(found, updated=updated, trouble=first_line(status.get("pruned") or ""))
    dead = found.state == "running" and (updated or 0.0) < max(alive, time.time() - QUIET_SECONDS)
    return replace(found, updated=updated, state="interrupted" if dead else found.state)


def speed_of(status: StatusFile) -> float | None:
    """See ``Trial.speed``. Evaluations and waiting do not count; ``steps_per_second`` is of one attempt, with them."""
    step, seconds = status.get("step"), status.get("seconds")
    learning = seconds.get("learning") if isinstance(seconds, Mapping) else None
    if not isinstance(step, int) or not isinstance(learning, float) or learning <= 0.0:
        return None
    return step / learning if step else None


def _doing(status: StatusFile, alive: float) -> str:
    """See ``Trial.doing``; ``alive`` as for ``read_trial``."""
    since, now = status.get("doing_since"), time.time()
    if not isinstance(since, float) or status["state"] not in ("pending", "running", "stopped"):
        return ""
    updated = status.get("updated")
    updated = updated if isinstance(updated, float) else 0.0
    if status["state"] != "running" and since < updated:  # it was doing that when it ended
        return ""
    if max(since, updated) < max(alive, now - QUIET_SECONDS):
        return ""
    return f"{status.get('doing')}, {duration(now - since)}"


def varying(trials: Sequence[Trial]) -> list[str]:
    """Names of the settings that differ between trials of the same task and algorithm, those with a symbol first.

    Before them ``algorithm``, if that differs between trials of a task.
    """
    seen: dict[str, dict[tuple[str, ...], set[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(set))
    for trial in trials:
        for name, values in trial.settings.items():
            alike = (trial.task.name,) if name == "algorithm" else (trial.task.name, trial.config.algorithm)
            seen[name][alike].add(values)
    found = [name for name, tasks in seen.items() if any(len(values) > 1 for values in tasks.values())]
    first = ["algorithm", *symbols(trials)]
    return sorted(found, key=lambda name: first.index(name) if name in first else len(first))


def symbols(trials: Sequence[Trial]) -> dict[str, str]:
    """Setting -> its symbol, for those settings of the trials that have one."""
    return {name: str(symbol) for trial in trials for name, symbol in trial.config.symbols.items()}


def ascending(value: Any) -> tuple[Any, ...]:
    """Sort key of the values of a setting, which may be ``None``, numbers or words."""
    return value is not None, isinstance(value, str), value


def modified(path: Path) -> float | None:
    """Time of the last change of a file; ``None`` if it cannot be read."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
