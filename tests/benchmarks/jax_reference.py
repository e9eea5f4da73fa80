"""The second yardstick: DiffCPS (`official` profile) for one policy, jitted by JAX.

What a user of today's JAX would write: the same computation as ``reference``, as pure functions of a tree of parameters, one
``jax.jit`` around a policy step and one around a critic step. It draws its own numbers, and shares nothing with the library but
the settings' dataclass. JAX is no dependency of the project: ``pip install jax`` for whoever compares.

Shapes: B transitions, T diffusion steps, o and a the sizes of observations and actions.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffcps.algorithms.diffcps import Settings

Tree = dict[str, Any]


def mish(x: jax.Array) -> jax.Array:
    """x·tanh(softplus(x))."""
    return x * jnp.tanh(jax.nn.softplus(x))


def linear(key: jax.Array, inputs: int, outputs: int) -> Tree:
    """Weights and biases uniform in ±1/√inputs, as PyTorch's."""
    bound, (one, two) = 1 / math.sqrt(inputs), jax.random.split(key)
    return {
        "w": jax.random.uniform(one, (inputs, outputs), minval=-bound, maxval=bound),
        "b": jax.random.uniform(two, (outputs,), minval=-bound, maxval=bound),
    }


def mlp(key: jax.Array, *sizes: int) -> list[Tree]:
    """Layers of these sizes."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [linear(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def forward(layers: list[Tree], x: jax.Array) -> jax.Array:
    """Linear layers with Mish between them."""
    for layer in layers[:-1]:
        x = mish(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def clipped(grads: Any, limit: float) -> Any:
    """Gradients scaled to a global norm of at most ``limit``."""
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, limit / (norm + 1e-6)), grads)


def adam(params: Any, grads: Any, state: Tree, rate: float) -> tuple[Any, Tree]:
    """One step of Adam."""
    count = state["count"] + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["first"], grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["second"], grads)
    one, two = 1 - 0.9**count, 1 - 0.999**count
    moved = jax.tree.map(lambda p, m, v: p - rate * (m / one) / (jnp.sqrt(v / two) + 1e-8), params, first, second)
    return moved, {"first": first, "second": second, "count": count}


def fresh(params: Any) -> Tree:
    """Adam's state before the first step."""
    # two trees: a jitted function may be given a buffer to use again only once
    return {
        "first": jax.tree.map(jnp.zeros_like, params),
        "second": jax.tree.map(jnp.zeros_like, params),
        "count": jnp.zeros(()),
    }


def follow(slow: Any, fast: Any, rate: float) -> Any:
    """(1 − rate)·slow + rate·fast."""
    return jax.tree.map(lambda old, new: old + rate * (new - old), slow, fast)


class Agent:
    """One policy, its critics, λ and their optimisers; ``data`` maps names of columns to arrays of the whole data set."""

    def __init__(self, config: Settings, data: dict[str, np.ndarray], max_action: float) -> None:
        self.config, self.limit = config, max_action
        self.data = {name: jnp.asarray(value, jnp.float32) for name, value in data.items()}
        self.sizes = data["observations"].shape[1], data["actions"].shape[1]
        i = np.arange(1, config.diffusion_steps + 1)
        steps = config.diffusion_steps
        beta = 1 - np.exp(-config.beta_min / steps - 0.5 * (config.beta_max - config.beta_min) * (2 * i - 1) / steps**2)
        bar = np.cumprod(1 - beta)
        before = np.concatenate([[1.0], bar[:-1]])
        self.signal, self.spread = np.sqrt(bar), np.sqrt(1 - bar)
        self.start = beta * np.sqrt(before) / (1 - bar)
        self.current = (1 - before) * np.sqrt(1 - beta) / (1 - bar)
        self.deviation = np.sqrt(beta * (1 - before) / (1 - bar))
        self.step, self.key = 0, jax.random.key(0)
        self.state = self._initial(jax.random.key(1))
        kinds = [(policy, average) for policy in (True, False) for average in (True, False)]
        self._jitted = {kind: jax.jit(functools.partial(self._update, *kind), donate_argnums=0) for kind in kinds}

    def _initial(self, key: jax.Array) -> Tree:
        o, a = self.sizes
        hidden, size = self.config.hidden_size, self.config.time_embedding
        keys = jax.random.split(key, 4)
        actor = {
            "time": mlp(keys[0], size, 2 * size, size),
            "net": mlp(keys[1], a + size + o, hidden, hidden, hidden, a),
        }
        critic = [mlp(k, o + a, hidden, hidden, hidden, 1) for k in keys[2:]]
        multiplier = jnp.asarray(self.config.lambda_init)
        copies = {"average": jax.tree.map(jnp.copy, actor), "target": jax.tree.map(jnp.copy, critic)}
        learned = {"actor": actor, "critic": critic, "multiplier": multiplier}
        return {**learned, **copies, "adams": {name: fresh(value) for name, value in learned.items()}}

    def update(self, times: int = 1) -> None:
        """So many gradient steps, which are waited for."""
        for _ in range(times):
            self.key, own = jax.random.split(self.key)
            config = self.config
            kind = (
                self.step % config.policy_freq == 0,
                self.step >= config.ema_start and self.step % config.ema_every == 0,
            )
            self.state = self._jitted[kind](self.state, self.data, own)
            self.step += 1
        jax.block_until_ready(self.state)

    # The equations, on one batch

    def _noise(self, actor: Tree, x: jax.Array, step: jax.Array, observations: jax.Array) -> jax.Array:
        half = self.config.time_embedding // 2
        angles = step[:, None] * jnp.exp(jnp.arange(half) * (-math.log(10_000.0) / (half - 1)))
        time = forward(actor["time"], jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))
        return forward(actor["net"], jnp.concatenate([x, time, observations], axis=-1))

    def _sample(self, actor: Tree, observations: jax.Array, key: jax.Array) -> jax.Array:
        rows, steps = len(observations), self.config.diffusion_steps
        noise = jax.random.normal(key, (steps, rows, self.sizes[1]))
        x = noise[0]
        for i in reversed(range(steps)):
            predicted = self._noise(actor, x, jnp.full((rows,), float(i)), observations)
            start = jnp.clip((x - self.spread[i] * predicted) / self.signal[i], -self.limit, self.limit)
            x = self.start[i] * start + self.current[i] * x
            if i > 0:
                x = x + self.deviation[i] * noise[steps - i]
        return jnp.clip(x, -self.limit, self.limit)

    def _values(self, critic: list[Any], observations: jax.Array, actions: jax.Array) -> list[jax.Array]:
        x = jnp.concatenate([observations, actions], axis=-1)
        return [forward(head, x)[:, 0] for head in critic]

    def _goal(self, state: Tree, batch: Tree, key: jax.Array) -> jax.Array:
        config, states = self.config, batch["next_observations"]
        many = config.max_q_candidates if config.max_q_backup else 1
        states = jnp.repeat(states, many, axis=0)
        heads = self._values(state["target"], states, self._sample(state["average"], states, key))
        value = functools.reduce(jnp.minimum, [head.reshape(-1, many).max(axis=1) for head in heads])
        return batch["rewards"] + config.discount * (1 - batch["terminals"]) * value

    def _actor_loss(self, actor: Tree, state: Tree, batch: Tree, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        config, (one, two, three, four) = self.config, jax.random.split(key, 4)
        actions, observations = batch["actions"], batch["observations"]
        step = jax.random.randint(one, (len(actions),), 0, config.diffusion_steps)
        noise = jax.random.normal(two, actions.shape)
        noisy = jnp.asarray(self.signal)[step][:, None] * actions + jnp.asarray(self.spread)[step][:, None] * noise
        behaviour = jnp.mean((self._noise(actor, noisy, step.astype(jnp.float32), observations) - noise) ** 2)
        q1, q2 = self._values(state["critic"], observations, self._sample(actor, observations, three))
        swap = jax.random.uniform(four) > 0.5
        first, second = jnp.where(swap, q2, q1), jnp.where(swap, q1, q2)
        q = -first.mean() / jax.lax.stop_gradient(jnp.abs(second).mean())
        weight = jnp.clip(state["multiplier"], config.lambda_clip, config.lambda_max)
        return jax.lax.stop_gradient(weight) * behaviour + q, behaviour

    def _update(self, policy: bool, average: bool, state: Tree, data: Tree, key: jax.Array) -> Tree:
        """One gradient step; ``policy``: also of the policy and λ; ``average``: the averaged policy moves."""
        config = self.config
        rows_key, goal_key, actor_key = jax.random.split(key, 3)
        rows = jax.random.randint(rows_key, (config.batch_size,), 0, len(data["actions"]))
        batch = {name: value[rows] for name, value in data.items()}
        goal = self._goal(state, batch, goal_key)

        def critic_loss(critic: list[Any]) -> jax.Array:
            heads = self._values(critic, batch["observations"], batch["actions"])
            return sum(jnp.mean((head - goal) ** 2) for head in heads)  # type: ignore[return-value]

        state, adams = dict(state), dict(state["adams"])
        grads = clipped(jax.grad(critic_loss)(state["critic"]), config.grad_norm)
        state["critic"], adams["critic"] = adam(state["critic"], grads, adams["critic"], config.critic_learning_rate)
        if policy:
            grads, behaviour = jax.grad(self._actor_loss, has_aux=True)(state["actor"], state, batch, actor_key)
            grads = clipped(grads, config.grad_norm)
            state["actor"], adams["actor"] = adam(state["actor"], grads, adams["actor"], config.learning_rate)
            slope = clipped(config.target_kl - behaviour, config.grad_norm)
            rate = config.lambda_learning_rate
            state["multiplier"], adams["multiplier"] = adam(state["multiplier"], slope, adams["multiplier"], rate)
        if average:
            state["average"] = follow(state["average"], state["actor"], 1 - config.ema_decay)
        state["target"] = follow(state["target"], state["critic"], config.target_rate)
        return state | {"adams": adams}
