"""Gradient steps a second of every algorithm at its published sizes on Hopper, each in turns with DiffCPS.

``python -m tests.benchmarks.algorithms`` takes two minutes: one member, one thread, eager steps on made-up data.
"""

import statistics
import time
from types import SimpleNamespace

import numpy as np

from diffcps import algorithms
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task
from diffcps.training import cost
from diffcps.training.learner import Learner

TASK = get_task("hopper-medium-v2")
TURNS, SECONDS, ROWS = 3, 1.5, 5000


def learner(name: str, **settings: object) -> Learner:
    """A member that has taken its first steps."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2, ROWS, TASK.observation_size), dtype=np.float32)
    data = SimpleNamespace(
        observations=states[0],
        actions=rng.uniform(-1, 1, (ROWS, TASK.action_size)).astype(np.float32),
        rewards=rng.random(ROWS, dtype=np.float32),
        next_observations=states[1],
        terminals=np.zeros(ROWS, np.float32),
    )
    found = Learner(official(TASK, name, seeds=1).with_settings(**settings), data, TASK.max_action)
    found.update(4)
    return found


def rate(own: Learner) -> float:
    """Steps a second."""
    begun, before = time.perf_counter(), own.step
    while time.perf_counter() - begun < SECONDS:
        own.update(4)
    return (own.step - before) / (time.perf_counter() - begun)


def main() -> None:
    """Print a line for each algorithm."""
    cost.prepare(1)
    base = learner("diffcps", policy_freq=1)
    for name in algorithms.names():
        own = learner(name)
        pairs = [(rate(own), rate(base)) for _ in range(TURNS)]
        median = statistics.median(first for first, _ in pairs)
        ratio = statistics.median(first / second for first, second in pairs)
        batch = own.algorithm.config.batch_size
        print(
            f"{name:9} {median:7.1f} steps/s, batch {batch:4}; DiffCPS at policy_freq 1 times {ratio:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
