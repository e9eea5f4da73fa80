"""."""

import heapq
import math
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs import folder as runs_folder
from diffcps.runs import lock
from diffcps.runs.folder import RunFolder
from diffcps.runs.lock import Holder, holder
from diffcps.runs.plan import REPEATED, Plan, parsed, resume_command
from diffcps.text import shown

# How long trials still take, from what those that run tell of themselves.


def seconds_per_step(speed: float | None, whole: float | None, steps: int) -> float | None:
    """Over all of a trial, from its status; ``None`` where it has not got anywhere.

    Steps of cloning take less than the others, so a rate of the moment is not a trial's.

    Args:
        speed: ``steps_per_second``, of the moment.
        whole: ``seconds_whole``, what all of the trial takes; older trials do not tell.
        steps: of the whole trial.
    """
    if not speed:
        return None
    return whole / steps if whole and steps else 1.0 / speed


def until_the_end(running: Iterable[float], to_come: Iterable[float]) -> float:
    """Seconds until the last trial's end: each of ``to_come`` begins when the first of those that run has ended.

    Both are seconds of a trial each; at least one must run.
    """
    ends = list(running)
    heapq.heapify(ends)
    for seconds in to_come:
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)


TrialState = Literal["complete", "running", "failed", "stopped", "interrupted", "pending", "damaged"]
"""``stopped`` in good order; ``interrupted`` by a kill: its status says running, and nobody works on it; ``damaged``: its
status or its configuration cannot be read."""
SweepState = Literal["starting", "running", "stopped", "complete", "some failed", "damaged"]
"""``starting``: held, its data being read, not begun yet; ``stopped``: unfinished, and nobody works on it."""

QUIET_SECONDS = 1800.0
"""A status that is older counts as interrupted even in a sweep that is held. Between two are at most an evaluation or the
compiling of a step: minutes, on the slowest machines."""


@dataclass(frozen=True, eq=False)
class TrialEntry:
    """One trial as its status tells it."""

    key: str
    folder: Path
    """Its run folder; not there before the trial has started."""
    state: TrialState
    config: RunConfig | None = None
    """``None`` where it cannot be read."""
    status: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    """Why it failed, or what is damaged, in one line without passwords."""
    updated: float | None = None
    """``time.time()`` of its newest status."""

    @property
    def step(self) -> int:
        """Gradient steps taken."""
        return int(self.number("step") or 0)

    @property
    def steps(self) -> int:
        """Gradient steps of the whole trial; 0 where that is not known."""
        return self.config.steps if self.config else int(self.number("steps") or 0)

    @property
    def seconds_left(self) -> float | None:
        """Until its end, if it is running and has got anywhere yet."""
        speed = self.number("steps_per_second")
        if self.state != "running" or not speed:
            return None
        told = self.number("seconds_left")
        return (self.steps - self.step) / speed if told is None else told

    def number(self, name: str) -> float | None:
        """A number of the status (``steps_per_second``, ``last``, ``best``); ``None`` where there is none."""
        return _number(self.status, name)

    @property
    def environment(self) -> Mapping[str, Any]:
        """What ``environment.json`` says; empty before the trial has started, or where it cannot be read."""
        try:
            values = RunFolder(self.folder).environment
        except (UserError, OSError):
            return {}  # the trial's state does not depend on it
        return values if isinstance(values, Mapping) else {}


@dataclass(frozen=True, eq=False)
class SweepEntry:
    """One sweep."""

    folder: Path
    """Where its files are read."""
    results: str
    """Where the results folder is, a path or a URL."""
    plan: Plan | None = None
    """``None`` where ``sweep.json`` cannot be read, or is not there yet."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The content of ``sweep.json``."""
    trials: tuple[TrialEntry, ...] = ()
    """In the order of the plan; of a search, those that it has chosen so far, oldest first."""
    holder: Holder | None = None
    trouble: str = ""
    """Why it cannot be read."""

    @property
    def name(self) -> str:
        """Its name, by which it is resumed."""
        return self.folder.name

    @property
    def where(self) -> str:
        """Its folder as a person names it."""
        return f"{self.results}/{self.name}"

    @property
    def total(self) -> int:
        """Trials that it has when it is complete."""
        return max(self.plan.count if self.plan else 0, len(self.trials))

    @property
    def counts(self) -> Counter[str]:
        """State -> trials; those that a search has still to choose are pending."""
        count = Counter({state: 0 for state in get_args(TrialState)})
        count.update(trial.state for trial in self.trials)
        count["pending"] += self.total - len(self.trials)
        return count

    @property
    def state(self) -> SweepState:
        """What is going on with it."""
        if self.trouble:
            return "damaged"
        if self.holder is not None:
            return "running" if self.plan else "starting"
        count = self.counts
        if count["complete"] == self.total:
            return "complete"
        return "some failed" if count["complete"] + count["failed"] + count["damaged"] == self.total else "stopped"

    @property
    def touched(self) -> float | None:
        """``time.time()`` at which something last happened in it."""
        times = [trial.updated for trial in self.trials if trial.updated is not None]
        times += [self.holder.since] if self.holder else []
        begun = _moment(self.description.get("created")) or _modified(self.folder / "sweep.json")
        times += [at for at in (begun, _modified(self.folder / ".lock")) if at is not None]
        return max(times, default=None)

    def mean(self, name: Literal["last", "best"]) -> float | None:
        """The mean score over the trials that have one; ``None`` where there is none, or they are no common scale."""
        kinds = {
            trial.config.definition.score if trial.config and trial.config.definition else "" for trial in self.trials
        }
        values = [value for trial in self.trials if (value := trial.number(name)) is not None]
        return statistics.fmean(values) if values and len(kinds) == 1 else None

    def seconds_left(self) -> float | None:
        """Until its end with as many trials at once as now; ``None`` unless it is running and a speed is known."""
        speeds = _SecondsPerStep(self.trials)
        if self.state != "running" or not speeds.known:
            return None
        running = [
            trial.seconds_left or (trial.steps - trial.step) * speeds.of(trial.config)
            for trial in self.trials
            if trial.state == "running" and trial.config
        ]
        if not running:
            return None
        return until_the_end(running, (steps * speeds.of(config) for config, steps in self._to_come()))

    def _to_come(self) -> Iterator[tuple[RunConfig, int]]:
        """(configuration, gradient steps to go) of each trial whose turn is still to come in this launch."""
        assert self.plan is not None
        since = self.holder.since if self.holder else 0.0
        for trial in self.trials:
            again = trial.state == "failed" and (trial.updated or 0.0) < since
            if trial.config and (again or trial.state in ("pending", "stopped", "interrupted")):
                yield trial.config, trial.steps - trial.step
        if self.plan.search:
            chosen = Counter(trial.config.task for trial in self.trials if trial.config)
            for base in self.plan.trials:
                yield from [(base, base.steps)] * (self.plan.search.trials - chosen[base.task])

    @property
    def resume(self) -> str:
        """The command that goes on with it."""
        command = self.description.get("command")
        words = [str(word) for word in command] if isinstance(command, list) else []
        return resume_command(self.name, self.results, words[0] if words else "", _repeated(words))


class _SecondsPerStep:
    """How long a gradient step of a trial takes, from trials of its kind, else of its task, else from any."""

    def __init__(self, trials: Sequence[TrialEntry]) -> None:
        self.known: dict[object, list[float]] = defaultdict(list)
        for trial in trials:
            pace = seconds_per_step(trial.number("steps_per_second"), trial.number("seconds_whole"), trial.steps)
            if trial.config and pace:
                for kind in self._kinds(trial.config):
                    self.known[kind].append(pace)

    @staticmethod
    def _kinds(config: RunConfig) -> tuple[object, ...]:
        return (config.task, config.algorithm, config.settings, len(config.members)), config.task, None

    def of(self, config: RunConfig) -> float:
        """Seconds; there must be one trial with a speed."""
        return statistics.fmean(next(self.known[kind] for kind in self._kinds(config) if kind in self.known))


def read(folder: Path, results: str) -> SweepEntry | None:
    """The sweep in a folder; ``None`` when it holds none. What is damaged is in the entry's ``trouble``."""
    try:
        note = folder / lock.LEASE
        held = holder(folder) or (lock.noted(note.read_bytes()) if note.exists() else None)
        if not (folder / "sweep.json").exists():
            return SweepEntry(folder, results, holder=held) if held else None
        description = read_json(folder / "sweep.json")
        plan = parsed(description, folder / "sweep.json")
        return SweepEntry(folder, results, plan, description, tuple(_trials(folder, plan, held)), held)
    except UserError as error:
        return SweepEntry(folder, results, trouble=_line(error))
    except OSError as error:
        return SweepEntry(folder, results, trouble=f"{results}/{folder.name} cannot be read: {error.strerror}.")


def _trials(folder: Path, plan: Plan, held: Holder | None) -> Iterator[TrialEntry]:
    """Every trial of the plan; of a search those that have a run folder."""
    root = folder / "runs"
    existing = {entry.name for entry in os.scandir(root) if entry.is_dir()} if root.exists() else set()
    now = time.time()
    if plan.search is None:
        for config in plan.trials:
            key = config.key
            known = key in existing
            yield _trial(root / key, config, held, now) if known else TrialEntry(key, root / key, "pending", config)
        return
    made = {name: _modified(root / name / "config.json") for name in existing}
    for name, _ in sorted(
        ((name, at) for name, at in made.items() if at is not None), key=lambda item: (item[1], item[0])
    ):
        try:
            yield _trial(root / name, RunFolder(root / name).config, held, now)
        except UserError as error:
            yield TrialEntry(name, root / name, "damaged", trouble=_line(error))


def _trial(path: Path, config: RunConfig, held: Holder | None, now: float) -> TrialEntry:
    try:
        status = RunFolder(path).status
        if not isinstance(status, Mapping) or status.get("state") not in get_args(runs_folder.State):
            raise UserError(f"{path / 'status.json'} holds no status of a trial.")
    except UserError as error:
        return TrialEntry(path.name, path, "damaged", config, trouble=_line(error))
    updated = _number(status, "updated") or _modified(path / "status.json")
    state: TrialState = status["state"]
    at = updated or 0.0
    if state == "running" and (held is None or at < held.since or now - at > QUIET_SECONDS):
        state = "interrupted"
    trouble = _line(status.get("error") or "no reason was recorded") if state == "failed" else ""
    return TrialEntry(path.name, path, state, config, status, trouble, updated)


def _repeated(command: Sequence[str]) -> dict[str, str]:
    """Those flags of a recorded command that the command to go on repeats."""
    flags = {}
    for word, after in zip(command, [*command[1:], ""], strict=True):
        name, given, value = word.partition("=")
        flag = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flag in REPEATED:
            flags[flag] = value if given else after
    return flags


def _line(text: object) -> str:
    """The first line of an error, without passwords."""
    return shown((str(text).strip().splitlines() or [""])[0])


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None  # type: ignore[arg-type]


def _moment(created: object) -> float | None:
    """When the sweep was begun, from what ``sweep.json`` says."""
    try:
        return datetime.strptime(str(created), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
