"""SfBC and QGPO: schedule, solver and losses against closed forms, whole trainings against plain modules, acting."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain
import pytest
import torch
import trained
from torch import Tensor, nn

import diffcps
from diffcps.algorithms import choosing, qgpo, score, sde, sfbc, streams
from diffcps.config import DataConfig
from diffcps.errors import UserError
from diffcps.sweep.dry_run import Estimator
from diffcps.training.learner import Learner, Part

LR, DISCOUNT = 1e-2, 0.9
SMALL: dict[str, Any] = {
    "seeds": 1, "steps": 12, "behaviour_share": 0.34, "hidden_size": 8, "time_embedding": 8, "batch_size": 6,
    "behaviour_batch_size": 6, "support": 3, "diffusion_steps": 6, "learning_rate": LR, "critic_learning_rate": LR,
    "discount": DISCOUNT,
}  # fmt: skip


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# The schedule and the solver ------------------------------------------------------------------------------------------


def test_the_schedule() -> None:
    alpha, sigma = sde.signal_and_noise(tensor(0.001, 0.1, 0.5, 1.0))
    np.testing.assert_allclose(alpha[0], (0.999945, 0.946722, 0.281183, 0.006572), atol=1e-6)
    np.testing.assert_allclose(sigma[0], (0.010485, 0.322053, 0.959654, 0.999978), atol=1e-6)


@pytest.mark.parametrize(
    ("calls", "order", "expected"),
    [
        (15, 3, [3, 3, 3, 3, 2, 1]), (15, 2, [2, 2, 2, 2, 2, 2, 2, 1]), (4, 1, [1, 1, 1, 1]), (7, 3, [3, 3, 1]),
        (8, 3, [3, 3, 2]), (6, 2, [2, 2, 1, 1]), (3, 3, [2, 1]), (2, 2, [1, 1]), (1, 3, [1]),
    ],
)  # fmt: skip
def test_the_orders_of_the_solvers_steps(calls: int, order: int, expected: list[int]) -> None:
    assert sde.orders(calls, order) == expected


def carried(mean: float, variance: float, x: Tensor, times: tuple[float, float]) -> Tensor:
    """Where the exact solution carries x from one time to another when the data are Gaussian."""
    (alpha, end_alpha), (sigma, end_sigma) = (part[0] for part in sde.signal_and_noise(tensor(*times)))
    whole, end = (alpha**2 * variance + sigma**2).sqrt(), (end_alpha**2 * variance + end_sigma**2).sqrt()
    return end_alpha * mean + end * (x - alpha * mean) / whole


def gaussian_noise(mean: float, variance: float) -> sde.Predictor:
    """ε(x, t) of Gaussian data: minus σ_t times the score."""

    def predict(x: Tensor, time: float) -> Tensor:
        alpha, sigma = (part.item() for part in sde.signal_and_noise(tensor(time)))
        return sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)

    return predict


NOISE = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]


@pytest.mark.parametrize("prediction", ["noise", "start"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_step_of_the_solver_has_its_order(order: int, prediction: sde.Prediction) -> None:
    """The error of one step falls as its length to the power of its order and one."""
    errors = []
    for length in (0.02, 0.01):
        times = [0.5 - length * number / order for number in range(order + 1)]
        found = sde._step(gaussian_noise(0.3, 0.25), NOISE, times, prediction)
        errors.append((found - carried(0.3, 0.25, NOISE, (times[0], times[-1]))).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize("prediction", ["noise", "start"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_solver_converges_to_the_exact_solution(order: int, prediction: sde.Prediction) -> None:
    exact = carried(0.3, 0.25, NOISE, (1.0, sde.END))
    coarse, fine = (
        (sde.solve(gaussian_noise(0.3, 0.25), NOISE, calls, order, prediction) - exact).abs().max().item()
        for calls in (60, 240)
    )
    assert fine < (0.02, 2e-3, 6e-4)[order - 1]
    assert coarse > 3 * fine


def test_guided_samples_follow_the_density_with_the_exponential_of_the_value() -> None:
    """Behaviour N(0, v), Q = a: with the exact guidance the samples are those of N(β v, v); s times it gives N(s β v, v)."""
    variance, beta = 0.25, 2.0
    clone = gaussian_noise(0.0, variance)

    def guidance(time: float) -> float:
        alpha, sigma = (part.item() for part in sde.signal_and_noise(tensor(time)))
        return beta * alpha * variance / (alpha**2 * variance + sigma**2)

    assert guidance(0.5) == pytest.approx(0.149454, abs=1e-6)
    noise = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[None]
    for scale in (0.0, 1.0, 3.0):

        def guided(x: Tensor, time: float, scale: float = scale) -> Tensor:
            sigma = sde.signal_and_noise(tensor(time))[1].item()
            return clone(x, time) - sigma * scale * guidance(time)

        samples = sde.solve(guided, noise, 100, 2, "start")
        assert samples.mean().item() == pytest.approx(scale * beta * variance, abs=0.02)
        assert samples.std().item() == pytest.approx(0.5, abs=0.02)


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_planned_returns() -> None:
    rewards, discount = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([0.99])
    goes_on, floor = torch.tensor([True, True, False]), tensor(0.2, 0.995, 0.1)
    np.testing.assert_allclose(sfbc.planned(rewards, goes_on, floor, discount)[0], (0.98505, 0.995, 1.0))
    np.testing.assert_allclose(sfbc.planned(rewards, goes_on, None, discount)[0], (0.9801, 0.99, 1.0), rtol=1e-7)


def test_planned_returns_are_those_of_a_loop_from_the_last_row_to_the_first() -> None:
    rng = np.random.default_rng(3)
    rewards, floor, goes_on = rng.normal(size=200), rng.normal(size=(2, 200)), rng.uniform(size=200) < 0.8
    goes_on[-1] = False
    expected = np.zeros((2, 200))
    for k, discount in enumerate((0.9, 0.5)):
        last = 0.0
        for i in range(199, -1, -1):
            last = expected[k, i] = max(rewards[i] + discount * last * goes_on[i], floor[k, i])
    given = torch.from_numpy(rewards), torch.from_numpy(goes_on), torch.from_numpy(floor)
    np.testing.assert_allclose(sfbc.planned(*given, torch.tensor([0.9, 0.5], dtype=torch.float64)), expected)


def test_soft_values() -> None:
    def found(sharpness: float, *values: float) -> float:
        return score.soft_value(tensor(*values)[None], torch.tensor([sharpness])).item()

    assert found(20.0, 0.1, 0.2, 0.3) == pytest.approx(0.285094, abs=1e-6)
    assert found(1.0, 1.0, 2.0, 3.0) == pytest.approx(2.575210, abs=1e-6)


def test_the_energy_loss() -> None:
    values = tensor(0, 1, 2)[None]
    labels = (3 * values).softmax(dim=-1)
    np.testing.assert_allclose(labels[0, 0], (0.002356, 0.047314, 0.950330), atol=1e-6)
    three = torch.tensor([3.0])
    assert qgpo.energy_loss(torch.zeros_like(values), values, three).item() == pytest.approx(1.098612, abs=1e-6)
    assert qgpo.energy_loss(3 * values, values, three).item() == pytest.approx(0.207022, abs=1e-6)


def test_candidates_are_drawn_by_their_weights_without_replacement() -> None:
    count = 20_000
    uniform = torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actions = torch.eye(3, dtype=torch.float64).repeat(count, 1)[None]
    values = 100 * tensor(0.5, 0.49, 0.4).repeat(1, count)
    one = choosing.mean_of_drawn(actions, values, uniform, count=1).mean(dim=1)[0]
    np.testing.assert_allclose(one, (0.731034, 0.268932, 0.000033), atol=0.01)
    two = choosing.mean_of_drawn(actions, values, uniform, count=2)
    assert set(two.unique().tolist()) == {0.0, 0.5}, "never the same one twice"
    every = choosing.mean_of_drawn(actions, values, uniform, count=5)
    np.testing.assert_allclose(every, np.full((1, count, 3), 1 / 3))


def test_the_slope_of_an_energy_is_its_gradient() -> None:
    net = qgpo.EnergyNet(4, 3, 8, 6, layers=3)
    flat = net.layout.initial([torch.Generator().manual_seed(k) for k in range(2)]).double()
    layers = net.layout.layers(flat)
    rng = torch.Generator().manual_seed(5)
    actions = torch.randn(2, 10, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    observed = net.observe(
        layers,
        torch.randn(2, 5, 4, generator=rng, dtype=torch.float64),
        torch.randn(2, 1, 6, generator=rng, dtype=torch.float64),
    )
    net(layers, actions, observed).sum().backward()
    torch.testing.assert_close(net.slope(layers, actions.detach(), observed), actions.grad)


# Whole trainings ------------------------------------------------------------------------------------------------------


def behaviour_of(learner: Learner) -> plain.ScoreNet:
    own: Any = learner.algorithm
    return plain.ScoreNet(own.noise_net.layout.layers(learner.pack["actor"]), 0)


def clone(learner: Learner, net: nn.Module, adam: torch.optim.Optimizer, earliest: float) -> None:
    """A step of the behaviour model, by its score."""
    batch, noise = plain.next_batch(learner)
    metrics = learner.update(1)
    time, drawn = earliest + (1 - earliest) * noise["time"][0].double(), noise["noise"][0].double()
    log_alpha = -0.25 * 19.9 * time**2 - 0.05 * time
    alpha, sigma = log_alpha.exp()[:, None], (1 - (2 * log_alpha).exp()).sqrt()[:, None]
    found = -net(
        alpha * batch.actions + sigma * drawn, plain.waves(learner.pack["frequencies"][0], time), batch.observations
    )
    errors = (sigma * (found / sigma) + drawn).square()
    plain.descend(adam, errors.sum(dim=1).mean())
    assert metrics["behaviour_loss"].item() == pytest.approx(errors.mean().item(), rel=1e-4)


def check_support(learner: Learner, net: nn.Module, name: str, states: Tensor, order: int, stream: int) -> None:
    """The samples of a behaviour model, from the same noise."""
    own = learner.work.data.of_member[name][0]
    rows, count, size = own.shape
    key = streams.keys([0], purpose=6)
    noise = streams.normals(streams.words(key, torch.tensor(stream), rows * count * size + rows * count * size % 2))
    frequencies, repeated = learner.pack["frequencies"][0], states.double().repeat_interleave(count, dim=0)

    def predict(x: Tensor, time: float) -> Tensor:
        found: Tensor = net(x, plain.waves(frequencies, torch.full((len(x),), time, dtype=torch.float64)), repeated)
        return found

    start = noise[0, : rows * count * size].double().view(-1, size)
    with torch.no_grad():
        expected = sde.solve(predict, start, 6, order, "start" if order == 2 else "noise")
    largest = expected.abs().max().item()
    torch.testing.assert_close(own.double().flatten(0, 1), expected, rtol=0, atol=1e-3 * largest)


@pytest.mark.parametrize("wide", [False, True])
def test_a_training_of_sfbc(wide: bool) -> None:
    """Four steps of cloning, four of the critic on the data's returns, four of a fresh one on planned returns."""
    trial = trained.config(algorithm="sfbc", **SMALL, wide_critic=wide, rounds=2, planning_sharpness=5.0)
    learner = trained.learner(trial)
    data, net = learner.work.data, behaviour_of(learner)
    adam = torch.optim.Adam(net.parameters(), LR)
    for _ in range(4):
        clone(learner, net, adam, sfbc.EARLIEST)
    learner.begin_stage()
    check_support(learner, net, "support", data.observations, order=3, stream=0)

    rewards, rows = data.rewards.double().numpy(), len(data.rewards)
    goes_on = np.array([k < 9 for k in range(rows)])  # of the made-up data
    floor = np.full(rows, -np.inf)
    for number in (1, 2):
        if number == 2:
            assert not torch.equal(learner.pack["critic"], learner.pack["start"]), "until then the old critic acts"
            learner.begin_stage()
        critic = plain.heads(learner, "critic", nn.functional.silu)
        assert (critic[0].linears[0].out_features, len(critic[0].linears)) == ((16, 4) if wide else (8, 3))
        assert torch.equal(learner.pack["critic"], learner.pack["start"]), "every round begins at the start"
        adam = torch.optim.Adam(critic.parameters(), LR)
        returns, last = np.zeros(rows), 0.0
        for i in range(rows - 1, -1, -1):
            last = returns[i] = max(rewards[i] + DISCOUNT * last * goes_on[i], floor[i])
        mean, deviation = returns.mean(), max(returns.std(), 0.1)
        np.testing.assert_allclose(learner.pack["scale"][0], (mean, deviation), rtol=1e-4)
        np.testing.assert_allclose(data.of_member["returns"][0], (returns - mean) / deviation, rtol=1e-3, atol=1e-4)
        for _ in range(4):
            batch, _ = plain.next_batch(learner)
            if learner.step == 11:
                plain.compare(learner, {"critic": critic})
            metrics = learner.update(1)
            (values,) = plain.values(critic, batch.observations, batch.actions)
            loss = (values - batch.more["returns"]).square().mean()
            plain.descend(adam, loss)
            assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        support = data.of_member["support"][0].double()
        with torch.no_grad():
            (q,) = plain.values(critic, data.observations.double()[:, None].expand(-1, 3, -1), support)
        weights = (5.0 * q).softmax(dim=1)
        floor = ((weights * q).sum(dim=1) * deviation + mean).numpy()
        assert number == 2 or (floor > returns).any(), "planning changes something"
    plain.compare(learner, {"actor": net, "critic": critic})


def test_a_training_of_qgpo() -> None:
    """Four steps of cloning, four of critic and energy, four of the energy alone."""
    more = {"energy_share": 0.33, "energy_learning_rate": LR, "beta": 2.5, "backup_beta": 1.5, "target_rate": 0.1}
    learner = trained.learner(trained.config(algorithm="qgpo", **SMALL, **more, hidden_layers=2, energy_layers=3))
    own: Any = learner.algorithm
    data, net = learner.work.data, behaviour_of(learner)
    adam = torch.optim.Adam(net.parameters(), LR)
    for _ in range(4):
        clone(learner, net, adam, qgpo.EARLIEST)
    learner.begin_stage()
    check_support(learner, net, "support", data.observations, order=2, stream=0)
    check_support(learner, net, "next_support", data.next_observations, order=2, stream=1)

    critic, target = (plain.heads(learner, name, torch.relu) for name in ("critic", "target"))
    energy = plain.EnergyNet(own.energy.layout.layers(learner.pack["energy"]), 0)
    critic_adam, energy_adam = (torch.optim.Adam(module.parameters(), LR) for module in (critic, energy))

    def least(states: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            return plain.values(target, states[:, None].expand(-1, 3, -1), actions).amin(dim=0)

    for step in range(4, 12):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        assert ("critic_loss" in metrics) == (step < 8)
        if step < 8:
            following = least(batch.next_observations, batch.more["next_support"])
            value = ((1.5 * following).softmax(dim=1) * following).sum(dim=1)
            goal = batch.rewards + DISCOUNT * (1 - batch.terminals) * value
            loss = (plain.values(critic, batch.observations, batch.actions) - goal).square().mean()
            plain.descend(critic_adam, loss)
            assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
            plain.follow(target, critic, 0.1)
        support = batch.more["support"]
        labels = (2.5 * least(batch.observations, support)).softmax(dim=1)
        time = (qgpo.EARLIEST + (1 - qgpo.EARLIEST) * noise["time"][0].double()).repeat_interleave(3)
        alpha, sigma = (part[:, None] for part in sde.signal_and_noise(time))
        noisy = alpha * support.flatten(0, 1) + sigma * noise["noise"][0].double()
        waves = plain.waves(learner.pack["energy_frequencies"][0], time)
        found = energy(noisy, waves, batch.observations.repeat_interleave(3, dim=0)).view(6, 3)
        loss = -(labels * found.log_softmax(dim=1)).sum(dim=1).mean()
        plain.descend(energy_adam, loss)
        assert metrics["energy_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    # the last bias of an energy has no gradient but rounding, which Adam would follow; a pack leaves it out
    energy.main.linears[-1].bias.data.copy_(own.energy.layout.layers(learner.pack["energy"])[-1][1][0, 0])
    plain.compare(learner, {"actor": net, "critic": critic, "target": target, "energy": energy})
    compare_acting(learner, net, energy)


def compare_acting(learner: Learner, net: nn.Module, energy: nn.Module) -> None:
    """Actions guided by the gradient of the plain energy."""
    rng = np.random.default_rng(2)
    states = rng.normal(size=(5, learner.algorithm.problem.observation_size)).astype(np.float32)
    (actions,) = learner.policy().act([states], [torch.Generator().manual_seed(1)], 1)
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    observations = torch.from_numpy(states).double()

    def predict(x: Tensor, time: float) -> Tensor:
        at = torch.full((len(x),), time, dtype=torch.float64)
        x = x.detach().requires_grad_()
        energies = energy(x, plain.waves(learner.pack["energy_frequencies"][0], at), observations)
        (slope,) = torch.autograd.grad(energies.sum(), x)
        sigma = sde.signal_and_noise(at)[1][:, None]
        found: Tensor = net(x.detach(), plain.waves(learner.pack["frequencies"][0], at), observations) - sigma * slope
        return found.detach()

    expected = sde.solve(predict, noise, 6, 2, "start").clamp(-1, 1)
    np.testing.assert_allclose(actions, expected, rtol=0, atol=2e-3)


def test_a_trained_policy_takes_other_settings_of_acting(tmp_path: Path) -> None:
    folder = trained.write(tmp_path, trained.config(algorithm="qgpo", **SMALL | {"seeds": 2}, guidance_scale=1.0))
    policy = diffcps.load_policy(folder.path, 1)
    other = policy.changed(guidance_scale=20.0)
    again = diffcps.load_policy(other.save(tmp_path / "export"))
    states = np.zeros((4, 11), np.float32)
    assert not np.array_equal(policy.act(states, seed=3), other.act(states, seed=3))
    np.testing.assert_array_equal(other.act(states, seed=3), again.act(states, seed=3))
    assert (again.card.run.value("guidance_scale"), policy.card.run.value("guidance_scale")) == (20.0, 1.0)
    with pytest.raises(UserError, match=r"beta .* guidance_scale"):
        policy.changed(beta=1.0)
    with pytest.raises(UserError, match="guidance_scale = -1"):
        policy.changed(guidance_scale=-1.0)


@pytest.mark.parametrize("name", ["sfbc", "qgpo"])
@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_training_goes_on_in_every_stage_as_if_nothing_had_happened(name: str, step: int) -> None:
    straight, first, second = (trained.learner(trained.config(algorithm=name, **SMALL)) for _ in range(3))
    straight.update(12)
    first.update(step)
    second.load_state_dict(first.state_dict())
    second.update(12 - step)
    for key, value in straight.pack.state().items():
        assert torch.equal(value, second.pack.state()[key]), key


@pytest.mark.parametrize("name", ["sfbc", "qgpo"])
def test_drawing_actions_again_shows_signs_of_life(name: str) -> None:
    """A trial that goes on draws actions for the whole data set before its first step, for which a watchdog must wait."""
    trial, beats = trained.config(algorithm=name, **SMALL), []
    first = trained.learner(trial)
    first.update(9)
    second = trained.learner(trial, heartbeat=lambda: beats.append(1))
    before = len(beats)
    second.load_state_dict(first.state_dict())
    assert len(beats) > before


@pytest.mark.parametrize("name", ["sfbc", "qgpo"])
def test_a_dry_run_counts_the_drawing_of_actions(name: str) -> None:
    estimator = Estimator(torch.device("cpu"))
    few, more, most = (
        estimator.seconds(trained.config(algorithm=name, data=DataConfig("collected", rows), **SMALL))[0]
        for rows in (1000, 2000, 3000)
    )
    assert more - few == pytest.approx(most - more)
    assert more - few > 0


@pytest.mark.parametrize(("name", "steps"), [("sfbc", 3), ("qgpo", 3)])
def test_a_training_has_a_step_for_each_stage(name: str, steps: int) -> None:
    trial = trained.config(algorithm=name, **SMALL | {"steps": steps, "behaviour_share": 0.6})
    learner = trained.learner(trial)
    learner.update(steps)
    assert learner.algorithm.stages[0].until == 1
    with pytest.raises(UserError, match=f"steps = {steps - 1}: .* {steps} stages"):
        trained.config(algorithm=name, **SMALL | {"steps": steps - 1})


@pytest.mark.slow
def test_guided_samples_move_as_the_optimal_policy_does_on_a_bandit() -> None:
    """Behaviour N(m, v) and rewards Q = c · a: the policy μ exp(β Q) has the mean m + β v c, and at scale s it is m + s β v c."""
    beta, slope = 2.0, np.array([2.0, -1.0], np.float32)
    rows, rng = 400, np.random.default_rng(0)
    actions = (0.2 * rng.normal(size=(rows, 2))).astype(np.float32).clip(-1, 1)
    states, ends = np.zeros((rows, 1), np.float32), np.ones(rows, np.float32)
    data = SimpleNamespace(
        observations=states, next_observations=states, actions=actions, rewards=actions @ slope, terminals=ends
    )
    trial = trained.config(
        "bandit-ring", algorithm="qgpo", seeds=1, steps=3000, hidden_size=64, behaviour_batch_size=256, batch_size=64,
        behaviour_share=0.5, energy_share=0.25, learning_rate=1e-3, critic_learning_rate=3e-3, energy_learning_rate=1e-3,
        hidden_layers=2, energy_layers=2, discount=0.0, beta=beta, target_rate=0.05, diffusion_steps=30,
    )  # fmt: skip
    learner = Learner([Part(trial, data)], 1.0)
    learner.update(3000)
    support = learner.work.data.of_member["support"][0].flatten(0, 1).numpy()
    np.testing.assert_allclose(support.mean(axis=0), actions.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(support.std(axis=0), 0.2, atol=0.05)
    policy = learner.policy()
    for scale in (0.0, 1.0, 2.0):
        policy.parameters["guidance_scale"] = torch.tensor([scale])
        (found,) = policy.act([np.zeros((1000, 1), np.float32)], [torch.Generator().manual_seed(7)], 1)
        moved = scale * beta * support.var(axis=0) * slope
        np.testing.assert_allclose(found.mean(axis=0), support.mean(axis=0) + moved, atol=0.03, err_msg=str(scale))
