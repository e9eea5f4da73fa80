"""Efficient diffusion policies (Kang et al., 2023, arXiv 2305.20081), the form that the authors call TD3.

Like Diffusion-QL, but the action that the critic values comes from one step instead of the whole chain: the clean action that
the predicted noise of the behaviour loss implies. Value and divisor are of the same head, and the policy acts by the online
critic. Settings are those of the authors' program where it differs from the paper. Two things are as in Diffusion-QL here: the
policy sees the critic after its step, and the critic's heads share one limit on the gradient; the program takes the critic
before its step, and cuts each head's gradient by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms import dql
from diffcps.algorithms.base import Batch, StepNoise
from diffcps.algorithms.diffusion import implied_start, roots
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.observations import FACTS
from diffcps.algorithms.policies import Fit, Weights
from diffcps.algorithms.settings import Changes, TaskFacts, published
from diffcps.config.plain import require, setting

CANDIDATES = 10
"""Actions among which the policy chooses: those of the paper (the authors' program: 50)."""


@dataclass(frozen=True)
class Settings(dql.Settings):
    """The settings of a member."""

    eta: float = setting(2.0, "zero or more", symbol="η", search="0.1:10:log")
    """Weight of the value beside the behaviour loss (the paper's α); 0 is behaviour cloning."""
    diffusion_steps: int = setting(100, "a positive whole number", symbol="T", search="5,20,50,100")
    """T, the number of steps of the diffusion chain: those of the authors' program (the paper: 1000, and a solver to act)."""
    beta_max: float = setting(20.0, "a positive number", pack=True)
    """Largest rate of the noise schedule. With 20 its rates are those of the authors' linear schedule, 0.1 to 20 over the
    chain; here a step integrates them, so that every T is possible."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.policy == "diffusion", "policy", self.policy, "'diffusion', for EDP's action is of a chain")


class EDP(dql.DQL):
    """Critic and policy."""

    settings = Settings
    edge = 0.001
    acting = "actor", "average", "student", "critic", "step_losses", *FACTS
    judge = student_critic = "critic"
    chains = 0

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program: one learning rate, one weight and no max-Q for all tasks, Diffusion-QL's gradient norms."""
        common = cls.settings.among(task.settings)
        common |= {"policy_freq": 1, "max_q_backup": False, "learning_rate": 3e-4}
        common.pop("diffusion_steps", None)
        changes: Changes = {"settings": common, "evaluation": {"candidates": CANDIDATES}}
        if not (own := published("dql", task)):
            return changes
        steps = 1_000_000 if task.goal_rewards else 2_000_000
        evaluation = {"candidates": CANDIDATES, "every": 10_000, "episodes": 10}
        return {"settings": common | {"grad_norm": own["grad_norm"]}, "steps": steps, "evaluation": evaluation}

    def value_term(
        self, fit: Fit, weights: Weights, critic: Layers, batch: Batch, noise: StepNoise
    ) -> tuple[Tensor, ...]:
        """q = −mean Q1(s, â)/mean|Q1(s, â)| or the same of Q2, by a coin; â the implied clean action (equation 9)."""
        assert fit.noised is not None
        noisy, predicted, signal = fit.noised
        actions = implied_start(roots(signal), noisy, predicted, self.problem.max_action)
        values = self.critic(critic, batch.observations, actions)
        means, scales = values.mean(dim=-1), values.detach().abs().mean(dim=-1)
        swap = noise["swap"]
        scale = torch.where(swap, scales[:, 1], scales[:, 0])
        return -torch.where(swap, means[:, 1], means[:, 0]) / scale, means, scale
