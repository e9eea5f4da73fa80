"""The measure ``samples``: a policy's own actions on a bandit against the behaviour's, and the best of 50."""

import numpy as np
from numpy.typing import NDArray

from diffcps.config import Actor
from diffcps.training.measures import CANDIDATES, TAUGHT, beside_student, chooses
from diffcps.training.measures.density import sample_recall
from diffcps.training.measures.quadrature import NotFiniteError
from diffcps.training.measures.subject import Subject

COUNT = 4000
"""Actions drawn from the policy, and from the behaviour to compare them with."""
BEST_COUNT = 1000
"""Actions drawn as the best of 50."""
LOOKED_AT = 1000
"""Actions that are left to look at."""
_DIRECTIONS = 64


def take(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``.

    ``sliced_wasserstein`` is the distance to as many fresh actions of the behaviour: samples of one distribution are not
    at zero either, but at some .01 of the spread.
    """
    found = subject.bandit
    own = actions(subject, "samples", COUNT, candidates=1)
    rng = subject.numpy_generator("behaviour")
    row = {
        "sliced_wasserstein": sliced_wasserstein(own, found.sample(COUNT, rng), directions(own.shape[1], rng)),
        "sample_off_support": float(found.off_support(own).mean()),
        "sample_value": float(found.value(own).mean()),
    }
    if found.modes is not None:
        row["sample_recall"] = sample_recall(found, own)
    if chooses(subject.config):
        best = actions(subject, "best", BEST_COUNT, candidates=CANDIDATES)
        row |= {"bestof_value": float(found.value(best).mean())}
        row |= {"bestof_off_support": float(found.off_support(best).mean())}
    if beside_student(subject.config):
        for actor in TAUGHT:
            own = actions(subject, "samples", COUNT, candidates=1, actor=actor)
            row |= {f"{actor}_off_support": float(found.off_support(own).mean())}
            row |= {f"{actor}_value": float(found.value(own).mean())}
            if found.modes is not None:
                row[f"{actor}_recall"] = sample_recall(found, own)
    return row


def to_look_at(subject: Subject) -> dict[str, NDArray[np.float64]]:
    """Columns ``a_0`` …, ``[n]``: actions for a picture; the first of those that are measured."""
    size = subject.task.action_size
    try:
        drawn = actions(subject, "samples", COUNT, candidates=1)
    except NotFiniteError:
        drawn = np.full((LOOKED_AT, size), np.nan)
    return {f"a_{j}": drawn[:LOOKED_AT, j] for j in range(size)}


def actions(
    subject: Subject, purpose: str, count: int, candidates: int, actor: Actor | None = None
) -> NDArray[np.float64]:
    """``[count, a]``: actions of the policy, each chosen from so many candidates, in the bandit's one state.

    Raises ``NotFiniteError`` when they are no numbers: training has diverged.
    """
    state = np.zeros((count, subject.task.observation_size), dtype=np.float32)
    actor = actor or subject.config.evaluation.actor
    (drawn,) = subject.policy.act([state], [subject.generator(purpose)], candidates, actor)
    if not np.isfinite(drawn).all():
        raise NotFiniteError(f"seed {subject.member.seed} gives actions that are no numbers")
    return drawn.astype(np.float64)


def directions(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``[L, size]`` unit vectors: evenly spread over a half circle in two dimensions, at random in more."""
    if size == 1:
        return np.ones((1, 1))
    if size == 2:
        angle = np.pi * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    drawn = rng.normal(size=(_DIRECTIONS, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def sliced_wasserstein(first: NDArray[np.float64], second: NDArray[np.float64], along: NDArray[np.float64]) -> float:
    """Mean over directions ``[L, d]`` of the 1-Wasserstein distance between projections of two sets ``[n, d]`` of one size.

    In one dimension the distance is the mean difference of values of the same rank.
    """
    left, right = (np.sort(points @ along.T, axis=0) for points in (first, second))
    return float(np.abs(left - right).mean())
