"""Bandits by name: one state, a behaviour distribution that is known exactly, and a reward for each action.

``ring``, ``ring-clean``, ``corners``, the energy sets ``swissroll``, ``8gaussians``, ``moons``, ``rings``, ``checkerboard`` and
``2spirals``, mixtures ``mixture-KxD`` of K Gaussians in D dimensions, and ``normal-S``, N(0, S²).
"""

import functools
import re
from collections.abc import Callable

from diffcps.errors import UserError, nearest
from diffcps.tasks.bandits import shapes
from diffcps.tasks.bandits.base import Bandit, forward_kl_optimum
from diffcps.tasks.bandits.blurred import Normal
from diffcps.tasks.bandits.ring import Ring
from diffcps.tasks.bandits.shapes import Checkerboard

__all__ = ["NAMED", "PATTERNS", "Bandit", "bandit", "forward_kl_optimum"]

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
"""Families of bandits: K ≤ 64 Gaussians in D ≤ 16 dimensions; a standard deviation S from .01 to 1."""


@functools.cache
def bandit(name: str) -> Bandit:
    """The bandit of that name.

    Raises ``UserError`` with the nearest name when there is none, or with the range of a family's numbers. Each number has
    one spelling, because two names would make two data sets of one bandit.
    """
    if name in NAMED:
        return NAMED[name]()
    if found := re.fullmatch(r"mixture-([0-9]+)x([0-9]+)", name):
        components, dimensions = int(found[1]), int(found[2])
        if not (1 <= components <= 64 and 1 <= dimensions <= 16):
            raise UserError(
                f"bandit {name!r}: it can have 1 to 64 Gaussians in 1 to 16 dimensions, for example mixture-5x2."
            )
        return _spelled(name, shapes.mixture(components, dimensions))
    if found := re.fullmatch(r"normal-([0-9]*\.?[0-9]+)", name):
        if not 0.01 <= float(found[1]) <= 1.0:
            raise UserError(f"bandit {name!r}: its standard deviation must be .01 to 1, for example normal-0.5.")
        return _spelled(name, Normal(float(found[1])))
    known = [*NAMED, *PATTERNS]
    raise UserError(f"no bandit is called {name!r}{nearest(name, known) or '.'} Known: {', '.join(known)}.")


def _spelled(name: str, found: Bandit) -> Bandit:
    if found.name != name:
        raise UserError(f"bandit {name!r}: write {found.name}.")
    return found
