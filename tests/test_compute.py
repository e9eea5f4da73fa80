"""Routes of matrix products and the choice of an engine."""

import pytest
import torch
from trials import members, trial

from diffcps.training import cost, process

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def fresh() -> None:
    process.product_route.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_the_route_of_products_keeps_fp32() -> None:
    """Whatever was chosen on this machine: errors are those of float32, 1.2e-7, not bfloat16's 8e-3."""
    process.prepare_process(torch.get_num_threads())
    assert process._product_error() < 1e-6
    assert process.product_route() in ("oneDNN", "default")


def test_threads() -> None:
    before = torch.get_num_threads()
    process.prepare_process(before + 1)
    assert torch.get_num_threads() == before + 1
    process.prepare_process(before, torch.device("cpu"))
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("fresh")
def test_a_route_that_costs_accuracy_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(process, "_product_error", lambda: 4e-3)
    assert process.product_route() == "default"
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    process.product_route.cache_clear()


def test_long_trials_are_compiled_and_short_ones_are_not() -> None:
    full = trial("hopper-medium-v2", members=members(5))
    short = full.replaced(steps=1000)
    assert cost.choose(full, CPU).engine == "compiled"
    assert cost.choose(short, CPU).engine == "eager"
    assert cost.choose(full, CUDA).engine == "compiled"
    assert cost.choose(short, CUDA).engine == "graph"
    # on a CPU work counts, not steps alone: more members, or more of a batch, repay it sooner
    between = full.replaced(steps=10_000)
    assert cost.choose(between, CPU).engine == "compiled"
    assert cost.choose(between.replaced(members=between.members[:1]), CPU).engine == "eager"
    # more diffusion steps take longer to compile
    assert cost.choose(full.replaced(steps=9000), CPU).engine == "compiled"
    longer = full.replaced(steps=9000).with_settings(diffusion_steps=50, batch_size=32)
    assert cost.choose(longer, CPU).engine == "eager"
    assert "too short" in cost.choose(between, CUDA).reason
    # narrow networks take longer than their products
    narrow = full.replaced(steps=25_000).with_settings(hidden_size=64)
    assert cost.choose(narrow, CPU).engine == "compiled"


def test_time_of_eager_steps_goes_with_steps_and_members() -> None:
    """A step of cloning draws no action, so it takes less; 9 µs an operation whatever its size."""
    one = trial("hopper-medium-v2", steps=1000)
    seconds = cost.eager_seconds(one)
    assert cost.eager_seconds(one.replaced(steps=3000)) == pytest.approx(3 * seconds)
    cloning = one.with_settings(behaviour_steps=600)
    cloned, improving = (cost.eager_seconds(cloning.replaced(steps=steps)) for steps in (600, 1600))
    assert cost.eager_seconds(cloning) == pytest.approx(cloned + 0.4 * (improving - cloned))
    assert improving - cloned == pytest.approx(seconds, rel=2e-3)  # beside what κ is read from
    assert cloned < 0.5 * seconds
    fixed = 1000 * 9e-6 * sum(kind.operations for kind in cost.counted(one).kinds.values()) / 2
    two = cost.eager_seconds(one.replaced(members=members(2)))
    assert two - fixed == pytest.approx(2 * (seconds - fixed))
