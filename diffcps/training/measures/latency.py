"""The measure ``latency``: how long one action takes, by one state at a time, through PyTorch."""

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from diffcps.config import Actor
from diffcps.training.measures import ways_of_timing
from diffcps.training.measures.subject import Subject

ROUNDS = 5
SECONDS = 0.04
"""A round calls each function for at least so long."""


def take(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``: medians in microseconds, on this machine as busy as it is."""
    state = np.zeros((1, subject.task.observation_size), dtype=np.float32)
    generator = subject.generator("latency")
    policy = subject.policy

    def acting(actor: Actor, count: int) -> Callable[[], object]:
        return lambda: policy.act([state], [generator], count, actor)

    ways = ways_of_timing(subject.config)
    found = medians({f"us_{actor}_{count}": acting(actor, count) for actor, count in ways})
    return {name: 1e6 * seconds for name, seconds in found.items()}


def medians(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of a call of each function; they take turns, so what slows the machine for a while slows them all."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            end = time.perf_counter() + SECONDS
            while (begun := time.perf_counter()) < end:
                call()
                found[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in found.items()}
