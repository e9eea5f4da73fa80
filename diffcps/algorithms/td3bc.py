"""TD3+BC (Fujimoto and Gu, 2021, arXiv 2106.06860): TD3 with a deterministic policy that also stays near the data's actions.

Observations are normalised by the mean and deviation of the data set. The targets of critic and policy follow on the steps
in which the policy learns, as in the authors' program.
"""

from dataclasses import dataclass

from torch import Tensor

from diffcps.algorithms import td3
from diffcps.algorithms.base import Batch
from diffcps.algorithms.observations import FACTS, Normalised
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import Changes, TaskFacts, d4rl
from diffcps.config.plain import setting

STEPS = 1_000_000


@dataclass(frozen=True)
class Settings(td3.Settings):
    """The settings of a member."""

    hidden_layers: int = setting(2, "a positive whole number")
    """Hidden layers of the policy's network and of each critic."""
    alpha: float = setting(2.5, "zero or more", search="0.5:10:log")
    """Weight of the value beside the squared distance to the data's actions; 0 is behaviour cloning."""


def actor_loss(values: Tensor, actions: Tensor, data: Tensor, alpha: Tensor) -> Tensor:
    """−λ mean Q(s, π(s)) + mean (π(s) − a)², with λ = α / mean |Q| a constant (equation 5), ``[K]``.

    ``values`` ``[K, B]``; ``actions`` and ``data`` ``[K, B, a]`` in units of their bound; ``alpha`` ``[K]``.
    """
    scale = alpha / values.detach().abs().mean(dim=1)
    return (actions - data).square().mean(dim=(1, 2)) - scale * values.mean(dim=1)


class TD3BC(Normalised[Settings], td3.TD3[Settings]):
    """Critic and deterministic policy."""

    settings = Settings
    acting = "actor", *FACTS

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Table 3 of the paper; where rewards are 1 at a goal, which it does not have, r − 1 as in CORL's runs of AntMaze."""
        settings = {"reward_transform": "minus_one"} if task.goal_rewards else {}
        return d4rl(task, settings, STEPS, {"locomotion": (5_000, 10), "antmaze": (5_000, 100)})

    def policy_loss(self, values: Tensor, actions: Tensor, pack: Pack, batch: Batch) -> Tensor:
        """Equation 5 with the first head of the critic."""
        return actor_loss(values[:, 0], actions, batch.actions, pack.values["alpha"])
