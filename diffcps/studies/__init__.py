"""Studies: the paper's toy experiment and open questions. Each is a grid of trials and a page."""

from importlib import import_module
from typing import TYPE_CHECKING

from diffcps.errors import UserError, nearest

if TYPE_CHECKING:
    from diffcps.studies.study import Study

NAMES = (
    "toy", "covariance", "entropy", "constraint", "optimum", "capacity", "elbo-gap", "multimodality", "selection", "steps",
    "offline-selection", "claims", "robustness",
)  # fmt: skip


def get(name: str) -> "Study":
    """The study of that name. Importing it takes a second, because it imports matplotlib's figures.

    Raises ``UserError`` with the nearest name when there is none.
    """
    if name not in NAMES:
        raise UserError(f"no study is called {name!r}{nearest(name, NAMES) or '.'} Studies: {', '.join(NAMES)}.")
    study: Study = import_module(f"{__name__}.{name.replace('-', '_')}").STUDY
    return study
