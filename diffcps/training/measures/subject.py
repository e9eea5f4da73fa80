"""What a measure looks at, one policy with its task and its data; and how the measures of a trial are taken."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms import streams
from diffcps.algorithms.bc import Cloner
from diffcps.algorithms.policies import Weights
from diffcps.algorithms.ways import OF_EVALUATION
from diffcps.config import Actor, Member, RunConfig
from diffcps.data.transitions import Transitions
from diffcps.tasks.bandits import Bandit, bandit
from diffcps.tasks.registry import Task, task_of
from diffcps.training.evaluation import Evaluator, generator_of
from diffcps.training.measures import MEASURES
from diffcps.training.measures.quadrature import NotFiniteError
from diffcps.training.policy import Policy


@dataclass(frozen=True, eq=False)
class Subject:
    """One member's policy at one evaluation.

    What is measured of it is the same at every attempt, and whatever policies are measured with it, up to rounding.
    """

    task: Task
    config: RunConfig
    member: Member
    policy: Policy
    """A pack of this one."""
    dataset: Transitions
    index: int
    """Of the evaluation."""
    held_out: Transitions | None = None
    """What was not learned from; ``None`` if that is nothing."""
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
        """The algorithm, one that ``has_density``."""
        assert isinstance(self.policy.algorithm, Cloner)
        return self.policy.algorithm

    @property
    def weights(self) -> Weights:
        """Of the policy that acts in evaluations: the online one or its average."""
        return self.weights_of(self.config.evaluation.actor)

    def weights_of(self, actor: Actor) -> Weights:
        """Of the online policy or its average."""
        return self.cloner.weights(self.policy.parameters, self.cloner.actors(self.cloner.config)[actor])

    def observed(self, observations: Tensor) -> Tensor:
        """What the policy's networks see of observations ``[N, o]``."""
        return self.policy.algorithm.observed(self.policy.parameters, observations[None])[0]

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
        return np.random.SeedSequence([self.member.seed, streams.MEASURES, self.index, zlib.crc32(purpose.encode())])


# Taking the measures of a trial ---------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What the measures give at one evaluation."""

    values: Mapping[str, NDArray[np.float64]]
    """Column -> ``[K]``; NaN for a member that has diverged."""
    samples: Mapping[str, NDArray[np.float64]]
    """Column -> ``[K, n]``: actions or paths to look at; empty unless asked for."""


class Measurer:
    """Takes the measures of a trial from the policies of a pack.

    Args:
        config: the trial.
        members: those in the pack.
        dataset: what they learn from.
        evaluator: rolls out these members, for trials that name other ways to act.
        threads: at most so many step environments.
        heartbeat: called now and then while measuring.
        held_out: what they do not learn from.
    """

    def __init__(
        self,
        config: RunConfig,
        members: Sequence[Member],
        dataset: Transitions,
        evaluator: Evaluator | None = None,
        threads: int = 1,
        heartbeat: Callable[[], None] = lambda: None,
        held_out: Transitions | None = None,
    ) -> None:
        self.config, self.members, self.dataset, self.evaluator = config, members, dataset, evaluator
        self.threads, self.heartbeat, self.held_out = threads, heartbeat, held_out

    @torch.no_grad()
    def __call__(self, policy: Policy, index: int, last: bool) -> Measured:
        """Measure every member of ``policy`` at evaluation ``index``; ``last``: of the trial, which leaves something to see."""
        task = task_of(self.config)
        subjects = [
            Subject(
                task=task,
                config=self.config,
                member=member,
                policy=policy.member(k),
                dataset=self.dataset,
                index=index,
                held_out=self.held_out,
                threads=self.threads,
                heartbeat=self.heartbeat,
            )
            for k, member in enumerate(self.members)
        ]
        rows = taken(subjects)
        values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        values |= self._other_ways(policy, index, last)
        leaving = [leave for name in self.config.measures if (leave := MEASURES[name].leaves)]
        if not (last and leaving):
            return Measured(values, {})
        left = [leaving[0](subject) for subject in subjects]
        return Measured(values, {name: np.stack([own[name] for own in left]) for name in left[0]})

    def _other_ways(self, policy: Policy, index: int, last: bool) -> dict[str, NDArray[np.float64]]:
        """Scores ``[K]`` of other ways to act, in the evaluation's episodes.

        A student has them at every evaluation; the others at the last one, and NaN in rows before it.
        """
        config, task = self.config, task_of(self.config)
        ways = algorithms.other_ways(config)
        if not (last or config.measures or any(way.always for way in ways)):
            return {}
        found = {}
        for way in ways:
            if not (last or way.always):
                found[way.column] = np.full(len(self.members), np.nan)
                continue
            assert self.evaluator is not None
            of_evaluation = way.name in OF_EVALUATION
            acting = policy if of_evaluation else policy.with_setting(way.name, way.value)
            rule = way.rule(config.evaluation) if of_evaluation else config.evaluation
            episodes = config.evaluation.episodes_at(last)
            rollouts = self.evaluator(acting, index, episodes, candidates=rule.candidates, actor=rule.actor)
            found[way.column] = task.normalised_score(rollouts.returns).mean(axis=1)
        return found


def taken(subjects: Sequence[Subject]) -> list[dict[str, float]]:
    """Every column's value for each of these policies of a trial; NaN for one that has diverged."""
    rows: list[dict[str, float]] = [{} for _ in subjects]
    for name in subjects[0].config.measures:
        measure = MEASURES[name]
        names = measure.columns(subjects[0].config, subjects[0].task)
        sound = [subject for subject in subjects if subject.finite]
        measured = iter(measure.together(sound) if sound and measure.together else _each(measure.take, sound))
        for row, subject in zip(rows, subjects, strict=True):
            found = next(measured) if subject.finite else {}
            row |= {column: float(found[column]) if found else float("nan") for column in names}
    return rows


def _each(measure: Callable[[Subject], Mapping[str, float]], subjects: Sequence[Subject]) -> list[Mapping[str, float]]:
    """Measure one policy after the other. One with finite parameters can still give numbers that are not: it gets no values."""
    found: list[Mapping[str, float]] = []
    for subject in subjects:
        subject.heartbeat()
        try:
            found.append(measure(subject))
        except NotFiniteError:
            found.append({})
    return found
