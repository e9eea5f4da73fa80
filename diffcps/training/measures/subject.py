"""What a measure looks at: one policy, its task and its data."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffcps.algorithms.bc import Cloner
from diffcps.algorithms.policies import Weights
from diffcps.config import Member, RunConfig
from diffcps.data.transitions import Transitions
from diffcps.tasks.bandits import Bandit, bandit
from diffcps.tasks.registry import Task
from diffcps.training.evaluation import generator_of
from diffcps.training.policy import Policy

_PURPOSE = 3
"""Of the measures' random streams; the learner's and the evaluator's have lower ones."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One member's policy at one evaluation.

    A measure is a function of it alone: the same whatever the member's company, and at every attempt.
    """

    task: Task
    config: RunConfig
    member: Member
    policy: Policy
    """A pack of this one."""
    dataset: Transitions
    index: int
    """Of the evaluation."""
    threads: int = 1
    """At most so many threads step environments; no result depends on it."""
    heartbeat: Callable[[], None] = lambda: None
    """To be called now and then by what takes long."""

    @property
    def bandit(self) -> Bandit:
        """The bandit that its task is made of."""
        assert self.task.bandit is not None
        return bandit(self.task.bandit)

    @property
    def cloner(self) -> Cloner[Any]:
        """The algorithm, with a policy of one of the classes that a density is known of."""
        assert isinstance(self.policy.algorithm, Cloner)
        return self.policy.algorithm

    @property
    def weights(self) -> Weights:
        """Of the policy that acts in evaluations: the online one or its average."""
        return self.cloner.weights(self.policy.parameters, self.cloner.actors[self.config.evaluation.actor])

    @property
    def finite(self) -> bool:
        """Whether its networks are numbers: not so when training has diverged."""
        return all(bool(value.isfinite().all()) for value in self.policy.parameters.values())

    def generator(self, purpose: str) -> torch.Generator:
        """A random stream of its own for each purpose, on the policy's device; a function of seed, evaluation and purpose."""
        return generator_of(self._root(purpose), self.policy.algorithm.device)

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """The same for NumPy."""
        return np.random.default_rng(self._root(purpose))

    def _root(self, purpose: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.member.seed, _PURPOSE, self.index, zlib.crc32(purpose.encode())])
