"""One trial: the loop, the learner, the engine that runs its steps, evaluation and measures."""

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.training import measures


def check(trial: RunConfig) -> None:
    """Raise ``UserError``, before any work, when a trial cannot be trained or one of its measures does not fit it."""
    algorithms.check_training(trial)
    measures.check(trial)
