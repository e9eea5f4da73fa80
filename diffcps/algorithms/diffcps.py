"""DiffCPS, the `official` profile: what the paper's released program computes, for a pack of K members.

Losses are pure functions of parameters, a batch and random draws; they return ``(loss [K], metrics)`` and never step an
optimiser. ``update`` puts them together into one gradient step. Shapes: K members, B transitions, T diffusion steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps import streams
from diffcps.algorithms.optimiser import Adam, clip_by_norm
from diffcps.config import AlgorithmConfig, MemberConfig
from diffcps.diffusion import Schedule, add_noise, reverse_chain, variance_preserving
from diffcps.nn import Layers, NoiseNet, TwinCritic, gradient

Metrics = dict[str, Tensor]
METRICS = (
    "behaviour_loss", "lambda", "critic_loss", "q_value", "actor_loss", "q_loss", "policy_q", "dual_loss",
    "critic_grad_norm", "actor_grad_norm",
)  # fmt: skip
"""Names of the metrics that ``update`` gives, in the order in which a person wants to read them."""
CRITIC_METRICS = "critic_loss", "q_value", "critic_grad_norm"
"""Those of them that every step gives; the others come from policy steps alone."""


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
    """All randomness of one gradient step. What only a policy step needs is ``None`` in the steps between."""

    rows: Tensor
    """``[K, B]`` rows of the data set that make the batch."""
    next_actions: Tensor
    """``[T, K, B·n, a]`` normal: chains of the target actions, n = 10 with max-Q backup and 1 without."""
    step: Tensor | None = None
    """``[K, B]`` diffusion steps, uniform on 0..T−1."""
    noise: Tensor | None = None
    """``[K, B, a]`` normal: the noise that ε_θ has to predict."""
    actions: Tensor | None = None
    """``[T, K, B, a]`` normal: chains of the policy's own actions."""
    swap: Tensor | None = None
    """``[K]`` booleans, true with probability ½: which head is maximised and which one scales it."""

    @classmethod
    def of(cls, model: "Model", key: Tensor, step: Tensor, rows: int, policy_step: bool) -> "Draws":
        """The draws of gradient step ``step`` (an integer tensor) on a data set of ``rows`` rows.

        A pure function of the step and of each member's key ``[K, 2]``.
        """
        config, size, members = model.config, model.action_size, len(key)
        batch, chain = config.batch_size, config.diffusion_steps
        targets = batch * (config.max_q_candidates if config.max_q_backup else 1)
        normal = [chain * targets * size] + ([batch * size, chain * batch * size] if policy_step else [])
        pairs = sum(normal) + sum(normal) % 2
        whole = [2 * batch] + ([2 * batch, 1] if policy_step else [])
        drawn = streams.words(key, step, pairs + sum(whole)).split([pairs, *whole], dim=1)
        noise = streams.normals(drawn[0])[:, : sum(normal)].split(normal, dim=1)
        indices = streams.integers(drawn[1], rows)

        def chains(part: Tensor) -> Tensor:
            return part.view(members, chain, -1, size).transpose(0, 1)

        if not policy_step:
            return cls(indices, chains(noise[0]))
        return cls(
            rows=indices,
            next_actions=chains(noise[0]),
            step=streams.integers(drawn[2], chain),
            noise=noise[1].view(members, batch, size),
            actions=chains(noise[2]),
            swap=drawn[3][:, 0] >= 2**31,
        )


class Model:
    """The networks and constants that the functions below share; it holds no parameter and no state."""

    def __init__(
        self, config: AlgorithmConfig, observation_size: int, action_size: int, max_action: float, device: torch.device
    ) -> None:
        self.config = config
        self.max_action = max_action
        self.device = device
        self.action_size = action_size
        self.schedule: Schedule = variance_preserving(config.diffusion_steps, config.beta_min, config.beta_max).to(
            device
        )
        product = torch.bfloat16 if config.precision == "bf16" else None
        self.noise_net = NoiseNet(
            observation_size, action_size, config.diffusion_steps, config.hidden_size, config.time_embedding, product
        ).to(device)
        self.critic = TwinCritic(observation_size, action_size, config.hidden_size, product)

    def actions(self, actor: Layers, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions of the diffusion policy, ``[K, B·n, a]``.

        Args:
            actor: parameters of the noise net.
            observations: ``[K, B, o]``.
            noise: ``[T, K, B·n, a]`` standard normal; n actions are drawn for each observation, side by side.
        """
        time = self.noise_net.time(actor)
        observed = self.noise_net.observe(actor, observations)

        def predict(actions: Tensor, step: int) -> Tensor:
            return self.noise_net(actor, actions, observed + time[:, step : step + 1])

        return reverse_chain(predict, self.schedule, noise, self.schedule.posterior_variance, self.max_action)


@dataclass
class Pack:
    """Everything that training changes, for all members."""

    actor: Tensor
    """Online policies, ``[K, P]``."""
    average: Tensor
    """Their exponential moving averages, which give the target actions."""
    critic: Tensor
    """Twin critics, ``[K, 2 P]``."""
    target: Tensor
    """Target critics."""
    multiplier: Tensor
    """λ, ``[K, 1]``."""
    actor_adam: Adam
    critic_adam: Adam
    multiplier_adam: Adam
    lambda_clip: Tensor
    """λ_clip of each member, ``[K]``."""
    target_kl: Tensor
    """κ of each member, ``[K]``."""
    grad_norm: Tensor
    """Largest gradient norm of each member, ``[K]``."""

    @classmethod
    def create(cls, model: Model, members: Sequence[MemberConfig], generators: Sequence[torch.Generator]) -> "Pack":
        """Fresh members; member k's weights come from ``generators[k]`` (CPU), so they do not depend on its company."""
        device = model.device

        def column(name: str) -> Tensor:
            return torch.tensor([float(getattr(m, name)) for m in members], device=device)

        actor = model.noise_net.layout.initial(generators).to(device)
        critic = model.critic.initial(generators).to(device)
        multiplier = column("lambda_init")[:, None].clone()
        same = torch.ones(len(members), device=device)
        return cls(
            actor=actor,
            average=actor.clone(),
            critic=critic,
            target=critic.clone(),
            multiplier=multiplier,
            actor_adam=Adam.create(actor, column("learning_rate")),
            critic_adam=Adam.create(critic, model.config.critic_learning_rate * same),
            multiplier_adam=Adam.create(multiplier, model.config.lambda_learning_rate * same),
            lambda_clip=column("lambda_clip"),
            target_kl=column("target_kl"),
            grad_norm=column("grad_norm"),
        )

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name; the very tensors, not copies."""
        names = "actor", "average", "critic", "target", "multiplier"
        state = {name: getattr(self, name) for name in names}
        for name in ("actor", "critic", "multiplier"):
            adam: Adam = getattr(self, f"{name}_adam")
            state |= {f"{name}_adam.{key}": value for key, value in adam.state().items()}
        return state


def critic_loss(
    model: Model, critic: Layers, target: Layers, average: Layers, batch: Batch, draws: Draws
) -> tuple[Tensor, Metrics]:
    """MSE(Q1) + MSE(Q2) to y = r + γ (1 − terminal) min(Q1', Q2') at an action of the averaged policy.

    With max-Q backup, 10 actions are drawn per next state; each target head keeps its largest value before the minimum.
    """
    config = model.config
    with torch.no_grad():
        candidates = config.max_q_candidates if config.max_q_backup else 1
        actions = model.actions(average, batch.next_observations, draws.next_actions)
        values = model.critic(target, batch.next_observations, actions)
        values = values.unflatten(-1, (-1, candidates)).amax(dim=-1)
        goal = batch.rewards + config.discount * (1.0 - batch.terminals) * values.amin(dim=1)
    estimates = model.critic(critic, batch.observations, batch.actions)
    loss = (estimates - goal[:, None]).square().mean(dim=-1).sum(dim=-1)
    return loss, {"critic_loss": loss.detach(), "q_value": estimates.detach().mean(dim=(1, 2))}


def actor_loss(
    model: Model,
    actor: Layers,
    critic: Layers,
    multiplier: Tensor,
    lambda_clip: Tensor,
    batch: Batch,
    draws: Draws,
) -> tuple[Tensor, Metrics]:
    """clamp(λ, λ_clip, λ_max)·L + q, with λ ``[K]`` a constant here.

    L is the behaviour loss: the mean over batch and action dimensions of (ε − ε_θ)². q = −mean Q1(s, â)/mean|Q2(s, â)|,
    the divisor a constant, or with the heads swapped; gradients flow through all T steps of the chain that makes â.
    """
    assert draws.step is not None
    assert draws.noise is not None
    assert draws.actions is not None
    assert draws.swap is not None
    noisy = add_noise(model.schedule, batch.actions, draws.step, draws.noise)
    time = model.noise_net.time(actor)
    # a product with one-hot rows where a gather would do: a gather's gradient adds up in no fixed order on a GPU
    which = draws.step[..., None] == torch.arange(model.schedule.steps, device=noisy.device)
    observed = model.noise_net.observe(actor, batch.observations) + which.to(time.dtype) @ time
    predicted = model.noise_net(actor, noisy, observed)
    behaviour = (draws.noise - predicted).square().mean(dim=(1, 2))

    values = model.critic(critic, batch.observations, model.actions(actor, batch.observations, draws.actions))
    means, scales = values.mean(dim=-1), values.detach().abs().mean(dim=-1)
    swap = draws.swap
    improvement = -torch.where(swap, means[:, 1], means[:, 0]) / torch.where(swap, scales[:, 0], scales[:, 1])

    weight = torch.maximum(multiplier, lambda_clip).clamp(max=model.config.lambda_max).detach()
    loss = weight * behaviour + improvement
    metrics = {"actor_loss": loss, "behaviour_loss": behaviour, "q_loss": improvement, "policy_q": means.mean(dim=1)}
    return loss, {name: value.detach() for name, value in metrics.items()}


def dual_loss(multiplier: Tensor, behaviour_loss: Tensor, target_kl: Tensor) -> tuple[Tensor, Metrics]:
    """(κ − L)·λ with L a constant: λ grows while the behaviour loss is above κ. All ``[K]``."""
    loss = (target_kl - behaviour_loss).detach() * multiplier
    return loss, {"dual_loss": loss.detach()}


def update(model: Model, pack: Pack, batch: Batch, draws: Draws) -> Metrics:
    """One gradient step of every member, in place: critic, in a policy step also policy and λ, then target critic.

    It is a policy step when ``draws`` are those of one. Every metric is ``[K]`` and detached. Nothing here waits for the
    host or draws a number, so it may be compiled or captured.
    """
    critic = model.critic.leaves(pack.critic)
    loss, metrics = critic_loss(
        model,
        critic,
        model.critic.layers(pack.target),
        model.noise_net.layout.layers(pack.average),
        batch,
        draws,
    )
    # the heads of a member stand in two rows of the stack and are clipped as one gradient
    slope = gradient(loss, critic).view_as(pack.critic)
    slope, metrics["critic_grad_norm"] = clip_by_norm(slope, pack.grad_norm)
    pack.critic_adam.step(pack.critic, slope)

    if draws.step is not None:
        actor = model.noise_net.layout.leaves(pack.actor)
        loss, more = actor_loss(
            model,
            actor,
            model.critic.layers(pack.critic),
            pack.multiplier[:, 0],
            pack.lambda_clip,
            batch,
            draws,
        )
        slope, metrics["actor_grad_norm"] = clip_by_norm(gradient(loss, actor), pack.grad_norm)
        pack.actor_adam.step(pack.actor, slope)

        multiplier = pack.multiplier.detach().clone().requires_grad_()
        loss, dual = dual_loss(multiplier[:, 0], more["behaviour_loss"], pack.target_kl)
        (slope,) = torch.autograd.grad(loss.sum(), multiplier)
        slope, _ = clip_by_norm(slope, pack.grad_norm)
        pack.multiplier_adam.step(pack.multiplier, slope)
        metrics |= more | dual | {"lambda": pack.multiplier[:, 0].clone()}

    pack.target.lerp_(pack.critic, model.config.target_rate)
    return metrics


def is_policy_step(config: AlgorithmConfig, step: int) -> bool:
    """Whether the policy and λ move at ``step`` (counted from 0)."""
    return step % config.policy_freq == 0


def average_policy(config: AlgorithmConfig, pack: Pack, step: int) -> None:
    """Move the averaged policies towards the online ones after ``step``, at the steps where they move at all."""
    if step >= config.ema_start and step % config.ema_every == 0:
        pack.average.lerp_(pack.actor, 1.0 - config.ema_decay)


def sample_actions(
    model: Model, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor
) -> Tensor:
    """Act: draw N candidates per state from the online policy and choose one by softmax over the target critic.

    Args:
        model: the networks.
        parameters: ``actor`` ``[K, P]`` and ``target`` ``[K, 2 P]``.
        observations: ``[K, B, o]``.
        noise: ``[T, K, B·N, a]`` standard normal.
        uniform: ``[K, B, N]`` on (0, 1); the choice is a Gumbel maximum, softmax at temperature 1 on min(Q1', Q2').

    Returns:
        ``[K, B, a]``.
    """
    candidates = uniform.shape[-1]
    actor = model.noise_net.layout.layers(parameters["actor"])
    actions = model.actions(actor, observations, noise)
    if candidates == 1:
        return actions
    values = model.critic(model.critic.layers(parameters["target"]), observations, actions).amin(dim=1)
    gumbel = -torch.log(-torch.log(uniform))
    chosen = (values.unflatten(-1, (-1, candidates)) + gumbel).argmax(dim=-1)
    choice = chosen[..., None, None].expand(-1, -1, 1, actions.shape[-1])
    return actions.unflatten(1, (-1, candidates)).gather(2, choice).squeeze(2)
