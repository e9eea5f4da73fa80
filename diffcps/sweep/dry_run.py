"""How long a trial would take, from a few steps of its own computation timed on this machine."""

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from diffcps.config import RunConfig
from diffcps.envs import make_vector
from diffcps.tasks.registry import Environment, Task, task_of
from diffcps.training.learner import Learner


class Estimator:
    """Times each distinct computation once: same sizes and same algorithm take the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._steps: dict[Environment, float] = {}
        self._known: dict[tuple[object, ...], tuple[float, float, float]] = {}

    def seconds(self, trial: RunConfig) -> tuple[float, float]:
        """(learning, evaluation) in seconds; the second supposes that every episode lasts to its limit."""
        task = task_of(trial)
        count = len(trial.members)
        key = (trial.algorithm, trial.settings, count, task.observation_size, task.action_size, trial.evaluation)
        if key not in self._known:
            self._known[key] = self._time(trial, task)
        cloning, step, act = self._known[key]
        if task.environment not in self._steps:
            self._steps[task.environment] = _environment_step(trial, task)
        act += self._steps[task.environment] * count * trial.evaluation.episodes
        evaluations = -(-trial.steps // trial.evaluation.every)
        cloned = min(trial.steps, trial.value("behaviour_steps") or 0)
        return cloning * cloned + step * (trial.steps - cloned), act * task.episode_limit * evaluations

    def _time(self, trial: RunConfig, task: Task) -> tuple[float, float, float]:
        """Seconds of a gradient step of behaviour cloning, of one of the problem itself, and of an action of all episodes."""
        rng = np.random.default_rng(0)
        rows = 1000
        data = SimpleNamespace(
            observations=rng.standard_normal((rows, task.observation_size), dtype=np.float32),
            actions=rng.uniform(-1, 1, (rows, task.action_size)).astype(np.float32),
            rewards=np.zeros(rows, np.float32),
            next_observations=rng.standard_normal((rows, task.observation_size), dtype=np.float32),
            terminals=np.zeros(rows, np.float32),
        )
        learner = Learner(trial, data, task.max_action, self.device)

        def step(begin: int) -> float:
            def run() -> None:
                learner.step = begin
                learner.update(trial.value("policy_freq"))

            return self._median(run) / trial.value("policy_freq")

        cloned = trial.value("behaviour_steps") or 0
        cloning = step(0) if cloned else 0.0
        own = step(cloned)
        policy, count = learner.policy(), len(trial.members)
        generators = [torch.Generator(self.device).manual_seed(k) for k in range(count)]
        states = [data.observations[: trial.evaluation.episodes]] * count
        return cloning, own, self._median(lambda: policy.act(states, generators, trial.evaluation.candidates))

    def _median(self, work: Callable[[], object]) -> float:
        """Seconds that ``work`` takes: of half a second of runs the middle one, for a busy machine stalls some of them."""
        work()
        seconds: list[float] = []
        begun = time.perf_counter()
        while not seconds or time.perf_counter() - begun < 0.5:
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def _environment_step(trial: RunConfig, task: Task) -> float:
    """Seconds for one step of one environment, in a vector of them."""
    count, steps = 10, 20
    environments = make_vector(task, trial.physics, count)
    environments.reset(list(range(count)))
    actions, active = np.zeros((count, task.action_size), np.float32), np.ones(count, bool)
    start = time.perf_counter()
    for _ in range(steps):
        environments.step(actions, active)
    seconds = time.perf_counter() - start
    environments.close()
    return seconds / (steps * count)
