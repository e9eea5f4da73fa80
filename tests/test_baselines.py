"""The baselines: their losses against closed forms, whole steps against plain modules in double precision, their settings."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import torch
import trained
from torch import Tensor, nn

from diffcps.algorithms import awac, cql, crr, dac, diffusion, edp, fql, idql, rebrac
from diffcps.algorithms.base import Batch
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task
from diffcps.training.learner import Learner

LR, RATE, DISCOUNT, NORM = 1e-2, 0.1, 0.9, 0.7
SMALL: dict[str, Any] = {
    "seeds": 1, "steps": 50, "hidden_size": 8, "hidden_layers": 2, "batch_size": 6, "learning_rate": LR,
    "critic_learning_rate": LR, "target_rate": RATE, "discount": DISCOUNT,
}  # fmt: skip
CHAIN: dict[str, Any] = SMALL | {
    "diffusion_steps": 3, "time_embedding": 4, "ema_start": 2, "ema_every": 1, "ema_decay": 0.8, "grad_norm": NORM,
}  # fmt: skip


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_rebracs_policy() -> None:
    actions, data = torch.tensor([[[0.5, 0.0], [0.0, -0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    values = torch.tensor([[[1.0, -3.0], [2.0, -1.0]]])
    assert rebrac.actor_loss(values, actions, data, torch.tensor([0.01])).item() == pytest.approx(0.5025)


def test_weights_of_advantages() -> None:
    found = awac.exponential(tensor(1, -1, 0.2), torch.tensor([1 / 3]), awac.LARGEST_WEIGHT)
    np.testing.assert_allclose(found[0], (20.085537, 0.049787, 1.822119), rtol=1e-5)
    found = awac.exponential(tensor(1, -1, 0.2), torch.tensor([1.0]), crr.LARGEST_WEIGHT)
    np.testing.assert_allclose(found[0], (2.718282, 0.367879, 1.221403), rtol=1e-5)
    assert awac.exponential(tensor(9), torch.tensor([1.0]), crr.LARGEST_WEIGHT).item() == crr.LARGEST_WEIGHT


def test_the_lower_bound_of_dac() -> None:
    values = torch.tensor([[[1.0], [2.0], [3.0], [6.0]]], dtype=torch.float64)
    assert dac.lower_bound(values, torch.tensor([1.0])).item() == pytest.approx(1.129171, abs=1e-6)


@pytest.mark.parametrize(("step", "noisy", "start"), [(0, 0.890942, 0.598709), (4, 1.036819, 1.0)])
def test_the_one_step_action_of_edp(step: int, noisy: float, start: float) -> None:
    """At t = 5 the implied action, 2.99, is kept within the bound and has no gradient."""
    schedule = diffusion.variance_preserving(5, 0.1, 10.0, torch.float64)
    found = diffusion.add_noise(schedule, tensor(0.5), torch.tensor([step]), tensor(1.0))
    assert found.item() == pytest.approx(noisy, abs=1e-6)
    predicted = tensor(0.8).requires_grad_()
    action = diffusion.implied_start(schedule.alpha_bar[step], found, predicted, 1.0)
    assert action.item() == pytest.approx(start, abs=1e-6)
    action.sum().backward()
    assert predicted.grad is not None
    assert (predicted.grad == 0).item() == (step == 4)


def test_the_euler_steps_of_fql() -> None:
    assert fql.euler(lambda x, time: -x, tensor(0.8), 10).item() == pytest.approx(0.8 * 0.9**10)


def test_the_gap_of_cql() -> None:
    """A random action, one of the next state, one of the state's own; and ten of each, all of one value."""
    values = torch.tensor([0.0, 1.0, 2.0]).expand(1, 2, 4, 3)
    log_p = torch.tensor([-2 * math.log(2.0), -1.0, 0.5]).expand(1, 1, 4, 3)
    np.testing.assert_allclose(cql.soft_gap(values, log_p, torch.full((1, 2, 4), 1.2)), 1.564477, atol=1e-5)
    sevens, uniform = torch.full((1, 2, 4, 30), 7.0), torch.full((1, 1, 4, 30), -3 * math.log(2.0))
    np.testing.assert_allclose(cql.soft_gap(sevens, uniform, sevens[..., 0]), math.log(30) + 3 * math.log(2), rtol=1e-5)


def test_the_density_of_a_squashed_gaussian() -> None:
    raw = tensor(0.5).atanh()[None]
    assert cql.log_density(raw, torch.tensor(0.1), torch.tensor(0.8).log()).item() == pytest.approx(-0.565829, abs=1e-5)
    far = torch.tensor([[[20.0]]], dtype=torch.float64)
    assert cql.log_density(far, far, torch.zeros(1)).isfinite().all(), "where tanh is 1 to all digits"


@pytest.mark.parametrize(("step", "expected"), [(4, 0.612276), (1, 0.430708)])
def test_the_reverse_step_of_idql(step: int, expected: float) -> None:
    """At x = .5 with a predicted noise of .3."""
    schedule = diffusion.variance_preserving(5, 0.1, 10.0, torch.float64)
    found = idql.reverse_mean(schedule.beta[step], schedule.alpha_bar[step], tensor(0.5), tensor(0.3))
    assert found.item() == pytest.approx(expected, abs=1e-6)


# Whole steps ----------------------------------------------------------------------------------------------------------


def chain_of(learner: Learner) -> dict[str, Any]:
    """Noise nets, critics, optimisers and the schedule of a diffusion policy."""
    own: Any = learner.algorithm
    nets = {
        name: plain.NoiseNet(own.policy.layout.layers(learner.pack[name]), 0, own.policy.noise_net.embedding)
        for name in ("actor", "average")
    }
    critics = {name: plain.heads(learner, name, plain.mish) for name in ("critic", "target")}
    adams = {
        "actor": torch.optim.Adam(nets["actor"].parameters(), LR),
        "critic": torch.optim.Adam(critics["critic"].parameters(), LR),
    }
    return {**nets, **critics, "adams": adams, "schedule": diffusion.variance_preserving(3, 0.1, 10.0, torch.float64)}


def sample(net: nn.Module, schedule: diffusion.Schedule, states: Tensor, noise: Tensor, variance: Tensor) -> Tensor:
    """The reverse chain from noise ``[T, B, a]``."""
    x = noise[0]
    for step in (2, 1, 0):
        predicted = net(x, torch.full((len(x),), step), states)
        signal = schedule.alpha_bar[step]
        start = ((x - (1 - signal).sqrt() * predicted) / signal.sqrt()).clamp(-1, 1)
        x = schedule.mean_of_start[step] * start + schedule.mean_of_current[step] * x
        if step:
            x = x + variance[step].sqrt() * noise[3 - step]
    return x.clamp(-1, 1)


def goal_of(batch: Batch, values: Tensor) -> Tensor:
    return batch.rewards + DISCOUNT * (1 - batch.terminals) * values


def compare(learner: Learner, modules: dict[str, nn.Module]) -> None:
    """Every parameter, after some steps of Adam."""
    for name, module in modules.items():
        torch.testing.assert_close(
            learner.pack[name][0].double(), plain.parameters_of(module), rtol=2e-4, atol=2e-5, msg=name
        )


@pytest.mark.parametrize("name", ["dql", "edp"])
@pytest.mark.parametrize("max_q", [False, True])
def test_steps_of_dql_and_edp(name: str, max_q: bool) -> None:
    trial = trained.config(algorithm=name, **CHAIN, eta=1.7, max_q_backup=max_q, max_q_candidates=3)
    learner = trained.learner(trial)
    own = chain_of(learner)
    schedule, critic, target, actor = own["schedule"], own["critic"], own["target"], own["actor"]
    coins = set()
    for step in range(8):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states, draws = batch.observations, noise["next_actions"][:, 0].double()
        with torch.no_grad():
            repeated = batch.next_observations.repeat_interleave(3 if max_q else 1, dim=0)
            following = sample(own["average"], schedule, repeated, draws, schedule.posterior_variance)
            values = plain.values(target, repeated, following).unflatten(1, (6, -1)).amax(dim=2).amin(dim=0)
        loss = (plain.values(critic, states, batch.actions) - goal_of(batch, values)).square().mean(dim=1).sum()
        plain.descend(own["adams"]["critic"], loss, NORM)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        which, drawn, coin = noise["step"][0], noise["noise"][0].double(), bool(noise["swap"][0])
        coins.add(coin)
        noisy = diffusion.add_noise(schedule, batch.actions, which, drawn)
        predicted = actor(noisy, which, states)
        if name == "dql":
            actions = sample(actor, schedule, states, noise["actions"][:, 0].double(), schedule.posterior_variance)
            first, second = (1, 0) if coin else (0, 1)
        else:
            signal = schedule.alpha_bar[which][:, None]
            actions = ((noisy - (1 - signal).sqrt() * predicted) / signal.sqrt()).clamp(-1, 1)
            first = second = int(coin)
        q = plain.values(critic, states, actions)
        value = -q[first].mean() / q[second].detach().abs().mean()
        loss = (drawn - predicted).square().mean() + 1.7 * value
        plain.descend(own["adams"]["actor"], loss, NORM)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        plain.follow(target, critic, RATE)
        if step >= 2:
            plain.follow(own["average"], actor, 0.2)
    assert coins == {False, True}, "both heads were taken"
    compare(learner, {key: own[key] for key in ("actor", "average", "critic", "target")})


def test_dql_is_diffcps_with_its_multiplier_frozen_at_one() -> None:
    ours = trained.learner(trained.config(algorithm="dql", **CHAIN))
    frozen = trained.config(algorithm="diffcps", **CHAIN, policy_freq=1, lambda_init=1.0, lambda_learning_rate=0.0)
    theirs = trained.learner(frozen)
    ours.update(10)
    theirs.update(10)
    for name in ("actor", "average", "critic", "target"):
        assert torch.equal(ours.pack[name], theirs.pack[name]), name


@pytest.mark.parametrize("max_q", [False, True])
def test_steps_of_dac(max_q: bool) -> None:
    trial = trained.config(
        algorithm="dac", **CHAIN, eta=1.3, bound=0.2, eta_learning_rate=0.05, pessimism=0.6, heads=4, max_q_backup=max_q,
        max_q_candidates=3,
    )  # fmt: skip
    learner = trained.learner(trial)
    own = chain_of(learner)
    schedule, critic, target, actor = own["schedule"], own["critic"], own["target"], own["actor"]
    eta = 1.3
    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        for adam in own["adams"].values():
            adam.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / 50))
        states = batch.observations
        with torch.no_grad():
            repeated = batch.next_observations.repeat_interleave(3, dim=0)
            following = sample(own["average"], schedule, repeated, noise["next_actions"][:, 0].double(), schedule.beta)
            each = plain.values(target, repeated, following).unflatten(1, (6, 3))
            each = each.amax(dim=2) if max_q else each.mean(dim=2)
            values = each.mean(dim=0) - 0.6 * each.std(dim=0, correction=0)
        loss = (plain.values(critic, states, batch.actions) - goal_of(batch, values)).square().mean()
        plain.descend(own["adams"]["critic"], loss, NORM)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        which, drawn = noise["step"][0], noise["noise"][0].double()
        noisy = diffusion.add_noise(schedule, batch.actions, which, drawn).requires_grad_()
        plain.values(target, states, noisy).mean(dim=0).sum().backward()
        with torch.no_grad():
            size = plain.values(target, states, batch.actions).mean(dim=0).abs().mean()
        assert noisy.grad is not None
        predicted = actor(noisy.detach(), which, states)
        deviation = (1 - schedule.alpha_bar[which]).sqrt()[:, None]
        loss = eta * (drawn - predicted).square().mean() + (deviation * noisy.grad / size * predicted).mean()
        plain.descend(own["adams"]["actor"], loss, NORM)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        assert metrics["eta"].item() == pytest.approx(eta, rel=1e-5)
        with torch.no_grad():
            left = (drawn - actor(noisy, which, states)).square().mean().item()
        eta = min(100.0, max(0.001, eta + 0.05 * min(1.0, max(-1.0, left - 0.2))))
        plain.follow(target, critic, RATE)
        if step >= 2:
            plain.follow(own["average"], actor, 0.2)
    compare(learner, {key: own[key] for key in ("actor", "average", "critic", "target")})


def test_steps_of_rebrac() -> None:
    trial = trained.config(algorithm="rebrac", **SMALL, actor_penalty=0.3, critic_penalty=0.4, policy_freq=2)
    learner = trained.learner(trial)
    own: Any = learner.algorithm
    norm = plain.normed(torch.relu)
    nets: dict[str, Any] = {
        name: plain.Net(own.policy.layout.layers(learner.pack[name]), 0, torch.relu)
        for name in ("actor", "target_actor")
    } | {name: plain.heads(learner, name, norm) for name in ("critic", "target")}
    adam = torch.optim.Adam(nets["actor"].parameters(), LR)
    critic_adam = torch.optim.Adam(nets["critic"].parameters(), LR)
    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        with torch.no_grad():
            shift = (0.2 * noise["target_noise"][0].double()).clamp(-0.5, 0.5)
            actions = (nets["target_actor"](batch.next_observations).tanh() + shift).clamp(-1, 1)
            values = plain.values(nets["target"], batch.next_observations, actions).amin(dim=0)
            distance = (actions - batch.more["next_actions"]).square().sum(dim=1) * batch.more["has_next"]
        goal = goal_of(batch, values - 0.4 * distance)
        loss = (plain.values(nets["critic"], batch.observations, batch.actions) - goal).square().mean(dim=1).sum()
        plain.descend(critic_adam, loss)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        if step % 2 == 0:
            continue
        actions = nets["actor"](batch.observations).tanh()
        q = plain.values(nets["critic"], batch.observations, actions).amin(dim=0)
        loss = 0.3 * (actions - batch.actions).square().sum(dim=1).mean() - q.mean() / q.detach().abs().mean()
        plain.descend(adam, loss)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        plain.follow(nets["target"], nets["critic"], RATE)
        plain.follow(nets["target_actor"], nets["actor"], RATE)
    compare(learner, nets)


def test_rebrac_knows_the_next_action_where_the_next_row_goes_on() -> None:
    observations = torch.arange(5.0)[:, None].expand(5, 11).clone()
    following = observations + 1.0
    following[2] = 7.0  # the trajectory was cut off here
    data = Batch(observations, torch.rand(5, 3), torch.ones(5), following, torch.tensor([1.0, 0, 0, 0, 0]))
    learner = trained.learner(trained.config(algorithm="rebrac", **SMALL))
    found = learner.algorithm.prepare(learner.pack, data)
    assert found.more["has_next"].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert torch.equal(found.more["next_actions"][1], data.actions[2])


@pytest.mark.parametrize(("name", "weight"), [("awac", ""), ("crr", "exp"), ("crr", "binary")])
def test_steps_of_awac_and_crr(name: str, weight: str) -> None:
    more = {"weight": weight} if weight else {}
    learner = trained.learner(trained.config(algorithm=name, **SMALL, temperature=0.5, **more))
    own: Any = learner.algorithm
    tensors = ("actor", "target_actor") if name == "crr" else ("actor",)
    nets: dict[str, Any] = {n: plain.Gaussian(own.policy.layout.layers(learner.pack[n]), 0) for n in tensors}
    nets |= {n: plain.heads(learner, n, torch.relu) for n in ("critic", "target")}
    adam = torch.optim.Adam(nets["actor"].parameters(), LR)
    critic_adam = torch.optim.Adam(nets["critic"].parameters(), LR)
    count = 4 if name == "crr" else 1

    def draw(net: plain.Gaussian, states: Tensor, noise: Tensor) -> Tensor:
        return (net.mean(states) + net.log_std.clamp(-20, 2).exp() * noise).clamp(-1, 1)

    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states, critic = batch.observations, nets["critic"]
        with torch.no_grad():
            actions = draw(nets[tensors[-1]], batch.next_observations, noise["next_actions"][0].double())
            values = plain.values(nets["target"], batch.next_observations, actions).amin(dim=0)
        loss = (plain.values(critic, states, batch.actions) - goal_of(batch, values)).square().mean(dim=1).sum()
        plain.descend(critic_adam, loss)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        with torch.no_grad():
            repeated = states.repeat_interleave(count, dim=0)
            mine = plain.values(critic, repeated, draw(nets["actor"], repeated, noise["actions"][0].double()))
            advantages = plain.values(critic, states, batch.actions).amin(dim=0)
            advantages = advantages - mine.amin(dim=0).unflatten(0, (6, count)).mean(dim=1)
            weights = (advantages / 0.5).exp().clamp(max=20.0 if name == "crr" else 100.0)
            if weight == "binary":
                weights = (advantages > 0).double()
        policy = torch.distributions.Normal(nets["actor"].mean(states), nets["actor"].log_std.clamp(-20, 2).exp())
        loss = -(weights * policy.log_prob(batch.actions).sum(dim=1)).mean()
        plain.descend(adam, loss)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        assert metrics["mean_weight"].item() == pytest.approx(weights.mean().item(), rel=1e-4)
        if name == "awac":
            plain.follow(nets["target"], critic, RATE)
        elif step == 0:  # the next time after step 100
            plain.follow(nets["target"], critic, RATE)
            plain.follow(nets["target_actor"], nets["actor"], RATE)
    compare(learner, nets)


@pytest.mark.parametrize("normalised", [False, True])
def test_steps_of_fql(normalised: bool) -> None:
    learner = trained.learner(
        trained.config(algorithm="fql", **SMALL, alpha=1.5, flow_steps=3, normalise_value=normalised)
    )
    own: Any = learner.algorithm

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())

    nets: dict[str, Any] = {
        name: plain.Net(getattr(own, net).layout.layers(learner.pack[name]), 0, gelu)
        for name, net in (("actor", "policy"), ("flow", "flow"))
    } | {name: plain.heads(learner, name, plain.normed(gelu)) for name in ("critic", "target")}
    adam = torch.optim.Adam([p for name in ("actor", "flow", "critic") for p in nets[name].parameters()], LR)
    for _ in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states = batch.observations
        next_noise, start, z, time = (noise[n][0].double() for n in ("next_noise", "start", "noise", "time"))
        with torch.no_grad():
            actions = nets["actor"](batch.next_observations, next_noise).clamp(-1, 1)
            values = plain.values(nets["target"], batch.next_observations, actions).mean(dim=0)
            x = z
            for step in range(3):
                x = x + nets["flow"](states, x, torch.full((6, 1), step / 3, dtype=torch.float64)) / 3
            goal = x.clamp(-1, 1)
        td = (plain.values(nets["critic"], states, batch.actions) - goal_of(batch, values)).square().mean()
        moved = (1 - time[:, None]) * start + time[:, None] * batch.actions
        clone = (nets["flow"](states, moved, time[:, None]) - (batch.actions - start)).square().mean()
        mine = nets["actor"](states, z)
        frozen = [p.requires_grad_(False) for p in nets["critic"].parameters()]
        q = plain.values(nets["critic"], states, mine.clamp(-1, 1)).mean(dim=0)
        for parameter in frozen:
            parameter.requires_grad_(True)
        value = q.mean() / (q.detach().abs().mean() if normalised else 1.0)
        policy = 1.5 * (mine - goal).square().mean() - value
        plain.descend(adam, td + clone + policy)
        for name, loss in (("critic_loss", td), ("behaviour_loss", clone), ("actor_loss", policy)):
            assert metrics[name].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5), name
        plain.follow(nets["target"], nets["critic"], RATE)
    compare(learner, nets)


def test_steps_of_idql() -> None:
    learner = trained.learner(
        trained.config(
            algorithm="idql", **SMALL, diffusion_steps=3, time_embedding=4, expectile=0.8, ema_rate=0.3, policy_layers=2
        )
    )
    own: Any = learner.algorithm
    nets: dict[str, Any] = {
        name: plain.NoiseNet(own.noise_net.layout.layers(learner.pack[name]), 0, own.noise_net.embedding)
        for name in ("actor", "average")
    }
    nets |= {name: plain.heads(learner, name, torch.relu) for name in ("critic", "target")}
    nets["value"] = plain.Net(own.value.layout.layers(learner.pack["value"]), 0, torch.relu)
    adam = torch.optim.AdamW(nets["actor"].parameters(), LR, weight_decay=1e-4)
    value_adam, critic_adam = (torch.optim.Adam(nets[name].parameters(), LR) for name in ("value", "critic"))
    schedule = diffusion.variance_preserving(3, 0.1, 10.0, torch.float64)
    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states, drawn, which = batch.observations, noise["noise"][0].double(), noise["step"][0]
        adam.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / 50))
        errors = (
            drawn - nets["actor"](diffusion.add_noise(schedule, batch.actions, which, drawn), which, states)
        ).square()
        plain.descend(adam, errors.sum(dim=1).mean())
        assert metrics["behaviour_loss"].item() == pytest.approx(errors.mean().item(), rel=1e-4)
        with torch.no_grad():
            target = plain.values(nets["target"], states, batch.actions).amin(dim=0)
        excess = target - nets["value"](states).squeeze(1)
        plain.descend(value_adam, (torch.where(excess > 0, 0.8, 0.2) * excess.square()).mean())
        with torch.no_grad():
            goal = goal_of(batch, nets["value"](batch.next_observations).squeeze(1))
        loss = (plain.values(nets["critic"], states, batch.actions) - goal).square().mean(dim=1).sum()
        plain.descend(critic_adam, loss)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        plain.follow(nets["target"], nets["critic"], RATE)
        plain.follow(nets["average"], nets["actor"], 0.3)
    compare(learner, nets)


@pytest.mark.parametrize("threshold", [None, 2.0])
def test_steps_of_cql(threshold: float | None) -> None:
    """Two steps of cloning, then two of improving; with a multiplier also max-Q backup."""
    learner = trained.learner(
        trained.config(
            algorithm="cql", **SMALL, samples=3, penalty=1.5, threshold=threshold, cloning_steps=2,
            max_q_backup=threshold is not None,
        )
    )  # fmt: skip
    own: Any = learner.algorithm
    nets: dict[str, Any] = {name: plain.heads(learner, name, torch.relu) for name in ("critic", "target")}
    nets["actor"] = plain.Net(own.policy.layout.layers(learner.pack["actor"]), 0, torch.relu)
    log_temperature, log_multiplier = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    adam, critic_adam = (torch.optim.Adam(nets[name].parameters(), LR) for name in ("actor", "critic"))
    temperature_adam, multiplier_adam = torch.optim.Adam([log_temperature], LR), torch.optim.Adam([log_multiplier], LR)

    def policy(states: Tensor) -> torch.distributions.Normal:
        mean, log_std = nets["actor"](states).chunk(2, dim=1)
        return torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())

    def density(found: torch.distributions.Normal, raw: Tensor) -> Tensor:
        return (found.log_prob(raw) - (1 - raw.tanh().square()).log()).sum(dim=1)

    def draw(states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        found = policy(states)
        raw = found.mean + found.stddev * noise
        return raw.tanh(), density(found, raw)

    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states, following = batch.observations, batch.next_observations
        drawn = {name: noise[name][0].double() for name in ("actions", "next_actions", "own", "following", "random")}
        actions, log_pi = draw(states, drawn["actions"])
        plain.descend(temperature_adam, -(log_temperature * (log_pi.detach() - 3).mean()).sum())
        gain = plain.values(nets["critic"], states, actions).amin(dim=0)
        if step < 2:
            gain = density(policy(states), batch.actions.clamp(-1 + 1e-6, 1 - 1e-6).atanh())
        policy_loss = (log_temperature.detach().exp() * log_pi - gain).mean()
        with torch.no_grad():
            repeated = following.repeat_interleave(3 if threshold else 1, dim=0)
            values = plain.values(nets["target"], repeated, draw(repeated, drawn["next_actions"])[0])
            goal = goal_of(batch, values.unflatten(1, (6, -1)).amax(dim=2).amin(dim=0))
            mine = draw(states.repeat_interleave(3, dim=0), drawn["own"])
            next_ones = draw(following.repeat_interleave(3, dim=0), drawn["following"])
            uniform = 2 * drawn["random"] - 1, torch.full((18,), -3 * math.log(2.0), dtype=torch.float64)
        td = (plain.values(nets["critic"], states, batch.actions) - goal).square().mean(dim=1).sum()
        parts = []
        for others, log_p in (uniform, next_ones, mine):
            q = plain.values(nets["critic"], states.repeat_interleave(3, dim=0), others)
            parts.append((q - log_p).unflatten(1, (6, 3)))
        on = plain.values(nets["critic"], states, batch.actions)
        gaps = (torch.logsumexp(torch.cat(parts, dim=2), dim=2) - on).mean(dim=1)
        penalty = 1.5 * gaps
        if threshold is not None:
            multiplier = log_multiplier.exp()
            penalty = multiplier.detach() * (penalty - threshold)
            multiplier_loss = -(multiplier * (1.5 * gaps.detach() - threshold)).mean()
            plain.descend(multiplier_adam, multiplier_loss)
        plain.descend(adam, policy_loss)
        plain.descend(critic_adam, td + penalty.sum())
        for name, value in (("critic_loss", td), ("gap", gaps.mean()), ("actor_loss", policy_loss)):
            assert metrics[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name
        plain.follow(nets["target"], nets["critic"], RATE)
    compare(learner, nets)
    for name, value in (("log_temperature", log_temperature), ("log_multiplier", log_multiplier)):
        assert learner.pack[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)


# Published settings ---------------------------------------------------------------------------------------------------


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(__file__).parent / "published" / f"hp_{name}.csv").open(encoding="utf-8")))


def number(text: str) -> float | bool | None:
    return {"true": True, "false": False, "": None}[text] if text in ("true", "false", "") else float(text)


COLUMNS = {
    "dql": ("diffusion_ql", {
        "actor_lr": "learning_rate", "eta": "eta", "max_q_backup": "max_q_backup", "grad_norm": "grad_norm",
    }),
    "edp": ("edp", {"lr_code": "learning_rate", "grad_norm_code": "grad_norm", "alpha_code": "eta"}),
    "rebrac": ("rebrac", {
        "actor_bc_coef_repo": "actor_penalty", "critic_bc_coef_repo": "critic_penalty", "batch_size": "batch_size",
        "actor_lr": "learning_rate", "critic_lr": "critic_learning_rate", "discount": "discount",
    }),
    "dac": ("dac", {
        "eta_init": "eta", "rho": "pessimism", "max_q_backup": "max_q_backup", "critic_lr": "critic_learning_rate",
        "heads": "heads",
    }),
    "fql": ("fql", {"discount": "discount"}),
    "awac": ("awac_corl", {}),
    "cql": ("cql", {"official_policy_lr": "learning_rate"}),
    "idql": ("idql", {"expectile": "expectile", "code_batch": "batch_size"}),
}  # fmt: skip
TRANSFORMS = {
    "return_range_1000": "return_range", "return_range_1000 (default flag; runs.sh keeps it)": "return_range",
    "antmaze_4(r-0.5)": "antmaze",
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_published_settings(name: str) -> None:
    file, columns = COLUMNS[name]
    for row in rows(file):
        trial = official(get_task(row["task"]), name, seeds=1)
        steps = int(row.get("steps", row.get("code_steps", 1_000_000)))
        assert trial.steps == steps - steps % 1000  # one program counts from zero
        for column, setting in columns.items():
            assert trial.value(setting) == number(row[column]), (row["task"], setting)
        given = next(
            row[column] for column in ("reward_transform", "reward_td3_crr", "official_reward") if column in row
        )
        assert trial.value("reward_transform") == TRANSFORMS.get(given, given)
        if name == "awac":
            assert trial.value("temperature") == pytest.approx(float(row["lambda"]), abs=1e-4)
        if name == "fql" and "antmaze" in row["task"]:
            assert trial.value("alpha") == float(row["alpha"])
        if name == "dac":
            bound = number(row["bc_threshold_b"])
            assert trial.value("bound") == bound
            assert trial.value("eta_learning_rate") == float(row["eta_lr"])


def test_edp_draws_no_chain_to_learn() -> None:
    learner = trained.learner(trained.config(algorithm="edp", **CHAIN))
    own: Any = learner.algorithm
    assert own.kinds["policy"].noise["actions"].shape[1] == 0
    assert isinstance(own, edp.EDP)
