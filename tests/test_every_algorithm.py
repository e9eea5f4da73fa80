"""What every algorithm keeps: packs, checkpoints, random streams, policies and their exports.

A new algorithm is tested by being listed.
"""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import trained
from same_rounding import SameRounding
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from trials import member

import diffcps
from diffcps import algorithms
from diffcps.algorithms.settings import Learning
from diffcps.config import Member, RunConfig
from diffcps.deploy import onnx
from diffcps.runs.presets import official
from diffcps.runs.settings import settings
from diffcps.sweep.dry_run import Estimator
from diffcps.tasks.registry import TASKS, get_task
from diffcps.training import cost, engine
from diffcps.training.learner import Learner
from diffcps.training.policy import Policy

ALL = pytest.mark.parametrize("name", algorithms.names())
SETTINGS = {
    "hidden_size": 16, "batch_size": 16, "time_embedding": 8, "ema_start": 8, "policy_freq": 2, "diffusion_steps": 5, "heads": 3,
    "max_q_candidates": 2, "hidden_layers": 2, "flow_steps": 3, "student": "one-step",
}  # fmt: skip
STAGED: dict[str, dict[str, Any]] = {
    "sfbc": {"steps": 24, "behaviour_share": 0.34, "rounds": 2, "support": 3, "behaviour_batch_size": 16},
    "bdpo": {"steps": 24, "behaviour_share": 0.34, "warmup_share": 0.2, "samples": 2},
    "qgpo": {"steps": 24, "behaviour_share": 0.34, "energy_share": 0.34, "support": 3, "behaviour_batch_size": 16},
}
"""Settings with which every stage is reached within 20 steps."""
REACHED_BY: dict[str, dict[str, Any]] = {
    "diffcps": {"behaviour_steps": 8, "dual": "augmented", "ema_start": 2, "lambda_clip": 0.5, "grad_norm": 2.0},
    "weighted": {"behaviour_steps": 8, "ema_start": 2, "grad_norm": 2.0},
    "bc": {"ema_start": 2, "grad_norm": 0.5},
    "dql": {"ema_start": 2, "grad_norm": 2.0},
    "edp": {"ema_start": 2, "grad_norm": 2.0},
    "dac": {"ema_start": 2, "grad_norm": 2.0},
    "cql": {"cloning_steps": 8, "samples": 2},
}
"""Settings with which every setting of a member matters within a few steps."""
LIMITS = {"edp": 0.999, "dac": 1 - 1e-5, "fql": 1 - 1e-5, "idql": 1 - 1e-5, "bdpo": 1 - 1e-5}
"""How near to their bound the data's actions are kept."""
OTHER = {
    "slack": 0.1, "dual_gain": 3.0, "lambda_clip": 3.0, "lambda_max": 0.7, "lambda_init": 2.0, "target_kl": 5.0,
    "lambda_learning_rate": 1e-2, "grad_norm": 0.01, "discount": 0.5,
}  # fmt: skip
"""Other values of settings of which half the default would not do."""


def packed(name: str, members: tuple[Member, ...], **changes: Any) -> RunConfig:
    changes = SETTINGS | STAGED.get(name, {}) | changes
    if not algorithms.teaches(name):
        changes.pop("student")
    own, steps = algorithms.get(name).settings.among(changes), changes.get("steps", 1000)
    return trained.config(algorithm=name, seeds=len(members), steps=steps, **own).replaced(members=members)


def other_values(name: str) -> dict[str, float]:
    """Another value of every setting that may differ between members."""
    found = {}
    own = algorithms.get(name).settings
    for setting in [key for key in own.of_member() if key not in own.of_acting()]:
        if setting == "student_value" and not algorithms.teaches(name):
            continue
        known = settings(name)[setting]
        value = OTHER.get(setting, 0.5 * known.default if known.default else 0.5)
        found[setting] = known.parse(value)
    return found


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in learner.state_dict()["pack"].items()}


def assert_same(one: Learner, other: Learner) -> None:
    assert one.step == other.step
    for key, value in state_of(one).items():
        assert torch.equal(value, other.state_dict()["pack"][key]), key


def assert_exact(one: Tensor, other: Tensor, name: str) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=name)


@ALL
def test_the_settings_have_what_the_platform_reads(name: str) -> None:
    assert issubclass(algorithms.get(name).settings, Learning)


@ALL
def test_a_member_learns_what_it_learns_alone(name: str) -> None:
    """To the bit, but for what the number of products in a batch does to their rounding."""
    changed = other_values(name)
    members = (member(3), member(4, **changed), *(member(3, **{key: value}) for key, value in changed.items()))
    with SameRounding():
        learner = trained.learner(packed(name, members))
        metrics = learner.update(24)
        for k in (0, 1, len(members) - 1):
            single = trained.learner(packed(name, members[k : k + 1]))
            own = single.update(24)
            for key, value in single.pack.state().items():
                other = learner.pack.state()[key]
                assert torch.equal(value, other[k : k + 1] if other.ndim else other), key
            assert own.keys() == metrics.keys()
            for key, value in own.items():
                assert_exact(value, metrics[key][k : k + 1], key)


@ALL
def test_every_setting_of_a_member_reaches_its_training(name: str) -> None:
    changed = other_values(name)
    members = (member(3), member(4), *(member(3, **{key: value}) for key, value in changed.items()))
    learner = trained.learner(packed(name, members, **REACHED_BY.get(name, {})))
    learner.update(30)
    state = torch.cat([value.flatten(1) for value in learner.pack.tensors.values() if value.ndim > 1], dim=1)
    for k, key in enumerate(("seed", *changed), start=1):
        assert not torch.equal(state[k], state[0]), key


@pytest.mark.parametrize("name", [name for name in algorithms.names() if algorithms.get(name).settings.of_acting()])
def test_settings_of_acting_change_actions_and_no_training(name: str) -> None:
    """Each is followed by a policy that was trained with another value."""
    trial = packed(name, (member(3),))
    usual, candidates = trained.learner(trial), trial.evaluation.candidates
    usual.update(20)
    states = [np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)]
    (expected,) = usual.policy().act(states, generators(1), candidates)
    for key in algorithms.get(name).settings.of_acting():
        value = 0.0 if isinstance(settings(name)[key].default, float) else 3
        other = trained.learner(packed(name, (member(3),), **{key: value}))
        other.update(20)
        assert_same(usual, other)
        (actions,) = other.policy().act(states, generators(1), candidates)
        assert not np.array_equal(actions, expected), key


@ALL
def test_all_metrics_are_given_and_finite(name: str) -> None:
    learner = trained.learner(packed(name, (member(0), member(1))))
    found = learner.update(20)
    assert tuple(found) == learner.algorithm.metrics
    slack = {"target_kl", "violation", "dual_loss"}
    assert all(torch.isfinite(value).all() for key, value in found.items() if key not in slack)


@ALL
def test_going_on_from_a_checkpoint_is_bit_equal(name: str, tmp_path: Path) -> None:
    """At a row's end, and in the middle of a row, whose means are the same too; also where a stage begins."""
    trial = packed(name, (member(3), member(4)), **REACHED_BY.get(name, {}))
    straight, first = trained.learner(trial), trained.learner(trial)
    straight.update(20)
    first.update(9)

    def keep() -> None:
        if not first.filling:
            torch.save(first.state_dict(), tmp_path / f"{first.step}.pt")

    keep()
    row = first.update(11, keep)
    ends = {stage.until for stage in first.algorithm.stages if stage.until is not None and 9 <= stage.until < 20}
    for step in {9, 14, *ends}:
        second = trained.learner(trial)
        second.load_state_dict(torch.load(tmp_path / f"{step}.pt", weights_only=True))
        found = second.update(20 - step)
        assert_same(straight, second)
        assert found.keys() == row.keys()
        assert all(torch.equal(value, row[metric]) for metric, value in found.items())


@ALL
def test_acting_leaves_training_bit_equal_and_keeps_to_the_bounds(name: str) -> None:
    trial = packed(name, (member(3), member(4)))
    quiet, busy = trained.learner(trial), trained.learner(trial)
    task = get_task(trial.task)
    states = 50.0 * np.random.default_rng(0).normal(size=(9, task.observation_size)).astype(np.float32)
    for _ in range(3):
        quiet.update(5)
        busy.update(5)
        for actor in busy.algorithm.actors(busy.algorithm.config):
            policy = busy.policy()
            candidates = 1 if actor == "student" else trial.evaluation.candidates
            for actions in policy.act([states, states[:2]], generators(2), candidates, actor):
                assert np.abs(actions).max() <= task.max_action
    assert_same(quiet, busy)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@ALL
def test_a_policy_is_loaded_and_saved(name: str, tmp_path: Path) -> None:
    trial = trained.config(algorithm=name, hidden_size=8)
    folder = trained.write(tmp_path, trial)
    own = trained.learner(trial)
    own.update(trial.steps)
    states = np.random.default_rng(1).standard_normal((5, 11)).astype(np.float32)
    for number in (0, 1):
        policy = diffcps.load_policy(folder.path, number)
        again = diffcps.load_policy(policy.save(tmp_path / f"export-{number}"))
        (expected,) = own.policy().member(number).act([states], generators(1), trial.evaluation.candidates)
        np.testing.assert_array_equal(policy.act(states, seed=0), expected)
        np.testing.assert_array_equal(again.act(states, seed=0), expected)


@pytest.mark.parametrize(
    "name",
    [name if name in ("iql", "td3bc") else pytest.param(name, marks=pytest.mark.slow) for name in algorithms.names()],
)
def test_a_policy_is_exported(name: str, tmp_path: Path) -> None:
    """``test_policies`` exports the diffusion policies."""
    trial = trained.config(algorithm=name, hidden_size=8)
    policy = diffcps.load_policy(trained.write(tmp_path, trial).path, 1)
    file = onnx.export(policy, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = onnx.inputs(policy, 5, trial.evaluation.candidates, trial.evaluation.actor, seed=2)
    names = [entry.name for entry in session.get_inputs()]
    assert names == list(given)
    (actions,) = session.run(["actions"], given)
    # SfBC's solver of noise divides by α = 0.0066 at t = 1, and an untrained score net leaves rounding as large as that makes it
    atol = onnx.TOLERANCE / 0.0066 if name == "sfbc" else onnx.TOLERANCE
    np.testing.assert_allclose(actions, sampled(policy.policy, given), atol=atol)


def sampled(policy: Policy, given: dict[str, np.ndarray]) -> np.ndarray:
    """What the algorithm itself makes of the numbers that an export was given."""
    noise = np.zeros((0, 1, 5, 3), np.float32)
    if "noise" in given:
        rows, candidates, draws, size = given["noise"].shape
        noise = np.moveaxis(given["noise"], 2, 0).reshape(draws, 1, rows * candidates, size)
    arrays = given["observations"][None], noise, given.get("uniform", np.zeros((5, 1), np.float32))[None]
    states, *numbers = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    seen = policy.algorithm.observed(policy.parameters, states)
    return policy.algorithm.act(policy.parameters, seen, *numbers)[0].numpy()


@pytest.mark.parametrize(("name", "of_heads"), [("dac", torch.mean), ("bdpo", torch.mean), ("idql", torch.amin)])
def test_the_candidate_of_the_largest_value_acts(name: str, of_heads: Any) -> None:
    """By the target's heads, of actions that a policy with one candidate draws from the same noise."""
    learner = trained.learner(packed(name, (member(3),)))
    learner.update(20)
    own, draw = learner.policy(), torch.Generator().manual_seed(0)
    algorithm: Any = own.algorithm
    states, noise = torch.randn(1, 7, 11, generator=draw), torch.randn(algorithm.draws, 1, 28, 3, generator=draw)
    each = states.repeat_interleave(4, dim=1)
    actions = algorithm.act(own.parameters, each, noise, torch.zeros(1, 28, 1))
    values = algorithm.critic(algorithm.critic.layers(own.parameters["target"]), each, actions)
    best = of_heads(values, dim=1).view(7, 4).argmax(dim=1)
    expected = actions.view(7, 4, 3)[torch.arange(7), best]
    assert torch.equal(algorithm.act(own.parameters, states, noise, torch.zeros(1, 7, 4))[0], expected)
    assert len(best.unique()) > 1


@ALL
def test_every_task_has_published_settings_that_can_be_counted(name: str) -> None:
    for task in [*TASKS.values(), get_task("cube-single-play-singletask-v0")]:
        trial = official(task, name, seeds=1)
        assert algorithms.complete(trial) == trial
        assert (trial.evaluation.candidates == 1) or algorithms.get(name).chooses
    learning, evaluation = Estimator(torch.device("cpu")).seconds(packed(name, (member(0),)))
    assert 0 < learning < math.inf, "a dry run times it"
    assert 0 < evaluation < math.inf
    costs = cost.counted(packed(name, (member(0),))).kinds
    assert all(math.isfinite(found.flops) for found in costs.values())
    assert max(found.flops for found in costs.values()) > 1000


@ALL
def test_every_setting_says_what_it_is(name: str) -> None:
    for item in fields(algorithms.get(name).settings):
        known = settings(name)[item.name]
        assert known.help.endswith(".") or known.help, item.name
        assert known.parse(str(known.default)) == known.default


@pytest.mark.slow
@ALL
def test_compiled_steps_are_eager_steps(name: str) -> None:
    trial = packed(name, (member(3), member(4)))
    eager = trained.learner(trial)
    work = trained.learner(trial)
    work.engine = engine.build(work.algorithm, work.work, "compiled", None)
    assert work.engine.notes == ()
    for _ in range(20):
        first, second = eager.update(2), work.update(2)
        for key, value in first.items():
            torch.testing.assert_close(value, second[key], rtol=1e-4, atol=2e-5, msg=key)


class OnDevice(TorchDispatchMode):
    """Refuses operations on tensors of the host, which a CUDA graph cannot hold."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor) and value.ndim]
        assert all(value.device.type == "meta" for value in found), f"{function} reads a tensor of the host"
        return function(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Refuses tensors made of numbers of the host, which a CUDA graph cannot hold either."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{function} in a step"
        return function(*args, **(kwargs or {}))


@ALL
def test_a_step_can_be_captured(name: str) -> None:
    """On the meta device, which has shapes and no values: a step that asks for a value, or a shape by one, fails."""
    trial = packed(name, (member(3), member(4)), **REACHED_BY.get(name, {}))
    learner = trained.learner(trial, device="meta")
    with OnDevice(), NoCopies():
        for kind in learner.algorithm.reachable:
            learner.engine.take(kind)


@pytest.mark.parametrize("name", ["iql", "idql", "td3bc", "rebrac", "awac", "crr", "fql", "cql", "bdpo"])
def test_actions_are_learned_in_units_of_their_bound(name: str) -> None:
    """Twice the actions in twice the bound are the same problem, to the bit; and the bound itself is no harder."""
    trial = packed(name, (member(3),))
    usual, wide = (trained.learner(trial, bound=bound) for bound in (1.0, 2.0))
    for learner in (usual, wide):
        learner.update(5)
    for key, value in state_of(usual).items():
        assert torch.equal(value, state_of(wide)[key]), key
    states = [np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)]
    (one,), (two,) = (learner.policy().act(states, generators(1), 1) for learner in (usual, wide))
    np.testing.assert_array_equal(two, 2.0 * one)


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_actions_are_kept_off_their_bound(name: str, limit: float) -> None:
    learner = trained.learner(packed(name, (member(3),)))
    data = learner.work.data
    edge = torch.tensor([[2.0] * 3, [-2.0] * 3, [0.5] * 3]).expand(3, 3)
    recorded = replace(
        data, actions=edge, **{key: getattr(data, key)[:3] for key in ("observations", "next_observations")}
    )
    found = learner.algorithm.prepare(learner.pack, recorded).actions[:, 0]
    np.testing.assert_allclose(found, [limit, -limit, 0.5], rtol=1e-7)


@ALL
def test_bf16_learns_as_fp32_does(name: str) -> None:
    """Parameters stay in fp32; what twenty steps change differs little from what they change in fp32, but differs."""
    trial = packed(name, (member(3), member(4)))
    start, exact, coarse = (trained.learner(trial.with_settings(precision=p)) for p in ("fp32", "fp32", "bf16"))
    for learner in (exact, coarse):
        learner.update(20)
    for key in exact.algorithm.networks:
        value, expected = coarse.pack[key], exact.pack[key]
        assert value.dtype == torch.float32
        assert (value - expected).norm() <= 0.1 * (expected - start.pack[key]).norm(), key
    assert not torch.equal(coarse.pack["actor"], exact.pack["actor"])
