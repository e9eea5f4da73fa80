"""Training on bandits: what is learned is what the algorithm's equation says, in closed form.

Each test states what a wrong sign, a missing factor or a wrong mean would break. Networks are small and seeds fixed.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor
from trials import member, trial

from diffcps.algorithms import fql
from diffcps.algorithms.diffusion import reverse_chain
from diffcps.config import EvaluationConfig
from diffcps.tasks.bandits import bandit
from diffcps.training.learner import Learner, Part

Array = NDArray[np.float64]
FAST: dict[str, Any] = {
    "hidden_size": 32, "hidden_layers": 2, "batch_size": 128, "learning_rate": 3e-3, "critic_learning_rate": 3e-3,
    "target_rate": 0.05, "discount": 0.0,
}  # fmt: skip


def learned(
    name: str, actions: Array, rewards: Array, steps: int, members: list[dict[str, Any]], **more: Any
) -> Learner:
    """A pack after ``steps`` on a bandit's actions ``[N, d]`` with rewards ``[N]``; each member has settings of its own."""
    nothing = np.zeros((len(actions), 1), np.float32)
    data = SimpleNamespace(
        observations=nothing, actions=actions.astype(np.float32), rewards=rewards.astype(np.float32),
        next_observations=nothing, terminals=np.ones(len(actions), np.float32),
    )  # fmt: skip
    pack = tuple(member(0, **own) for own in members)
    config = trial(algorithm=name, members=pack, steps=steps, evaluation=EvaluationConfig(candidates=1), **FAST | more)
    learner = Learner([Part(config, data)], 1.0)
    learner.update(steps)
    return learner


def of_bandit(name: str, count: int = 4000) -> tuple[Array, Array]:
    """Actions of a bandit's behaviour, and their rewards."""
    known, rng = bandit(name), np.random.default_rng(0)
    actions = known.sample(count, rng)
    return actions, known.rewards(actions, rng)


def state(learner: Learner, rows: int = 1) -> Tensor:
    """The only one there is, as an observation of every member ``[K, rows, 1]``."""
    return torch.zeros(learner.members, rows, 1)


def acted(learner: Learner) -> Array:
    """The deterministic action of each member ``[K, d]``."""
    policy = learner.policy()
    given = [np.zeros((1, 1), np.float32)] * learner.members
    return np.stack([own[0] for own in policy.act(given, [torch.Generator()] * learner.members, 1)])


# Values ---------------------------------------------------------------------------------------------------------------


def expectile(values: Array, part: float) -> float:
    """Where the mean of |τ − 1[u ≤ 0]| u is zero."""

    def slope(at: float) -> float:
        return float((np.where(values > at, part, 1.0 - part) * (values - at)).mean())

    return float(brentq(slope, values.min(), values.max()))


def test_iql_learns_the_expectiles_of_the_rewards_and_the_weighted_mean_of_the_actions() -> None:
    """V is the τ-expectile of r over the data; the policy's mean is that of the data weighted by exp(β r)."""
    actions, rewards = of_bandit("mixture-5x1")
    levels, betas = (0.5, 0.7, 0.9), (0.0, 1.0, 3.0)
    members = [{"expectile": t, "inverse_temperature": b} for t, b in zip(levels, betas, strict=True)]
    learner = learned("iql", actions, rewards, 600, members)
    own: Any = learner.algorithm
    found = own.value(own.value.layout.layers(learner.pack["value"]), state(learner))[:, 0, 0].detach()
    np.testing.assert_allclose(found, [expectile(rewards, t) for t in levels], atol=0.03)
    weights = np.exp(np.outer(betas, rewards))
    np.testing.assert_allclose(acted(learner)[:, 0], weights @ actions[:, 0] / weights.sum(axis=1), atol=0.05)


def conservative(rewards: Array, penalty: float) -> Array:
    """The values on an even grid over the data's range, uniform data, at which CQL's loss is least.

    2 p (Q − r) + w (σ − p) = 0 with σ the softmax of Q: Q = r + w/2 (1 − σ/p).
    """
    values = rewards.copy()
    for _ in range(2000):
        soft = np.exp(values - values.max())
        values += 0.1 * (rewards + 0.5 * penalty * (1.0 - soft / soft.mean()) - values)
    return values


def test_cql_learns_a_lower_bound_that_tightens_with_the_penalty() -> None:
    """On uniform data its values are known; those of its own policy are below the truth, the less the smaller w."""
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 1))

    def reward(a: Array) -> Array:
        return 1.0 - 2.0 * (a - 0.3) ** 2

    penalties = (0.0, 0.5, 3.0)
    members = [{"penalty": w} for w in penalties]
    learner = learned("cql", actions, reward(actions[:, 0]), 500, members, batch_size=32, samples=10, cloning_steps=0)
    own: Any = learner.algorithm
    grid = np.linspace(-0.95, 0.95, 39)
    everywhere = torch.from_numpy(grid).float()[None, :, None].expand(learner.members, -1, 1)
    critic = own.critic.layers(learner.pack["critic"])
    found = own.critic(critic, state(learner, len(grid)), everywhere).mean(dim=1).detach()
    fine = np.linspace(-1.0, 1.0, 201)
    for values, w in zip(found.numpy(), penalties, strict=True):
        expected = np.interp(grid, fine, conservative(reward(fine), w))
        lowered = np.abs(expected - reward(grid)).mean()
        # the soft maximum is over 30 actions instead of all
        assert np.abs(values - expected).mean() < 0.03 + 0.25 * lowered, w
    noise = torch.randn(learner.members, 500, 1, generator=torch.Generator().manual_seed(0))
    drawn, _ = own.sample(own.policy.layout.layers(learner.pack["actor"]), state(learner), noise)
    value = own.critic(critic, state(learner), drawn).amin(dim=1).mean(dim=1).detach().numpy()
    below = reward(drawn.detach().numpy()[..., 0]).mean(axis=1) - value
    assert abs(below[0]) < 0.05
    assert (np.diff(below) > 0.05).all(), below


# Policies -------------------------------------------------------------------------------------------------------------


def test_awac_and_crr_fit_the_exponentially_weighted_data() -> None:
    """Mean and deviation of the data's actions under weights exp(r / λ): the state's value cancels."""
    actions, rewards = of_bandit("mixture-3x1")
    temperatures = (0.5, 1.0, 4.0)
    weights = np.exp(rewards / np.array(temperatures)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    mean = weights @ actions[:, 0]
    deviation = np.sqrt(weights @ actions[:, 0] ** 2 - mean**2)
    for name in ("awac", "crr"):
        learner = learned(name, actions, rewards, 500, [{"temperature": t} for t in temperatures])
        own: Any = learner.algorithm
        layers = own.policy.layout.layers(learner.pack["actor"])
        np.testing.assert_allclose(own.policy.mean(layers, state(learner)).flatten(), mean, atol=0.06, err_msg=name)
        found = own.policy.log_std(layers, state(learner)).exp().flatten()
        np.testing.assert_allclose(found, deviation, atol=0.04, err_msg=name)


def test_crr_with_binary_weights_keeps_the_better_half() -> None:
    """Uniform actions of which the positive ones are worth 1: what stays is uniform on (0, 1), but for a blurred edge."""
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 1))
    learner = learned("crr", actions, (actions[:, 0] > 0).astype(float), 500, [{}], weight="binary")
    own: Any = learner.algorithm
    layers = own.policy.layout.layers(learner.pack["actor"])
    found = [part(layers, state(learner)).item() for part in (own.policy.mean, own.policy.log_std)]
    np.testing.assert_allclose(found, [0.5, -0.5 * math.log(12.0)], atol=0.15)


BEST, EDGES = np.array([0.2, 0.1]), (-1.0, 0.6)


def square() -> tuple[Array, Array]:
    """Actions uniform on a square, and rewards that fall with the squared distance to ``BEST``, 1 there."""
    actions = np.random.default_rng(0).uniform(*EDGES, (4000, 2))
    return actions, 1.0 - ((actions - BEST) ** 2).sum(axis=1)


def between(pull: float, size: float) -> Array:
    """Where a (π − c)² / |Q(π)| + b (π − mean)² is least, a = ``size``, b = ``pull``, Q = 1 − (π − c)²."""
    centre, at = np.full(2, np.mean(EDGES)), BEST
    for _ in range(200):
        value = abs(1.0 - ((at - BEST) ** 2).sum())
        at = (size / value * BEST + pull * centre) / (size / value + pull)
    return at


def test_td3bc_goes_from_the_mean_of_the_data_to_the_best_action() -> None:
    """−α Q / |Q| + mean over d of (π − a)²: α = 0 is the mean, and between them the balance is known."""
    alphas = (0.0, 0.3, 1.0, 10.0)
    learner = learned("td3bc", *square(), steps=600, members=[{"alpha": a} for a in alphas])
    expected = [between(0.5, a) for a in alphas]
    np.testing.assert_allclose(acted(learner), expected, atol=0.08)


def test_rebrac_goes_from_the_best_action_to_the_mean_of_the_data() -> None:
    """−min Q / |min Q| + β1 Σ over d of (π − a)²."""
    penalties = (0.001, 0.5, 2.0, 50.0)
    learner = learned("rebrac", *square(), steps=600, members=[{"actor_penalty": b} for b in penalties])
    expected = [between(b, 1.0) for b in penalties]
    np.testing.assert_allclose(acted(learner), expected, atol=0.08)


def test_fql_reaches_in_one_step_what_its_flow_reaches() -> None:
    """Data of N(0, S²): the field is known and linear, so ten Euler steps multiply by a known number.

    The one-step policy of α (μ − f)² − Q, Q = r = −(a − c)², is (α f + c) / (α + 1) of the flow f.
    """
    actions, _ = of_bandit("normal-0.3")
    alphas, best, variance = (1000.0, 1.0, 0.1), 0.2, 0.09
    learner = learned("fql", actions, -((actions[:, 0] - best) ** 2), 500, [{"alpha": a} for a in alphas])
    own: Any = learner.algorithm
    z = torch.linspace(-2.0, 2.0, 41)[None, :, None].expand(learner.members, -1, 1)
    rows = state(learner, 41)
    field = own.flow.layout.layers(learner.pack["flow"])
    flow = fql.euler(lambda x, t: own.velocity(field, rows, x, torch.full_like(x, t)), z, 10)
    factor = math.prod(
        1.0 + 0.1 * (t * variance - (1.0 - t)) / ((1.0 - t) ** 2 + t**2 * variance) for t in np.arange(10) / 10
    )
    np.testing.assert_allclose(flow, factor * z, atol=0.06)
    actions_of = own.one_step(own.policy.layout.layers(learner.pack["actor"]), rows, z)
    for k, alpha in enumerate(alphas):
        distance = actions_of[k] - (alpha * flow[k] + best) / (alpha + 1.0)
        assert distance.square().mean().sqrt() < 0.05, alpha


def test_bdpo_moves_its_policy_by_the_slope_of_the_value_over_the_price() -> None:
    """Data of N(0, S²) and Q = r = a: each step of the clone is linear in its noisy action, so the best policy moves means alone.

    Of a Gaussian path that pays its KL divergence from another one, with the reward a_0/η, the means differ by the other's
    covariance with a_0, over η. The last step pays as if it had its noise, of variance β_1, so this adds to what a_0 has.
    """
    actions, _ = of_bandit("normal-0.3")
    actions, prices = 0.8 * actions, (0.7, 1.5, 4.0)
    small = {"samples": 2, "heads": 2, "pessimism": 0.0, "policy_layers": 2, "time_embedding": 8, "policy_freq": 1}
    shares = {"behaviour_share": 0.4, "warmup_share": 0.1, "ema_rate": 0.02}
    rates = {"behaviour_learning_rate": 3e-3, "learning_rate": 1e-3}
    members = [{"eta": price} for price in prices]
    learner = learned("bdpo", actions, actions[:, 0], 600, members, **small | shares | rates)
    own: Any = learner.algorithm
    rows, draw = state(learner, 20_000), torch.Generator().manual_seed(0)
    noise = torch.randn((own.draws, learner.members, 20_000, 1), generator=draw)
    policy, clone = (
        reverse_chain(own.denoiser(learner.pack[name], rows), own.schedule, noise, 1.0).squeeze(2)
        for name in ("average", "behaviour_average")
    )
    expected = (clone.var(dim=1) + own.schedule.beta[0]) / torch.tensor(prices)
    np.testing.assert_allclose(policy.mean(dim=1) - clone.mean(dim=1), expected, rtol=0.08)
