"""Which trials can train as one pack."""

from collections.abc import Hashable

from diffcps import algorithms
from diffcps.algorithms.base import Algorithm
from diffcps.config import RunConfig
from diffcps.tasks.registry import task_of


def alike(trial: RunConfig) -> Hashable:
    """What trials that train as one pack have in common; for one that can only train alone, its key.

    They have the same algorithm and sizes, write rows and checkpoints at the same steps, and differ in such settings only in
    which members of a pack may differ.
    """
    algorithm, task = algorithms.get(trial.algorithm), task_of(trial)
    if algorithm.fill is not Algorithm.fill:
        return trial.key
    own = algorithm.settings.of_member()
    return (
        trial.algorithm,
        (task.observation_size, task.action_size, task.max_action),
        (trial.steps, trial.log_every, trial.evaluation.every, trial.checkpoint_minutes),
        frozenset((name, value) for name, value in trial.settings.items() if name not in own),
        trial.value("discount") == 0.0,  # see ``WithCritic.check_pack``
    )
