"""Ends a worker in which nothing moves: a lock, a device or a file system that never answers. Ray then starts it again.

Ray itself notices a process that has stopped as a whole. It does not notice a process of which only the training thread
hangs.
"""

import faulthandler
import time
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

from diffcps.runs.status import Progress, StatusFile

STUCK_SECONDS = 2 * 3600.0
"""Longest time without movement. Gradient steps and environment steps are movement. Compiling is not, and neither is
waiting for the other workers' evaluation, which can take most of an hour on a slow machine."""
_SET_AGAIN = 60.0
"""Seconds after which a heartbeat sets the timer again; setting it starts a thread."""


class Watchdog:
    """Ends this process, with exit status 1, when no heartbeat comes for some time after the first one.

    The timer is a C thread, which also runs while another thread holds the GIL. It writes every thread's stack to a file
    and leaves; the process cannot do anything else at that moment.

    Args:
        seconds: between two heartbeats; ``None``: the process is never ended.
        file: where the stacks are written; it is removed when this context ends in any other way.
    """

    def __init__(self, seconds: float | None, file: Path) -> None:
        self.seconds, self.path = seconds, file
        self._file: TextIOWrapper | None = None
        self._set_at = 0.0

    def heartbeat(self) -> None:
        """Something has moved."""
        if self.seconds is None:
            return
        now = time.monotonic()
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8")
        elif now - self._set_at < min(_SET_AGAIN, self.seconds / 10):
            return
        self._set_at = now
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._file)

    def following(self, progress: Progress | None) -> Progress:
        """A callback for progress that is also a heartbeat; it calls ``progress``."""

        def call(status: StatusFile) -> None:
            self.heartbeat()
            if progress is not None:
                progress(status)

        return call

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self.path.unlink(missing_ok=True)


def reason(stacks: str) -> str:
    """Why a watchdog ended its process, from what it wrote; its first line is ``Timeout (2:00:00)!``."""
    return f"nothing moved for {stacks.partition('(')[2].partition(')')[0]}"
