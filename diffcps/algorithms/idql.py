"""Implicit diffusion Q-learning (Hansen-Estruch et al., 2023, arXiv 2304.10573): IQL's critic over a cloned diffusion policy.

The policy clones the data and never sees the critic, which chooses among many of its actions. The reverse chain is that of the
authors' program: noise of variance β, and each noisy action, not the clean one that it implies, is kept within the bound. The
critic's loss is the sum of its heads' errors, as in IQL; the authors' is their mean, which is the same to Adam.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms import critics, iql
from diffcps.algorithms.adam import AdamW
from diffcps.algorithms.base import Batch, Copy, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.choosing import by_value
from diffcps.algorithms.diffusion import add_noise, one_hot, variance_preserving
from diffcps.algorithms.forward_chain import ForwardChain
from diffcps.algorithms.nn import NoiseNet
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.resnet import Kept, ResidualNet
from diffcps.algorithms.settings import EVALUATIONS, Chain, Changes, TaskFacts, WithRaisedStudent, d4rl
from diffcps.algorithms.streams import Integers, Noise, Normal
from diffcps.config.plain import require, setting

METRICS = (*iql.VALUE_METRICS, "behaviour_loss", "actor_grad_norm")
STEPS = 3_000_000
CANDIDATES, MAZE_CANDIDATES = 128, 32
"""Actions among which the policy chooses on most tasks, and where rewards are 1 at a goal (the paper's IDQL-A)."""


@dataclass(frozen=True)
class Settings(WithRaisedStudent, Chain, iql.ImplicitSettings):
    """The settings of a member."""

    batch_size: int = setting(512, "a positive whole number")
    """Transitions in one gradient step of one member: those of the authors' program (the paper: 1024 and 256)."""
    residual: bool = True
    """Whether the noise net is the authors', with residual blocks, layer norms and dropout, or the plain one of this project, of
    a tenth of the arithmetic."""
    policy_layers: int = setting(3, "a positive whole number")
    """Residual blocks of the noise net, or hidden layers of the plain one."""
    dropout: float = setting(0.1, "between 0 and 1", pack=True)
    """Share of the inputs of each residual block that is dropped while learning; less than 1."""
    time_embedding: int = setting(128, "a positive whole number")
    """Size of the embedding of the diffusion step (even)."""
    ema_rate: float = setting(0.001, "between 0 and 1")
    """How fast the policy that acts follows the one that learns, in every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dropout < 1.0, "dropout", self.dropout, "less than 1")


def reverse_mean(beta: Tensor, signal: Tensor, current: Tensor, noise: Tensor) -> Tensor:
    """Mean of p(a_{t−1} | a_t) for predicted noise ``[..., a]``, with β_t and ᾱ_t."""
    return (current - beta / (1.0 - signal).sqrt() * noise) / (1.0 - beta).sqrt()


class IDQL(iql.Implicit[Settings], ForwardChain[Settings]):
    """Value network, critic and cloned chain."""

    settings = Settings
    acting = "actor", "average", "student", "target"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, size = self.config, problem.action_size
        self.schedule = variance_preserving(config.diffusion_steps, config.beta_min, config.beta_max).to(device)
        sizes = problem.observation_size, size, config.diffusion_steps, config.hidden_size, config.time_embedding
        self.noise_net: ResidualNet | NoiseNet
        if config.residual:
            self.noise_net = ResidualNet(*sizes, blocks=config.policy_layers, product=self.product)
        else:
            self.noise_net = NoiseNet(*sizes, layers=config.policy_layers, product=self.product).to(device)
        average = Copy([member.ema_rate for member in members])
        actor = Network(self.noise_net, copies={"average": average}, optimiser=AdamW, decay_steps=problem.steps)
        self.networks = {"actor": actor, **self.values_networks}
        noise: dict[str, Noise] = {
            "noise": Normal((config.batch_size, size)),
            "step": Integers((config.batch_size,), config.diffusion_steps),
        }
        if config.residual and config.dropout > 0.0:
            noise["kept"] = Kept((config.policy_layers, config.batch_size, config.hidden_size), config.dropout)
        self.kinds = {"step": StepKind(config.batch_size, (*METRICS, *self.student_metrics), noise)}
        self.add_student()
        self.stages = (Stage(("step",)),)
        self.draws = config.diffusion_steps

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program for D4RL; tasks that it does not have get what is common to their kind."""
        settings: dict[str, object] = {"reward_transform": "return_range"}
        if task.goal_rewards:
            settings = {"reward_transform": "minus_one", "expectile": 0.9}
        changes = d4rl(task, settings, STEPS, dict.fromkeys(EVALUATIONS, (250_000, 50)))
        acting = {"candidates": MAZE_CANDIDATES if task.goal_rewards else CANDIDATES, "actor": "average"}
        return changes | {"evaluation": acting | changes.get("evaluation", {})}

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place: policy, value, critic by the new value, then the copies."""
        metrics = self.clone(pack, batch, noise)
        found, _ = self.learn_value(pack, batch)
        metrics |= found | self.learn_critic(pack, batch)
        value = critics.value_loss(self.critic, self.critic.layers(pack["critic"]), batch.observations)
        metrics |= self.teach(pack, batch, noise, value)
        pack.move("target")
        pack.move("average")
        return metrics

    def clone(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """Mean over the batch of Σ (ε − ε_θ)²."""
        leaves = self.noise_net.layout.leaves(pack["actor"])
        noisy = add_noise(self.schedule, batch.actions, noise["step"], noise["noise"])
        which = one_hot(noise["step"], self.schedule.steps, noisy.dtype)
        observed = self.noise_net.observe(leaves, batch.observations) + which @ self.noise_net.time(leaves)
        dropout = (noise["kept"], self.config.dropout) if "kept" in noise else ()
        errors = (noise["noise"] - self.noise_net(leaves, noisy, observed, *dropout)).square()
        norm = pack.descend("actor", errors.sum(dim=2).mean(dim=1), leaves)
        return {"behaviour_loss": errors.detach().mean(dim=(1, 2)), "actor_grad_norm": norm}

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Of N whole chains the action with the largest min(Q1', Q2')."""
        actions = self.sample(parameters["actor"], observations, noise)
        value = critics.least_of_heads(self.critic, parameters["target"], observations)
        return self.problem.max_action * by_value(actions, value, uniform.shape[-1])

    def sample(self, parameters: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions ``[K, B·n, a]`` in units of their bound, from noise ``[T, K, B·n, a]``; none in the last step."""
        denoise = self.denoiser(parameters, observations)
        current = noise[0]
        for step in reversed(range(self.schedule.steps)):
            predicted, beta = denoise(current, step)
            current = reverse_mean(beta, self.schedule.alpha_bar[step], current, predicted)
            if step > 0:
                current = current + beta.sqrt() * noise[self.schedule.steps - step]
            current = current.clamp(-1.0, 1.0)
        return current
