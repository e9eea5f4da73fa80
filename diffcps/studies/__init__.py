"""Studies: the paper's toy experiment and its open questions, each a grid of trials on the main path and a page."""

from diffcps.errors import UserError, nearest
from diffcps.studies import (
    capacity,
    constraint,
    covariance,
    elbo_gap,
    entropy,
    multimodality,
    selection,
    toy,
)
from diffcps.studies.results import Results
from diffcps.studies.study import Page, Scale, Study, write

__all__ = ["STUDIES", "Page", "Results", "Scale", "Study", "get", "write"]

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (toy, covariance, entropy, constraint, capacity, elbo_gap, multimodality, selection)
}


def get(name: str) -> Study:
    """The study of that name. Raises ``UserError`` naming the nearest one when there is none."""
    if name not in STUDIES:
        raise UserError(f"no study is called {name!r}{nearest(name, STUDIES) or '.'} Studies: {', '.join(STUDIES)}.")
    return STUDIES[name]
