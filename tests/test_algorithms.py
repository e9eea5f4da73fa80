"""The variants of the algorithm: members stay apart, resumes are bit-equal, and each switch does what its equation says."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from gaussian_chains import gaussian_step_losses
from scipy import stats
from trials import member

from diffcps import algorithms
from diffcps.algorithms import diffcps, duals
from diffcps.algorithms.base import Problem
from diffcps.algorithms.chain import ChainPolicy
from diffcps.algorithms.diffusion import prior_divergence, step_divergence
from diffcps.algorithms.gaussian import GaussianPolicy
from diffcps.algorithms.observations import SMALLEST_STD
from diffcps.algorithms.policies import Weights
from diffcps.config import EvaluationConfig, Member, RunConfig, Values
from diffcps.training import engine
from diffcps.training.learner import Learner, Part
from tests.test_learner import MEMBERS, make_learner

CPU = torch.device("cpu")
NOISY: dict[str, Any] = {"covariance": "calibrated", "last_step_noise": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "principled": NOISY | {"dual": "projected", "behaviour_steps": 10},
    "elbo": NOISY | {"constraint": "elbo", "dual": "augmented"},
    "elbo of the average": NOISY | {
        "constraint": "elbo", "dual": "projected", "behaviour_steps": 10, "constraint_policy": "average", "ema_start": 2,
    },
    "iwae": NOISY | {"constraint": "iwae", "constraint_samples": 2, "dual": "pi"},
    "renyi, learned": {
        "covariance": "learned",
        "last_step_noise": True,
        "constraint": "renyi",
        "constraint_samples": 2,
    },
    "interpolated, softplus": {"covariance": "interpolated", "dual": "softplus"},
    "forward, no future": {"covariance": "forward", "discount": 0.0},
    "gaussian": {"policy": "gaussian", "behaviour_steps": 10},
    "mixture": {"policy": "mixture", "mixture_components": 3, "constraint": "elbo"},
    "deterministic": {"policy": "deterministic", "hidden_layers": 1},
    "weighted": {"algorithm": "weighted", "policy": "gaussian", "max_q_candidates": 3},
    "weighted, diffusion": {"algorithm": "weighted", "max_q_candidates": 2, "behaviour_steps": 10},
    "bc": {"algorithm": "bc", **NOISY},
    "normalised, with layer norms and falling rates": {"normalise": True, "critic_norm": True, "cosine_decay": True},
    "bc, normalised": {"algorithm": "bc", "normalise": True, "cosine_decay": True, **NOISY},
}  # fmt: skip
OF_TWO = member(3, slack=0.1), MEMBERS[1]


def make(members: Sequence[Member] = OF_TWO, algorithm: str = "diffcps", **settings: Any) -> Learner:
    """A small pack; settings of the members that the algorithm does not have are left out."""
    known = algorithms.get(algorithm).settings.among
    own = [own.replaced(settings=known(own.settings)) for own in members]
    small = {"hidden_size": 16, "batch_size": 16, "time_embedding": 8, "ema_start": 8} | settings
    return make_learner(own, RunConfig("none", algorithm=algorithm, settings=Values(small)))


@pytest.mark.parametrize("name", VARIANTS)
def test_members_stay_apart_and_resumes_are_exact(name: str) -> None:
    """A pack of two, cut after 10 of 20 steps and gone on with; and its first member alone."""
    settings = {"diffusion_steps": 3, **VARIANTS[name]}
    straight, first = make(**settings), make(**settings)
    metrics = straight.update(20)
    assert set(metrics) == set(straight.metrics)
    assert all(torch.isfinite(value).all() for value in metrics.values())
    first.update(10)
    second = make(**settings)
    second.load_state_dict(first.state_dict())
    second.update(10)
    for key, value in straight.state_dict()["pack"].items():
        assert torch.equal(value, second.state_dict()["pack"][key]), key
    alone = make(OF_TWO[:1], **settings)
    alone.update(20)
    for key, value in alone.pack.state().items():
        whole = straight.pack.state()[key]
        torch.testing.assert_close(value, whole[:1] if whole.ndim else whole, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_acts_within_the_bounds(name: str) -> None:
    learner = make(**{"diffusion_steps": 3, **VARIANTS[name]})
    learner.update(12)
    states = [np.zeros((5, 4), np.float32), np.ones((2, 4), np.float32)]
    for candidates in (1, 4) if learner.algorithm.chooses else (1,):
        for actor in learner.algorithm.actors(learner.algorithm.config):
            generators = [torch.Generator().manual_seed(k) for k in range(2)]
            actions = learner.policy().act(states, generators, candidates, actor)  # type: ignore[arg-type]
            assert [a.shape for a in actions] == [(5, 2), (2, 2)]
            assert all(np.abs(a).max() <= np.float32(0.7) for a in actions)


CHAINS = [name for name in algorithms.names() if "normalise" in algorithms.get(name).settings.names()]


@pytest.mark.parametrize("name", CHAINS)
def test_normalised_observations_are_those_normalised_by_hand(name: str) -> None:
    """The same learning to the bit, and the same actions of every policy in the environment's own observations."""
    rng = np.random.default_rng(0)
    rows = {key: rng.normal(5.0, 3.0, (40, 4)).astype(np.float32) for key in ("observations", "next_observations")}
    more = {"actions": rng.uniform(-0.7, 0.7, (40, 2)).astype(np.float32)}
    more |= {key: rng.uniform(0, 1, 40).astype(np.float32) for key in ("rewards", "terminals")}
    std, mean = torch.std_mean(torch.from_numpy(rows["observations"]).double(), dim=0, correction=0)
    mean, std = mean.float().numpy(), (std + SMALLEST_STD).float().numpy()
    small = {"hidden_size": 16, "batch_size": 16, "time_embedding": 8, "diffusion_steps": 3, "student": "one-step"}
    learners = []
    for normalise, data in ((True, rows), (False, {key: (value - mean) / std for key, value in rows.items()})):
        known = algorithms.get(name).settings.among(small | {"normalise": normalise, "ema_start": 2, "heads": 2})
        config = RunConfig(
            "none", algorithm=name, settings=Values(known), steps=100, evaluation=EvaluationConfig(candidates=1)
        )
        config = algorithms.complete(config)
        learners.append(Learner([Part(config, SimpleNamespace(**data, **more))], 0.7, "cpu"))
        learners[-1].update(12)
    one, other = learners
    assert {"mean", "std"} == set(one.pack.state()) - set(other.pack.state())
    for key, value in other.pack.state().items():
        assert torch.equal(value, one.pack.state()[key]), key
    for actor in one.algorithm.actors(one.algorithm.config):
        states = rows["observations"][:7]
        (own,), (by_hand,) = (
            learner.policy().act([seen], [torch.Generator().manual_seed(0)], 1, actor)
            for learner, seen in ((one, states), (other, (states - mean) / std))
        )
        np.testing.assert_array_equal(own, by_hand)


def test_learning_rates_fall_in_every_variant() -> None:
    """Also where the policy has a copy of what it was when it was cloned."""
    average = {"constraint_policy": "average", "behaviour_steps": 40, "ema_start": 2, "dual": "projected", **NOISY}
    for settings in ({}, average):
        found = make(cosine_decay=True, policy_freq=2, **settings)
        steps = found.algorithm.problem.steps
        assert found.pack.adams["actor"].decay_steps == -(-steps // 2)
        assert found.pack.adams["critic"].decay_steps == steps
        assert found.pack.adams["multiplier"].decay_steps is None


def test_kinds_of_step_in_a_training() -> None:
    learner = make(policy_freq=2, behaviour_steps=5)
    found = [learner.algorithm.kind_at(step) for step in range(8)]
    assert found == ["behaviour", "critic", "behaviour", "critic", "behaviour", "critic", "policy", "critic"]
    assert set(found) == set(learner.algorithm.reachable)
    assert make(algorithm="bc", policy_freq=1).algorithm.reachable == ("behaviour",)
    assert make(policy_freq=1).algorithm.reachable == ("policy",)


def test_slack_sets_the_bound_from_the_end_of_cloning() -> None:
    """κ = (1 + δ)·L_BC, L_BC the mean of the behaviour loss over the last fifth of the cloning policy steps."""
    learner = make(policy_freq=2, behaviour_steps=40, dual="projected")
    losses = [learner.update(2)["behaviour_loss"] for _ in range(20)]
    reached = torch.stack(losses[16:]).mean(dim=0)
    bound = learner.update(2)["target_kl"]
    torch.testing.assert_close(bound[0], 1.1 * reached[0])
    assert bound[1] == 0.1


def test_an_average_that_is_the_online_policy_is_held_as_it() -> None:
    settings = {"dual": "projected", "ema_start": 0, "ema_every": 1, "ema_decay": 0.0}
    online, average = (make(constraint_policy=who, **settings) for who in ("online", "average"))
    ours, theirs = (learner.update(30) for learner in (average, online))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(average.pack["actor"], online.pack["actor"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, NOISY | {"constraint": "elbo"}])
def test_slack_of_the_average_is_measured_from_the_cloned_one_on_the_same_draws(settings: dict[str, Any]) -> None:
    fast = [own.replaced(settings={**own.settings, "learning_rate": 1e-2}) for own in OF_TWO]
    learner = make(
        fast, behaviour_steps=40, constraint_policy="average", ema_start=5, ema_every=1, ema_decay=0.8, dual="projected",
        policy_freq=1, **settings,
    )  # fmt: skip
    learner.update(40)
    pack, algorithm, work = learner.pack, cast(Any, learner.algorithm), learner.work
    left = {name: value.clone() for name, value in pack.tensors.items()}
    learner.update(30)
    noise = engine.draw(algorithm, work, "policy")
    batch = work.data.rows(noise["rows"])
    reached, held = (
        algorithm.fit(algorithm.weights(tensors, "average"), batch, noise).rows.mean(dim=1)
        for tensors in (left, pack.tensors)
    )
    seen = learner.update(1)
    torch.testing.assert_close(seen["constraint"], held)
    bound = reached + 0.1 if settings else 1.1 * reached
    torch.testing.assert_close(seen["target_kl"][0], bound[0])
    assert seen["target_kl"][1] == 0.1
    assert not torch.isclose(reached, held, rtol=1e-3).any(), "the average has moved on"


def test_lambda_rests_while_the_behaviour_is_cloned() -> None:
    learner = make(behaviour_steps=20, lambda_learning_rate=0.1)
    before = learner.pack["multiplier"].clone()
    learner.update(20)
    assert torch.equal(learner.pack["multiplier"], before)
    learner.update(4)
    assert not torch.equal(learner.pack["multiplier"], before)


@pytest.mark.parametrize("kind", ["projected", "pi"])
def test_each_member_moves_lambda_at_its_own_learning_rate(kind: str) -> None:
    """Adam's first step is its learning rate, and a pi controller's a multiple of it."""
    learner = make([member(3, lambda_learning_rate=rate) for rate in (0.01, 0.001, 0.0)], dual=kind)
    before = learner.pack["multiplier"].clone()
    learner.update(learner.algorithm.config.policy_freq)
    moved = (learner.pack["multiplier"] - before)[:, 0]
    torch.testing.assert_close(moved[1] / moved[0], torch.tensor(0.1), rtol=1e-4, atol=0)
    assert moved[2] == 0


def of_dual(low: float) -> dict[str, torch.Tensor]:
    found = {"dual_gain": 2.0, "lambda_clip": low, "lambda_max": 3.0, "grad_norm": 9.0}
    return {name: torch.tensor([value]) for name, value in found.items()}


@pytest.mark.parametrize(
    ("kind", "expected"), [("released", 1.0), ("projected", 1.0), ("softplus", 1.0), ("pi", 1.4), ("augmented", 2.0)]
)
def test_weight_of_each_dual(kind: Any, expected: float) -> None:
    """λ = 1, violation .5 now and .2 on average, gain 2."""
    one = torch.ones(1)
    number = duals.initial(kind, one)
    weight = duals.weight(kind, of_dual(0.0), number, 0.5 * one, 0.2 * one)
    assert float(weight) == pytest.approx(expected, abs=1e-6)
    assert float(duals.weight(kind, of_dual(2.5), number, 0.5 * one, 0.2 * one)) == 2.5
    assert float(duals.weight(kind, of_dual(0.0), 99.0 * number, 0.5 * one, 0.2 * one)) == 3.0


@pytest.mark.parametrize("kind", ["released", "projected", "softplus", "pi", "augmented"])
def test_lambda_grows_under_violation_and_projected_ones_stay_in_their_range(kind: Any) -> None:
    one = torch.ones(1, 1)
    values = {}
    for name, slope in (("violated", -one), ("held", one)):
        number = duals.initial(kind, one)
        adam = duals.Adam.create(number, torch.tensor([0.1]))
        smoothed = torch.zeros(1)
        for _ in range(200):
            duals.step(kind, of_dual(0.3), number, adam, slope, smoothed)
        values[name] = float(duals.value(kind, number))
    assert values["violated"] > 2.9
    if kind in ("projected", "pi", "augmented"):
        assert values == {"violated": 3.0, "held": pytest.approx(0.3)}
    elif kind == "released":
        assert values["held"] < -10  # it winds up: what was released clips it only where it is used
    else:
        assert 0 < values["held"] < 0.3


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("std", [0.1, 0.5])
def test_elbo_of_the_optimal_chain_is_the_entropy_of_a_gaussian(steps: int, std: float) -> None:
    """With the exact noise net and σ*, the chain of N(0, s²) is exact, so −ELBO = ½ log 2πe s²."""
    config = diffcps.Settings(diffusion_steps=steps)
    schedule = ChainPolicy(config, Problem(1, 1, 10.0, 1), None, CPU).schedule
    losses = gaussian_step_losses(schedule, std)
    variance = schedule.posterior_variance + schedule.covariance_coefficient * losses
    every = torch.arange(steps)
    terms = step_divergence(schedule, every, losses[:, None], variance[:, None]).sum()
    generator = torch.Generator().manual_seed(0)
    start = prior_divergence(schedule, std * torch.randn(100_000, 1, generator=generator)).mean()
    assert float(terms + start) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * std**2), abs=5e-3)


def test_calibrated_variance_follows_the_error_of_each_step() -> None:
    """The running mean comes to the loss of an untrained net at rest: learning rate next to zero, its error is known."""
    learner = make([member(1, learning_rate=1e-12)], algorithm="bc", policy_freq=1, batch_size=256, **NOISY)
    losses = learner.update(400)["behaviour_loss"]
    assert float(learner.pack["step_losses"].mean()) == pytest.approx(float(losses), rel=0.03)


def test_gaussian_policies_are_what_scipy_says() -> None:
    config = diffcps.Settings(policy="mixture", mixture_components=3, hidden_size=16)
    policy = GaussianPolicy(config, Problem(2, 2, 1.0, 1), None, CPU)
    actor = Weights(policy.layout.layers(policy.layout.initial([torch.Generator().manual_seed(0)])))
    states, actions = torch.randn(1, 5, 2), torch.rand(1, 5, 2) - 0.5
    log_weights, mean, std = (part.numpy() for part in policy.parts(actor.layers, states))
    expected = -np.log(
        sum(
            np.exp(log_weights[0, :, m]) * stats.norm.pdf(actions[0], mean[0, :, m], std[0, :, m]).prod(axis=1)
            for m in range(3)
        )
    )
    nothing = torch.zeros(1, 5, 0)
    found = policy.fit(actor, states, actions, torch.zeros(1, 5, dtype=torch.int64), nothing)
    np.testing.assert_allclose(found.rows[0].numpy(), expected, rtol=1e-5)
    # the weighted proposals and the samples have one expectation
    noise = torch.randn(2, 1, 5 * 20_000, 2, generator=torch.Generator().manual_seed(1))
    drawn = policy.sample(actor, states, noise).unflatten(1, (5, -1)).mean(dim=2)
    few = noise.unflatten(2, (5, -1))
    proposed = torch.zeros(1, 5, 2)
    for i in range(500):
        own, weights = policy.proposals(actor, states, few[:, :, :, i])
        assert weights is not None
        proposed += (own * weights[..., None]).unflatten(1, (5, 3)).sum(dim=2) / 500
    torch.testing.assert_close(proposed, drawn, rtol=0, atol=0.15)


def test_a_learned_variance_is_not_pulled_at_by_values_under_the_behaviour_loss() -> None:
    """The gradient of a value with respect to the rows of the last layer that give the variance is exactly zero."""
    for constraint, held in (("behaviour_loss", True), ("elbo", False)):
        config = diffcps.Settings(hidden_size=16, covariance="learned", last_step_noise=True, constraint=constraint)
        policy = ChainPolicy(config, Problem(4, 2, 0.7, 1), None, CPU)
        actor = policy.layout.leaves(policy.layout.initial([torch.Generator().manual_seed(0)]))
        noise = torch.randn(policy.draws, 1, 8, 2, generator=torch.Generator().manual_seed(1))
        actions, _ = policy.proposals(Weights(actor), torch.zeros(1, 8, 4), noise)
        (slope,) = torch.autograd.grad(actions.sum(), [actor[-1][0]])
        assert bool((slope[..., 2:] == 0).all()) is held
        assert (slope[..., :2] != 0).any()
