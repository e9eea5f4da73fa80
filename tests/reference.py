"""One full gradient step of one DiffCPS policy (`official` profile) in float64 NumPy, written from the equations.

It shares nothing with the library but the settings' dataclasses: no torch, no member axis, its own reverse-mode
differentiation. Slow and plain on purpose, so that a reader can hold it against the paper line by line.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms.diffcps import Settings

Array = NDArray[np.float64]
Parameters = list[Array]
"""Weight ``[in, out]`` and bias ``[out]`` of each layer in turn."""


# Reverse-mode differentiation -----------------------------------------------------------------------------------------


class Node:
    """A value, and for each value it was made from, how a gradient flows back to it."""

    def __init__(self, value: Array, *parents: tuple[Node, Callable[[Array], Array]]) -> None:
        self.value = np.asarray(value, dtype=np.float64)
        self.parents = parents
        self.gradient = np.zeros_like(self.value)


def backward(root: Node) -> None:
    """Fill in ∂root/∂node at every node below ``root`` (a scalar)."""
    order: list[Node] = []
    seen: set[int] = set()

    def visit(node: Node) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for parent, _ in node.parents:
                visit(parent)
            order.append(node)

    visit(root)
    root.gradient = np.ones_like(root.value)
    for node in reversed(order):
        for parent, pull in node.parents:
            parent.gradient = parent.gradient + pull(node.gradient)


def add(x: Node, y: Node) -> Node:
    return Node(x.value + y.value, (x, lambda g: g), (y, lambda g: g))


def scale(x: Node, factor: Array | float) -> Node:
    """Times a constant; a column ``[B, 1]`` scales rows."""
    return Node(x.value * factor, (x, lambda g: g * factor))


def square(x: Node) -> Node:
    return Node(x.value**2, (x, lambda g: 2.0 * x.value * g))


def mean(x: Node) -> Node:
    return Node(x.value.mean(), (x, lambda g: np.full_like(x.value, g / x.value.size)))


def clip(x: Node, bound: float) -> Node:
    return Node(np.clip(x.value, -bound, bound), (x, lambda g: g * (np.abs(x.value) <= bound)))


def concatenate(*parts: Node) -> Node:
    """Side by side along the last axis."""
    ends = np.cumsum([0] + [part.value.shape[-1] for part in parts])

    def cut(a: int, b: int) -> Callable[[Array], Array]:
        return lambda g: g[..., a:b]

    pulls = [(part, cut(a, b)) for part, a, b in zip(parts, ends[:-1], ends[1:], strict=True)]
    return Node(np.concatenate([part.value for part in parts], axis=-1), *pulls)


def linear(x: Node, weight: Node, bias: Node) -> Node:
    return Node(
        x.value @ weight.value + bias.value,
        (x, lambda g: g @ weight.value.T),
        (weight, lambda g: x.value.T @ g),
        (bias, lambda g: g.sum(axis=0)),
    )


def mish(x: Node) -> Node:
    """x tanh(softplus(x)); d softplus = sigmoid, d tanh = 1 − tanh²."""
    t = np.tanh(np.logaddexp(0.0, x.value))
    sigmoid = np.exp(-np.logaddexp(0.0, -x.value))
    return Node(x.value * t, (x, lambda g: g * (t + x.value * (1.0 - t**2) * sigmoid)))


def mlp(x: Node, layers: list[Node]) -> Node:
    """Linear layers, Mish between them."""
    for i in range(0, len(layers), 2):
        x = linear(x, layers[i], layers[i + 1])
        if i + 2 < len(layers):
            x = mish(x)
    return x


# Networks and chain ---------------------------------------------------------------------------------------------------


def nodes(parameters: Parameters) -> list[Node]:
    return [Node(p) for p in parameters]


def embedding(steps: NDArray[np.int64], size: int) -> Array:
    """``[B, size]``: sin and cos of the integer step at frequencies 10000^(−j/(size/2 − 1))."""
    half = size // 2
    frequencies = np.array([10_000.0 ** (-j / (half - 1)) for j in range(half)])
    return np.concatenate([np.sin(steps[:, None] * frequencies), np.cos(steps[:, None] * frequencies)], axis=1)


def noise_net(net: list[Node], config: Settings, s: Array, a: Node, steps: NDArray[np.int64]) -> Node:
    """ε_θ(a, t, s): two layers for the step, four on (a, step features, s)."""
    time = mlp(Node(embedding(steps, config.time_embedding)), net[:4])
    return mlp(concatenate(a, time, Node(s)), net[4:])


def critic(net: list[Node], s: Array, a: Node) -> tuple[Node, Node]:
    """Q1 and Q2, each ``[B, 1]``."""
    x, half = concatenate(Node(s), a), len(net) // 2
    return mlp(x, net[:half]), mlp(x, net[half:])


def schedule(config: Settings) -> tuple[Array, Array]:
    """β_t and ᾱ_t, t = 1..T (index t − 1)."""
    steps, low, high = config.diffusion_steps, config.beta_min, config.beta_max
    beta = np.array([
        1.0 - np.exp(-low / steps - 0.5 * (high - low) * (2 * i - 1) / steps**2) for i in range(1, steps + 1)
    ])  # fmt: skip
    return beta, np.array([np.prod(1.0 - beta[:t]) for t in range(1, steps + 1)])


def sample(net: list[Node], config: Settings, max_action: float, s: Array, noise: Array) -> Node:
    """The reverse chain from ``noise`` ``[T, B, a]``: x0 clamped at each step, variance β̃, silent last step."""
    beta, alpha_bar = schedule(config)
    x = Node(noise[0])
    for t in range(config.diffusion_steps, 0, -1):
        b, now, before = beta[t - 1], alpha_bar[t - 1], alpha_bar[t - 2] if t > 1 else 1.0
        predicted = noise_net(net, config, s, x, np.full(len(s), t - 1))
        start = clip(scale(add(x, scale(predicted, -np.sqrt(1.0 - now))), 1.0 / np.sqrt(now)), max_action)
        x = add(
            scale(start, b * np.sqrt(before) / (1.0 - now)),
            scale(x, (1.0 - before) * np.sqrt(1.0 - b) / (1.0 - now)),
        )
        if t > 1:
            deviation = np.sqrt(b * (1.0 - before) / (1.0 - now))
            x = add(x, Node(deviation * noise[config.diffusion_steps - t + 1]))
    return clip(x, max_action)


# Optimisers -----------------------------------------------------------------------------------------------------------


def flat(parameters: Parameters) -> Array:
    return np.concatenate([p.ravel() for p in parameters])


def unflatten(vector: Array, like: Parameters) -> Parameters:
    ends = np.cumsum([p.size for p in like])[:-1]
    return [v.reshape(p.shape) for v, p in zip(np.split(vector, ends), like, strict=True)]


@dataclass
class Adam:
    """Kingma and Ba (2015), algorithm 1, with decays .9 and .999 and ε = 1e-8."""

    first: Array
    second: Array
    count: int = 0

    def step(self, parameters: Array, gradient: Array, learning_rate: float) -> Array:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        m = self.first / (1.0 - 0.9**self.count)
        v = self.second / (1.0 - 0.999**self.count)
        return parameters - learning_rate * m / (np.sqrt(v) + 1e-8)


def clip_norm(gradient: Array, limit: float) -> Array:
    """Scaled down to the L2 norm ``limit`` if longer; the 1e-6 is the usual guard against a zero norm."""
    return gradient * min(1.0, limit / (np.sqrt((gradient**2).sum()) + 1e-6))


# The step -------------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Observations ``[B, o]``, actions ``[B, a]``, rewards and terminals ``[B]``."""

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminals: Array


@dataclass
class Draws:
    """The step's randomness: chains ``[T, B·n, a]`` and ``[T, B, a]``, steps ``[B]``, noise ``[B, a]``, the coin."""

    next_actions: Array
    step: NDArray[np.int64]
    noise: Array
    actions: Array
    swap: bool


@dataclass
class State:
    """What training changes."""

    actor: Parameters
    average: Parameters
    critic: Parameters
    target: Parameters
    multiplier: float
    actor_adam: Adam
    critic_adam: Adam
    multiplier_adam: Adam


@dataclass
class Outcome:
    """What a step computed on its way; ``gradients`` are before the clip, ``clipped`` after it.

    ``divisor`` is mean |Q_j|, a constant of the policy's loss.
    """

    losses: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)
    clipped: dict[str, Array] = field(default_factory=dict)
    divisor: float = 0.0
    next_actions: Array = field(default_factory=lambda: np.zeros(0))
    actions: Array = field(default_factory=lambda: np.zeros(0))


def step(
    state: State,
    config: Settings,
    max_action: float,
    batch: Batch,
    draws: Draws,
    number: int,
) -> tuple[State, Outcome]:
    """Gradient step ``number`` (from 0); returns the new state and leaves the old one alone."""
    state, outcome = copy.deepcopy(state), Outcome()
    size, s, s2 = len(batch.rewards), batch.observations, batch.next_observations

    def descend(name: str, adam: Adam, parameters: Array, gradient: Array, learning_rate: float) -> Array:
        outcome.gradients[name] = gradient
        outcome.clipped[name] = clip_norm(gradient, config.grad_norm)
        return adam.step(parameters, outcome.clipped[name], learning_rate)

    # critic: y = r + γ (1 − terminal) min over heads of (max over candidates of) Q'(s', a'), a' ~ averaged policy
    n = config.max_q_candidates if config.max_q_backup else 1
    repeated = np.repeat(s2, n, axis=0)
    next_actions = sample(nodes(state.average), config, max_action, repeated, draws.next_actions)
    outcome.next_actions = next_actions.value
    heads = [q.value.reshape(size, n).max(axis=1) for q in critic(nodes(state.target), repeated, next_actions)]
    y = batch.rewards + config.discount * (1.0 - batch.terminals) * np.minimum(*heads)
    net = nodes(state.critic)
    q1, q2 = critic(net, s, Node(batch.actions))
    goal = Node(-y[:, None])
    loss = add(mean(square(add(q1, goal))), mean(square(add(q2, goal))))
    backward(loss)
    outcome.losses["critic_loss"] = float(loss.value)
    slope = flat([p.gradient for p in net])
    moved = descend("critic", state.critic_adam, flat(state.critic), slope, config.critic_learning_rate)
    state.critic = unflatten(moved, state.critic)

    if number % config.policy_freq == 0:
        # policy: clamp(λ, λ_clip, λ_max) L − mean Q_i(s, â) / mean |Q_j(s, â)|, the critic being the updated one
        net = nodes(state.actor)
        _, alpha_bar = schedule(config)
        signal = alpha_bar[draws.step][:, None]
        noisy = np.sqrt(signal) * batch.actions + np.sqrt(1.0 - signal) * draws.noise
        predicted = noise_net(net, config, s, Node(noisy), draws.step)
        behaviour = mean(square(add(Node(draws.noise), scale(predicted, -1.0))))

        actions = sample(net, config, max_action, s, draws.actions)
        outcome.actions = actions.value
        q1, q2 = critic(nodes(state.critic), s, actions)
        raised, divisor = (q2, q1) if draws.swap else (q1, q2)
        outcome.divisor = float(np.abs(divisor.value).mean())
        improvement = scale(mean(raised), -1.0 / outcome.divisor)

        weight = min(max(state.multiplier, config.lambda_clip), config.lambda_max)
        loss = add(scale(behaviour, weight), improvement)
        backward(loss)
        outcome.losses |= {
            "actor_loss": float(loss.value),
            "behaviour_loss": float(behaviour.value),
            "q_loss": float(improvement.value),
        }
        slope = flat([p.gradient for p in net])
        moved = descend("actor", state.actor_adam, flat(state.actor), slope, config.learning_rate)
        state.actor = unflatten(moved, state.actor)

        # dual: the gradient of λ (κ − L), with L from before the policy moved
        slope = np.array([config.target_kl - float(behaviour.value)])
        before = np.array([state.multiplier])
        moved = descend("multiplier", state.multiplier_adam, before, slope, config.lambda_learning_rate)
        state.multiplier = float(moved[0])

    if number >= config.ema_start and number % config.ema_every == 0:
        d = config.ema_decay
        state.average = [d * old + (1.0 - d) * new for old, new in zip(state.average, state.actor, strict=True)]
    r = config.target_rate
    state.target = [(1.0 - r) * old + r * new for old, new in zip(state.target, state.critic, strict=True)]
    return state, outcome
