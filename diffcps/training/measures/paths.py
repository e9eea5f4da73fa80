"""The measure ``paths``: where a policy goes in a maze, and where its data went."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms import streams
from diffcps.training.evaluation import Evaluator
from diffcps.training.measures.subject import Subject

EPISODES = 10
"""Of the policy."""
RECORDED = 30
"""Stretches of the data, if it has so many."""
POINTS = 100
"""Of each path, evenly spread over its time."""
LONGEST = 1000
"""Rows of a stretch of the data; D4RL's ants walk on after the goal."""


def to_look_at(subject: Subject) -> Mapping[str, NDArray[np.float64]]:
    """Columns ``x``, ``y`` in metres and ``path``, ``[paths·POINTS]``: a number of each path, of data below 0."""
    own = _walked(subject) if subject.finite else [np.full((1, 2), np.nan)] * EPISODES
    numbered = [*enumerate(own), *((-1 - n, path) for n, path in enumerate(_recorded(subject)))]
    points = np.concatenate([path[np.linspace(0, len(path) - 1, POINTS).round().astype(int)] for _, path in numbered])
    numbers = np.repeat([number for number, _ in numbered], POINTS)
    return {"path": numbers.astype(np.float64), "x": points[:, 0], "y": points[:, 1]}


def _walked(subject: Subject) -> list[NDArray[np.float64]]:
    """(x, y) ``[L, 2]`` of the policy in some episodes of its own."""
    seen: list[tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]] = []
    evaluator = Evaluator(
        subject.task,
        subject.config.physics,
        [subject.member],
        subject.config.evaluation.replaced(episodes=EPISODES, final_episodes=None),
        threads=subject.threads,
        heartbeat=subject.heartbeat,
        purpose=streams.PATHS,
    )
    with closing(evaluator):
        evaluator(
            subject.policy, subject.index, watch=lambda states, active: seen.append((states[:, :2].copy(), active))
        )
    positions, active = np.array([states for states, _ in seen]), np.array([moving for _, moving in seen])
    return [positions[active[:, n], n].astype(np.float64) for n in range(EPISODES)]


def _recorded(subject: Subject) -> list[NDArray[np.float64]]:
    """(x, y) ``[L, 2]`` of stretches of the data, each of one trajectory; the same stretches for every member."""
    here, there = (array[:, :2] for array in (subject.dataset.observations, subject.dataset.next_observations))
    breaks = np.flatnonzero((here[1:] != there[:-1]).any(axis=1)) + 1
    starts, ends = np.r_[0, breaks], np.r_[breaks, len(here)]
    chosen = np.sort(np.random.default_rng(0).permutation(len(starts))[:RECORDED])
    return [here[starts[n] : min(ends[n], starts[n] + LONGEST)].astype(np.float64) for n in chosen]
