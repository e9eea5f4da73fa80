"""Takes the measures of a trial."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diffcps.config import Member, RunConfig
from diffcps.data.transitions import Transitions
from diffcps.tasks.registry import task_of
from diffcps.training.measures.quadrature import NotFiniteError
from diffcps.training.measures.registry import MEASURES
from diffcps.training.measures.subject import Subject
from diffcps.training.policy import Policy


class Measured(NamedTuple):
    """What the measures give at one evaluation."""

    values: Mapping[str, NDArray[np.float64]]
    """Column -> ``[K]``; NaN for a member that has diverged."""
    samples: Mapping[str, NDArray[np.float64]]
    """Action dimension, ``a_0`` … -> ``[K, n]``: actions to look at; empty unless asked for."""


class Measurer:
    """Takes the measures of a trial from the policies of a pack, member by member.

    Args:
        config: the trial.
        members: those in the pack.
        dataset: what they learn from.
        threads: at most so many step environments.
        heartbeat: called now and then while measuring.
    """

    def __init__(
        self,
        config: RunConfig,
        members: Sequence[Member],
        dataset: Transitions,
        threads: int = 1,
        heartbeat: Callable[[], None] | None = None,
    ) -> None:
        self.config, self.members, self.dataset = config, members, dataset
        self.threads, self.heartbeat = threads, heartbeat or (lambda: None)

    @torch.no_grad()
    def __call__(self, policy: Policy, index: int, last: bool) -> Measured:
        """Measure every member of ``policy`` at evaluation ``index``; ``last``: of the trial, which leaves actions to see."""
        task = task_of(self.config)
        subjects = [
            Subject(
                task=task,
                config=self.config,
                member=member,
                policy=policy.member(k),
                dataset=self.dataset,
                index=index,
                threads=self.threads,
                heartbeat=self.heartbeat,
            )
            for k, member in enumerate(self.members)
        ]
        rows = [_taken(subject) for subject in subjects]
        values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        leaving = [leave for name in self.config.measures if (leave := MEASURES[name].actions)]
        if not (last and leaving):
            return Measured(values, {})
        actions = np.stack([leaving[0](subject) for subject in subjects])
        return Measured(values, {f"a_{j}": actions[:, :, j] for j in range(task.action_size)})


def _taken(subject: Subject) -> dict[str, float]:
    """Every column's value for one policy."""
    row: dict[str, float] = {}
    for name in subject.config.measures:
        measure = MEASURES[name]
        names = measure.columns(subject.config, subject.task)
        found: Mapping[str, float] = dict.fromkeys(names, float("nan"))
        if subject.finite:
            # parameters that are finite and give numbers that are not: the policy has diverged all the same
            with contextlib.suppress(NotFiniteError):
                found = measure.take(subject)
        row |= {column: float(found[column]) for column in names}
    return row
