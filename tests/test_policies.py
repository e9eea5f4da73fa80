"""Policies that can be used: loaded, saved, exported, and the same actions everywhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained

import diffcps
from diffcps.config import RunConfig
from diffcps.deploy import onnx, shipping
from diffcps.deploy.saved import CARD, NETWORKS
from diffcps.errors import UserError

KINDS: dict[str, dict[str, Any]] = {
    "diffusion": {},
    "calibrated": {"covariance": "calibrated", "last_step_noise": True},
    "learned": {"covariance": "learned"},
    "interpolated": {"covariance": "interpolated"},
    "gaussian": {"policy": "gaussian"},
    "mixture": {"policy": "mixture", "mixture_components": 3},
    "deterministic": {"policy": "deterministic"},
    "weighted": {"algorithm": "weighted"},
    "bc": {"algorithm": "bc"},
    "bf16": {"precision": "bf16"},
    "taught": {"student": "one-step"},
}


def observations(trial: RunConfig, rows: int = 5) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 11))


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_the_learners_own_policy_and_so_does_its_export(kind: str, tmp_path: Path) -> None:
    trial = trained.config(**KINDS[kind])
    folder = trained.write(tmp_path, trial)
    own = trained.learner(trial)
    own.update(trial.steps)
    states = observations(trial).astype(np.float32)
    for member in (0, 1):
        policy = diffcps.load_policy(folder.path, member)
        again = diffcps.load_policy(policy.save(tmp_path / f"export-{member}"))
        for candidates in {1, trial.evaluation.candidates}:
            for actor in ("online", "average"):
                (expected,) = (
                    own.policy().member(member).act([states], [torch.Generator().manual_seed(7)], candidates, actor)
                )
                np.testing.assert_array_equal(policy.act(states, candidates, actor, seed=7), expected)
                np.testing.assert_array_equal(again.act(states, candidates, actor, seed=7), expected)
        assert again.card == policy.card
    first, second = (diffcps.load_policy(folder.path, member).act(states, 1, seed=7) for member in (0, 1))
    assert not np.allclose(first, second)


def test_one_observation_gives_one_action_and_the_stream_goes_on(tmp_path: Path) -> None:
    trial = trained.config()
    folder = trained.write(tmp_path, trial).path
    policy = diffcps.load_policy(folder)
    states = observations(trial)
    single = policy.act(states[0], 1, seed=0)
    assert single.shape == (3,)
    assert single.dtype == np.float32
    assert np.abs(single).max() <= 1
    first, second = policy.act(states), policy.act(states)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(diffcps.load_policy(folder).act(states), first)
    assert policy.act(np.zeros((0, 11))).shape == (0, 3)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    trial = trained.config()
    folder = trained.write(tmp_path, trial, scores=(20.0, float("nan")))
    diffcps.load_policy(folder.path, 1).save(tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [CARD, NETWORKS]
    card = json.loads((tmp_path / "out" / CARD).read_text())
    expected = {"format": "diffcps policy 1", "key": trial.key, "member": 1, "step": 4, "score": None, "max_action": 1.0,
                "observation_size": 11, "action_size": 3, "git_commit": "0123456789ab"}  # fmt: skip
    assert expected.items() <= card.items()
    assert card["dataset"]["checksum"] == "c0ffee" * 10 + "beef"
    assert card["versions"]["torch"] == "2.13.0"
    assert RunConfig.from_dict(card["run"]) == trial.replaced(members=trial.members[1:])
    assert diffcps.load_policy(folder.path, 0).card.score == 20.0


def test_a_mistake_ends_in_a_sentence(tmp_path: Path) -> None:
    trial = trained.config(algorithm="bc")
    folder = trained.write(tmp_path / "sweep", trial)
    policy = diffcps.load_policy(folder.path)
    with pytest.raises(UserError, match=r"shape \[2, 10\].*\[B, 11\]"):
        policy.act(np.zeros((2, 10)))
    with pytest.raises(UserError, match="must be 1"):
        policy.act(np.zeros(11), candidates=2)
    with pytest.raises(UserError, match="'online' or 'average'"):
        policy.act(np.zeros(11), actor="ema")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"member 2: .* has 2"):
        diffcps.load_policy(folder.path, 2)
    with pytest.raises(UserError, match=r"runs/\{"):
        diffcps.load_policy(tmp_path / "sweep")
    with pytest.raises(UserError, match="nowhere"):
        diffcps.load_policy(tmp_path / "nowhere")
    with pytest.raises(UserError, match=CARD):
        diffcps.load_policy(tmp_path)
    with pytest.raises(UserError, match=r"member \(0\)"):
        diffcps.load_policy(policy.save(tmp_path / "out"), 0)


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        (NETWORKS, lambda data: data[:-1] + bytes([data[-1] ^ 1]), rf"{NETWORKS}"),
        (NETWORKS, lambda data: b"", rf"{NETWORKS}"),
        (CARD, lambda data: data[:-20], rf"{CARD}"),
        (CARD, lambda data: b"[]", rf"{CARD}"),
        (CARD, lambda data: b"{}", rf"{CARD}: .*None"),
        (CARD, lambda data: data.replace(b'"step": 4', b'"steps": 4'), rf"{CARD}: .*step"),
        (CARD, lambda data: data.replace(b'"hidden_size": 8', b'"hidden_size": 9'), rf"{NETWORKS}: .*networks"),
        (CARD, lambda data: data.replace(b'"hidden_size"', b'"hidden_sizes"'), rf"{CARD}: .*no setting 'hidden_sizes'"),
        (CARD, lambda data: data.replace(b"policy 1", b"policy 2"), rf"{CARD}: .*'diffcps policy 2'"),
    ],
)
def test_damaged_and_foreign_files_are_named(file: str, damage: Any, named: str, tmp_path: Path) -> None:
    folder = diffcps.load_policy(trained.write(tmp_path, trained.config()).path).save(tmp_path / "out")
    content = (folder / file).read_bytes()
    assert damage(content) != content
    (folder / file).write_bytes(damage(content))
    with pytest.raises(UserError, match=named):
        diffcps.load_policy(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=file):
        diffcps.load_policy(folder)


def test_a_checkpoint_that_is_damaged_or_not_there_is_no_policy(tmp_path: Path) -> None:
    folder = trained.write(tmp_path, trained.config())
    (checkpoint,) = (folder.path / "checkpoint").glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step_000000004\.pt"):
        diffcps.load_policy(folder.path)
    checkpoint.unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        diffcps.load_policy(folder.path)


def test_a_trial_under_way_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    policy = diffcps.load_policy(trained.write(tmp_path, trained.config(steps=8), until=5).path)
    assert policy.card.step == 5
    assert policy.card.score is None


def test_the_shipped_code_loads_a_policy_without_the_project(tmp_path: Path) -> None:
    """In a process that has the copy, numpy, torch and safetensors, and refuses to import anything of the project."""
    policy = diffcps.load_policy(trained.write(tmp_path, trained.config(covariance="calibrated")).path)
    policy.save(tmp_path / "policy")
    shipping.ship(tmp_path / "code")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "code")!r})
for name in ("diffcps", "mlflow", "ray", "gymnasium", "mujoco", "pandas", "scipy", "optuna", "rich", "tyro", "h5py"):
    sys.modules[name] = None
import importlib, numpy
module = importlib.import_module({shipping.package() + ".deploy.pyfunc"!r})
served = module._load_pyfunc({str(tmp_path / "policy")!r})
print(served.predict(numpy.ones((2, 11)), {{"candidates": 3, "network": "average", "seed": 5}}).tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == policy.act(np.ones((2, 11)), 3, "average", 5).tolist()
    assert "site-packages/diffcps" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "candidates", "actor"),
    [
        ("calibrated", 4, "average"),
        ("taught", 1, "student"),
        pytest.param("mixture", 1, "online", marks=pytest.mark.slow),
        pytest.param("learned", 4, "online", marks=pytest.mark.slow),
        pytest.param("deterministic", 1, "average", marks=pytest.mark.slow),
        pytest.param("bf16", 1, "online", marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_samplers_actions(kind: str, candidates: int, actor: Any, tmp_path: Path) -> None:
    import onnxruntime

    trial = trained.config(**KINDS[kind])
    policy = diffcps.load_policy(trained.write(tmp_path, trial).path, 1)
    file = onnx.export(policy, tmp_path / "out" / "policy.onnx", candidates, actor)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert {
        "task": "hopper-medium-v2",
        "candidates": str(candidates),
        "actor": actor,
        "step": "4",
    }.items() <= facts.items()
    for rows in (1, 2, 7):
        given = onnx.inputs(policy, rows, candidates, actor, seed=rows)
        assert [entry.name for entry in session.get_inputs()] == list(given)
        assert list(given) == ["observations", "noise", "uniform"][: 3 if candidates > 1 else 2]
        (actions,) = session.run(["actions"], given)
        expected = _sampled(policy, actor, given)
        tolerance = 1e-2 if kind == "bf16" else onnx.TOLERANCE
        np.testing.assert_allclose(actions, expected, atol=tolerance)


def _sampled(policy: Any, actor: str, given: dict[str, np.ndarray]) -> np.ndarray:
    """What the sampler itself makes of the numbers that an export was given."""
    networks = policy.policy.parameters
    networks = networks | {"actor": networks["actor" if actor == "online" else actor]}
    rows, candidates, draws, size = given["noise"].shape
    ordered = np.moveaxis(given["noise"], 2, 0).reshape(draws, 1, rows * candidates, size)
    arrays = given["observations"][None], ordered, given.get("uniform", np.zeros((rows, 1)))[None]
    states, *numbers = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    algorithm = policy.policy.algorithm
    return algorithm.acting_as(actor).act(networks, algorithm.observed(networks, states), *numbers)[0].numpy()
