"""Ends a worker that is stuck: a lock, a device or a file system that never answers. Ray starts it again elsewhere.

Ray itself sees a worker that is stopped as a whole, for then nobody answers it; it does not see one in which only the
training thread stands still.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger(__name__)

STUCK_SECONDS = 2 * 3600.0
"""How long nothing may move. Steps of gradient and environment move; compiling and waiting for the other workers'
evaluation do not, and on a slow machine the latter may take most of an hour."""
_LAST_WORDS = 30.0
"""Seconds for writing down why; what is stuck may be the very disk that it is written to."""
EXIT = 75


class Watchdog:
    """Watches from its first ``beat`` on, while it is entered.

    Args:
        seconds: between two beats before it ends the process; ``None``: it only looks on.
        tell: called before that with a sentence, and with what every thread is doing.
    """

    def __init__(self, seconds: float | None, tell: Callable[[str, str], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self._ended = threading.Event()
        self._beaten = 0.0

    def beat(self) -> None:
        """Something has moved."""
        before, self._beaten = self._beaten, time.monotonic()
        if not before and self.seconds is not None:
            threading.Thread(target=self._watch, args=(self.seconds,), name="watchdog", daemon=True).start()

    def following(self, progress: Callable[[dict[str, Any]], None] | None) -> Callable[[dict[str, Any]], None]:
        """A callback for progress, which is a beat, and then goes on to ``progress``."""

        def call(status: dict[str, Any]) -> None:
            self.beat()
            if progress is not None:
                progress(status)

        return call

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def _watch(self, seconds: float) -> None:
        while not self._ended.wait(seconds / 20):
            if time.monotonic() - self._beaten > seconds:
                reason = f"nothing has moved for {seconds / 3600:.2g} h"
                logger.error("%s:\n%s", reason, stacks())
                words = threading.Thread(target=self.tell, args=(reason, stacks()), daemon=True)
                words.start()
                words.join(_LAST_WORDS)
                os._exit(EXIT)  # a thread that is stuck could not be ended by any exception


def stacks() -> str:
    """What every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
