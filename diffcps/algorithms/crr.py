"""Critic-regularised regression (Wang et al., 2020, arXiv 2006.15134), in the form of d3rlpy's program.

Like AWAC, but the value of a state is the mean over four actions of the policy, a weight is cut off at 20 or is 1 where the
advantage is positive, the targets of critic and policy are copied every 100 steps, and the policy acts by a choice among its
own actions. What d3rlpy has otherwise: observations as they are, one critic and not the smaller of two, a mean that passes a
tanh, and a deviation that depends on the state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffcps.algorithms import awac, critics
from diffcps.algorithms.base import Copy, Network, Problem
from diffcps.algorithms.choosing import by_softmax
from diffcps.algorithms.observations import FACTS
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, TaskFacts
from diffcps.config.plain import setting

LARGEST_WEIGHT = 20.0
"""A regression weight is cut off here."""
COPIED_EVERY = 100
"""The targets move every so many steps."""
CANDIDATES = 4
"""Actions among which the policy chooses."""


@dataclass(frozen=True)
class Settings(awac.Settings):
    """The settings of a member."""

    batch_size: int = setting(100, "a positive whole number")
    """Transitions in one gradient step of one member."""
    hidden_layers: int = setting(2, "a positive whole number")
    """Hidden layers of the policy's network and of each critic."""
    target_rate: float = setting(1.0, "between 0 and 1")
    """τ, the rate at which both targets move; with 1 they are copied."""
    temperature: float = setting(1.0, "a positive number", search="0.1:10:log")
    """λ of the weights exp(advantage / λ)."""
    weight: Literal["exp", "binary"] = "exp"
    """Weight of an action: ``exp``, of its advantage; ``binary``, 1 where that is positive and 0 elsewhere."""


class CRR(awac.Weighted[Settings]):
    """Critic and weighted policy."""

    settings = Settings
    chooses = True
    acting: ClassVar[tuple[str, ...]] = ("actor", "target", *FACTS)
    samples = 4
    target_every = COPIED_EVERY
    next_actor = "target_actor"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        target = Copy([member.target_rate for member in members], COPIED_EVERY)
        self.networks["actor"] = Network(self.policy.layout, copies={"target_actor": target})
        self.draws = 1

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The same settings for all tasks; r − 1 where rewards are 1 at a goal."""
        changes = awac.of_task(task, {})
        return {**changes, "evaluation": {**changes.get("evaluation", {}), "candidates": CANDIDATES}}

    def weights(self, advantages: Tensor, pack: Pack) -> Tensor:
        """min(exp(A / λ), 20), or 1[A > 0]."""
        if self.config.weight == "binary":
            return (advantages > 0).to(advantages.dtype)
        return awac.exponential(advantages, pack.values["temperature"], LARGEST_WEIGHT)

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """One of N actions of the policy, drawn by softmax of min(Q1', Q2')."""
        candidates = self.policy.sample(self.policy.layout.layers(parameters["actor"]), observations, noise[0])
        value = critics.least_of_heads(self.critic, parameters["target"], observations)
        return self.problem.max_action * by_softmax(candidates, value, uniform)
