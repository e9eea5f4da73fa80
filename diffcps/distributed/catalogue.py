"""What a results folder holds: its sweeps, how far their trials have come, how long they still take, how to go on.

Only small files are read (``sweep.json``, ``status.json``), whatever state they are in: a damaged one is told of where
it is, and hides nothing else. Whether a trial is being worked on follows from who holds the sweep's folder, not from
the status alone, which a killed worker leaves at ``running``.
"""

import math
import os
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from diffcps import runs
from diffcps.config import RunConfig
from diffcps.distributed import lease
from diffcps.distributed.folder import REPEATED, holder, resume_command
from diffcps.distributed.lease import Holder
from diffcps.distributed.place import results_folder
from diffcps.distributed.plan import Plan, parsed
from diffcps.distributed.time_left import seconds_per_step, until_the_end
from diffcps.errors import UserError, nearest
from diffcps.remote import Remote
from diffcps.runs import RunFolder, read_json
from diffcps.tracking.store import shown

TrialState = Literal["complete", "running", "failed", "stopped", "interrupted", "pending", "damaged"]
"""``stopped`` in good order; ``interrupted`` by a kill: its status says running, and nobody works on it; ``damaged``: its
status or its configuration cannot be read."""
SweepState = Literal["starting", "running", "stopped", "complete", "some failed", "damaged"]
"""``starting``: held, its data being read, not begun yet; ``stopped``: unfinished, and nobody works on it."""

QUIET_SECONDS = 1800.0
"""A status that is older counts as interrupted even in a sweep that is held. Between two are at most an evaluation or the
compiling of a step: minutes, on the slowest machines."""
_LOOK_PATIENCE = 20.0
"""Seconds for which a person waits for an object store that does not answer."""
_SMALL = re.compile(rf"[^/]+/(sweep\.json|{re.escape(lease.NAME)}|runs/[^/]+/(status|environment|config)\.json)")
"""Names of the files that are read, below the results folder."""


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
        return (config.task, config.algorithm, len(config.members)), config.task, None

    def of(self, config: RunConfig) -> float:
        """Seconds; there must be one trial with a speed."""
        return statistics.fmean(next(self.known[kind] for kind in self._kinds(config) if kind in self.known))


@dataclass(frozen=True)
class Results:
    """A results folder, as ``opened`` gives it."""

    folder: Path
    """Where its files are read."""
    name: str
    """Where it is: an absolute path, or a URL."""

    def sweeps(self) -> list[SweepEntry]:
        """Every sweep in it, the one that was touched last first; what is no sweep is left out.

        Raises ``UserError`` when there is no such folder.
        """
        try:
            folders = [Path(entry.path) for entry in os.scandir(self.folder) if entry.is_dir()]
        except OSError as error:
            raise UserError(
                f"the results folder {self.name} cannot be read: {error.strerror}. Name the folder that holds the sweeps "
                "with --results; sweeps are started with python tune/sweep_d4rl.py."
            ) from error
        found = [entry for folder in folders if (entry := read(folder, self.name)) is not None]
        return sorted(found, key=lambda entry: (-(entry.touched or 0.0), entry.name))

    def find(self, name: str) -> SweepEntry:
        """The sweep of a name, or in the folder of that path. Raises ``UserError`` when there is none."""
        elsewhere = Path(name).expanduser().resolve()
        for folder, results in ((self.folder / name, self.name), (elsewhere, str(elsewhere.parent))):
            if folder.name not in ("", ".", "..") and (entry := read(folder, results)) is not None:
                return entry
        if (self.folder / name / "runs").is_dir():
            raise UserError(f"{self.name}/{name} holds trials, but no sweep; `diffcps report {name}` tabulates them.")
        known = {entry.name: entry for entry in self.sweeps()}
        holds = f"It holds: {', '.join(sorted(known))}." if known else "It holds no sweep."
        raise UserError(f"no sweep is called {name!r} in {self.name}{nearest(name, known) or '.'} {holds}")


@contextmanager
def opened(results: str) -> Iterator[Results]:
    """The results folder at a path; or at a URL, of which a copy of the small files is read, deleted in the end.

    Raises ``UserError`` when the store of a URL may not be read or does not answer.
    """
    path, store = results_folder(results)
    if store is None:
        yield Results(path, str(path))
        return
    remote = Remote(store.url, _LOOK_PATIENCE)
    there = remote.names()
    with tempfile.TemporaryDirectory(prefix="diffcps-") as folder:
        remote.get([name for name in there if _SMALL.fullmatch(name)], Path(folder))
        yield Results(Path(folder), remote.url)


def read(folder: Path, results: str) -> SweepEntry | None:
    """The sweep in a folder; ``None`` when it holds none. What is damaged is in the entry's ``trouble``."""
    try:
        note = folder / lease.NAME
        held = holder(folder) or (lease.noted(note.read_bytes()) if note.exists() else None)
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
        if not isinstance(status, Mapping) or status.get("state") not in get_args(runs.State):
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
