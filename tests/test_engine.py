"""Eager, compiled and captured steps are one function: the same losses, the same states, and what happens when not."""

import copy
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trials import member, members, trial

from diffcps.algorithms.base import Algorithm
from diffcps.config import RunConfig
from diffcps.training import engine
from diffcps.training.engine import EngineKind
from diffcps.training.learner import Learner, Part

MEMBERS = (
    member(3),
    member(4, learning_rate=1e-3, lambda_init=0.2, lambda_clip=0.5, target_kl=0.1, grad_norm=0.3),
    member(5, learning_rate=3e-5, lambda_init=4.0, target_kl=1.5, grad_norm=2.0),
)
CONFIG = trial(members=MEMBERS, diffusion_steps=2, hidden_size=32, batch_size=32, time_embedding=8, ema_start=20)
BACKUP = CONFIG.with_settings(max_q_backup=True, max_q_candidates=3, policy_freq=1, hidden_layers=1)
"""With one kind of step and one hidden layer, for each kind is compiled for half a minute or more."""
compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling for a CPU needs a C++ compiler"
)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing compiled earlier on this machine is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


def make_learner(kind: EngineKind, config: RunConfig = CONFIG, device: str = "cpu") -> Learner:
    rng = np.random.default_rng(0)
    rows = {
        "observations": rng.normal(size=(300, 4)),
        "actions": rng.uniform(-0.7, 0.7, size=(300, 2)),
        "rewards": rng.normal(size=300),
        "next_observations": rng.normal(size=(300, 4)),
        "terminals": rng.random(300) < 0.1,
    }
    dataset = SimpleNamespace(**{name: value.astype(np.float32) for name, value in rows.items()})
    return Learner([Part(config, dataset)], 0.7, device, kind)


def curves(learner: Learner, steps: int) -> dict[str, Tensor]:
    """Every metric of each single step that has it, ``[steps, K]``."""
    rows = [learner.update(1) for _ in range(steps)]
    return {n: torch.stack([row[n] for row in rows if n in row]).cpu() for n in learner.metrics}


def assert_same_losses(one: Learner, other: Learner) -> None:
    """Every metric of the first 50 steps agrees to 1e-4, λ to the last digits, and so do the networks."""
    first, second = curves(one, 50), curves(other, 50)
    for name, values in first.items():
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if name in ("lambda", "multiplier") else {"rtol": 1e-4, "atol": 2e-5}
        torch.testing.assert_close(values, second[name], **tolerance, msg=name)
    assert (first["multiplier"][-1] - first["multiplier"][0]).abs().min() > 1e-5, "λ moves by more than is let pass"
    mine, theirs = (learner.state_dict() for learner in (one, other))
    assert mine["step"] == theirs["step"]
    for name, value in mine["pack"].items():
        torch.testing.assert_close(value.cpu(), theirs["pack"][name].cpu(), rtol=1e-3, atol=1e-4, msg=name)


@compiler
def test_compiled_steps_are_eager_steps_and_resume_to_the_bit() -> None:
    """One test, because each compiled learner takes half a minute."""
    eager, compiled = (make_learner(kind, BACKUP) for kind in ("eager", "compiled"))
    assert (compiled.engine.kind, compiled.engine.notes) == ("compiled", ())
    for name, value in eager.state_dict()["pack"].items():
        assert torch.equal(value, compiled.state_dict()["pack"][name]), f"building has changed {name}"
    assert_same_losses(eager, compiled)

    saved = copy.deepcopy(compiled.state_dict())
    compiled.update(21)
    resumed = make_learner("compiled", BACKUP)
    assert resumed.engine.kind == "compiled"
    resumed.load_state_dict(saved)
    resumed.update(21)
    for name, value in compiled.state_dict()["pack"].items():
        assert torch.equal(value, resumed.state_dict()["pack"][name]), name


@pytest.mark.slow
@compiler
def test_bf16_compiled_and_eager() -> None:
    """The same rounding of the same products, so far closer to each other than bf16 is to fp32."""
    config = CONFIG.with_settings(precision="bf16")
    eager, compiled, exact = (curves(make_learner(*kind), 20) for kind in (
        ("eager", config), ("compiled", config), ("eager", CONFIG)
    ))  # fmt: skip
    for name in ("critic_loss", "behaviour_loss", "q_value"):
        values = eager[name]
        assert not torch.equal(values, exact[name])
        torch.testing.assert_close(compiled[name], values, rtol=2e-2, atol=1e-3, msg=name)
        torch.testing.assert_close(values, exact[name], rtol=5e-2, atol=1e-2, msg=name)


def test_bf16_learns_as_fp32_does() -> None:
    """Over 150 steps the mean of eight members' losses moves by less than half of what the members differ among themselves."""
    config = CONFIG.replaced(members=members(8, learning_rate=1e-3))
    losses = {}
    for precision in ("fp32", "bf16"):
        learner = make_learner("eager", config.with_settings(precision=precision))
        rows = [learner.update(25) for _ in range(6)]
        losses[precision] = {n: torch.stack([row[n] for row in rows]) for n in ("critic_loss", "behaviour_loss")}
    for name, exact in losses["fp32"].items():
        shift = (losses["bf16"][name] - exact).mean(dim=1).abs()
        assert (shift < 0.5 * exact.std(dim=1)).all(), name


@pytest.mark.parametrize("kind", ["graph", "compiled"])
def test_what_cannot_be_had_falls_back_and_says_so(kind: EngineKind, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(engine, "_compiled", broken)
    learner = make_learner(kind)
    assert learner.engine.kind == "eager"
    expected = (
        () if kind == "graph" else ("gradient steps could not be compiled and run without that: no compiler here",)
    )
    assert learner.engine.notes == expected
    assert_same_losses(learner, make_learner("eager"))


def wrong_noise(algorithm: Algorithm[Any], work: engine.Work, kind: str) -> None:
    noise = engine.draw(algorithm, work, kind)
    engine.learn(algorithm, work, {**noise, "next_actions": noise["next_actions"] * 1.5}, kind)


def not_numbers(algorithm: Algorithm[Any], work: engine.Work, kind: str) -> None:
    engine.learn(algorithm, work, engine.draw(algorithm, work, kind), kind)
    work.sums.fill_(float("nan"))


def forgetting(name: str) -> Callable[[Algorithm[Any], engine.Work, str], None]:
    """A step after which one tensor of the pack is as before."""

    def step(algorithm: Algorithm[Any], work: engine.Work, kind: str) -> None:
        before = work.pack.state()[name].clone()
        engine.learn(algorithm, work, engine.draw(algorithm, work, kind), kind)
        work.pack.state()[name].copy_(before)

    return step


def zeroing(algorithm: Algorithm[Any], work: engine.Work, kind: str) -> None:
    engine.learn(algorithm, work, engine.draw(algorithm, work, kind), kind)
    work.pack["average"].zero_()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (wrong_noise, "critic_grad_norm is"),
        (not_numbers, "critic_loss is nan"),
        (forgetting("actor"), ""),
        (forgetting("target"), "a tensor changes by"),
        (forgetting("multiplier"), "a tensor changes by"),
        (forgetting("actor_adam.second"), "a tensor changes by"),
        (zeroing, ""),
    ],
    ids=["draws", "nan", "actor", "target", "multiplier", "moments", "average"],
)
def test_a_compiled_step_with_other_numbers_is_not_used(
    wrong: Callable[[Algorithm[Any], engine.Work, str], None], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_compile", lambda algorithm, work, kind: lambda work: wrong(algorithm, work, kind))
    learner = make_learner("compiled")
    assert learner.engine.kind == "eager"
    (note,) = learner.engine.notes
    assert complaint in note
    assert "eager step" in note
    assert_same_losses(learner, make_learner("eager"))


class FakeCuda:
    """As much of ``torch.cuda`` as capturing needs; a graph replays the step that it has seen."""

    def __init__(self, broken: bool) -> None:
        self.broken, self.current = broken, "the default"
        self.Stream = self.CUDAGraph = SimpleNamespace

    def current_stream(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.current, wait_stream=lambda other: None)

    def graph_pool_handle(self) -> object:
        return "pool"

    def set_stream(self, stream: SimpleNamespace) -> None:
        self.current = stream.name

    @contextmanager
    def stream(self, stream: SimpleNamespace) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: SimpleNamespace, pool: object) -> Iterator[None]:
        assert pool == "pool"
        graph.replay = "replayed"
        yield
        if self.broken:
            self.current = "the capture's"
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("broken", [False, True])
def test_capturing_leaves_everything_as_it_was(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not it succeeds: warming up takes steps, and they are taken back."""
    learner, untouched = make_learner("eager"), make_learner("eager")
    learner.update(3)
    untouched.update(3)
    fake = FakeCuda(broken)
    fake.Stream = lambda: SimpleNamespace(wait_stream=lambda other: None)  # type: ignore[misc, assignment]
    taken: list[str] = []

    def step(kind: str) -> None:
        taken.append(kind)
        engine.learn(learner.algorithm, learner.work, engine.draw(learner.algorithm, learner.work, kind), kind)

    monkeypatch.setattr(torch, "cuda", fake)
    steps = {p: functools.partial(step, p) for p in learner.algorithm.reachable}
    if broken:
        with pytest.raises(RuntimeError, match="capturing"):
            engine._capture(learner.work, steps, None)
    else:
        assert engine._capture(learner.work, steps, None) == {"policy": "replayed", "critic": "replayed"}
    monkeypatch.undo()
    assert taken.count("policy") == 4
    assert fake.current == "the default"
    assert_same_losses(learner, untouched)


@cuda
@pytest.mark.parametrize("kind", ["graph", "compiled"])
def test_steps_on_a_gpu(kind: EngineKind) -> None:
    """Captured, and compiled and captured, against eager steps on the same GPU; resumed, too."""
    eager, fast = make_learner("eager", device="cuda"), make_learner(kind, device="cuda")
    assert (fast.engine.kind, fast.engine.notes) == (kind, ())
    assert_same_losses(eager, fast)
    other = make_learner(kind, device="cuda")
    other.load_state_dict(fast.state_dict())
    first, second = fast.update(20), other.update(20)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-5, atol=1e-6, msg=name)


@cuda
def test_a_gpu_draws_what_a_cpu_draws(tmp_path: Path) -> None:
    """A checkpoint may go on on another kind of device: the streams are the same."""
    there = make_learner("eager", device="cuda")
    assert_same_losses(make_learner("eager"), there)
    torch.save(there.state_dict(), tmp_path / "state.pt")
    here = make_learner("eager")
    here.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    assert here.step == 50
    assert_same_losses(here, there)


def test_tf32_is_fp32_on_a_cpu_and_a_setting_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors are rounded by a switch of the whole process, which every trial sets, so that none inherits another's."""
    plain, rounded = make_learner("eager"), make_learner("eager", CONFIG.with_settings(precision="tf32"))
    plain.update(5)
    rounded.update(5)
    for name, value in plain.pack.state().items():
        assert torch.equal(value, rounded.pack.state()[name]), name
    switch = SimpleNamespace(fp32_precision="ieee")
    monkeypatch.setattr(torch.backends.cuda, "matmul", switch)
    seen = []
    for device, coarsely in (("cpu", True), ("cuda", True), ("cpu", False), ("cuda", False)):
        engine._round_factors(torch.device(device), coarsely)
        seen.append(switch.fp32_precision)
    assert seen == ["ieee", "tf32", "tf32", "ieee"]
    older = SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends.cuda, "matmul", older)
    engine._round_factors(torch.device("cuda"), True)
    assert older.allow_tf32


def test_a_library_that_a_killed_compiler_left_in_part_is_made_anew() -> None:
    """Else every later process that needs it would do without compiled steps."""
    from torch._inductor.codecache import cache_dir

    folder = Path(cache_dir()) / "ab"
    folder.mkdir(parents=True, exist_ok=True)
    named, empty, linked_now, whole = (folder / f"{name}.main.so" for name in ("named", "empty", "now", "whole"))
    for file in (named, empty, linked_now, whole):
        file.write_bytes(b"" if file != whole else b"ELF")
    for file in (named, empty, whole):
        os.utime(file, (0, 0))

    def make() -> dict[str, Any]:
        if named.exists():
            raise ImportError(f"{named}: file too short")
        return {"step": print}

    assert engine._with_whole_libraries(make) == {"step": print}
    assert (empty.exists(), linked_now.exists(), whole.exists()) == (False, True, True)


def test_other_failures_of_the_compiler_are_not_tried_again() -> None:
    def fails() -> dict[str, Any]:
        calls.append(1)
        raise ImportError("/usr/lib/other.so: file too short")

    calls: list[int] = []
    with pytest.raises(ImportError):
        engine._with_whole_libraries(fails)
    assert len(calls) == 1
