"""Evaluations beside learning: a GPU takes gradient steps while a processor steps the simulators.

Policies act as frozen copies and by random streams of their own, so it makes no difference to any number when they do.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class StoppedError(Exception):
    """Nobody waits for this evaluation any more."""


def at_once(work: Callable[[], T]) -> "Future[T]":
    """A piece of work, done; its error is raised here."""
    done: Future[T] = Future()
    done.set_result(work())
    return done


class Beside:
    """Does one piece of work after the other, in a thread of its own, or at once.

    Args:
        device: where the work computes.
        apart: whether in a thread of its own.
    """

    def __init__(self, device: torch.device, apart: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "evaluation") if apart else None
        # in the stream of gradient steps an action would wait for all steps that are queued there
        self._stream = torch.cuda.Stream(device, priority=-1) if apart and device.type == "cuda" else None

    def start(self, work: Callable[[], T]) -> "Future[T]":
        """Begin a piece of work; without a thread of its own it is done when this returns, and its error is raised here."""
        if self._pool is None:
            return at_once(work)
        ready = torch.cuda.current_stream(self._stream.device).record_event() if self._stream is not None else None
        return self._pool.submit(self._streamed, work, ready)

    def _streamed(self, work: Callable[[], T], ready: "torch.cuda.Event | None") -> T:
        """The work, on a GPU in a stream of its own, once what was queued before it began is ``ready``."""
        if self._stream is None:
            return work()
        with torch.cuda.stream(self._stream):
            assert ready is not None
            self._stream.wait_event(ready)
            try:
                return work()
            finally:
                self._stream.synchronize()  # memory that it has read may be freed from now on

    def rest(self) -> None:
        """Wait until no work is left."""
        if self._pool is not None:
            self._pool.submit(lambda: None).result()

    def close(self) -> None:
        """End the thread, once the work that it does is done; what has not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
