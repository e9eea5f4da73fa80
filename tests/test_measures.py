"""Each measure on policies whose value is known: weights set by hand, samples made up, and what a trial leaves."""

import csv
import io
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import sweeps
import torch
import trials
from gaussian_chains import gaussian_noise_net, gaussian_step_losses, with_variance

from diffcps import algorithms, data, report
from diffcps.algorithms.chain import ChainPolicy
from diffcps.config import Actor, DataConfig, EvaluationConfig, Member, RunConfig
from diffcps.data.transitions import DatasetInfo, Transitions
from diffcps.envs import maze
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.folder import RunFolder
from diffcps.runs.planning import build
from diffcps.runs.trial import read_trial
from diffcps.sweep.launch import launch
from diffcps.tasks.bandits import bandit
from diffcps.tasks.registry import get_task
from diffcps.text import significant
from diffcps.tracking.labels import rows_of
from diffcps.training import measures
from diffcps.training.evaluation import Evaluator
from diffcps.training.learner import Learner, Part
from diffcps.training.measures import Measure, acting, density, likelihood, paths, samples
from diffcps.training.measures.subject import Measurer, Subject
from diffcps.training.policy import Policy
from diffcps.training.process import Machine
from diffcps.training.trials import Assignment, run

CPU = Machine(torch.device("cpu"))
TINY = {"hidden_size": 8, "time_embedding": 4, "batch_size": 4, "ema_start": 5, "ema_every": 2, "hidden_layers": 1}


def trial(task: str, *names: str, seeds: int = 1, **settings: Any) -> RunConfig:
    """A trial on a bandit with tiny networks."""
    return trials.trial(
        task,
        members=trials.members(seeds),
        steps=8,
        evaluation=EvaluationConfig(every=4, episodes=5, candidates=1),
        log_every=4,
        measures=names,
        **TINY | {"diffusion_steps": 3} | settings,
    )


def transitions(task: str, rows: int = 600) -> Transitions:
    found, rng = bandit(str(get_task(task).bandit)), np.random.default_rng(0)
    actions = found.sample(rows, rng)
    arrays = {
        "observations": np.zeros((rows, 1)),
        "actions": actions,
        "rewards": found.rewards(actions, rng),
        "next_observations": np.zeros((rows, 1)),
        "terminals": np.ones(rows),
    }
    info = DatasetInfo("collected", None, "c0ffee", "other", "made up", rows, rows, np.arange(4.0))
    return Transitions(**{name: value.astype(np.float32) for name, value in arrays.items()}, info=info)


def subject(config: RunConfig, policy: Policy | None = None, index: int = 0) -> Subject:
    task, data = get_task(config.task), transitions(config.task)
    policy = policy or Learner([Part(config, data)], task.max_action).policy().member(0)
    return Subject(task, config, config.members[0], policy, data, index)


def gaussians(config: RunConfig, weights: list[float], means: Any, stds: Any) -> Policy:
    """A policy of these Gaussians: zero weights in the network, and the biases of its last layer set by hand."""
    task = get_task(config.task)
    sizes = task.observation_size, task.action_size, task.max_action
    model: Any = algorithms.build(config, sizes, torch.device("cpu"))
    flat = torch.zeros_like(model.policy.layout.initial([torch.Generator()]))
    bias = model.policy.layout.layers(flat)[-1][1]
    mean = np.arctanh(np.array(means) / task.max_action)
    raw = (np.log(np.array(stds) / task.max_action) + 6.0) / 7.0
    values = np.concatenate([mean, np.log(raw / (1.0 - raw))], axis=1).ravel()
    values = np.concatenate([np.log(weights) if len(weights) > 1 else [0.0], values])
    bias[0, 0] = torch.tensor(values)
    critic = torch.zeros_like(model.critic.initial([torch.Generator()]))
    return Policy(model, {"actor": flat, "average": flat.clone(), "target": critic})


# Distributions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (0.0, 0.09), (0.03, 0.12), (-0.1, 0.05)])
def test_divergence_between_gaussians(mean: float, std: float) -> None:
    """KL both ways, spread and value of a Gaussian policy on N(0, .1²), by the closed forms."""
    config = trial("bandit-normal-0.1", "density", policy="gaussian")
    row = density.take(subject(config, gaussians(config, [1.0], [[mean]], [[std]])))
    s = 0.1
    kl = math.log(std / s) + (s**2 + mean**2) / (2 * std**2) - 0.5
    reverse = math.log(s / std) + (std**2 + mean**2) / (2 * s**2) - 0.5
    np.testing.assert_allclose([row["kl"], row["kl_reverse"]], [kl, reverse], atol=1e-3)
    np.testing.assert_allclose(row["std_0"], std, rtol=1e-3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    value = (weights * bandit("normal-0.1").value((mean + std * nodes)[:, None])).sum() / weights.sum()
    np.testing.assert_allclose(row["expected_value"], value, atol=2e-3)
    assert tuple(sorted(row)) == tuple(sorted(measures.columns(config)))


def test_mixture_on_the_corners() -> None:
    """A mixture that is the behaviour but for its weights: KL = Σ w log w/μ, values and modes by hand."""
    config = trial("bandit-corners", "density", policy="mixture", mixture_components=4)
    found = bandit("corners")
    assert found.modes is not None
    weights = [0.4, 0.1, 0.02, 0.48]
    row = density.take(subject(config, gaussians(config, weights, found.modes, np.full((4, 2), 0.05))))
    np.testing.assert_allclose(row["kl"], -0.25 * np.log(4 * np.array(weights)).sum(), atol=2e-3)
    np.testing.assert_allclose(row["kl_reverse"], np.dot(weights, np.log(4 * np.array(weights))), atol=2e-3)
    np.testing.assert_allclose([row[f"mode_{m}"] for m in range(4)], weights, atol=1e-5)
    assert row["mode_recall"] == 0.75, "the third has less than a tenth of its share"
    assert 0 < row["off_support"] < 2e-3
    np.testing.assert_allclose(row["expected_value"], np.dot(weights, [3, 0, 1.5, 5]), atol=0.01)


def test_off_support_mass_of_a_wide_gaussian() -> None:
    """A Gaussian over all four corners: its mass on the discs by their area times its density, and what is left is off."""
    config = trial("bandit-corners", "density", policy="gaussian")
    row = density.take(subject(config, gaussians(config, [1.0], [[0.0, 0.0]], [[0.8, 0.8]])))
    rng = np.random.default_rng(0)
    drawn = np.clip(0.8 * rng.normal(size=(1_000_000, 2)), -1.1, 1.1)
    off = bandit("corners").off_support(drawn).mean()
    np.testing.assert_allclose(row["off_support"], off, atol=3e-3)
    assert row["kl_reverse"] > 10


def test_a_policy_without_a_density_diverges() -> None:
    config = trial("bandit-corners", "density", policy="deterministic")
    row = density.take(subject(config))
    assert row["kl"] == np.inf
    assert row["kl_reverse"] > 10
    np.testing.assert_allclose(sum(row[f"mode_{m}"] for m in range(4)), 1.0)
    assert row["std_0"] < 0.02


@pytest.mark.parametrize("covariance", ["posterior", "forward", "calibrated", "interpolated", "learned"])
@pytest.mark.parametrize("last_step_noise", [False, True])
def test_distribution_of_every_chain_is_where_it_acts(covariance: str, last_step_noise: bool) -> None:
    """Mean value and mode weights over the grid, against many actions of the policy itself."""
    config = trial("bandit-corners", "density", covariance=covariance, last_step_noise=last_step_noise)
    is_where_it_acts(subject(config), "online")


def is_where_it_acts(looked_at: Subject, actor: Actor) -> None:
    own = density.behaviour("corners")
    with torch.no_grad():
        masses = density.policy_masses(looked_at, own.edges, actor).numpy()
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-6)
    drawn = samples.actions(looked_at, "test", 20_000, 1, actor)
    for exact, own_samples in (
        (np.tensordot(masses, own.middles, 2), drawn),
        (np.tensordot(masses, own.middles**2, 2), drawn**2),
        (np.tensordot(masses, own.middles.prod(axis=-1), 2), drawn.prod(axis=-1)),
    ):
        error = own_samples.std(axis=0) / math.sqrt(len(drawn))
        assert np.all(np.abs(own_samples.mean(axis=0) - exact) < 5 * error + 1e-4)


@torch.no_grad()
def test_distribution_of_a_student_is_where_it_acts() -> None:
    """Beside the chain, whose own numbers it does not change, and alone."""
    own, beside = (trial("bandit-corners", "density", student=student) for student in ("none", "one-step"))
    looked_at = subject(beside)
    tensors = looked_at.policy.parameters
    tensors["student"].mul_(4.0)  # so that it bends
    is_where_it_acts(looked_at, "student")
    row, chain = density.take(looked_at), density.take(subject(own))
    assert set(row) - set(chain) == {"average_kl", "student_kl"}
    assert {name: row[name] for name in chain} == chain
    assert tuple(sorted(row)) == tuple(sorted(measures.columns(beside)[:-1])), "the last is the student's score"
    assert math.isfinite(row["student_kl"])
    assert row["student_kl"] > 0
    alone = replace(looked_at, config=beside.replaced(evaluation=replace(beside.evaluation, actor="student")))
    found = density.take(alone)
    assert set(found) == set(chain)
    np.testing.assert_allclose(found["kl"], row["student_kl"])


def test_cells_are_small_beside_the_behaviour() -> None:
    """Cells twice as small change the KL of a slightly wrong policy by far less than .01 nats."""
    found, own = bandit("corners"), density.behaviour("corners")
    width = float(own.edges[0][1] - own.edges[0][0])
    np.testing.assert_allclose(width, 0.05 / 4, rtol=0.01)
    log_weights = torch.full((4,), -math.log(4.0))
    centres, stds = torch.tensor(found.modes), torch.full((4, 2), 0.04).double()
    kls = []
    for count in (len(own.edges[0]) - 1, 2 * (len(own.edges[0]) - 1)):
        edge = torch.linspace(-found.bound, found.bound, count + 1).double()
        masses = density.mixture_masses(log_weights, centres, stds, [edge, edge]).numpy()
        kls.append(density.divergence(found.cell_masses([edge.numpy()] * 2), masses, 1e-30))
    exact = 2 * (math.log(0.04 / 0.05) + 0.05**2 / (2 * 0.04**2) - 0.5)
    np.testing.assert_allclose(kls, exact, atol=2e-3)
    assert len(density.behaviour("normal-0.1").edges[0]) == 2001


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sliced_wasserstein_of_a_shift(size: int) -> None:
    """Of a set and the same set moved by v it is the mean of |θ·v|; in the plane 2/π |v|."""
    rng = np.random.default_rng(0)
    points, shift = rng.normal(size=(500, size)), np.array([0.3, -0.4, 1.2])[:size]
    along = samples.directions(size, rng)
    found = samples.sliced_wasserstein(points, rng.permutation(points + shift), along)
    np.testing.assert_allclose(found, np.abs(along @ shift).mean(), rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1.0)
    if size == 2:
        np.testing.assert_allclose(found, 2 / math.pi * np.linalg.norm(shift), rtol=1e-3)


def test_sliced_wasserstein_of_two_widths() -> None:
    """Between N(0, 1) and N(0, 4) in one dimension: E|z| = √(2/π)."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40_000, 1)), 2 * rng.normal(size=(40_000, 1))
    found = samples.sliced_wasserstein(first, second, np.ones((1, 1)))
    np.testing.assert_allclose(found, math.sqrt(2 / math.pi), atol=0.02)


def test_recall_of_made_up_samples() -> None:
    found = bandit("corners")
    assert found.modes is not None
    on = np.repeat(found.modes, [500, 300, 180, 20], axis=0)
    assert density.sample_recall(found, on) == 0.75, "20 of 1000 are less than a tenth of a quarter"
    assert density.sample_recall(found, np.repeat(found.modes, 250, axis=0)) == 1.0
    assert density.sample_recall(found, found.modes + 0.3) == 0.0, "near no mode"
    assert density.nearest_mode(found, found.modes + 0.3).tolist() == [0, 1, 2, 3]


def test_samples_of_the_behaviour_itself_and_of_the_best() -> None:
    """A mixture that is the behaviour; a critic that knows nothing chooses as the policy does."""
    config = trial("bandit-corners", "samples", policy="mixture", mixture_components=4)
    found = bandit("corners")
    policy = gaussians(config, [0.25] * 4, found.modes, np.full((4, 2), 0.05))
    row = samples.take(subject(config, policy))
    assert tuple(sorted(row)) == tuple(sorted(measures.columns(config)))
    assert row["sliced_wasserstein"] < 0.04
    assert row["sample_recall"] == 1.0
    assert row["sample_off_support"] < 4e-3
    for name in ("sample_value", "bestof_value"):
        np.testing.assert_allclose(row[name], 2.375, atol=0.3)
    left = samples.to_look_at(subject(config, policy))
    assert {name: values.shape for name, values in left.items()} == {"a_0": (1000,), "a_1": (1000,)}
    other = samples.take(subject(config, policy, index=1))
    assert other["sample_value"] != row["sample_value"], "every evaluation draws anew"
    assert samples.take(subject(config, policy)) == row


def test_cloned_behaviour_has_no_critic_to_choose_by() -> None:
    config = trial("bandit-mixture-3x4", "samples", algorithm="bc")
    assert "bestof_value" not in measures.columns(config)
    assert set(samples.take(subject(config))) == set(measures.columns(config))


# Likelihood -----------------------------------------------------------------------------------------------------------


def test_cross_entropy_of_a_gaussian() -> None:
    config = trial("bandit-normal-0.1", "likelihood", policy="gaussian")
    looked_at = subject(config, gaussians(config, [1.0], [[0.02]], [[0.08]]))
    row = likelihood.take(looked_at)
    _, actions = likelihood.rows(looked_at)
    a = actions.double().numpy()[:, 0]
    surprise = 0.5 * ((a - 0.02) / 0.08) ** 2 + math.log(0.08 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(row["cross_entropy"], surprise.mean(), rtol=1e-5)
    np.testing.assert_allclose(row["cross_entropy_error"], surprise.std(ddof=1) / math.sqrt(len(a)), rtol=1e-4)
    kl = math.log(0.8) + (0.1**2 + 0.02**2) / (2 * 0.08**2) - 0.5
    assert abs(row["cross_entropy_excess"] - kl) < 4 * row["cross_entropy_excess_error"]
    assert set(row) == set(measures.columns(config))


def exact_chain(config: RunConfig, std: float) -> tuple[Subject, Any]:
    """A subject whose noise net is the exact one for N(0, std²), and the patch that makes it so."""
    looked_at = subject(config)
    policy = looked_at.cloner.policy
    assert isinstance(policy, ChainPolicy)
    net = gaussian_noise_net(policy.schedule, std)
    step_losses = gaussian_step_losses(policy.schedule, std)
    variance = {
        "calibrated": policy.schedule.posterior_variance + policy.schedule.covariance_coefficient * step_losses,
        "posterior": policy.schedule.posterior_variance,
        "forward": policy.schedule.beta,
    }[config.value("covariance")]
    chain = with_variance(net, variance)
    return looked_at, mock.patch.object(policy, "denoiser", return_value=chain)


@pytest.mark.parametrize(
    ("covariance", "kl"), [("calibrated", 0.0), ("forward", math.log(0.495 / 0.3) + 0.3**2 / (2 * 0.495**2) - 0.5)]
)
def test_likelihood_of_a_chain_whose_density_is_known(covariance: str, kl: float) -> None:
    """IWAE, quadrature and the closed form agree on KL(π_b ‖ μ); bounds tighten with K; losses are at their floor."""
    config = trial("bandit-normal-0.3", "density", "likelihood", covariance=covariance, last_step_noise=True)
    config = config.with_settings(diffusion_steps=5)
    looked_at, patch = exact_chain(config, 0.3)
    with patch, torch.no_grad():
        row = likelihood.take(looked_at) | density.take(looked_at)
    assert set(row) == set(measures.columns(config))
    np.testing.assert_allclose(row["kl"], kl, atol=2e-3)
    assert abs(row["cross_entropy_excess"] - kl) < 4 * row["cross_entropy_excess_error"] + 2e-3
    bounds = [row["elbo"], *(row[f"iwae_{paths}"] for paths in (4, 16, 64, 256))]
    assert all(low <= high + 1e-3 for high, low in itertools.pairwise(bounds))
    assert row["gap"] == pytest.approx(row["elbo"] - row["iwae_256"])
    assert row["cross_entropy"] == row["iwae_256"]
    policy = looked_at.cloner.policy
    assert isinstance(policy, ChainPolicy)
    signal = policy.schedule.alpha_bar.double().numpy()
    total, spread = signal * 0.3**2 + 1.0 - signal, float(likelihood.rows(looked_at)[1].square().mean())
    expected = (signal * 0.3**2 / total) ** 2 + (1.0 - signal) * signal * spread / total**2
    np.testing.assert_allclose([row[f"loss_step_{t}"] for t in range(5)], expected, rtol=0.08)
    np.testing.assert_allclose(row["loss"], 0.0711, rtol=0.15)


def test_a_silent_last_step_has_losses_only() -> None:
    config = trial("bandit-normal-0.3", "likelihood")
    assert set(measures.columns(config)) == {"loss", "loss_step_0", "loss_step_1", "loss_step_2"}
    assert set(likelihood.take(subject(config))) == set(measures.columns(config))


def test_rows_are_the_same_whoever_asks() -> None:
    config = trial("bandit-corners", "likelihood")
    first = likelihood.rows(subject(config))[1]
    assert len(first) == likelihood.ROWS
    other = config.replaced(members=(Member(7),))
    assert torch.equal(first, likelihood.rows(subject(other, index=3))[1])


# Acting ---------------------------------------------------------------------------------------------------------------


def test_scores_of_both_actors_in_the_same_episodes() -> None:
    """Weights set by hand: the online policy takes the best corner, its average the worst; other episodes than judged."""
    config = trial("bandit-corners", "acting", policy="gaussian")
    online = gaussians(config, [1.0], [[0.8, -0.8]], [[0.01, 0.01]])
    average = gaussians(config, [1.0], [[-0.8, -0.8]], [[0.01, 0.01]])
    policy = Policy(online.algorithm, online.parameters | {"average": average.parameters["actor"]})
    row = acting.take(subject(config, policy))
    assert row == {"score_online_1": 100.0, "score_online_50": 100.0, "score_average_1": 0.0, "score_average_50": 0.0}
    assert measures.columns(trial("bandit-corners", "acting", algorithm="bc")) == ("score_online_1", "score_average_1")


def test_the_evaluator_lets_the_actor_act_that_is_configured() -> None:
    config = trial("bandit-corners", policy="gaussian")
    online = gaussians(config, [1.0], [[0.8, -0.8]], [[0.01, 0.01]])
    average = gaussians(config, [1.0], [[-0.8, 0.8]], [[0.01, 0.01]])
    policy = Policy(online.algorithm, online.parameters | {"average": average.parameters["actor"]})
    for actor, value in (("online", 5.0), ("average", 3.0)):
        evaluation = config.evaluation.replaced(actor=actor)
        judge = Evaluator(get_task(config.task), "modern", config.members, evaluation)
        assert set(judge(policy, 0).returns.ravel()) == {value}


# By name, and in a trial ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (trial("bandit-ring", "densty"), ["'densty'", "did you mean 'density'", "likelihood"]),
        (trial("bandit-mixture-3x4", "density"), ["density", "bandit-mixture-3x4", "its actions 4", "samples"]),
        (
            trial("bandit-ring", "likelihood", policy="deterministic"),
            ["no density", "fit: density, samples, actions, acting"],
        ),
        (trial("bandit-ring", "acting", "acting"), ["once"]),
        (trial("hopper-medium-v2", "density"), ["hopper-medium-v2", "bandits", "fit: likelihood, acting"]),
        (trial("hopper-medium-v2", "samples"), ["bandits only"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    config: RunConfig, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as said:
        measures.check(config)
    assert all(word in str(said.value) for word in words), str(said.value)
    with pytest.raises(UserError):
        run([Assignment(config, RunFolder(tmp_path), mock.Mock(side_effect=AssertionError("work has begun")))], CPU)
    assert RunFolder(tmp_path).status["state"] == "failed"


def test_a_sweep_is_asked_for_measures_and_refuses_those_that_do_not_fit(tmp_path: Path) -> None:
    plan = build(SweepOptions(preset="demo", tasks=("bandit-ring",), measures=("density", "acting")))
    assert [config.measures for config in plan.trials] == [("density", "acting")]
    for names, tasks, word in (
        (("densty",), ("bandit-ring",), "'density'"),
        (("density",), ("bandit-ring", "hopper-medium-v2"), "hopper-medium-v2"),
    ):
        with pytest.raises(UserError, match=word):
            launch(SweepOptions(preset="demo", tasks=tasks, measures=names, results=str(tmp_path), dry_run=True))


MEASURED = trial(
    "bandit-normal-0.5", "density", "samples", "likelihood", "acting", seeds=3, covariance="calibrated",
    last_step_noise=True,
)  # fmt: skip


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows and samples."""
    monkeypatch.setattr(likelihood, "ROWS", 20)
    monkeypatch.setattr(samples, "COUNT", 1000)
    monkeypatch.setattr(samples, "BEST_COUNT", 20)


def trained(path: Path, config: RunConfig = MEASURED, machine: Machine = CPU) -> RunFolder:
    folder = RunFolder(path)
    run([Assignment(config, folder, lambda: transitions(config.task))], machine)
    return folder


def test_a_trial_leaves_its_measures(brief: None, tmp_path: Path) -> None:
    folder = trained(tmp_path)
    table = pd.read_csv(folder.path / "measures.csv")
    assert tuple(table.columns) == ("step", "member", "seed", *measures.columns(MEASURED))
    assert table[["step", "member"]].to_numpy().tolist() == [[4, 0], [4, 1], [4, 2], [8, 0], [8, 1], [8, 2]]
    assert table.notna().all().all()
    actions = pd.read_csv(folder.path / "samples.csv")
    assert set(actions["step"]) == {8}
    assert actions.groupby("member").size().tolist() == [1000] * 3
    found = read_trial(folder.path)
    steps, values = found.measure("kl")
    assert steps.tolist() == [4, 8]
    np.testing.assert_array_equal(values.ravel(), table["kl"])
    assert len(found.samples) == 3000
    shown = rows_of(found)[-1].values
    np.testing.assert_array_equal(shown["measures/kl"], values[-1])
    assert folder.status["seconds"]["evaluation"] > 0


def test_measures_do_not_depend_on_company_and_leave_training_alone(brief: None, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    bare = trained(tmp_path / "bare", MEASURED.replaced(measures=()))
    assert not (bare.path / "measures.csv").exists()
    assert (bare.path / "returns.csv").read_text() == (whole.path / "returns.csv").read_text()
    memory = sweeps.memory_for(MEASURED, rows=600, packs=2)
    parts = trained(tmp_path / "parts", machine=replace(CPU, memory=memory))
    assert parts.environment["pack_sizes"] == [1, 2]
    first, second = (pd.read_csv(folder.path / "measures.csv") for folder in (whole, parts))
    np.testing.assert_allclose(first.to_numpy(), second.to_numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["metrics.csv", "measures.csv", "samples.csv"])
def test_killed_while_writing_and_resumed(brief: None, tmp_path: Path, name: str) -> None:
    """The file is cut in the middle of its last rows, and the trial goes on to the very same bytes."""
    straight = trained(tmp_path / "straight")
    append = RunFolder._append
    config = MEASURED.replaced(checkpoint_minutes=1e-9)

    def dying(folder: RunFolder, file: str, columns: Any, rows: Any) -> None:
        append(folder, file, columns, rows)
        if file == name and rows[0]["step"] == 8:
            whole = (folder.path / file).read_bytes()
            (folder.path / file).write_bytes(whole[:-20])
            raise KeyboardInterrupt

    with mock.patch.object(RunFolder, "_append", dying), pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", config)
    resumed = trained(tmp_path / "killed", config)
    for file in ("measures.csv", "samples.csv", "returns.csv"):
        assert (resumed.path / file).read_bytes() == (straight.path / file).read_bytes(), file


def test_a_diverged_member_gets_no_numbers_and_harms_no_other(brief: None) -> None:
    config = trial("bandit-normal-0.5", "density", "samples", "likelihood", seeds=2, covariance="calibrated")
    data = transitions(config.task)
    policy = Learner([Part(config, data)], 2.5).policy()
    healthy = Measurer(config, config.members, data)(policy, 0, True)
    policy.parameters["actor"][1] = torch.nan
    broken = Measurer(config, config.members, data)(policy, 0, True)
    for name, values in broken.values.items():
        assert values[0] == healthy.values[name][0], name
        assert np.isnan(values[1]), name
    assert np.isnan(broken.samples["a_0"][1]).all()
    np.testing.assert_array_equal(broken.samples["a_0"][0], healthy.samples["a_0"][0])
    policy.parameters["actor"][1] = 1e30  # numbers whose products are none
    assert np.isnan(Measurer(config, config.members, data)(policy, 0, False).values["kl"][1])


def test_a_new_measure_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found in ``measures.csv``, MLflow's rows, the table, its CSV and the page, and the report shows it over steps."""
    entry = Measure(
        says="The policy's first weight.",
        columns=lambda config, task: ("weight", "weight_0"),
        take=lambda subject: dict.fromkeys(("weight", "weight_0"), float(subject.policy.parameters["actor"][0, 0])),
        details=r"weight_\d+",
    )
    monkeypatch.setitem(measures.MEASURES, "first_weight", entry)
    folder = trained(tmp_path, MEASURED.replaced(measures=("first_weight",)))
    written = pd.read_csv(folder.path / "measures.csv")
    assert [*written.columns] == ["step", "member", "seed", "weight", "weight_0"]
    found = read_trial(folder.path)
    np.testing.assert_array_equal(rows_of(found)[-1].values["measures/weight"], written["weight"][-3:])

    built = report.build(tmp_path)
    (record,) = csv.DictReader(io.StringIO(built.csv()))
    mean = written["weight"][-3:].mean()
    assert float(record["measure_weight"]) == pytest.approx(mean)
    assert float(record["measure_weight_low"]) < mean < float(record["measure_weight_high"])
    text = built.markdown()
    assert entry.says in text
    section = text[text.index("## Measures") :]
    assert f"{significant(mean)} [" in section
    assert "weight_0" not in section.replace("\\", "")
    assert "measure_weight" in {figure.name for figure in built.document.figures}
    assert "first_weight" in built.html()


def test_paths_in_a_maze(tmp_path: Path) -> None:
    """They begin at the start, no step is longer than the point can go, and none is inside a wall; the data's come too."""
    config = trials.trial(
        "pointmaze-umaze", members=trials.members(2), steps=4, log_every=4, measures=("paths",),
        evaluation=EvaluationConfig(every=4, episodes=2, candidates=1), data=DataConfig("collected", rows=1500),
        **TINY, diffusion_steps=2,
    )  # fmt: skip
    folder, task = RunFolder(tmp_path / "run"), get_task("pointmaze-umaze")
    dataset = data.load(task, config.data, (tmp_path,))
    run([Assignment(config, folder, lambda: dataset)], CPU)
    table = pd.read_csv(folder.path / "samples.csv")
    assert list(table.columns) == ["step", "member", "seed", "path", "x", "y"]
    assert table.groupby("member")["path"].nunique().tolist() == [paths.EPISODES + dataset.info.trajectories] * 2
    layout = maze(task)
    assert all(layout.at(point) in layout.cells() for point in table[["x", "y"]].to_numpy())
    own, other = table[table["path"] >= 0], table[table["path"] < 0]
    assert np.allclose(own.groupby(["member", "path"])[["x", "y"]].first(), layout.centres("S")[0], atol=0.3)
    assert other[other["member"] == 0]["x"].tolist() == other[other["member"] == 1]["x"].tolist()
    positions = {tuple(row) for row in dataset.observations[:, :2].astype(np.float64).round(6)}
    assert {tuple(row) for row in other[["x", "y"]].to_numpy().round(6)} <= positions
    again = run_again(config, tmp_path, dataset)
    assert (again.path / "samples.csv").read_text() == (folder.path / "samples.csv").read_text()


def run_again(config: RunConfig, root: Path, dataset: Transitions) -> RunFolder:
    """The same trial in another folder."""
    folder = RunFolder(root / "again")
    run([Assignment(config, folder, lambda: dataset)], CPU)
    return folder


def test_every_measure_says_what_it_tells() -> None:
    assert set(measures.MEASURES) == {
        "density",
        "samples",
        "actions",
        "paths",
        "likelihood",
        "acting",
        "latency",
        "fqe",
        "critic",
    }
    assert all(measure.says.endswith(".") for measure in measures.MEASURES.values())
