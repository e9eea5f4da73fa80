"""Bandits by name: one state, a behaviour that is known exactly, and a reward for each action.

``ring``, ``ring-clean``, ``corners``, the energy sets ``swissroll``, ``8gaussians``, ``moons``, ``rings``, ``checkerboard`` and
``2spirals``, mixtures ``mixture-KxD`` of K Gaussians in D dimensions, and ``normal-S``, N(0, S²).
"""

import functools
import re
from collections.abc import Callable

from diffcps.bandits import shapes
from diffcps.bandits.base import Bandit
from diffcps.bandits.blurred import Normal
from diffcps.bandits.checkerboard import Checkerboard
from diffcps.bandits.optimum import Optimum, forward_kl_optimum
from diffcps.bandits.ring import Ring
from diffcps.errors import UserError, nearest

__all__ = ["NAMED", "PATTERNS", "Bandit", "Optimum", "bandit", "forward_kl_optimum"]

NAMED: dict[str, Callable[[], Bandit]] = {
    "ring": Ring,
    "ring-clean": shapes.ring_clean,
    "corners": shapes.corners,
    "swissroll": shapes.swissroll,
    "8gaussians": shapes.eight_gaussians,
    "moons": shapes.moons,
    "rings": shapes.rings,
    "checkerboard": Checkerboard,
    "2spirals": shapes.two_spirals,
}
PATTERNS = "mixture-KxD", "normal-S"
"""Families of them; K and D are whole numbers, S is a standard deviation."""


@functools.cache
def bandit(name: str) -> Bandit:
    """The bandit of that name. Raises ``UserError`` naming the nearest one when there is none."""
    if name in NAMED:
        return NAMED[name]()
    if found := re.fullmatch(r"mixture-([1-9]\d*)x([1-9]\d*)", name):
        components, dimensions = int(found[1]), int(found[2])
        if components > 64 or dimensions > 16:
            raise UserError(f"{name}: at most 64 Gaussians in at most 16 dimensions.")
        return shapes.mixture(components, dimensions)
    if (found := re.fullmatch(r"normal-(\d*\.?\d+)", name)) and 0.001 <= float(found[1]) <= 100:
        return Normal(float(found[1]))
    known = [*NAMED, *PATTERNS]
    raise UserError(f"no bandit is called {name!r}{nearest(name, known) or '.'} Known: {', '.join(known)}.")
