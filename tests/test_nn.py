"""Layers with a member axis against torch's own modules, one member at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffcps.algorithms.nn import (
    Layout,
    NoiseNet,
    first_layer,
    gradient,
    linear,
    mish,
    sinusoidal_embedding,
    tail,
)
from diffcps.algorithms.value_nets import Critic

LAYOUT = Layout(((3, 8), (8, 5), (5, 2)))
SMALL_SIZES = st.integers(min_value=1, max_value=6)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def modules(layers: list[tuple[Tensor, Tensor]], k: int) -> list[torch.nn.Linear]:
    """Member (or row of the stack) k as torch's own layers."""
    own = []
    for weight, bias in layers:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[2], dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight[k].T)
            layer.bias.copy_(bias[k, 0])
        own.append(layer)
    return own


def forward(x: Tensor, layers: list[torch.nn.Linear]) -> Tensor:
    for layer in layers[:-1]:
        x = torch.nn.functional.mish(layer(x))
    return layers[-1](x)


@given(st.lists(st.floats(-1e4, 1e4, allow_subnormal=False), min_size=1, max_size=20))
@settings(max_examples=100)
def test_mish_in_double_precision(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    own, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = mish(own), torch.nn.functional.mish(theirs)
    # x(2r − 1) cancels where mish fades out below −20, so small values are right to 1e-14 |x|, not relatively
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(0.5, 2.0, len(values), dtype=torch.float64)
    (slope,) = torch.autograd.grad((y * weights).sum(), own)
    (expected_slope,) = torch.autograd.grad((expected * weights).sum(), theirs)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-10, atol=1e-10)


def test_mish_in_single_precision_and_at_the_extremes() -> None:
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-3e38, -1e4, 0.0, 1e4])])
    own, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = mish(own), torch.nn.functional.mish(theirs)
    (slope,) = torch.autograd.grad(y.sum(), own)
    (expected_slope,) = torch.autograd.grad(expected.sum(), theirs)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=5e-6)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-6, atol=5e-6)


def test_mish_without_gradients() -> None:
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-3e38, -1e4, 0.0, 1e4])])
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(mish(x), torch.nn.functional.mish(x.double()).float(), rtol=1e-6, atol=5e-6)
    assert torch.equal(x, kept)


def test_mish_gradcheck() -> None:
    x = torch.linspace(-8, 8, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, (x,))


def test_initial_parameters_are_uniform_on_the_bound() -> None:
    """±1/√inputs for weights and biases alike, torch.nn.Linear's default."""
    layout = Layout(((16, 64), (64, 64)))
    flat = layout.initial(generators(0, 1))
    assert flat.shape == (2, 17 * 64 + 65 * 64)
    for (weight, bias), (inputs, _) in zip(layout.layers(flat), layout.sizes, strict=True):
        bound = 1.0 / math.sqrt(inputs)
        for part in (weight, bias):
            scaled = (part / bound).flatten().double()
            assert float(scaled.abs().max()) <= 1.0
            count = len(scaled)
            # mean 0, variance 1/3, fourth moment 1/5, each within five standard errors
            assert abs(float(scaled.mean())) < 5 * math.sqrt(1 / 3 / count)
            assert abs(float(scaled.square().mean()) - 1 / 3) < 5 * math.sqrt((1 / 5 - 1 / 9) / count)
            assert float(scaled.abs().max()) > 1.0 - 20 / count


def test_initial_parameters_do_not_depend_on_company() -> None:
    together = LAYOUT.initial(generators(5, 6, 7))
    alone = LAYOUT.initial(generators(6))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    twin = Critic(3, 2, 8)
    heads = twin.initial(generators(5)).view(2, -1)
    assert not torch.equal(heads[0], heads[1])


@given(SMALL_SIZES, SMALL_SIZES, SMALL_SIZES, SMALL_SIZES, st.integers(0, 2**31))
@settings(max_examples=30)
def test_linear_equals_torch(members: int, batch: int, inputs: int, outputs: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=rng)
        for shape in ((members, batch, inputs), (members, inputs, outputs), (members, 1, outputs))
    )
    y = linear(x, (weight, bias))
    assert y.shape == (members, batch, outputs)
    for k in range(members):
        torch.testing.assert_close(y[k], modules([(weight, bias)], k)[0](x[k]), rtol=1e-12, atol=1e-12)


def test_gradient_has_each_members_own_in_its_row() -> None:
    flat = LAYOUT.initial(generators(0, 1, 2)).double()
    x = torch.randn(3, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    leaves = LAYOUT.leaves(flat)
    slope = gradient(tail(linear(x, leaves[0]), leaves[1:]).square().sum(dim=(1, 2)), leaves)
    assert slope.shape == flat.shape
    assert not flat.requires_grad
    for k in range(3):
        own = modules(LAYOUT.layers(flat), k)
        forward(x[k], own).square().sum().backward()
        for (weight, bias), layer in zip(LAYOUT.layers(slope), own, strict=True):
            torch.testing.assert_close(weight[k].T, layer.weight.grad, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(bias[k, 0], layer.bias.grad, rtol=1e-10, atol=1e-12)


def test_layers_of_a_pack_are_dense() -> None:
    """Gaps between members would be copied away at every matrix product on a CPU."""
    flat = LAYOUT.initial(generators(0, 1))
    layers = LAYOUT.layers(flat)
    assert all(weight.is_contiguous() for weight, _ in layers)
    parts = [part.reshape(2, -1) for layer in layers for part in layer]
    assert torch.equal(torch.cat(parts, dim=1), flat)


@given(SMALL_SIZES, SMALL_SIZES, SMALL_SIZES, st.integers(0, 2**31))
@settings(max_examples=30)
def test_first_layer_joins_actions_to_their_observation(members: int, batch: int, several: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    actions, weight, observed = (
        torch.randn(shape, dtype=torch.float64, generator=rng)
        for shape in ((members, batch * several, 3), (members, 3, 4), (members, batch, 4))
    )
    before = observed.clone()
    joined = first_layer(actions, weight, observed)
    expected = actions @ weight + observed.repeat_interleave(several, dim=1)
    torch.testing.assert_close(joined, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(observed, before)


def test_bf16_rounds_the_products_of_hidden_layers_only() -> None:
    """What goes in and what comes out keep float32's precision; the result is float32, and so are the gradients."""
    layout = Layout(((3, 64), (64, 64), (64, 64), (64, 2)))
    leaves = layout.leaves(layout.initial(generators(0, 1)))
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1))
    exact, coarse = (tail(linear(x, leaves[0]), leaves[1:], product) for product in (None, torch.bfloat16))
    assert coarse.dtype == torch.float32
    error = (coarse - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 2e-2
    slopes = [gradient(y.square().mean(dim=(1, 2)), leaves) for y in (exact, coarse)]
    assert slopes[1].dtype == torch.float32
    assert torch.linalg.vector_norm(slopes[1] - slopes[0]) < 2e-2 * torch.linalg.vector_norm(slopes[0])
    hidden = linear(x, leaves[0])
    assert torch.equal(tail(hidden, leaves[1:2], torch.bfloat16), tail(hidden, leaves[1:2])), "the last is not rounded"


def test_twin_critic_equals_two_nets_a_member() -> None:
    critic = Critic(3, 2, 8)
    flat = critic.initial(generators(0, 1)).double()
    rng = torch.Generator().manual_seed(4)
    observations = torch.randn(2, 5, 3, dtype=torch.float64, generator=rng)
    actions = torch.randn(2, 5, 2, dtype=torch.float64, generator=rng)
    values = critic(critic.layers(flat), observations, actions)
    assert values.shape == (2, 2, 5)
    for k in range(2):
        inputs = torch.cat([observations[k], actions[k]], dim=1)
        for head in range(2):
            own = modules(critic.layout.layers(flat[k].view(2, -1)), head)
            assert [(layer.in_features, layer.out_features) for layer in own] == [(5, 8), (8, 8), (8, 8), (8, 1)]
            torch.testing.assert_close(values[k, head], forward(inputs, own)[:, 0], rtol=1e-12, atol=1e-12)


def test_noise_net_equals_one_net_a_member() -> None:
    """The step's two layers E → 2E → E, then (action, step features, observation) through three hidden layers."""
    net = NoiseNet(observation_size=3, action_size=2, steps=5, hidden=8, embedding=6)
    net.embedding = net.embedding.double()
    flat = net.layout.initial(generators(0, 1)).double()
    layers = net.layout.layers(flat)
    rng = torch.Generator().manual_seed(4)
    observations = torch.randn(2, 7, 3, dtype=torch.float64, generator=rng)
    actions = torch.randn(2, 7, 2, dtype=torch.float64, generator=rng)
    step = torch.randint(0, 5, (2, 7), generator=rng)
    time = net.time(layers)
    assert time.shape == (2, 5, 8)
    observed = net.observe(layers, observations) + torch.stack([time[k, step[k]] for k in range(2)])
    predicted = net(layers, actions, observed)
    assert predicted.shape == (2, 7, 2)
    for k in range(2):
        own = modules(layers, k)
        sizes = [(layer.in_features, layer.out_features) for layer in own]
        assert sizes == [(6, 12), (12, 6), (11, 8), (8, 8), (8, 8), (8, 2)]
        inputs = torch.cat([actions[k], forward(net.embedding[step[k]], own[:2]), observations[k]], dim=1)
        torch.testing.assert_close(predicted[k], forward(inputs, own[2:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [4, 16, 32])
def test_time_embedding(size: int) -> None:
    """sin and cos of the integer step at frequencies 10000^(−j/(size/2 − 1))."""
    own = sinusoidal_embedding(50, size)
    assert own.shape == (50, size)
    half = size // 2
    for step in (0, 1, 7, 49):
        angles = [step * 10_000.0 ** (-j / (half - 1)) for j in range(half)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(own[step], expected, rtol=0, atol=1e-5)  # float32 angles of up to 49
