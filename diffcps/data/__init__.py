"""Data sets as transitions that a learner learns from; ``library`` has the sources that they come from."""

from diffcps.data.library import load, missing
from diffcps.data.transitions import DatasetInfo, Episode, Transitions

__all__ = ["DatasetInfo", "Episode", "Transitions", "load", "missing"]
