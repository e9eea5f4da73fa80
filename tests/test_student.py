"""A one-step student: the map that it learns, the chain that it leaves alone, and its place beside the policy."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import sweeps
import torch
import trained
from test_ways import small
from torch import Tensor

import diffcps
from diffcps import algorithms, data, load_policy, report
from diffcps.algorithms.diffusion import carry, variance_preserving
from diffcps.algorithms.ways import STUDENT
from diffcps.cli.distil import Distil
from diffcps.cli.latency import Latency, columns
from diffcps.cli.policies import Export
from diffcps.cli.train import Train
from diffcps.deploy import latency, onnx
from diffcps.deploy.distil import distil
from diffcps.deploy.saved import SavedPolicy
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.runs.trial import read_trial
from diffcps.tasks.registry import get_task
from diffcps.training import checks, measures

TEACHERS = [name for name in algorithms.names() if "student" in algorithms.get(name).settings.names()]


def taught(name: str = "diffcps", student: str = "one-step", **changes: Any) -> Any:
    return trained.config(algorithm=name, student=student, **changes)


ALONG = [name for name in TEACHERS if algorithms.teaches(name)]
AFTERWARDS = [name for name in TEACHERS if name not in ALONG]


def test_who_has_one() -> None:
    assert ALONG == ["diffcps", "weighted", "bc", "dql", "edp", "dac", "bdpo", "idql"]
    assert AFTERWARDS == ["sfbc", "qgpo"]


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_chain_without_average_has_its_student_after_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diffcps distil"):
        checks.check(small(name, student="one-step", candidates=1))
    with pytest.raises(UserError, match="diffcps distil"):
        Train(task="bandit-corners", algorithm=name, student="one-step", results=str(tmp_path / "along"))()
    assert not (tmp_path / "along").exists()
    folder = sweeps.train(small(name, candidates=1, learning_rate=3e-3), tmp_path / "own")
    policy, dataset = load_policy(folder.path), data.load(get_task("bandit-corners"), folder.config.data, ())
    seen: list[float] = []
    found = distil(policy, dataset, 700, progress=lambda _, distance: seen.append(distance))
    assert found.distance < 0.5 * seen[0]
    found.policy.save(tmp_path / "both")
    both, state = load_policy(tmp_path / "both"), np.zeros((500, 1), dtype=np.float32)
    np.testing.assert_array_equal(both.act(state, seed=3, candidates=1), policy.act(state, seed=3, candidates=1))
    chain, student = both.act(state, candidates=1, seed=1), both.act(state, actor="student", seed=1)
    assert (
        np.abs(student - chain).mean() < 0.5 * np.abs(np.random.default_rng(0).permuted(chain, axis=0) - chain).mean()
    )
    with pytest.raises(UserError, match="average"):
        both.act(state, actor="average")


@pytest.mark.parametrize("name", AFTERWARDS)
def test_such_a_student_works_in_the_units_of_the_environment(name: str, tmp_path: Path) -> None:
    """A pendulum's torque lies in ±2, a network's output in ±1."""
    folder = sweeps.train(small(name, candidates=1, learning_rate=3e-3, task="pendulum-swingup"), tmp_path / "own")
    policy, dataset = load_policy(folder.path), data.load(get_task("pendulum-swingup"), folder.config.data, ())
    both = distil(policy, dataset, 700).policy
    states = dataset.observations[:500]
    chain, student = both.act(states, candidates=1, seed=1), both.act(states, actor="student", seed=1)
    scale = float((student * chain).sum() / (student * student).sum())
    assert scale == pytest.approx(1.0, abs=0.1)
    assert np.abs(chain).max() > 1.0
    if name == "sfbc":
        values = []
        for weight in (0.0, 3.0):
            run = policy.card.run.with_settings(student_value=weight)
            own = distil(SavedPolicy(replace(policy.card, run=run), policy.networks), dataset, 150).policy
            actions = own.act(states, actor="student", seed=1)
            critic = own.policy.algorithm.critic
            layers = critic.layers(policy.networks["critic"])
            found = critic(layers, torch.as_tensor(states)[None], torch.as_tensor(actions / 2.0)[None])
            values.append(float(found.mean()))
        assert values[1] > values[0], "its own critic raises it"


def test_several_algorithms_with_a_student_take_it_where_it_learns_along() -> None:
    options = SweepOptions(preset="demo", tasks=("bandit-corners",), algorithms=("diffcps", "sfbc"), student="one-step")
    trials = {trial.algorithm: trial for trial in build(options).trials}
    assert (trials["diffcps"].value("student"), trials["sfbc"].value("student")) == ("one-step", "none")
    for trial in trials.values():
        checks.check(trial)


@pytest.mark.parametrize("name", ALONG)
def test_the_chain_is_the_same_to_the_bit_with_and_without(name: str) -> None:
    alone, beside = (trained.learner(taught(name, student)) for student in ("none", "one-step"))
    first, second = alone.update(12), beside.update(12)
    for key, value in alone.pack.state().items():
        assert torch.equal(value, beside.pack.state()[key]), key
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert set(second) - set(first) == {"student_distance", "student_loss", "student_grad_norm"}
    assert "student" not in alone.pack.tensors


def linear_noise(schedule: Any, mean: float, variance: float) -> Any:
    """The best prediction of the noise in normal data: √(1 − ᾱ) (a_t − √ᾱ m) / (ᾱ v + 1 − ᾱ)."""

    def denoise(current: Tensor, step: int) -> tuple[Tensor, Tensor]:
        signal = schedule.alpha_bar[step]
        share = (1 - signal).sqrt() / (signal * variance + 1 - signal)
        return share * (current - signal.sqrt() * mean), schedule.beta[step]

    return denoise


def test_the_map_of_normal_data_stretches_the_noise_by_their_deviation() -> None:
    """The probability flow of N(m, v) is m + √v z, but for the signal that is left at the start and the size of the steps."""
    schedule = variance_preserving(2000, 0.1, 20.0, torch.float64)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = carry(linear_noise(schedule, 0.3, 0.04), schedule, noise, max_action=10.0)
    torch.testing.assert_close(found, 0.3 + 0.2 * noise, rtol=0, atol=2e-3)


def test_the_map_by_hand() -> None:
    """Two steps from a_2 = 0.5 with predicted noise 0.1 and then 0.2; the first implied action is beyond the bound."""
    schedule = variance_preserving(2, 0.1, 10.0, torch.float64)
    first, last = (float(value) for value in schedule.alpha_bar)
    predicted = {1: torch.tensor(0.1, dtype=torch.float64), 0: torch.tensor(0.2, dtype=torch.float64)}
    found = carry(
        lambda current, step: (predicted[step], schedule.beta[step]), schedule, torch.tensor(0.5).double(), 0.9
    )
    start = min(0.9, (0.5 - (1 - last) ** 0.5 * 0.1) / last**0.5)
    assert start == 0.9
    current = first**0.5 * start + (1 - first) ** 0.5 * (0.5 - last**0.5 * start) / (1 - last) ** 0.5
    assert float(found) == pytest.approx(min(0.9, (current - (1 - first) ** 0.5 * 0.2) / first**0.5), abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_its_loss_and_gradient(weight: float) -> None:
    """mean (μ − a)² + w q with q = −mean Q / mean |Q|, in double precision by finite differences."""
    learner = trained.learner(taught(student_value=weight))
    algorithm, pack = learner.algorithm, learner.pack
    student = algorithm.student
    rng = torch.Generator().manual_seed(0)
    states, noise, goal = (torch.randn(2, 6, size, generator=rng) for size in (11, 3, 3))
    goal = goal.clamp(-1, 1)
    start = pack["student"].clone()

    def value(actions: Tensor) -> Tensor:
        values = actions.sum(dim=2) - 3.0
        return -values.mean(dim=1) / values.detach().abs().mean(dim=1)

    def loss(parameters: Tensor) -> Tensor:
        layers = student.mlp.layout.layers(parameters)
        actions = student.mlp(layers, torch.cat([states, noise], dim=2))
        kept = actions.clamp(-1, 1).sum(dim=2) - 3.0
        q = -kept.mean(dim=1) / scale
        return (actions - goal).square().mean(dim=(1, 2)) + weight * q

    layers = student.mlp.layout.layers(start)
    actions = student.mlp(layers, torch.cat([states, noise], dim=2)).clamp(-1, 1)
    scale = (actions.sum(dim=2) - 3.0).abs().mean(dim=1)
    parameters = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(parameters).sum(), parameters)
    found = student.learn(pack, states, noise, goal, value)
    torch.testing.assert_close(found["student_loss"], loss(start))
    torch.testing.assert_close(found["student_grad_norm"], torch.linalg.vector_norm(slope, dim=1))
    # Adam's first step has the size of its rate, against the sign of the gradient
    moved, sure = pack["student"] - start, slope.abs() > 1e-4
    torch.testing.assert_close(moved[sure], -1e-2 * slope.sign()[sure], rtol=1e-2, atol=0)


def test_it_learns_where_the_chain_carries_noise() -> None:
    learner = trained.learner(
        taught(ema_decay=1.0, hidden_size=32, batch_size=64, learning_rate=3e-3, student_value=0.0)
    )
    first, last = learner.update(2), {}
    for _ in range(6):
        last = learner.update(100)
    assert (last["student_distance"] < 0.1 * first["student_distance"]).all()
    states = torch.rand(2, 50, 11, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1))
    parameters = {"actor": learner.pack["student"]}
    own = learner.algorithm.student.act(parameters, states, noise[None], torch.zeros(2, 50, 1))
    goal = learner.algorithm.carry(learner.pack, states, noise)
    assert (own - goal).square().mean() < 0.2 * goal.square().mean()


def test_it_is_scored_at_every_evaluation_in_the_same_episodes(tmp_path: Path) -> None:
    bare = sweeps.train(small("diffcps"), tmp_path / "bare")
    beside = sweeps.train(small("diffcps", student="one-step"), tmp_path / "beside")
    assert beside.config.acting == ("actor=student",)
    np.testing.assert_array_equal(read_trial(bare.path).scores, read_trial(beside.path).scores)
    table = pd.read_csv(beside.path / "measures.csv")
    assert table["step"].tolist() == [2, 2, 4, 4, 6, 6]
    assert table[STUDENT.column].notna().all()
    own = small("diffcps", 1, student="one-step")
    own = algorithms.complete(own.replaced(evaluation=own.evaluation.replaced(actor="student"), acting=()))
    assert own.acting == ()
    acting = sweeps.train(own, tmp_path / "acting")
    np.testing.assert_array_equal(read_trial(acting.path).scores.ravel(), table[STUDENT.column])


def test_it_is_loaded_saved_and_refused_with_a_reason(tmp_path: Path) -> None:
    folder = trained.write(tmp_path, taught())
    policy = diffcps.load_policy(folder.path)
    states = np.random.default_rng(0).standard_normal((5, 11))
    actions = policy.act(states, actor="student", seed=3)
    again = diffcps.load_policy(policy.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.act(states, actor="student", seed=3), actions)
    assert not np.array_equal(policy.act(states, 1, seed=3), actions)
    with pytest.raises(UserError, match="candidates = 2: a student"):
        policy.act(states, 2, "student")
    other = diffcps.load_policy(trained.write(tmp_path, taught(student="none")).path)
    with pytest.raises(UserError, match="--student one-step"):
        other.act(states, actor="student")
    with pytest.raises(UserError, match="student"):
        algorithms.complete(taught(policy="gaussian"))
    with pytest.raises(UserError, match="no setting 'student'"):
        algorithms.complete(taught("iql"))


def test_its_latency_is_printed_beside_the_chains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.write(tmp_path, taught())
    policy = diffcps.load_policy(folder.path)
    found = latency.timings(policy, 8, batches=(1, 3), rounds=1, without_onnx=True)
    ways = [(way.actor, way.candidates, way.batch) for way, _ in found]
    assert ways == [(*who, batch) for who in (("online", 1), ("online", 8), ("student", 1)) for batch in (1, 3)]
    assert all(0 < timing.microseconds < float("inf") for timing in found)
    assert [column.title for column in columns(found)] == ["policy", "candidates", "batch", "torch, cpu", "speed-up"]
    assert torch.get_num_threads() == 1
    Latency(str(folder.path), no_onnx=True, json=True)()
    printed = json.loads(capsys.readouterr().out)
    assert {row["actor"] for row in printed} == {"online", "student"}
    assert {row["batch"] for row in printed} == {1, 256}


def test_an_export_says_how_fast_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = Export(str(trained.write(tmp_path, taught()).path), folder=tmp_path / "out", actor="student")
    export()
    said = capsys.readouterr().out
    assert re.search(r"one state at a time \d+ µs, in batches of 256 [\d.]+ µs each \(onnxruntime, one core\)", said)
    with mock.patch.dict("sys.modules", {"onnxruntime": None}), mock.patch.object(onnx, "export"):
        export()
    assert "its speed was not measured" in capsys.readouterr().out


def test_measures_of_it_on_a_bandit(tmp_path: Path) -> None:
    measured = small("diffcps", student="one-step", measures=("samples", "latency"))
    table = pd.read_csv(sweeps.train(measured, tmp_path).path / "measures.csv")
    columns = [f"{who}_{what}" for who in ("average", "student") for what in ("value", "off_support", "recall")]
    assert table[columns].notna().all(axis=None)
    assert (table[["us_online_1", "us_online_4", "us_student_1"]] > 0).all(axis=None)
    acting = trained.config("bandit-ring", student="one-step").replaced(
        evaluation=measured.evaluation.replaced(actor="student", candidates=1)
    )
    measures.check(acting.replaced(measures=("density",)))
    with pytest.raises(UserError, match="a student acts"):
        measures.check(acting.replaced(measures=("likelihood",)))


def test_its_own_actions_are_measured_when_it_acts(tmp_path: Path) -> None:
    acting = small("diffcps", 1, student="one-step", measures=("samples",))
    acting = algorithms.complete(acting.replaced(evaluation=acting.evaluation.replaced(actor="student"), acting=()))
    table = pd.read_csv(sweeps.train(acting, tmp_path).path / "measures.csv")
    assert table["sample_value"].notna().all()
    assert not [name for name in table if name.startswith(("bestof", "student"))]


def test_times_are_a_table_without_a_curve(tmp_path: Path) -> None:
    sweeps.train(small("diffcps", student="one-step", measures=("samples", "latency")), tmp_path / "own")
    built = report.build(tmp_path / "own")
    pictures = [path.name for path in built.write() if path.suffix == ".png"]
    assert any("student_value" in name for name in pictures)
    assert not any("us_" in name for name in pictures)
    text = (tmp_path / "own" / "table.md").read_text(encoding="utf-8")
    assert "one step" in text
    assert "us\\_student\\_1" in text


def test_a_policy_without_a_student_gets_one_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain is untouched, and the student comes closer to where it carries noise than a fresh one is."""
    folder = sweeps.train(small("diffcps"), tmp_path / "own")
    policy = load_policy(folder.path)
    dataset = data.load(get_task("bandit-corners"), folder.config.data, ())
    seen: list[tuple[int, float]] = []
    found = distil(policy, dataset, 600, progress=lambda step, distance: seen.append((step, distance)))
    assert [step for step, _ in seen] == list(range(100, 601, 100))
    assert found.distance == pytest.approx(seen[-1][1])
    assert found.distance < 0.5 * seen[0][1]
    for name, value in policy.networks.items():
        assert torch.equal(found.policy.networks[name], value), name
    state = np.zeros((7, 1), dtype=np.float32)
    np.testing.assert_array_equal(found.policy.act(state, seed=3), policy.act(state, seed=3))
    again = distil(policy, dataset, 600)
    assert torch.equal(again.policy.networks["student"], found.policy.networks["student"])
    Distil(str(folder.path), folder=tmp_path / "distilled", gradient_steps=20, member=1)()
    assert "squared distance" in capsys.readouterr().out
    saved = load_policy(tmp_path / "distilled")
    assert saved.card.member == 1
    assert saved.act(state, actor="student").shape == (7, 2)
    with pytest.raises(UserError, match="student"):
        policy.act(state, actor="student")


def test_a_critic_raises_the_student_of_every_algorithm_that_has_one(tmp_path: Path) -> None:
    for name in ("diffcps", "idql", "bc"):
        folder = sweeps.train(small(name, candidates=1), tmp_path / name)
        policy, dataset = load_policy(folder.path), data.load(get_task("bandit-corners"), folder.config.data, ())
        weights = {}
        for weight in (0.0, 3.0) if name != "bc" else (0.0,):
            own = {"student_value": weight} if name != "bc" else {}
            run = policy.card.run.with_settings(**own)
            changed = SavedPolicy(replace(policy.card, run=run), policy.networks)
            weights[weight] = distil(changed, dataset, 30).policy.networks["student"]
        assert name == "bc" or not torch.equal(weights[0.0], weights[3.0]), name


@pytest.mark.parametrize(("algorithm", "said"), [("td3bc", "cannot have a student. Those that can: .*diffcps")])
def test_what_has_no_chain_cannot_be_distilled(tmp_path: Path, algorithm: str, said: str) -> None:
    folder = sweeps.train(small(algorithm, candidates=1), tmp_path / "own")
    dataset = data.load(get_task("bandit-corners"), folder.config.data, ())
    with pytest.raises(UserError, match=said):
        distil(load_policy(folder.path), dataset, 10)
