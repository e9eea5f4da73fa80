"""The yardstick: DiffCPS (`official` profile) for one policy, in plain eager PyTorch.

Written the way an ordinary research program is: ``nn.Module``, ``torch.optim.Adam``, ``clip_grad_norm_``, Python loops
over parameters for the averages, one state at a time in evaluation. It shares nothing with the library but the
settings' dataclasses. Neither tuned nor slowed down: data lie on the device, nothing waits for the host but the actions
of an evaluation, and target values are computed without gradients.

Shapes: B transitions, T diffusion steps, o and a the sizes of observations and actions, N candidates.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from diffcps.algorithms.diffcps import Settings


@dataclass
class Batch:
    """Observations ``[B, o]``, actions ``[B, a]``, rewards and terminals ``[B, 1]``."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor


@dataclass
class Draws:
    """The randomness of one step, for a caller that wants to choose it; the step draws its own otherwise."""

    next_actions: Tensor
    """``[T, B·n, a]``, n = 10 with max-Q backup and 1 without."""
    step: Tensor
    """``[B]``."""
    noise: Tensor
    """``[B, a]``."""
    actions: Tensor
    """``[T, B, a]``."""
    swap: bool


class TimeEmbedding(nn.Module):
    """Sine and cosine of the diffusion step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, step: Tensor) -> Tensor:
        half = self.size // 2
        frequencies = torch.exp(torch.arange(half, device=step.device) * (-math.log(10_000.0) / (half - 1)))
        angles = step[:, None] * frequencies[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Mish(),
        nn.Linear(hidden, hidden), nn.Mish(),
        nn.Linear(hidden, hidden), nn.Mish(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class NoiseNet(nn.Module):
    """ε_θ(a_t, t, s)."""

    def __init__(self, observation_size: int, action_size: int, config: Settings) -> None:
        super().__init__()
        size = config.time_embedding
        self.time = nn.Sequential(
            TimeEmbedding(size), nn.Linear(size, 2 * size), nn.Mish(), nn.Linear(2 * size, size)
        )  # fmt: skip
        self.net = mlp(action_size + size + observation_size, config.hidden_size, action_size)

    def forward(self, actions: Tensor, step: Tensor, observations: Tensor) -> Tensor:
        return self.net(torch.cat([actions, self.time(step), observations], dim=-1))


class Diffusion(nn.Module):
    """The diffusion policy."""

    signal: Tensor
    spread: Tensor
    start_weight: Tensor
    current_weight: Tensor
    deviation: Tensor

    def __init__(self, observation_size: int, action_size: int, max_action: float, config: Settings) -> None:
        super().__init__()
        self.action_size, self.max_action, self.steps = action_size, max_action, config.diffusion_steps
        self.net = NoiseNet(observation_size, action_size, config)
        i = torch.arange(1, self.steps + 1, dtype=torch.float64)
        beta = 1.0 - torch.exp(
            -config.beta_min / self.steps - 0.5 * (config.beta_max - config.beta_min) * (2 * i - 1) / self.steps**2
        )
        alpha_bar = torch.cumprod(1.0 - beta, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        constants = {
            "signal": alpha_bar.sqrt(),
            "spread": (1.0 - alpha_bar).sqrt(),
            "start_weight": beta * previous.sqrt() / (1.0 - alpha_bar),
            "current_weight": (1.0 - previous) * (1.0 - beta).sqrt() / (1.0 - alpha_bar),
            "deviation": (beta * (1.0 - previous) / (1.0 - alpha_bar)).sqrt(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float())

    def loss(self, actions: Tensor, observations: Tensor, step: Tensor | None, noise: Tensor | None) -> Tensor:
        """L, the mean over batch and action dimensions of (ε − ε_θ)²."""
        if step is None:
            step = torch.randint(0, self.steps, (len(actions),), device=actions.device)
        if noise is None:
            noise = torch.randn_like(actions)
        noisy = self.signal[step][:, None] * actions + self.spread[step][:, None] * noise
        return functional.mse_loss(self.net(noisy, step, observations), noise)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions ``[B, a]`` by the reverse chain, from draws ``[T, B, a]``."""
        rows = len(observations)
        if noise is None:
            noise = torch.randn(self.steps, rows, self.action_size, device=observations.device)
        x = noise[0]
        for i in reversed(range(self.steps)):
            step = torch.full((rows,), i, device=x.device)
            predicted = self.net(x, step, observations)
            start = (x - self.spread[i] * predicted) / self.signal[i]
            start = start.clamp(-self.max_action, self.max_action)
            x = self.start_weight[i] * start + self.current_weight[i] * x
            if i > 0:
                x = x + self.deviation[i] * noise[self.steps - i]
        return x.clamp(-self.max_action, self.max_action)


class TwinCritic(nn.Module):
    """Q1 and Q2, each ``[B, 1]``."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.q1 = mlp(observation_size + action_size, hidden, 1)
        self.q2 = mlp(observation_size + action_size, hidden, 1)

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([observations, actions], dim=-1)
        return self.q1(x), self.q2(x)


class Agent:
    """One policy, its critics, λ, and their optimisers; ``data`` is the whole data set on the device."""

    def __init__(self, config: Settings, data: Batch, max_action: float, device: torch.device | str) -> None:
        self.config, self.data, self.device, self.step = config, data, torch.device(device), 0
        sizes = data.observations.shape[1], data.actions.shape[1]
        self.actor = Diffusion(*sizes, max_action, config).to(device)
        self.average = copy.deepcopy(self.actor)
        self.critic = TwinCritic(*sizes, config.hidden_size).to(device)
        self.target = copy.deepcopy(self.critic)
        self.multiplier = nn.Parameter(torch.tensor(config.lambda_init, device=device))
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=config.learning_rate)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=config.critic_learning_rate)
        self.multiplier_adam = torch.optim.Adam([self.multiplier], lr=config.lambda_learning_rate)

    def sample(self) -> Batch:
        rows = torch.randint(0, len(self.data.actions), (self.config.batch_size,), device=self.device)
        return Batch(**{name: value[rows] for name, value in vars(self.data).items()})

    def update(self, batch: Batch | None = None, draws: Draws | None = None) -> dict[str, Tensor]:
        """One gradient step; losses come back on the device."""
        config = self.config
        batch = self.sample() if batch is None else batch

        critic_loss = self.critic_loss(batch, draws.next_actions if draws else None)
        self.critic_adam.zero_grad()
        critic_loss.backward()
        clip_grad_norm_(self.critic.parameters(), self.config.grad_norm)
        self.critic_adam.step()
        losses = {"critic_loss": critic_loss.detach()}

        if self.step % config.policy_freq == 0:
            behaviour_loss = self.actor.loss(
                batch.actions, batch.observations, draws.step if draws else None, draws.noise if draws else None
            )
            q_loss = self.q_loss(batch, draws)
            weight = self.multiplier.clamp(self.config.lambda_clip, config.lambda_max).detach()
            actor_loss = weight * behaviour_loss + q_loss
            self.actor_adam.zero_grad()
            actor_loss.backward()
            clip_grad_norm_(self.actor.parameters(), self.config.grad_norm)
            self.actor_adam.step()

            dual_loss = (self.config.target_kl - behaviour_loss).detach() * self.multiplier
            self.multiplier_adam.zero_grad()
            dual_loss.backward()
            clip_grad_norm_([self.multiplier], self.config.grad_norm)
            self.multiplier_adam.step()
            losses |= {"behaviour_loss": behaviour_loss.detach(), "q_loss": q_loss.detach()}
            losses |= {"actor_loss": actor_loss.detach(), "dual_loss": dual_loss.detach()}

        if self.step >= config.ema_start and self.step % config.ema_every == 0:
            follow(self.average, self.actor, 1.0 - config.ema_decay)
        follow(self.target, self.critic, config.target_rate)
        self.step += 1
        return losses

    def critic_loss(self, batch: Batch, noise: Tensor | None) -> Tensor:
        config = self.config
        with torch.no_grad():
            if config.max_q_backup:
                states = batch.next_observations.repeat_interleave(config.max_q_candidates, dim=0)
                q1, q2 = self.target(states, self.average(states, noise))
                q1 = q1.view(-1, config.max_q_candidates).max(dim=1, keepdim=True).values
                q2 = q2.view(-1, config.max_q_candidates).max(dim=1, keepdim=True).values
            else:
                states = batch.next_observations
                q1, q2 = self.target(states, self.average(states, noise))
            goal = batch.rewards + config.discount * (1.0 - batch.terminals) * torch.min(q1, q2)
        q1, q2 = self.critic(batch.observations, batch.actions)
        return functional.mse_loss(q1, goal) + functional.mse_loss(q2, goal)

    def q_loss(self, batch: Batch, draws: Draws | None) -> Tensor:
        """−mean Q1/mean |Q2| at the policy's own actions, or with the heads swapped."""
        q1, q2 = self.critic(batch.observations, self.actor(batch.observations, draws.actions if draws else None))
        if draws.swap if draws else np.random.uniform() > 0.5:
            q1, q2 = q2, q1
        return -q1.mean() / q2.abs().mean().detach()

    @torch.no_grad()
    def act(self, observation: NDArray[np.floating], candidates: int = 50) -> NDArray[np.float32]:
        """An action ``[a]`` at one state ``[o]``: N candidates, one of them chosen by softmax over min target Q."""
        state = torch.as_tensor(observation, dtype=torch.float32, device=self.device).reshape(1, -1)
        states = state.repeat_interleave(candidates, dim=0)
        actions = self.actor(states)
        values = torch.min(*self.target(states, actions)).flatten()
        index = torch.multinomial(functional.softmax(values, dim=0), 1)
        return actions[index].cpu().numpy().flatten()


def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow ← (1 − rate)·slow + rate·fast, parameter by parameter."""
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.data.copy_((1.0 - rate) * old.data + rate * new.data)


def evaluate(
    agent: Agent, environment: gymnasium.Env, seeds: Iterable[int], candidates: int
) -> list[tuple[float, int]]:
    """Return and length of an episode for each seed, one after another."""
    episodes = []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        total, length, ended = 0.0, 0, False
        while not ended:
            observation, reward, terminated, truncated, _ = environment.step(agent.act(observation, candidates))
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        episodes.append((total, length))
    return episodes
