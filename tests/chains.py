"""Updates of the algorithms with a diffusion chain in NumPy, written from their equations; see ``equations``."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from equations import learn_implicit_critic, learn_value
from numeric import Array, Loss, Member, cat, mish, mlp, normed


class Schedule(NamedTuple):
    """β, ᾱ and β̃ of T steps."""

    beta: Array
    signal: Array
    posterior: Array


def inside(m: Member) -> Loss:
    """Of the critic's hidden layers."""
    return normed(mish) if m.v.critic_norm else mish


def schedule(m: Member) -> Schedule:
    steps, i = m.v.diffusion_steps, np.arange(1, m.v.diffusion_steps + 1)
    beta = 1.0 - np.exp(-m.v.beta_min / steps - 0.5 * (m.v.beta_max - m.v.beta_min) * (2 * i - 1) / steps**2)
    signal = np.cumprod(1.0 - beta)
    return Schedule(beta, signal, beta * (1.0 - np.append(1.0, signal[:-1])) / (1.0 - signal))


def noise_net(
    m: Member,
    network: str | Array,
    x: Array,
    step: Array,
    states: Array,
    hidden: tuple[int, ...] = (),
    activation: Loss = mish,
) -> Array:
    """ε_θ: two layers on the sinusoidal embedding of the step, then layers on action, step and observation.

    With hidden layers of its own it gives one number, a value.
    """
    flat, size, half = m.flat(network), m.v.time_embedding, m.v.time_embedding // 2
    angles = step[:, None] * np.exp(-math.log(10_000.0) * np.arange(half) / (half - 1))
    own = (size + 1) * 2 * size + (2 * size + 1) * size
    time = mlp(flat[..., :own], (size, 2 * size, size), mish, cat(np.sin(angles), np.cos(angles)))
    x = cat(x, time, states)
    layers = getattr(m.v, "policy_layers", m.v.hidden_layers)
    width = getattr(m.v, "policy_width", 1) * m.v.hidden_size
    inner = hidden or (width,) * layers
    return mlp(flat[..., own:], (x.shape[-1], *inner, 1 if hidden else m.actions), activation, x)


def chain(
    m: Member,
    network: str | Array,
    states: Array,
    noise: Array,
    variance: Array,
    seen: Callable[[int, Array, Array], None] = lambda t, x, predicted: None,
) -> Array:
    """Actions of the reverse chain, a_0 and the result kept within the bound, no noise in the last step.

    ``seen`` is told the steps, the noisy actions and the noise that is predicted of them.
    """
    beta, signal, _ = schedule(m)
    x = noise[0]
    for t in reversed(range(len(beta))):
        predicted = noise_net(m, network, x, np.full(len(states), t), states)
        seen(t, x, predicted)
        before = signal[t - 1] if t else 1.0
        start = np.clip((x - math.sqrt(1.0 - signal[t]) * predicted) / math.sqrt(signal[t]), -m.bound, m.bound)
        x = math.sqrt(before) * beta[t] * start + math.sqrt(1.0 - beta[t]) * (1.0 - before) * x
        x = x / (1.0 - signal[t])
        if t:
            x = x + math.sqrt(variance[t]) * noise[len(beta) - t]
    return np.clip(x, -m.bound, m.bound)


def noised(m: Member) -> tuple[Array, Array]:
    """a_t and ᾱ_t ``[B, 1]`` of the batch."""
    signal = schedule(m).signal[m.n.step][:, None]
    return np.sqrt(signal) * m.b.actions + np.sqrt(1.0 - signal) * m.n.noise, signal


def predicted(m: Member, w: str | Array) -> Array:
    return noise_net(m, w, noised(m)[0], m.n.step, m.b.observations)


def behaviour_loss(m: Member, w: str | Array) -> Array:
    return np.asarray(((m.n.noise - predicted(m, w)) ** 2).mean((-1, -2)))


def clone(m: Member) -> None:
    m.say(behaviour_loss=behaviour_loss(m, "actor"))
    m.learn_clipped("actor", lambda w: behaviour_loss(m, w))


def bc(m: Member) -> None:
    if m.number % m.v.policy_freq == 0:
        clone(m)
    follow(m)


def follow(m: Member) -> None:
    if m.number >= m.v.ema_start and m.number % m.v.ema_every == 0:
        m.move("average", "actor", 1.0 - m.v.ema_decay)


def improve(m: Member, policy: Callable[[Member], None]) -> None:
    """Critic, by the averaged policy's actions, then policy."""
    states = np.repeat(m.b.next_observations, count := m.v.max_q_candidates if m.v.max_q_backup else 1, axis=0)
    ahead = chain(m, "average", states, m.n.next_actions, schedule(m).posterior)
    values = m.q("target", inside(m), states, ahead).reshape(2, -1, count).max(-1).min(0)
    m.learn_clipped("critic", m.summed(m.goal(values), inside(m)))
    finish(m, policy)


def finish(m: Member, policy: Callable[[Member], None]) -> None:
    if m.number % m.v.policy_freq == 0:
        (clone if m.number < m.v.behaviour_steps else policy)(m)
    m.move("target", "critic", m.v.target_rate)
    follow(m)


def raise_value(m: Member, own: Callable[[str | Array], Array], head: int, divisor: int) -> None:
    """Down L − η mean Q_head(s, â) / mean |Q_divisor(s, â)|, the divisor a constant."""
    scale = np.abs(m.q("critic", inside(m), m.b.observations, own("actor"))[divisor]).mean()

    def q(w: str | Array) -> Array:
        return -m.q("critic", inside(m), m.b.observations, own(w))[..., head, :].mean(-1) / scale

    m.say(actor_loss=behaviour_loss(m, "actor") + m.v.eta * q("actor"), q_loss=q("actor"), q_scale=scale)
    m.learn_clipped("actor", lambda w: behaviour_loss(m, w) + m.v.eta * q(w))


def dql(m: Member) -> None:
    """â of the whole chain; the other head's size is the divisor."""

    def policy(m: Member) -> None:
        head, variance = int(m.n.swap), schedule(m).posterior
        raise_value(m, lambda w: chain(m, w, m.b.observations, m.n.actions, variance), head, 1 - head)

    improve(m, policy)


def edp(m: Member) -> None:
    """â the clean action that the predicted noise implies; one head."""

    def implied(w: str | Array) -> Array:
        noisy, signal = noised(m)
        return np.clip((noisy - np.sqrt(1.0 - signal) * predicted(m, w)) / np.sqrt(signal), -m.bound, m.bound)

    improve(m, lambda m: raise_value(m, implied, int(m.n.swap), int(m.n.swap)))


def weighted(m: Member) -> None:
    """Each error weighted by min(exp(A / (mean |V| temperature)), 100), then divided by the weights' mean."""

    def policy(m: Member) -> None:
        b, count = m.b, m.v.max_q_candidates
        states = np.repeat(b.observations, count, axis=0)
        own = chain(m, "actor", states, m.n.actions, schedule(m).posterior)
        values = m.q("critic", inside(m), states, own).min(0).reshape(-1, count).mean(1)
        scale = np.abs(values).mean()
        advantages = (m.q("critic", inside(m), b.observations, b.actions).min(0) - values) / scale
        factors = np.minimum(np.exp(advantages / m.v.temperature), 100.0)

        def loss(w: str | Array) -> Array:
            rows = ((m.n.noise - predicted(m, w)) ** 2).mean(-1)
            return (factors / factors.mean() * rows).mean(-1)

        m.say(actor_loss=loss("actor"), q_scale=scale, policy_q=values.mean())
        m.learn_clipped("actor", loss)

    improve(m, policy)


def dac(m: Member) -> None:
    """Mean of the heads less ρ deviations; η L + mean √(1 − ᾱ) g·ε̂; then η by what L has become."""
    b, v, count = m.b, m.v, m.v.max_q_candidates
    states = np.repeat(b.next_observations, count, axis=0)
    ahead = chain(m, "average", states, m.n.next_actions, schedule(m).beta)
    each = m.q("target", inside(m), states, ahead, v.heads).reshape(v.heads, -1, count)
    each = each.max(-1) if v.max_q_backup else each.mean(-1)
    errors = m.errors(m.goal(each.mean(0) - v.pessimism * each.std(0)), inside(m), v.heads)
    m.say(critic_loss=errors(m.tensors["critic"]).mean())
    m.learn_clipped("critic", lambda w: errors(w).mean(-1))

    def policy(m: Member) -> None:
        noisy, signal = noised(m)
        shifts = 1e-6 * np.eye(m.actions)[:, None]
        above, below = (m.q("target", inside(m), b.observations, noisy + shift, v.heads) for shift in (shifts, -shifts))
        slope = ((above - below).mean(-2) / 2e-6).T
        scale = np.abs(m.q("target", inside(m), b.observations, b.actions, v.heads).mean(0)).mean()
        eta = m.tensors["eta"][0]

        def loss(w: str | Array) -> Array:
            guided = (np.sqrt(1.0 - signal) * slope / scale * predicted(m, w)).mean((-1, -2))
            return eta * behaviour_loss(m, w) + guided

        m.say(actor_loss=loss("actor"), behaviour_loss=behaviour_loss(m, "actor"), eta=eta, q_scale=scale)
        m.learn_clipped("actor", loss)
        if v.bound is not None:
            excess = np.clip(behaviour_loss(m, "actor") - v.bound, -1.0, 1.0)
            m.tensors["eta"] = np.clip(m.tensors["eta"] + v.eta_learning_rate * excess, 0.001, 100.0)

    finish(m, policy)


def idql(m: Member) -> None:
    """The policy down the mean of Σ (ε − ε_θ)², then value and critic as IQL's."""

    def loss(w: Array) -> Array:
        return ((m.n.noise - predicted(m, w)) ** 2).sum(-1).mean(-1)

    m.say(behaviour_loss=behaviour_loss(m, "actor"))
    m.learn(actor=loss)
    learn_value(m)
    learn_implicit_critic(m)
    m.move("average", "actor", m.v.ema_rate)


def bdpo(m: Member) -> None:
    """The clone; then Q and V by their targets, and sometimes the policy by the new ones and the clone."""
    if hasattr(m.n, "next_actions"):
        learn_values_of_chain(m)
    if hasattr(m.n, "policy_step"):
        drawn = m.n.policy_step, m.n.policy_noise, m.n.policy_draws

        def loss(w: str | Array) -> Array:
            return -worth(m, w, *drawn).mean(-1)

        m.say(actor_loss=loss("actor"))
        m.learn_clipped("actor", loss)
        m.move("average", "actor", m.v.ema_rate)
    if hasattr(m.n, "behaviour_step"):
        step, noise = m.n.behaviour_step, m.n.behaviour_noise

        def cloning(w: str | Array) -> Array:
            predicted = noise_net(m, w, forward(m, step, noise), step, m.b.observations)
            return np.asarray(((noise - predicted) ** 2).mean((-1, -2)))

        m.say(behaviour_loss=cloning("behaviour"))
        m.learn_clipped("behaviour", cloning)
        m.move("behaviour_average", "behaviour", m.v.ema_rate)
        if not hasattr(m.n, "policy_step"):
            m.tensors["actor"] = m.tensors["average"] = m.tensors["behaviour_average"]


def forward(m: Member, step: Array, noise: Array) -> Array:
    """a_t of the batch."""
    signal = schedule(m).signal[step][:, None]
    return np.asarray(np.sqrt(signal) * m.b.actions + np.sqrt(1.0 - signal) * noise)


def divergence(m: Member, step: Array, x: Array, one: Array, other: Array) -> Array:
    """KL divergence of two Gaussian steps of variance β from their means, which two predicted noises imply."""
    beta, signal, _ = (each[step][..., None] for each in schedule(m))
    first, second = ((x - beta / np.sqrt(1.0 - signal) * noise) / np.sqrt(1.0 - beta) for noise in (one, other))
    return np.asarray(((first - second) ** 2 / (2.0 * beta)).sum(-1))


def bounded_below(m: Member, values: Array) -> Array:
    return np.asarray(values.mean(-2) - m.v.pessimism * values.std(-2))


def noisy_values(m: Member, network: str | Array, x: Array, step: Array, states: Array) -> Array:
    """V_t ``[..., heads, B]``."""
    flat = m.flat(network)
    flat = flat.reshape(*flat.shape[:-1], m.v.heads, -1)
    hidden = (m.v.hidden_size,) * m.v.hidden_layers
    return noise_net(m, flat, x[..., None, :, :], step, states, hidden, normed(mish))[..., 0]


def worth(m: Member, w: str | Array, step: Array, noise: Array, draws: Array) -> Array:
    """What the rest of a chain is worth after a step of it, less what the step pays."""
    states, count, x = m.b.observations, m.v.samples, forward(m, step, noise)
    own, clone = (noise_net(m, net, x, step, states) for net in (w, "behaviour_average"))
    beta, signal, _ = (each[step][:, None] for each in schedule(m))
    before = np.append(1.0, schedule(m).signal)[step][:, None]
    start = np.clip((x - np.sqrt(1.0 - signal) * own) / np.sqrt(signal), -m.bound, m.bound)
    mean = (np.sqrt(before) * beta * start + np.sqrt(1.0 - beta) * (1.0 - before) * x) / (1.0 - signal)
    spread = np.where(step[:, None] > 0, np.sqrt(beta), 0.0)
    after = np.repeat(mean, count, axis=-2) + np.repeat(spread, count, axis=0) * draws
    states, many = np.repeat(states, count, axis=0), np.repeat(step, count)
    clean = m.q("target", inside(m), states, after, m.v.heads)
    noisy = noisy_values(m, "value_target", after, np.maximum(many - 1, 0), states)
    each = np.where(many == 0, clean, noisy)
    values = each.reshape(*each.shape[:-1], -1, count).mean(-1)
    return bounded_below(m, values) - m.v.eta * divergence(m, step, x, own, clone)


def learn_values_of_chain(m: Member) -> None:
    v, b, paid = m.v, m.b, []
    states = np.repeat(b.next_observations, v.samples, axis=0)

    def seen(t: int, x: Array, predicted: Array) -> None:
        steps = np.full(len(states), t)
        paid.append(divergence(m, steps, x, predicted, noise_net(m, "behaviour_average", x, steps, states)))

    ahead = chain(m, "average", states, m.n.next_actions, schedule(m).beta, seen)
    each = m.q("target", inside(m), states, ahead, v.heads).reshape(v.heads, -1, v.samples)
    each = each.max(-1) if v.max_q_backup else each.mean(-1)
    cost = np.sum(paid, axis=0).reshape(-1, v.samples).mean(-1)
    goal = m.goal(bounded_below(m, each) - v.eta * cost)
    drawn = m.n.step, m.n.noise, m.n.draws
    noisy_goal = worth(m, "average", *drawn)
    errors = m.errors(goal, inside(m), v.heads)
    x = forward(m, *drawn[:2])

    def loss(w: str | Array) -> Array:
        found = noisy_values(m, w, x, m.n.step, b.observations)
        return np.asarray(((found - noisy_goal) ** 2).mean((-1, -2)))

    m.say(critic_loss=errors(m.tensors["critic"]).mean(), value_loss=loss("value"))
    m.say(path_divergence=cost.mean())
    m.learn_clipped("critic", lambda w: errors(w).mean(-1))
    m.learn_clipped("value", loss)
    m.move("target", "critic", v.target_rate)
    m.move("value_target", "value", v.target_rate)
