"""What a gradient step reads: a batch, its random draws, and the networks of a pack without their parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from diffcps.algorithms import streams
from diffcps.algorithms.chain import ChainPolicy
from diffcps.algorithms.nn import Layers, TwinCritic
from diffcps.algorithms.policies import GaussianPolicy, Policy
from diffcps.algorithms.settings import Improving, Settings

Part = Literal["critic", "behaviour", "policy"]
"""What a gradient step moves: the critic alone, also the policy towards the behaviour, or also policy and λ."""


def part_at(config: Any, step: int) -> Part:
    """What gradient step ``step`` (counted from 0) moves."""
    if step % config.policy_freq:
        return "critic"
    return "behaviour" if step < getattr(config, "behaviour_steps", math.inf) else "policy"


def parts(config: Any) -> tuple[Part, ...]:
    """Every kind of step that there is in a training; cloning alone never improves by values."""
    cloning = getattr(config, "behaviour_steps", math.inf)
    found: list[Part] = [] if cloning == math.inf else ["policy"]
    found += ["critic"] if config.policy_freq > 1 else []
    found += ["behaviour"] if cloning else []
    return tuple(found)


@dataclass(frozen=True)
class Batch:
    """Transitions of each member: observations ``[K, B, o]``, actions ``[K, B, a]``, rewards and terminals ``[K, B]``."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor


@dataclass(frozen=True)
class Draws:
    """All randomness of one gradient step. What its part does not need is ``None``.

    D is the number of normal draws that the policy makes for each number of an action: T, or one more with a noisy last
    step, for a diffusion policy.
    """

    rows: Tensor
    """``[K, B]`` rows of the data set that make the batch."""
    next_actions: Tensor
    """``[D, K, B·n, a]`` normal: the target actions, n = 10 with max-Q backup and 1 without; n = 0 where none is asked for."""
    step: Tensor | None = None
    """``[K, B]`` diffusion steps, uniform on 0..T−1."""
    noise: Tensor | None = None
    """``[K, B, w]`` normal: what explaining an action of the data set takes; of a diffusion policy the noise that ε_θ has to
    predict (w = a), or paths through the chain (w = S·T·a)."""
    actions: Tensor | None = None
    """``[D, K, B·n, a]`` normal: the policy's own actions, n of them for each observation."""
    swap: Tensor | None = None
    """``[K]`` booleans, true with probability ½: which head is maximised and which one scales it."""

    @classmethod
    def of(cls, model: "Model", key: Tensor, step: Tensor, rows: int, part: Part) -> "Draws":
        """The draws of gradient step ``step`` (an integer tensor) on a data set of ``rows`` rows.

        A pure function of the step and of each member's key ``[K, 2]``.
        """
        config, size, members = model.config, model.action_size, len(key)
        batch, chain, width = config.batch_size, model.policy.draws, model.policy.noise_width
        normal = [chain * batch * model.next_candidates * size]
        whole = [2 * batch]
        if part != "critic":
            normal.append(batch * width)
            whole.append(2 * batch)
        if part == "policy":
            normal.append(chain * batch * model.own_candidates * size)
            whole.append(1)
        pairs = sum(normal) + sum(normal) % 2
        drawn = streams.words(key, step, pairs + sum(whole)).split([pairs, *whole], dim=1)
        noise = streams.normals(drawn[0])[:, : sum(normal)].split(normal, dim=1)
        indices = streams.integers(drawn[1], rows)

        def chains(part: Tensor, candidates: int) -> Tensor:
            return part.view(members, chain, batch * candidates, size).transpose(0, 1)

        found = cls(indices, chains(noise[0], model.next_candidates))
        if part == "critic":
            return found
        step_of_chain = streams.integers(drawn[2], config.diffusion_steps)
        found = replace(found, step=step_of_chain, noise=noise[1].view(members, batch, width))
        if part == "behaviour":
            return found
        return replace(found, actions=chains(noise[2], model.own_candidates), swap=drawn[3][:, 0] >= 2**31)


class Model:
    """The networks and constants that the functions of an algorithm share; it holds no parameter and no state."""

    config: Any
    """What the members share: the settings of the first, of which only those of the pack are to be read."""

    def __init__(
        self,
        algorithm: str,
        members: Sequence[Settings],
        observation_size: int,
        action_size: int,
        max_action: float,
        device: torch.device,
    ) -> None:
        self.algorithm = algorithm
        self.members = members
        self.config = config = cast(Any, members[0])
        self.max_action = max_action
        self.device = device
        self.action_size = action_size
        product = torch.bfloat16 if config.precision == "bf16" else None
        kind = ChainPolicy if config.policy == "diffusion" else GaussianPolicy
        self.policy: Policy = kind(config, observation_size, action_size, max_action, product, device)
        self.critic = TwinCritic(observation_size, action_size, config.hidden_size, product, config.hidden_layers)
        self.in_nats = config.constraint != "behaviour_loss" or config.policy in ("gaussian", "mixture")
        """Whether what κ bounds is a cross-entropy."""
        self.next_candidates = 0
        """Target actions for each next observation."""
        if isinstance(config, Improving) and config.discount > 0.0:
            self.next_candidates = config.max_q_candidates if config.max_q_backup else 1
        self.own_candidates = config.max_q_candidates if hasattr(config, "temperature") else 1
        """Actions that a policy step draws for each observation."""

    def actions(self, actor: Layers, observations: Tensor, noise: Tensor, step_losses: Tensor | None = None) -> Tensor:
        """Actions of the policy, ``[K, B·n, a]``.

        Args:
            actor: parameters of the policy's network.
            observations: ``[K, B, o]``.
            noise: ``[D, K, B·n, a]`` standard normal; n actions are drawn for each observation, side by side.
            step_losses: ``[K, T]`` running behaviour loss of each step, which a calibrated covariance needs.
        """
        return self.policy.sample(actor, observations, noise, step_losses)


# The metrics that a gradient step may give, by name.

Metrics = dict[str, Tensor]
"""Each ``[K]`` and detached."""

METRICS = (
    "behaviour_loss", "lambda", "critic_loss", "q_value", "actor_loss", "q_loss", "policy_q", "dual_loss",
    "critic_grad_norm", "actor_grad_norm", "constraint", "target_kl", "violation", "q_scale",
)  # fmt: skip
"""Every one of them, in the order in which a person wants to read them; an algorithm gives those that it has."""


# Acting, the same for all algorithms: candidates from the policy, and a choice among them by value.


def sample_actions(
    model: Model, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor
) -> Tensor:
    """Act: draw N candidates per state from the policy and choose one by softmax over the target critic.

    Args:
        model: the networks.
        parameters: ``actor`` ``[K, P]``, ``target`` ``[K, 2 P]``, and ``step_losses`` ``[K, T]`` where the covariance is
            calibrated.
        observations: ``[K, B, o]``.
        noise: ``[D, K, B·N, a]`` standard normal.
        uniform: ``[K, B, N]`` on (0, 1); the choice is a Gumbel maximum, softmax at temperature 1 on min(Q1', Q2').

    Returns:
        ``[K, B, a]``.
    """
    candidates = uniform.shape[-1]
    actor = model.policy.layout.layers(parameters["actor"])
    actions = model.actions(actor, observations, noise, parameters.get("step_losses"))
    if candidates == 1:
        return actions
    values = model.critic(model.critic.layers(parameters["target"]), observations, actions).amin(dim=1)
    gumbel = -torch.log(-torch.log(uniform))
    chosen = (values.unflatten(-1, (-1, candidates)) + gumbel).argmax(dim=-1)
    choice = chosen[..., None, None].expand(-1, -1, 1, actions.shape[-1])
    return actions.unflatten(1, (-1, candidates)).gather(2, choice).squeeze(2)
