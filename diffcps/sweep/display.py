"""A live view of a sweep, read from its run folders: a table on a terminal, plain lines in a log."""

import contextlib
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import Plan
from diffcps.runs.read import seconds_per_step, until_the_end
from diffcps.storage.location import Location
from diffcps.text import duration, progress, tally

TERMINAL_SECONDS, LOG_SECONDS, REMOTE_SECONDS = 1.0, 30.0, 10.0
SHARE = 20
"""Seconds between two looks for each second that a look takes."""
MOST_ROWS = 20
BARE = "profile", "algorithm", "policy"
"""Settings whose values need no name to be understood."""
STATES = "running", "failed", "damaged", "stopped", "complete", "pending"
"""In the order in which trials are shown."""


class Board:
    """Shows a sweep from a thread of its own while the caller waits in ``with``."""

    def __init__(self, plan: Plan, location: Location, console: Console, quiet: bool = False) -> None:
        self.plan, self.location, self.console, self.quiet = plan, location, console, quiet
        self.started = time.monotonic()
        self._refreshed = -REMOTE_SECONDS
        self._names = names(plan.trials)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "Board":
        if not self.quiet:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if not self.quiet:
            self._thread.join()

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Trial name -> status, those running first; trials without a run folder are pending.

        The state is ``damaged``, with an ``error``, where the status cannot be read: that must not hide the others.
        """
        self._refresh()
        folders = {path.name: RunFolder(path) for path in (self.location.folder / "runs").glob("*")}
        found = {name: _status(folder) for name, folder in folders.items()}
        if self.plan.search is None:
            planned = {trial.key: {"state": "pending", "step": 0, "steps": trial.steps} for trial in self.plan.trials}
            found = {key: found.get(key, status) for key, status in planned.items()}
        return dict(sorted(found.items(), key=lambda item: STATES.index(item[1]["state"])))

    def _refresh(self) -> None:
        """Learn how far trials are that other machines record in an object store."""
        if self.location.remote is not None and time.monotonic() - self._refreshed > REMOTE_SECONDS:
            self._refreshed = time.monotonic()
            # what is shown may be late; whether the store is lost for good is for the sweep to say
            with contextlib.suppress(UserError):
                self.location.refresh("runs", patience=REMOTE_SECONDS)

    def _show(self) -> None:
        if not self.console.is_terminal:
            known = self.statuses()
            while not self._ended.wait(LOG_SECONDS):
                before, known = known, self.statuses()
                lines = [*self.lines(known), *self.news(before, known)]
                self.console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
            for line in self.news(known, self.statuses()):  # of the last half minute
                self.console.print(line, highlight=False, soft_wrap=True, markup=False)
            return
        pause = TERMINAL_SECONDS
        with Live(self.table(), console=self.console, refresh_per_second=4, transient=True) as live:
            while not self._ended.wait(pause):
                begun = time.monotonic()
                live.update(self.table())
                # reading a thousand statuses takes a second: looking must not take a core from what is looked at
                pause = max(TERMINAL_SECONDS, SHARE * (time.monotonic() - begun))

    def name(self, key: str) -> str:
        """What a trial is called here; of a search it may be one that was not planned."""
        return self._names.get(key, _trial(key))

    def heading(self, statuses: dict[str, dict[str, Any]]) -> str:
        """Trials by state, the time so far, and what all of them together still need, in one line."""
        count = Counter(status["state"] for status in statuses.values())
        count["pending"] += self.plan.count - sum(count.values())
        said = [f"{self.plan.name}: {tally(count)}", duration(time.monotonic() - self.started)]
        if speed := sum(_speed(status) for status in statuses.values()):
            said += [f"{speed:.1f} steps/s", f"about {duration(self._seconds_left(statuses))} left"]
        return " · ".join(said)

    def _seconds_left(self, statuses: Mapping[str, Mapping[str, Any]]) -> float:
        """Of all trials that are running or pending, those of a search that has not chosen them too, as many at once as now."""
        planned = {trial.key: trial.steps for trial in self.plan.trials}
        usual = self.plan.trials[0].steps
        moving = [status for status in statuses.values() if _speed(status)]
        paces = [seconds_per_step(_speed(one), one.get("seconds_whole"), one["steps"]) for one in moving]
        step = statistics.fmean(pace for pace in paces if pace)
        running: list[float] = []
        to_come = [step * usual] * (self.plan.count - len(statuses))
        for name, status in statuses.items():
            if status["state"] in ("running", "pending"):
                steps = max(0, (status.get("steps") or planned.get(name, usual)) - status.get("step", 0))
                left = status.get("seconds_left") if _speed(status) else None
                (running if status["state"] == "running" else to_come).append(step * steps if left is None else left)
        return until_the_end(running, to_come)

    def news(self, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """A line for each trial that has come to an end between two looks: its scores, or why it has failed."""
        ended = [name for name in now if now[name]["state"] != before.get(name, {}).get("state", "pending")]
        found = []
        for name in ended:
            status = now[name]
            if status["state"] in ("failed", "damaged"):
                found.append(f"  {self.name(name)}  {status['state']}: {_reason(status)}")
            elif status["state"] == "complete" and "last" in status:
                found.append(f"  {self.name(name)}  complete  last {status['last']:.1f}  best {status['best']:.1f}")
        return found

    def lines(self, statuses: Mapping[str, dict[str, Any]] | None = None) -> list[str]:
        """The same as plain lines, for a log."""
        statuses = self.statuses() if statuses is None else dict(statuses)
        shown = [self._cells(name, status) for name, status in statuses.items() if status["state"] == "running"]
        labels = "{}", "{}", "{}", "{}", "{} left", "last {}", "best {}"
        return [
            self.heading(statuses),
            *("  " + "  ".join(label.format(cell) for label, cell in zip(labels, cells, strict=True) if cell)
              for cells in shown),
        ]  # fmt: skip

    def table(self) -> Table:
        """The view on a terminal."""
        statuses = self.statuses()
        table = Table(title=self.heading(statuses), title_justify="left", title_style="bold", expand=False)
        for column in ("trial", "state", "progress", "steps/s", "time left", "last", "best"):
            table.add_column(
                column, justify="left" if column in ("trial", "state") else "right", no_wrap=column != "trial"
            )
        for name, status in list(statuses.items())[:MOST_ROWS]:
            cells = self._cells(name, status)
            if status["state"] in ("failed", "damaged"):
                cells[2:] = [_reason(status, 60), "", "", "", ""]
            table.add_row(*map(escape, cells))
        if len(statuses) > MOST_ROWS:
            table.caption = f"and {len(statuses) - MOST_ROWS} more"
        return table

    def _cells(self, name: str, status: dict[str, Any]) -> list[str]:
        steps, step = status.get("steps") or 0, status.get("step", 0)
        running = status["state"] == "running"
        speed = status.get("steps_per_second") if running else None
        left = status.get("seconds_left") if running else None
        return [
            self.name(name),
            status["state"],
            progress(step, steps),
            f"{speed:.1f}/s" if speed else "",
            duration(left) if left is not None else "",
            f"{status['last']:.1f}" if "last" in status else "",
            f"{status['best']:.1f}" if "best" in status else "",
        ]


def names(trials: Sequence[RunConfig]) -> dict[str, str]:
    """Key -> a trial's key without its hash and, where several share that, the settings that tell them apart."""
    alike: dict[str, list[RunConfig]] = {}
    for trial in trials:
        alike.setdefault(_trial(trial.key), []).append(trial)
    found: dict[str, str] = {}
    for name, group in alike.items():
        settings = [
            {"algorithm": one.algorithm, "profile": one.profile, **one.settings}
            | {"steps": one.steps, "rows": one.data.rows, "physics": one.physics}
            for one in group
        ]
        told: list[list[str]] = [[] for _ in group]
        for key in (*BARE, *(key for key in settings[0] if key not in (*BARE, "seed"))):
            words = [f"{own[key]}" if key in BARE else f"{key} {own[key]}" for own in settings]
            more = [[*before, word] for before, word in zip(told, words, strict=True)]
            if len(set(map(tuple, more))) > len(set(map(tuple, told))):
                told = more
        found |= {one.key: " ".join([name, *words]) for one, words in zip(group, told, strict=True)}
    return found


def _trial(name: str) -> str:
    """A trial's key without its hash."""
    return name.rsplit("_", 1)[0].replace("_", " ")


def _reason(status: Mapping[str, Any], most: int = 200) -> str:
    """Why a trial has failed, on one line."""
    return " ".join(str(status.get("error", "")).split())[:most]


def _speed(status: Mapping[str, Any]) -> float:
    return float(status.get("steps_per_second") or 0.0) if status["state"] == "running" else 0.0


def _status(folder: RunFolder) -> dict[str, Any]:
    try:
        status = folder.status
    except UserError as error:
        return {"state": "damaged", "step": 0, "error": str(error)}
    if not isinstance(status, dict) or status.get("state") not in STATES:
        return {"state": "damaged", "step": 0, "error": f"{folder.path / 'status.json'} holds no status."}
    return status
