"""The learner against the float64 NumPy reference: losses, gradients and new parameters, in every branch of a step."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from trials import member, trial

from diffcps import algorithms
from diffcps.algorithms.base import Batch, StepNoise
from diffcps.algorithms.diffusion import variance_preserving
from diffcps.algorithms.pack import Pack
from diffcps.config import RunConfig
from diffcps.training import engine
from diffcps.training.learner import Learner, Part

OBSERVATION, ACTION, BATCH, MAX_ACTION = 4, 2, 8, 0.7
MEMBERS = (
    # λ within its clips; no gradient is as long as the limit
    member(0, learning_rate=3e-4, lambda_init=1.0, lambda_clip=0.0, target_kl=0.05, grad_norm=1e6),
    # λ below λ_clip; every gradient, that of λ too, is clipped
    member(1, learning_rate=1e-3, lambda_init=0.5, lambda_clip=3.0, target_kl=3.0, grad_norm=0.05),
    # λ above λ_max
    member(2, learning_rate=1e-4, lambda_init=150.0, lambda_clip=0.0, target_kl=0.5, grad_norm=2.0),
)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture
def double() -> Iterator[None]:
    """New torch tensors are float64, so a pack is too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small(**settings: Any) -> RunConfig:
    return trial(members=MEMBERS, hidden_size=16, batch_size=BATCH, time_embedding=8, **settings)


def double_model(**settings: Any) -> Any:
    model: Any = algorithms.build(small(**settings), (OBSERVATION, ACTION, MAX_ACTION), torch.device("cpu"))
    schedule = model.config.diffusion_steps, model.config.beta_min, model.config.beta_max
    model.policy.schedule = variance_preserving(*schedule, torch.float64)
    return model


def random_pack(model: Any, rng: torch.Generator) -> Pack:
    """A pack in the middle of training: averages and targets apart from what they follow, Adam states not empty."""
    pack = Pack.create(model, [torch.Generator().manual_seed(m.seed) for m in MEMBERS])
    for value in (pack["average"], pack["target"]):
        value.add_(0.05 * torch.randn(value.shape, generator=rng))
    for adam in pack.adams.values():
        adam.first.normal_(generator=rng).mul_(0.01)
        adam.second.uniform_(generator=rng).mul_(0.01)
        adam.count.fill_(7)
    return pack


def random_inputs(config: Any, rng: torch.Generator, swap: list[bool] | None) -> tuple[Batch, dict[str, Tensor]]:
    """``swap`` None stands for a step without a policy update, whose draws lack the policy's."""
    members, steps = len(MEMBERS), config.diffusion_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    batch = Batch(
        observations=normal(members, BATCH, OBSERVATION),
        actions=(torch.rand(members, BATCH, ACTION, generator=rng) * 2.0 - 1.0) * MAX_ACTION,
        rewards=normal(members, BATCH),
        next_observations=normal(members, BATCH, OBSERVATION),
        terminals=(torch.rand(members, BATCH, generator=rng) < 0.3).to(torch.get_default_dtype()),
    )
    targets = BATCH * (config.max_q_candidates if config.max_q_backup else 1)
    chains = normal(steps, members, targets, ACTION)
    rows = torch.zeros(members, BATCH, dtype=torch.int64)  # the batch is given
    if swap is None:
        return batch, {"rows": rows, "next_actions": chains}
    step = torch.randint(0, steps, (members, BATCH), generator=rng)
    noise, actions = normal(members, BATCH, ACTION), normal(steps, members, BATCH, ACTION)
    return batch, {
        "rows": rows, "next_actions": chains, "step": step, "noise": noise, "actions": actions, "swap": torch.tensor(swap),
    }  # fmt: skip


# From the pack's tensors to the reference's arrays --------------------------------------------------------------------


def as_double(value: Tensor) -> reference.Array:
    return value.detach().to(torch.float64).numpy().copy()


def member_state(model: Any, pack: Pack, k: int) -> reference.State:
    def actor(value: Tensor) -> reference.Parameters:
        layers = model.policy.noise_net.layout.layers(value)
        return [array for weight, bias in layers for array in (as_double(weight[k]), as_double(bias[k, 0]))]

    def critic(value: Tensor) -> reference.Parameters:
        layers = model.critic.layers(value)
        heads = 2 * k, 2 * k + 1
        return [
            array
            for head in heads
            for weight, bias in layers
            for array in (as_double(weight[head]), as_double(bias[head, 0]))
        ]

    def adam(name: str) -> reference.Adam:
        own = pack.adams[name]
        return reference.Adam(as_double(own.first[k]), as_double(own.second[k]), int(own.count))

    return reference.State(
        actor=actor(pack["actor"]),
        average=actor(pack["average"]),
        critic=critic(pack["critic"]),
        target=critic(pack["target"]),
        multiplier=float(pack["multiplier"][k, 0]),
        actor_adam=adam("actor"),
        critic_adam=adam("critic"),
        multiplier_adam=adam("multiplier"),
    )


def member_inputs(batch: Batch, noise: StepNoise, k: int) -> tuple[reference.Batch, reference.Draws]:
    own = reference.Batch(
        **{name: as_double(value[k]) for name, value in vars(batch).items() if name not in ("more", "of_member")}
    )
    chains = as_double(noise["next_actions"][:, k])
    if "step" not in noise:
        nothing = np.zeros(0)
        return own, reference.Draws(chains, nothing.astype(np.int64), nothing, nothing, False)
    return own, reference.Draws(
        chains, noise["step"][k].numpy(), as_double(noise["noise"][k]), as_double(noise["actions"][:, k]),
        bool(noise["swap"][k]),
    )  # fmt: skip


def tensors(state: reference.State) -> dict[str, Any]:
    """The reference's state under the names of ``Pack.state``."""
    named: dict[str, Any] = {
        name: reference.flat(getattr(state, name)) for name in ("actor", "average", "critic", "target")
    }
    named["multiplier"] = [state.multiplier]
    for name in ("actor", "critic", "multiplier"):
        adam = getattr(state, f"{name}_adam")
        named |= {f"{name}_adam.{key}": getattr(adam, key) for key in ("first", "second", "count")}
    return named


def compare_step(model: Any, pack: Pack, batch: Batch, noise: StepNoise, number: int) -> list[reference.Outcome]:
    """Step the pack in place and each member by the reference; every loss, gradient and tensor must agree."""
    before = {name: value.clone() for name, value in pack.state().items()}
    expected = [
        reference.step(member_state(model, pack, k), own, MAX_ACTION, *member_inputs(batch, noise, k), number)
        for k, own in enumerate(model.members)
    ]
    metrics = model.update(pack, batch, noise, model.kind_at(number))
    model.move_copies(pack, number)
    after = pack.state()
    for k, (state, outcome) in enumerate(expected):
        for name, loss in outcome.losses.items():
            np.testing.assert_allclose(metrics[name][k], loss, **TIGHT, err_msg=f"{name}, member {k}")
        for name, clipped in outcome.clipped.items():
            # Adam's running mean moved by a tenth of the gradient that it was given
            moment = f"{name}_adam.first"
            given = (after[moment][k] - 0.9 * before[moment][k]) / 0.1
            np.testing.assert_allclose(given, clipped, **TIGHT, err_msg=f"{name} gradient, member {k}")
            if name != "multiplier":
                norm = np.linalg.norm(outcome.gradients[name])
                np.testing.assert_allclose(metrics[f"{name}_grad_norm"][k], norm, **TIGHT)
        for name, value in tensors(state).items():
            own = after[name] if name.endswith("count") else after[name][k]
            np.testing.assert_allclose(own, value, **TIGHT, err_msg=f"{name}, member {k}")
    policy_step = model.kind_at(number) == "policy"
    assert policy_step == (number % model.config.policy_freq == 0)
    assert all(("actor" in outcome.gradients) == policy_step for _, outcome in expected)
    assert ("behaviour_loss" in metrics) == policy_step
    return [outcome for _, outcome in expected]


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backup", [False, True], ids=["backup_of_one", "max_q_backup"])
@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize(
    ("number", "average_moves"),
    [(0, False), (995, False), (998, False), (1000, True), (1001, False), (1002, False), (1005, True), (1010, True)],
)
def test_step_agrees_with_the_reference(number: int, average_moves: bool, steps: int, backup: bool) -> None:
    rng = torch.Generator().manual_seed(1000 * steps + number)
    model = double_model(diffusion_steps=steps, max_q_backup=backup)
    pack = random_pack(model, rng)
    policy_step = number % 2 == 0
    average = pack["average"].clone()
    batch, noise = random_inputs(model.config, rng, [False, True, bool(number % 4)] if policy_step else None)
    assert 0 < batch.terminals.sum() < batch.terminals.numel()

    outcomes = compare_step(model, pack, batch, noise, number)

    assert torch.equal(average, pack["average"]) != average_moves
    norms = {name: [np.linalg.norm(o.gradients[name]) for o in outcomes] for name in outcomes[0].gradients}
    for name, (free, clipped, _) in norms.items():
        assert free < model.members[0].grad_norm, name
        assert clipped > model.members[1].grad_norm, name
    # the chains meet their clamps, and not all of them do, so both slopes of a clamp are in the gradients above
    for actions in [o.next_actions for o in outcomes] + ([o.actions for o in outcomes] if policy_step else []):
        at_bound = np.isclose(np.abs(actions), MAX_ACTION, rtol=1e-12, atol=0.0)
        assert at_bound.any()
        assert not at_bound.all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("coin", [[False, False, False], [True, True, True], [True, False, True]])
def test_both_sides_of_the_coin(coin: list[bool]) -> None:
    rng = torch.Generator().manual_seed(5)
    model = double_model()
    compare_step(model, random_pack(model, rng), *random_inputs(model.config, rng, coin), 0)


@pytest.mark.usefixtures("double")
def test_many_steps_in_a_row() -> None:
    """From fresh members across the start of the averaging, with other periods than the defaults."""
    rng = torch.Generator().manual_seed(8)
    model = double_model(policy_freq=3, ema_start=7, ema_every=2, ema_decay=0.9, target_rate=0.1)
    pack = Pack.create(model, [torch.Generator().manual_seed(m.seed) for m in MEMBERS])
    for number in range(14):
        swap = [bool(number % 2), False, True] if number % 3 == 0 else None
        compare_step(model, pack, *random_inputs(model.config, rng, swap), number)


@pytest.mark.parametrize("backup", [False, True], ids=["backup_of_one", "max_q_backup"])
def test_learner_in_float32(backup: bool) -> None:
    """The engine as it runs: its own draws and batches, float32. Losses agree to 1e-4 (rounding through T steps)."""
    rng = np.random.default_rng(3)
    rows = {
        "observations": rng.normal(size=(50, OBSERVATION)),
        "actions": rng.uniform(-MAX_ACTION, MAX_ACTION, size=(50, ACTION)),
        "rewards": rng.normal(size=50),
        "next_observations": rng.normal(size=(50, OBSERVATION)),
        "terminals": rng.random(50) < 0.2,
    }
    dataset = SimpleNamespace(**{name: value.astype(np.float32) for name, value in rows.items()})
    learner = Learner([Part(small(max_q_backup=backup, ema_start=4), dataset)], MAX_ACTION)
    for number in range(10):
        noise = engine.draw(learner.algorithm, learner.work, learner.algorithm.kind_at(number))  # of the coming step
        batch = learner.work.data.rows(noise["rows"])
        expected = [
            reference.step(
                member_state(learner.algorithm, learner.pack, k), own, MAX_ACTION, *member_inputs(batch, noise, k), number
            )[1].losses
            for k, own in enumerate(learner.algorithm.members)
        ]  # fmt: skip
        metrics = learner.update(1)
        for k, losses in enumerate(expected):
            for name, loss in losses.items():
                np.testing.assert_allclose(metrics[name][k], loss, rtol=1e-4, atol=1e-5, err_msg=f"{name}, {number}")


# The reference against itself -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["critic", "actor"])
def test_reference_gradients_are_slopes(name: str) -> None:
    """Central differences of the reference's own losses along random directions; mean |Q_j| stays as it was."""
    rng = torch.Generator().manual_seed(12)
    model = double_model()
    state = member_state(model, random_pack(model, rng), 0)
    batch, noise = member_inputs(*random_inputs(model.config, rng, [True, True, True]), 0)

    def outcome(parameters: reference.Array) -> reference.Outcome:
        moved = reference.State(**{**vars(state), name: reference.unflatten(parameters, getattr(state, name))})
        return reference.step(moved, model.members[0], MAX_ACTION, batch, noise, 0)[1]

    def loss(result: reference.Outcome) -> float:
        if name == "critic":
            return result.losses["critic_loss"]
        return result.losses["behaviour_loss"] + result.losses["q_loss"] * result.divisor / start.divisor  # λ is 1

    base = reference.flat(getattr(state, name))
    start = outcome(base)
    directions = np.random.default_rng(0)
    for _ in range(5):
        shift = directions.normal(size=base.size)
        shift *= 1e-6 / np.linalg.norm(shift)
        slope = (loss(outcome(base + shift)) - loss(outcome(base - shift))) / 2e-6
        np.testing.assert_allclose(slope, start.gradients[name] @ shift * 1e6, rtol=1e-5, atol=1e-7)
