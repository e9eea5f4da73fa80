"""The live view of a sweep, read from its run folders: a table on a terminal, lines in a log file."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diffcps import text
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs import read
from diffcps.runs.plan import Plan
from diffcps.runs.time_left import seconds_left
from diffcps.runs.trial import Trial
from diffcps.storage.location import Location
from diffcps.text import STYLES, Column, duration, if_known

TERMINAL_SECONDS, LOG_SECONDS, REMOTE_SECONDS = 1.0, 30.0, 10.0
SHARE = 20
"""Seconds between two looks for each second that a look takes: looking must not take a core from training."""
MOST_ROWS = 20
BARE = "algorithm", "profile", "policy"
"""Settings with values that are understood without their name."""
ORDER = "running", "failed", "damaged", "interrupted", "stopped", "complete", "pruned", "pending"
"""States in the order in which trials are listed."""


class Board:
    """Shows a sweep from a thread of its own while the caller waits inside ``with``.

    Args:
        plan: of the sweep.
        location: of its results.
        console: where it is shown.
        quiet: show nothing.
        every: seconds between two looks; by default 1 on a terminal and 30 in a log file.
    """

    def __init__(
        self, plan: Plan, location: Location, console: Console, quiet: bool = False, every: float | None = None
    ) -> None:
        self.plan, self.location, self.console, self.quiet = plan, location, console, quiet
        self.every = every or (TERMINAL_SECONDS if console.is_terminal else LOG_SECONDS)
        self.begun, self._clock = time.time(), time.monotonic()
        self._refreshed = -REMOTE_SECONDS
        self._names = names(plan.trials)
        self._known: dict[str, RunConfig] = {}
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

    def trials(self) -> list[Trial]:
        """Every trial as its run folder shows it now, running ones first; without those that a search has still to choose."""
        self._refresh()
        found = read.trials(self.location.folder, self.plan, known=self._known)
        return sorted(found, key=lambda trial: 0 if trial.doing else ORDER.index(trial.state))

    def _refresh(self) -> None:
        """Fetch statuses from an object store, now and then."""
        if self.location.remote is not None and time.monotonic() - self._refreshed > REMOTE_SECONDS:
            self._refreshed = time.monotonic()
            # an outdated view does no harm; the sweep itself reports a store that stays away
            with contextlib.suppress(UserError):
                self.location.refresh("runs", patience=REMOTE_SECONDS)

    def _show(self) -> None:
        if self.console.is_terminal:
            self._show_table()
        else:
            self._show_lines()

    def _show_table(self) -> None:
        pause = self.every
        with Live(self.table(), console=self.console, refresh_per_second=4, transient=True) as live:
            while not self._ended.wait(pause):
                begun = time.monotonic()
                live.update(self.table())
                pause = max(self.every, SHARE * (time.monotonic() - begun))

    def _show_lines(self) -> None:
        known = self.trials()
        while not self._ended.wait(self.every):
            before, known = known, self.trials()
            self._say([*self.lines(known), *self.news(before, known)])
        self._say(self.news(known, self.trials()))

    def _say(self, lines: Sequence[str]) -> None:
        if lines:
            text.say(self.console, "\n".join(lines))

    def heading(self, trials: Sequence[Trial]) -> str:
        """Number of trials in each state, time so far, speed, and time left, in one line."""
        count: Counter[str] = Counter(trial.state for trial in trials)
        count["pending"] += self.plan.count - sum(count.values())
        parts = [f"{self.plan.name}: {text.tally(count)}", duration(time.monotonic() - self._clock)]
        if speed := sum(_speed(trial) for trial in trials):
            parts.append(f"{speed:.1f} steps/s")
        if left := seconds_left(self.plan, trials, self.begun):
            parts.append(f"about {duration(left)} left")
        return " · ".join(parts)

    def news(self, before: Sequence[Trial], now: Sequence[Trial]) -> list[str]:
        """A line for each trial that has ended between two looks: its scores, or why it failed or was pruned."""
        states: Mapping[str, str] = {trial.key: trial.state for trial in before}
        found = []
        for trial in now:
            if trial.state == states.get(trial.key, "pending"):
                continue
            if trial.state in ("failed", "damaged", "pruned"):
                found.append(f"  {self.name(trial)}  {trial.state}: {trial.trouble}")
            elif trial.state == "complete":
                last, best = (if_known(trial.number(name)) for name in ("last", "best"))
                found.append(f"  {self.name(trial)}  complete  last {last}  best (oracle) {best}")
        return found

    def lines(self, trials: Sequence[Trial]) -> list[str]:
        """The running trials as lines for a log file."""
        labels = "{}", "{}", "{}", "{}", "{} left", "last {}", "best (oracle) {}"
        rows = [self._cells(trial) for trial in trials if trial.state == "running" or trial.doing]
        return [
            self.heading(trials),
            *(
                "  " + "  ".join(
                    cell if cell == _ENDS else label.format(cell) for label, cell in zip(labels, cells, strict=True) if cell
                )
                for cells in rows
            ),
        ]  # fmt: skip

    def table(self) -> Table:
        """The view on a terminal."""
        trials = self.trials()
        shown = trials[:MOST_ROWS]
        rows = [self._cells(trial) for trial in shown]
        titles = "trial", "state", "progress", "steps/s", "time left", "last", "best (oracle)"
        drops = 0, 0, 0, 2, 0, 0, 1
        columns = [
            Column(title, [row[i] for row in rows], right=title not in ("trial", "state"), drop=drop)
            for i, (title, drop) in enumerate(zip(titles, drops, strict=True))
        ]
        fitting, _ = text.fitting(columns, self.console.width)
        table = text.terminal_table(fitting, self.heading(trials), [STYLES[trial.state] for trial in shown])
        if len(trials) > MOST_ROWS:
            table.caption = Text(f"and {len(trials) - MOST_ROWS} more")
        return table

    def name(self, trial: Trial) -> str:
        """A trial's name in this view; a search has trials that were not planned."""
        return self._names.get(trial.key, _without_hash(trial.key))

    def _cells(self, trial: Trial) -> list[str]:
        if trial.state in ("failed", "damaged", "pruned"):
            return [self.name(trial), trial.state, trial.trouble[:60], "", "", "", ""]
        speed, left = _speed(trial), trial.seconds_left
        return [
            self.name(trial),
            trial.doing or trial.state,
            text.progress(trial.step, trial.steps),
            f"{speed:.1f}/s" if speed else "",
            _ENDS if trial.state == "running" and trial.step >= trial.steps > 0 else if_known(left, duration),
            if_known(trial.number("last")),
            if_known(trial.number("best")),
        ]


_ENDS = "last evaluation"
"""In place of the time left, once all gradient steps are taken."""


def names(trials: Sequence[RunConfig]) -> dict[str, str]:
    """Key -> the key without its hash, and the settings that tell trials with the same rest apart."""
    alike: dict[str, list[RunConfig]] = {}
    for trial in trials:
        alike.setdefault(_without_hash(trial.key), []).append(trial)
    found: dict[str, str] = {}
    for name, group in alike.items():
        settings = [
            {
                name: one.value(name)
                for name in ("algorithm", "profile", *one.settings, "steps", "data.rows", "physics", *one.compared)
            }
            for one in group
        ]
        told: list[list[str]] = [[] for _ in group]
        for key in dict.fromkeys([*BARE, *(name for own in settings for name in own)]):
            words = [f"{own.get(key)}" if key in BARE else f"{key} {own.get(key)}" for own in settings]
            more = [[*before, word] for before, word in zip(told, words, strict=True)]
            if len(set(map(tuple, more))) > len(set(map(tuple, told))):
                told = more
        found |= {one.key: " ".join([name, *words]) for one, words in zip(group, told, strict=True)}
    return found


def _without_hash(key: str) -> str:
    return key.rsplit("_", 1)[0].replace("_", " ")


def _speed(trial: Trial) -> float:
    return (trial.speed or 0.0) if trial.state == "running" else 0.0
