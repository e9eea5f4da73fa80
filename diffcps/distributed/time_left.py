"""How long trials still take, from what those that run tell of themselves."""

import heapq
from collections.abc import Iterable


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
