"""ReBRAC (Tarasov et al., 2023, arXiv 2305.09836): TD3+BC with a penalty of its own for the critic, and layer norms in it.

The critic's goal is lowered by the squared distance of the target action to the data's next action. Where the data set does
not hold the next action, at the end of a part of a trajectory that was cut off, there is no such penalty. The targets follow
the updated networks; in the authors' program that of the policy lags one step behind. The policy learns in the first step,
unlike TD3+BC's. Where program and paper differ, on hopper-medium (β2 0.01 and 0.001), the program is followed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcps.algorithms import td3
from diffcps.algorithms.base import Batch, Problem, Stage
from diffcps.algorithms.nn import relu_norm
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.rewards import continues
from diffcps.algorithms.settings import Changes, TaskFacts, d4rl, published
from diffcps.config.plain import setting

STEPS = 1_000_000


@dataclass(frozen=True)
class Settings(td3.Settings):
    """The settings of a member. The defaults are those of the locomotion tasks."""

    batch_size: int = setting(1024, "a positive whole number")
    """Transitions in one gradient step of one member."""
    learning_rate: float = setting(1e-3, "a positive number")
    """Adam's learning rate for the policy."""
    critic_learning_rate: float = setting(1e-3, "a positive number")
    """Adam's learning rate for the critic."""
    actor_penalty: float = setting(0.01, "zero or more", search="0.001:0.1:log")
    """β1, weight of the squared distance to the data's actions in the policy's loss."""
    critic_penalty: float = setting(0.01, "zero or more", search="0.001:0.1:log")
    """β2, weight of the squared distance to the data's next action in the critic's goal."""


def actor_loss(values: Tensor, actions: Tensor, data: Tensor, penalty: Tensor) -> Tensor:
    """Mean of β1 Σ (π(s) − a)² − min Q / mean |min Q|, the divisor a constant, ``[K]``.

    ``values`` ``[K, 2, B]``; ``actions`` and ``data`` ``[K, B, a]`` in units of their bound; ``penalty`` ``[K]``.
    """
    least = values.amin(dim=1)
    distance = (actions - data).square().sum(dim=2).mean(dim=1)
    return penalty * distance - least.mean(dim=1) / least.detach().abs().mean(dim=1)


class ReBRAC(td3.TD3[Settings]):
    """Critic and deterministic policy."""

    settings = Settings
    policy_shape: ClassVar[Mapping[str, Any]] = {"activation": torch.relu, "last": 1e-3}
    critic_shape: ClassVar[Mapping[str, Any]] = {"activation": relu_norm, "last": 3e-3}
    reads = "next_actions", "has_next"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        self.stages = (Stage(("policy", *["critic"] * (self.config.policy_freq - 1))),)
        self.columns = {"next_actions": (problem.action_size,), "has_next": ()}

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program; their mazes are v2. Other goal tasks get what the mazes have in common."""
        goal: dict[str, Any] = {
            "reward_transform": "times_100", "batch_size": 256, "learning_rate": 3e-4, "critic_learning_rate": 5e-5,
            "discount": 0.999,
        }  # fmt: skip
        return d4rl(task, (goal if task.goal_rewards else {}) | published("rebrac", task), STEPS)

    def prepare(self, pack: Pack, data: Batch) -> Batch:
        """Besides TD3's: the data's next actions, and where they are known."""
        data = super().prepare(pack, data)
        known = continues(data)
        following = torch.cat([data.actions[1:], data.actions[:1]])
        return replace(data, more={**data.more, "next_actions": following, "has_next": known.to(following.dtype)})

    def penalised(self, values: Tensor, actions: Tensor, pack: Pack, batch: Batch) -> Tensor:
        """min(Q1', Q2') − β2 Σ (ã − a')², without the penalty where a' is not known."""
        distance = (actions - batch.more["next_actions"]).square().sum(dim=2)
        return values - pack.values["critic_penalty"][:, None] * distance * batch.more["has_next"]

    def policy_loss(self, values: Tensor, actions: Tensor, pack: Pack, batch: Batch) -> Tensor:
        """See ``actor_loss``."""
        return actor_loss(values, actions, batch.actions, pack.values["actor_penalty"])
