"""Ctrl-C, and SIGTERM that cluster managers send, end a sweep, at a moment when Ray can bear it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

if TYPE_CHECKING:
    from typing import Self

_SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupts:
    """Turns both signals into ``KeyboardInterrupt`` while it is entered: at once, or where ``deferred`` lets them."""

    def __init__(self) -> None:
        self._received = 0
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Self":
        self._before = self._listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A stretch that the first signal does not break: it ends one at the next ``check``, or after the stretch."""
        self._deferring = True
        try:
            yield
        except SystemExit as error:  # Ray takes SIGTERM for itself while it starts, and ends the process with it
            raise KeyboardInterrupt from error
        finally:
            self._deferring = False
            self._listen()
        self.check()

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` when a signal has come."""
        if self._received:
            raise KeyboardInterrupt

    def _listen(self) -> dict[int, Any]:
        return {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if not self._deferring or self._received > 1:
            raise KeyboardInterrupt


class StopBetweenSteps(Callback):
    """Lets a signal end Tune's loop between two of its steps.

    Tune itself would first wait 15 seconds for its trials to end in good order; here a trial may end at any moment,
    for its run folder holds all that the next launch needs.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times a second."""
        self._interrupts.check()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nothing reads; a handler of signals stays with its process."""
        return {"_interrupts": Interrupts()}
