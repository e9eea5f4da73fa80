"""What ``status.json`` of a run folder says: a trial's state and how far it is, for views, resumes and people."""

from collections.abc import Callable, Mapping
from typing import Literal, TypedDict

State = Literal["pending", "running", "complete", "pruned", "failed", "stopped"]


class StatusFile(TypedDict, total=False):
    """The content of ``status.json``. Only ``state`` is always there; the numbers come with the first status of the loop."""

    state: State
    step: int
    """Gradient steps so far."""
    steps: int
    """Of the whole trial."""
    saved: int
    """The step of the newest checkpoint."""
    updated: float
    """``time.time()`` of the newest sign of life."""
    doing: str
    """What it does while it takes no steps: ``compiling``."""
    doing_since: float
    """``time.time()``."""
    steps_per_second: float
    """Of this attempt so far, with its evaluations; ``trials.speed_of`` counts learning alone."""
    seconds_left: float | None
    """To its end, by the speed of this attempt."""
    seconds_whole: float | None
    """Of the whole trial, from its first step to its end, by the same estimate."""
    seconds: Mapping[str, float]
    """How the time was spent, by purpose; see ``training.course.PURPOSES``."""
    last: float
    """The newest score, mean over members."""
    best: float
    """The best score so far, an oracle."""
    notes: list[str]
    """What a person should know: checkpoints that were skipped, an engine that did not work, a trial that diverges."""
    pruned: str
    """Why it was ended early."""
    error: str
    """Why it failed, in a sentence."""
    details: str
    """Of a failure: the traceback, empty for a user's mistake."""


Progress = Callable[[StatusFile], None]
"""Is told every status that is written."""
