"""What is refused before any work."""

from diffcps import algorithms
from diffcps.config import RunConfig
from diffcps.training import measures


def check(config: RunConfig) -> None:
    """Raise ``UserError`` when a trial cannot be trained, or one of its measures does not fit it."""
    algorithms.check_training(config)
    measures.check(config)
