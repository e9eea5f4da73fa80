"""The one reader of trials and sweeps: what their folders hold, in every state, damaged ones included.

``sweep.json`` and each ``status.json`` are read at once. Configurations of planned trials come from the plan. Everything else
(``environment.json``, rows) is read when it is asked for, so that drivers and ``diffcps sweeps`` need no pandas.

A damaged file never hides other trials. A trial is ``damaged`` if its status, or its configuration, cannot be read; other
files that cannot be read are named in ``Trial.damages``.
"""

import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs import lock
from diffcps.runs.commands import repeated, resume_command, typed_command
from diffcps.runs.lock import Holder
from diffcps.runs.plan import Plan, parsed
from diffcps.runs.rows import evaluated, read_rows, record
from diffcps.runs.time_left import seconds_left
from diffcps.runs.trial import Trial, TrialState, modified, read_trial
from diffcps.text import first_line

if TYPE_CHECKING:
    import pandas as pd

IMPORTANCES = "importances.json"
"""File of a search: task -> axis -> Optuna's estimate of its importance."""
SweepState = Literal["starting", "running", "stopped", "complete", "some failed", "damaged"]
"""``starting``: a process holds it and reads its data. ``stopped``: not complete, and no process works on it. ``damaged``:
``sweep.json`` unreadable."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep, or another folder of run folders."""

    folder: Path
    """Where its files are read."""
    results: str
    """The results folder that holds it, a path or a URL."""
    trials: tuple[Trial, ...] = ()
    """In the order of the plan; trials that the plan does not list follow, oldest first."""
    plan: Plan | None = None
    """``None`` if there is no ``sweep.json``, or if it cannot be read."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The content of ``sweep.json``."""
    holder: Holder | None = None
    """The process that works on it."""
    trouble: str = ""
    """Why it cannot be read."""

    @property
    def name(self) -> str:
        """Its name, by which it is resumed."""
        return self.folder.resolve().name

    @property
    def where(self) -> str:
        """Its folder, as a path or a URL."""
        return f"{self.results}/{self.name}"

    @property
    def known(self) -> tuple[Trial, ...]:
        """The trials of known configuration."""
        return tuple(trial for trial in self.trials if trial.stored)

    @property
    def is_search(self) -> bool:
        """Whether Optuna chooses its trials."""
        return self.plan is not None and self.plan.search is not None

    @property
    def total(self) -> int:
        """Number of trials of the complete sweep."""
        return max(self.plan.count if self.plan else 0, len(self.trials))

    @property
    def counts(self) -> Counter[str]:
        """State -> number of trials; trials that a search has still to choose are pending."""
        count = Counter({state: 0 for state in get_args(TrialState)})
        count.update(trial.state for trial in self.trials)
        count["pending"] += self.total - len(self.trials)
        return count

    @property
    def state(self) -> SweepState:
        """Its state."""
        if self.trouble:
            return "damaged"
        count = self.counts
        if self.holder is not None or count["running"]:
            return "running" if self.plan else "starting"
        ended = count["complete"] + count["pruned"]
        if ended == self.total:
            return "complete"
        return "some failed" if ended + count["failed"] + count["damaged"] == self.total else "stopped"

    @property
    def touched(self) -> float | None:
        """``time.time()`` of the last change in it."""
        times = [trial.updated for trial in self.trials if trial.updated is not None]
        times += [self.holder.since] if self.holder else []
        begun = _moment(self.description.get("created")) or modified(self.folder / "sweep.json")
        times += [at for at in (begun, modified(self.folder / lock.LOCK)) if at is not None]
        return max(times, default=None)

    def mean(self, name: Literal["last", "best"]) -> float | None:
        """Mean score over the trials that have one and were not ended early.

        ``None`` without one, or if tasks are of several domains or kinds of score. A task without a domain is averaged with
        itself only.
        """
        scored = [trial for trial in self.known if trial.number(name) is not None and trial.state != "pruned"]
        kinds = {(trial.task.score, trial.task.domain or trial.task.name) for trial in scored}
        return statistics.fmean(trial.number(name) or 0.0 for trial in scored) if len(kinds) == 1 else None

    def seconds_left(self) -> float | None:
        """Seconds until its end, with as many trials at once as now; ``None`` unless it runs and a speed is known."""
        if self.state != "running" or self.plan is None:
            return None
        return seconds_left(self.plan, self.trials, self.holder.since if self.holder else 0.0)

    @property
    def importances(self) -> Mapping[str, Mapping[str, float]]:
        """Task -> axis -> share of the importance; empty for other sweeps, before a search's first report, and if unreadable."""
        file = self.folder / IMPORTANCES
        try:
            return read_json(file) if self.is_search and file.exists() else {}
        except UserError:
            return {}

    @property
    def resume(self) -> str:
        """The command that continues it."""
        command = self.description.get("command")
        words = [str(word) for word in command] if isinstance(command, list) else []
        if words and self.plan is not None and self.plan.preset == "study":  # only its own command writes its page
            return typed_command(words)
        return resume_command(self.name, self.results, words[0] if words else "", repeated(words))

    def trial_frame(self) -> "pd.DataFrame":
        """One row a trial: identity, settings, data, state."""
        import pandas as pd

        return pd.DataFrame([record(trial) for trial in self.known])

    def evaluation_frame(self) -> "pd.DataFrame":
        """One row an evaluation and member: step, score, and mean return and length over its episodes."""
        import pandas as pd

        parts = [pd.DataFrame(evaluated(trial)) for trial in self.known]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def episode_frame(self) -> "pd.DataFrame":
        """One row an episode of an evaluation: key, task, step, member, seed, episode, return, length, score."""
        found = self._rows("returns.csv")
        tasks = {trial.key: trial.task for trial in self.known}
        each = zip(found.get("key", []), found.get("return", []), strict=True)
        return found.assign(score=[float(tasks[key].normalised_score(value)) for key, value in each])

    def metric_frame(self) -> "pd.DataFrame":
        """One row a member and row of ``metrics.csv``: key, task, step, member, seed, then every training metric."""
        return self._rows("metrics.csv")

    def measure_frame(self) -> "pd.DataFrame":
        """One row a member and evaluation: key, task, step, member, seed, then what was measured; empty if that was nothing."""
        return self._joined(lambda trial: trial.measures)

    def _rows(self, name: str) -> "pd.DataFrame":
        """The intact rows of a CSV of every trial; see ``_joined``."""
        return self._joined(lambda trial: read_rows(trial.folder / name))

    def _joined(self, rows: Callable[[Trial], "pd.DataFrame"]) -> "pd.DataFrame":
        """The rows of every trial, with its key and task; NaN for what a trial does not have."""
        import pandas as pd

        parts = [(trial, rows(trial)) for trial in self.known]
        named = [rows.assign(key=trial.key, task=trial.task.name) for trial, rows in parts if not rows.empty]
        found = pd.concat(named, ignore_index=True) if named else pd.DataFrame()
        return found[["key", "task", *(name for name in found if name not in ("key", "task"))]] if named else found


def collect(folder: Path | str) -> Sweep:
    """Read a sweep's folder, another folder of run folders, or one run folder; ``diffcps.load_sweep`` is this function.

    It may be read while the sweep runs. Of a sweep whose results are in an object store, ``diffcps report`` makes a local copy.

    Raises ``UserError`` if there is neither a sweep nor a run folder, or if ``sweep.json`` cannot be read.
    """
    folder = Path(folder)
    sweep = read(folder, unplanned=True)
    if sweep is not None and sweep.trouble:
        raise UserError(sweep.trouble)
    if sweep is not None and sweep.plan is not None:
        return sweep
    if (folder / "config.json").exists():
        found = [read_trial(folder)]
    else:
        root = folder / "runs" if (folder / "runs").is_dir() else folder
        found = [*_others(root, (file.parent.name for file in root.glob("*/config.json")), {}, _alive_since(folder))]
    if not found:
        raise UserError(f"{folder} holds no sweep and no run folder. Give the folder of a sweep, results/NAME.")
    return Sweep(folder, str(folder.parent), tuple(found))


def read(folder: Path, results: str = "", unplanned: bool = False) -> Sweep | None:
    """The sweep in a folder; ``None`` if there is none. What is damaged is in ``trouble``, of the sweep or of a trial.

    Args:
        folder: of the sweep, or a local copy of its small files.
        results: the results folder that holds it, a path or a URL; by default the folder's parent.
        unplanned: whether run folders that the plan does not list are trials too.
    """
    results = results or str(folder.parent)
    file = folder / "sweep.json"
    try:
        holder = lock.holder(folder)
        if not file.exists():
            return Sweep(folder, results, holder=holder) if holder else None
        description = read_json(file)
        plan = parsed(description, file)
        found = trials(folder, plan, unplanned=unplanned)
        return Sweep(folder, results, tuple(found), plan=plan, description=description, holder=holder)
    except UserError as error:
        return Sweep(folder, results, trouble=first_line(error))
    except OSError as error:
        return Sweep(folder, results, trouble=f"{results}/{folder.name} cannot be read: {error.strerror}.")


def trials(
    folder: Path, plan: Plan, unplanned: bool = False, known: dict[str, RunConfig] | None = None
) -> Iterator[Trial]:
    """Every trial of a sweep, in the order of its plan; of a search those that have a run folder, oldest first.

    Args:
        folder: of the sweep.
        plan: its plan.
        unplanned: whether run folders that the plan does not list follow.
        known: configurations by key that need not be read again; those that are read are added.
    """
    root, alive = folder / "runs", _alive_since(folder)
    existing = {entry.name for entry in os.scandir(root) if entry.is_dir()} if root.exists() else set()
    planned = {} if plan.search else {config.key: config for config in plan.trials}
    for key, config in planned.items():
        yield read_trial(root / key, config, alive) if key in existing else Trial(key, root / key, "pending", config)
    if unplanned or plan.search:
        yield from _others(root, existing - planned.keys(), {} if known is None else known, alive)


def _others(root: Path, names: Iterable[str], known: dict[str, RunConfig], alive: float) -> Iterator[Trial]:
    """Trials that are not planned, in the order in which they were made."""
    made = {name: at for name in names if (at := modified(root / name / "config.json")) is not None}
    for name in sorted(made, key=lambda name: (made[name], name)):
        found = read_trial(root / name, known.get(name), alive)
        if found.stored:
            known[name] = found.stored
        yield found


def _alive_since(folder: Path) -> float:
    """``time.time()`` before which a status 'running' is of an earlier launch; 0 for a folder that is never locked."""
    if (holder := lock.holder(folder)) is not None:
        return holder.since
    return math.inf if lock.was_held(folder) else 0.0


def _moment(created: object) -> float | None:
    """``time.time()`` of the start of a sweep, from ``sweep.json``."""
    try:
        return datetime.strptime(str(created), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None
