"""Updates of the algorithms once more, in NumPy, written from their equations; those of chains are in ``chains``."""

import math
from collections.abc import Callable

import numpy as np
from numeric import Array, Loss, Member, gelu, normal_log_density, normed, relu

# TD3+BC and ReBRAC ----------------------------------------------------------------------------------------------------


def td3(m: Member, critic: Loss, penalised: Callable[[Array, Array], Array], policy_loss: Loss, first: int) -> None:
    """The policy learns in step ``first`` and in every ``policy_freq``-th after it."""
    v, b = m.v, m.b
    shift = np.clip(v.target_noise * m.n.target_noise, -v.target_noise_clip, v.target_noise_clip)
    policy = np.tanh(m.net("target_actor", relu, m.actions, b.next_observations))
    ahead = np.clip(policy + shift, -1.0, 1.0)
    values = m.q("target", critic, b.next_observations, ahead).min(0)
    m.learn(critic=m.summed(m.goal(penalised(values, ahead)), critic))
    if (m.number - first) % v.policy_freq == 0:
        m.say(actor_loss=policy_loss(m.tensors["actor"]))
        m.learn(actor=policy_loss)
        m.move("target", "critic", v.target_rate)
        m.move("target_actor", "actor", v.target_rate)


def td3bc(m: Member) -> None:
    """−λ mean Q1(s, π(s)) + mean (π(s) − a)², λ = α / mean |Q1| a constant."""
    b = m.b

    def loss(w: Array) -> Array:
        fixed = m.q("critic", relu, b.observations, np.tanh(m.net("actor", relu, m.actions, b.observations)))[0]
        actions = np.tanh(m.net(w, relu, m.actions, b.observations))
        values = m.q("critic", relu, b.observations, actions)[..., 0, :]
        return -m.v.alpha / np.abs(fixed).mean() * values.mean(-1) + ((actions - b.actions) ** 2).mean((-1, -2))

    td3(m, relu, lambda values, ahead: values, loss, first=m.v.policy_freq - 1)


def rebrac(m: Member) -> None:
    """β1 Σ (π(s) − a)² − min Q / mean |min Q|; the critic's goal less β2 Σ (ã − a')²."""
    b, critic = m.b, normed(relu)

    def loss(w: Array) -> Array:
        own = np.tanh(m.net("actor", relu, m.actions, b.observations))
        scale = np.abs(m.q("critic", critic, b.observations, own).min(0)).mean()
        actions = np.tanh(m.net(w, relu, m.actions, b.observations))
        values = m.q("critic", critic, b.observations, actions).min(-2)
        return m.v.actor_penalty * ((actions - b.actions) ** 2).sum(-1).mean(-1) - values.mean(-1) / scale

    def penalised(values: Array, ahead: Array) -> Array:
        return values - m.v.critic_penalty * b.has_next * ((ahead - b.next_actions) ** 2).sum(-1)

    td3(m, critic, penalised, loss, first=0)


# IQL, AWAC and CRR: Gaussians with a free deviation -------------------------------------------------------------------


def gaussian(m: Member, network: str | Array, states: Array, log_std: tuple[float, float]) -> tuple[Array, Array]:
    """The network's output and the logarithm of the deviation; its parameters are the last ones."""
    flat = m.flat(network)
    mean = m.net(flat[..., : -m.actions], relu, m.actions, states)
    return mean, np.clip(flat[..., None, -m.actions :], *log_std)


def regress(m: Member, weights: Array, log_std: tuple[float, float], squash: bool) -> None:
    """The policy down −mean w log π(a|s)."""
    b = m.b

    def loss(w: Array) -> Array:
        mean, spread = gaussian(m, w, b.observations, log_std)
        return -(weights * normal_log_density(b.actions, np.tanh(mean) if squash else mean, spread)).mean(-1)

    m.say(actor_loss=loss(m.tensors["actor"]), mean_weight=weights.mean())
    m.learn(actor=loss)


def learn_value(m: Member) -> Array:
    """|τ − 1[u ≤ 0]| u² for u = min(Q1', Q2') − V; gives u with the new V."""
    b = m.b
    target = m.q("target", relu, b.observations, b.actions).min(0)

    def loss(w: Array) -> Array:
        excess = target - m.net(w, relu, 1, b.observations)[..., 0]
        return (np.abs(m.v.expectile - (excess <= 0)) * excess**2).mean(-1)

    m.say(value_loss=loss(m.tensors["value"]))
    m.learn(value=loss)
    return target - m.net("value", relu, 1, b.observations)[..., 0]


def learn_implicit_critic(m: Member) -> None:
    m.learn(critic=m.summed(m.goal(m.net("value", relu, 1, m.b.next_observations)[..., 0]), relu))
    m.move("target", "critic", m.v.target_rate)


def iql(m: Member) -> None:
    weights = np.minimum(np.exp(m.v.inverse_temperature * learn_value(m)), 100.0)
    regress(m, weights, (-5.0, 2.0), squash=True)
    learn_implicit_critic(m)


def weighted_gaussian(m: Member, ahead: str, count: int, weight: Loss) -> None:
    """Critic, then policy; ``count`` actions of the policy give the value of a state."""
    b, limits = m.b, (-20.0, 2.0)

    def drawn(name: str, states: Array, noise: Array) -> Array:
        mean, log_std = gaussian(m, name, states, limits)
        return np.clip(mean + np.exp(log_std) * noise, -1.0, 1.0)

    actions = drawn(ahead, b.next_observations, m.n.next_actions)
    m.learn(critic=m.summed(m.goal(m.q("target", relu, b.next_observations, actions).min(0)), relu))
    repeated = np.repeat(b.observations, count, axis=0)
    own = m.q("critic", relu, repeated, drawn("actor", repeated, m.n.actions)).min(0).reshape(-1, count).mean(1)
    advantages = m.q("critic", relu, b.observations, b.actions).min(0) - own
    m.say(advantage=advantages.mean())
    regress(m, weight(advantages), limits, squash=False)


def awac(m: Member) -> None:
    weighted_gaussian(m, "actor", 1, lambda a: np.minimum(np.exp(a / m.v.temperature), 100.0))
    m.move("target", "critic", m.v.target_rate)


def crr(m: Member) -> None:
    def weight(advantages: Array) -> Array:
        if m.v.weight == "binary":
            return (advantages > 0).astype(float)
        return np.minimum(np.exp(advantages / m.v.temperature), 20.0)

    weighted_gaussian(m, "target_actor", 4, weight)
    if m.number % 100 == 0:
        m.move("target", "critic", m.v.target_rate)
        m.move("target_actor", "actor", m.v.target_rate)


# FQL and CQL ----------------------------------------------------------------------------------------------------------


def fql(m: Member) -> None:
    """Three losses of the networks as they are."""
    b, n, v, critic = m.b, m.n, m.v, normed(gelu)
    ahead = np.clip(m.net("actor", gelu, m.actions, b.next_observations, n.next_noise), -1.0, 1.0)
    errors = m.errors(m.goal(m.q("target", critic, b.next_observations, ahead).mean(0)), critic)
    time = n.time[:, None]
    x = n.noise
    for step in range(v.flow_steps):
        at = np.full_like(time, step / v.flow_steps)
        x = x + m.net("flow", gelu, m.actions, b.observations, x, at) / v.flow_steps
    reached = np.clip(x, -1.0, 1.0)

    def values(actions: Array) -> Array:
        return m.q("critic", critic, b.observations, np.clip(actions, -1.0, 1.0)).mean(-2)

    def one_step(w: str | Array) -> Array:
        return m.net(w, gelu, m.actions, b.observations, n.noise)

    scale = np.abs(values(one_step("actor"))).mean() if v.normalise_value else 1.0

    def flow(w: Array) -> Array:
        between = (1.0 - time) * n.start + time * b.actions
        velocity = m.net(w, gelu, m.actions, b.observations, between, time)
        return ((velocity - (b.actions - n.start)) ** 2).mean((-1, -2))

    def policy(w: Array) -> Array:
        actions = one_step(w)
        return v.alpha * ((actions - reached) ** 2).mean((-1, -2)) - values(actions).mean(-1) / scale

    losses = {"critic": lambda w: errors(w).mean(-1), "flow": flow, "actor": policy}
    told = zip(("critic_loss", "behaviour_loss", "actor_loss"), losses.items(), strict=True)
    m.say(**{name: loss(m.tensors[network]) for name, (network, loss) in told})
    m.learn(**losses)
    m.move("target", "critic", v.target_rate)


def squashed(m: Member, network: str | Array, states: Array, noise: Array) -> tuple[Array, Array]:
    """Actions tanh(mean + std ξ), several for each state, and their log densities."""
    repeated = np.repeat(states, len(noise) // len(states), axis=0)
    mean, log_std = np.split(m.net(network, relu, 2 * m.actions, repeated), 2, axis=-1)
    log_std = np.clip(log_std, -20.0, 2.0)
    raw = mean + np.exp(log_std) * noise
    return np.tanh(raw), normal_log_density(raw, mean, log_std) - np.log(1.0 - np.tanh(raw) ** 2).sum(-1)


def cql(m: Member) -> None:
    b, n, v = m.b, m.n, m.v
    rows, count = len(b.rewards), v.samples
    _, density = squashed(m, "actor", b.observations, n.actions)
    m.learn(log_temperature=lambda w: -w[..., 0] * (density.mean() - m.actions))
    temperature = math.exp(m.tensors["log_temperature"][0])

    def policy(w: Array) -> Array:
        actions, log_pi = squashed(m, w, b.observations, n.actions)
        gain = m.q("critic", relu, b.observations, actions).min(-2)
        if m.number < v.cloning_steps:
            mean, log_std = np.split(m.net(w, relu, 2 * m.actions, b.observations), 2, axis=-1)
            raw = np.arctanh(np.clip(b.actions, -1.0 + 1e-6, 1.0 - 1e-6))
            gain = normal_log_density(raw, mean, np.clip(log_std, -20.0, 2.0)) - np.log(1.0 - np.tanh(raw) ** 2).sum(-1)
        return (temperature * log_pi - gain).mean(-1)

    ahead, _ = squashed(m, "actor", b.next_observations, n.next_actions)
    repeated = np.repeat(b.next_observations, len(ahead) // rows, axis=0)
    values = m.q("target", relu, repeated, ahead).reshape(2, rows, -1).max(-1).min(0)
    errors = m.errors(m.goal(values), relu)
    uniform = 2.0 * n.random - 1.0, np.full(rows * count, -m.actions * math.log(2.0))
    following, own = squashed(m, "actor", b.next_observations, n.following), squashed(m, "actor", b.observations, n.own)
    repeated = np.repeat(b.observations, count, axis=0)

    def gaps(w: str | Array) -> Array:
        terms = [(m.q(w, relu, repeated, a) - p) for a, p in (uniform, following, own)]
        each = np.concatenate([term.reshape(*term.shape[:-1], rows, count) for term in terms], axis=-1)
        return (np.log(np.exp(each).sum(-1)) - m.q(w, relu, b.observations, b.actions)).mean(-1)

    held, gap = v.threshold is not None, gaps("critic").mean()
    multiplier = min(1e6, math.exp(m.tensors["log_multiplier"][0])) if held else 1.0
    losses = {"actor": policy, "critic": lambda w: (errors(w) + multiplier * v.penalty * gaps(w)).sum(-1)}
    m.say(critic_loss=errors(m.tensors["critic"]).sum(), gap=gap, actor_loss=policy(m.tensors["actor"]))
    m.say(entropy=-density.mean(), temperature=temperature, penalty_weight=multiplier)
    over = v.penalty * gap - v.threshold if held else 0.0
    m.learn(**losses, log_multiplier=lambda w: -np.exp(w[..., 0]) * over)
    m.move("target", "critic", v.target_rate)
