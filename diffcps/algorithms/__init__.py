"""Learning algorithms: one file each, with the same functions in the same order.

``critic_loss, actor_loss, dual_loss, update, sample_actions``, and ``METRICS``, the names of what ``update`` gives. A new one
is such a file, a name in ``config.Algorithm`` and a line below.
"""

from types import ModuleType

from diffcps.algorithms import awr, bc, diffcps
from diffcps.config import Algorithm

_ALGORITHMS: dict[Algorithm, ModuleType] = {"diffcps": diffcps, "awr": awr, "bc": bc}


def get(name: Algorithm) -> ModuleType:
    """The algorithm of that name."""
    return _ALGORITHMS[name]
