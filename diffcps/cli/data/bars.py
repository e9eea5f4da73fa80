"""How downloads are shown: bars on a terminal, a line now and then in a log."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from diffcps.data.download import Outcome

LOG_SECONDS = 10.0


def size(count: float) -> str:
    """A number of bytes for a person, three digits: ``7.39 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.95 else f"{count:.3g} {unit}"


class Bars:
    """Shows several downloads while the caller waits in ``with``; told about them as a ``download.Watcher``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._logs: dict[str, tuple[float, int, float]] = {}
        self._bars: dict[str, TaskID] = {}
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(), TransferSpeedColumn(),
                TimeRemainingColumn(compact=True), console=console, transient=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, task: str, have: int, total: int | None) -> None:
        """So many bytes of the task's file are here."""
        with self._lock:
            if self._live is None:
                self._log(task, have, total)
            elif task not in self._bars:
                self._bars[task] = self._live.add_task(task, completed=have, total=total)
            else:
                self._live.update(self._bars[task], completed=have, total=total)

    def say(self, task: str, text: str) -> None:
        """One line of its own."""
        self.console.print(f"{task}: {text}", markup=False, highlight=False, soft_wrap=True)

    def ended(self, task: str, outcome: Outcome) -> None:
        """The bar goes; the line stays."""
        with self._lock:
            if self._live is not None and task in self._bars:
                self._live.remove_task(self._bars.pop(task))
        self.say(task, outcome.state)

    def _log(self, task: str, have: int, total: int | None) -> None:
        now = time.monotonic()
        first, before, last = self._logs.setdefault(task, (now, have, now))
        if now - last < LOG_SECONDS or now == first:
            return
        self._logs[task] = first, before, now
        speed = (have - before) / (now - first)
        text = f"{size(have)}, {size(max(speed, 0))}/s"
        if total:
            left = f", {(total - have) / speed:.0f} s left" if speed > 0 else ""
            text = f"{have / total:.0%} of {size(total)}, {size(max(speed, 0))}/s{left}"
        self.say(task, text)
