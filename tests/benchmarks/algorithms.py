"""Gradient steps a second of every algorithm at its published sizes on Hopper, each in turns with DiffCPS.

``python -m tests.benchmarks.algorithms`` takes three minutes: one member, one thread, eager steps on made-up data. Of an
algorithm that learns in stages, and draws actions for the whole data set between them, the steps of each alone.
"""

import statistics
import time
from types import SimpleNamespace

import numpy as np

from diffcps import algorithms
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task
from diffcps.training.learner import Learner, Part
from diffcps.training.process import prepare_process

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
    found = Learner([Part(official(TASK, name, seeds=1).with_settings(**settings), data)], TASK.max_action)
    found.update(4)
    return found


def rate(own: Learner, kind: str | None = None) -> float:
    """Steps a second; of one kind of step if it is named."""
    begun, taken = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        if kind is None:
            own.update(4)
        else:
            for _ in range(4):
                own.engine.take(kind)
        taken += 4
    return taken / (time.perf_counter() - begun)


def main() -> None:
    """Print a line for each algorithm, or for each of its stages."""
    prepare_process(1)
    base = learner("diffcps", policy_freq=1)
    rows = [(name, {}) for name in algorithms.names()]
    rows.insert(1 + algorithms.names().index("idql"), ("idql", {"residual": False}))
    for name, settings in rows:
        own = learner(name, **settings)
        kinds = list(own.algorithm.kinds) if len(own.algorithm.stages) > 1 else [None]
        for kind in kinds:
            pairs = [(rate(own, kind), rate(base)) for _ in range(TURNS)]
            median = statistics.median(first for first, _ in pairs)
            ratio = statistics.median(first / second for first, second in pairs)
            batch = own.algorithm.kinds[kind].batch if kind else own.algorithm.config.batch_size
            title = " ".join([name, kind or "", *(f"{key}={value}" for key, value in settings.items())])
            print(
                f"{title:20} {median:7.1f} steps/s, batch {batch:4}; DiffCPS at policy_freq 1 times {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
