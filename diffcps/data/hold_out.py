"""Holds out whole trajectories from training, for evaluation on unseen data."""

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms import streams
from diffcps.algorithms.settings import SAME_STATE
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError


def beginnings(data: Transitions, terminals_end: bool) -> NDArray[np.int64]:
    """Rows with which a trajectory begins: the first, those in another state than was reached, and those after a terminal.

    ``terminals_end=False``: not after a terminal, as in mazes where an episode continues after the goal.
    """
    ends = np.linalg.norm(data.next_observations[:-1] - data.observations[1:], axis=1) > SAME_STATE
    if terminals_end:
        ends |= data.terminals[:-1] > 0
    return np.concatenate([[0], 1 + np.flatnonzero(ends)])


def parted(
    data: Transitions, fraction: float, seed: int, terminals_end: bool = True
) -> tuple[Transitions, Transitions]:
    """What is learned from, and the trajectories that are held out: drawn at random until they have that share of the rows.

    ``info`` is that of the whole data set in both. Raises ``UserError`` when too few trajectories leave nothing to either.
    """
    starts = beginnings(data, terminals_end)
    lengths = np.diff([*starts, len(data)])
    order = np.random.default_rng([seed, streams.HOLDING]).permutation(len(starts))
    count = 1 + int(np.searchsorted(np.cumsum(lengths[order]), fraction * len(data)))
    if count >= len(starts):
        raise UserError(
            f"hold_out = {fraction:g}: of {len(starts)} trajectories ({data.info.path or data.info.source}) that leaves none to "
            "learn from. Hold out less, or take a data set of more trajectories."
        )
    held = np.zeros(len(starts), dtype=bool)
    held[order[:count]] = True
    rows = np.repeat(held, lengths)
    return data.rows(~rows), data.rows(rows)
