"""Every algorithm against NumPy: losses, gradients, new parameters and copies, over seven steps of every kind.

The equations are in ``equations`` and ``chains``; there a gradient is a difference, so nothing of torch is shared.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import chains
import equations
import numpy as np
import pytest
import torch
from numeric import Adam, Array, Member
from torch import Tensor
from trials import member, trial

from diffcps import algorithms
from diffcps.algorithms.base import Batch
from diffcps.algorithms.diffusion import variance_preserving
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.streams import Normal
from diffcps.config import EvaluationConfig

OBSERVATION, ACTION, BATCH, MAX_ACTION, STEPS = 3, 2, 5, 0.7, 50
SMALL = {
    "hidden_size": 5, "hidden_layers": 2, "policy_layers": 2, "batch_size": BATCH, "diffusion_steps": 3, "time_embedding": 4,
    "ema_start": 2, "ema_every": 2, "policy_freq": 2, "behaviour_steps": 3, "cloning_steps": 2, "heads": 3, "samples": 2,
    "max_q_candidates": 3, "flow_steps": 3, "learning_rate": 2e-3, "critic_learning_rate": 1e-3,
    "behaviour_share": 0.04, "warmup_share": 0.02,
}  # fmt: skip
Update = Callable[[Member], None]
CASES: list[tuple[str, Update, dict[str, Any]]] = [
    ("bc", chains.bc, {}),
    ("bc", chains.bc, {"cosine_decay": True, "policy_freq": 3}),
    ("weighted", chains.weighted, {}),
    ("dql", chains.dql, {}),
    ("dql", chains.dql, {"max_q_backup": True}),
    ("dql", chains.dql, {"critic_norm": True, "cosine_decay": True}),
    ("edp", chains.edp, {}),
    ("edp", chains.edp, {"max_q_backup": True}),
    ("dac", chains.dac, {}),
    ("dac", chains.dac, {"max_q_backup": True, "bound": None}),
    ("dac", chains.dac, {"critic_norm": True, "cosine_decay": False}),
    ("bdpo", chains.bdpo, {}),
    ("bdpo", chains.bdpo, {"max_q_backup": True, "critic_norm": True, "policy_width": 2}),
    ("idql", chains.idql, {"residual": False}),
    ("iql", equations.iql, {}),
    ("td3bc", equations.td3bc, {}),
    ("rebrac", equations.rebrac, {}),
    ("awac", equations.awac, {}),
    ("crr", equations.crr, {}),
    ("crr", equations.crr, {"weight": "binary"}),
    ("fql", equations.fql, {}),
    ("fql", equations.fql, {"normalise_value": True}),
    ("cql", equations.cql, {}),
    ("cql", equations.cql, {"threshold": 2.0, "max_q_backup": True}),
]
COSINE = {("iql", "actor"): STEPS, ("idql", "actor"): STEPS} | {
    ("bdpo", network): STEPS - 2 for network in ("actor", "critic", "value")
}
"""Networks whose learning rates fall to 0 along a cosine in so many updates, besides those of ``cosine_decay``."""
ELSEWHERE = {"diffcps", "sfbc", "qgpo"}
"""``test_reference`` has the first, ``test_score`` the others, which draw actions between their stages."""


@pytest.fixture
def double() -> Iterator[None]:
    """New torch tensors are float64, so a pack is too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def as_array(value: Tensor) -> Array:
    return value.detach().to(torch.float64).numpy().copy()


def built(name: str, changes: dict[str, Any]) -> Any:
    """Two members that differ in every setting in which they may."""
    cls = algorithms.get(name).settings
    values = {setting: getattr(cls(**cls.among(changes)), setting) for setting in cls.of_member()}
    other = {setting: 0.6 * value for setting, value in values.items() if value is not None}
    other |= cls.among({"grad_norm": 0.2})
    members = member(0, **cls.among({"grad_norm": 1e6})), member(1, **other)
    own = cls.among(SMALL | changes)
    config = trial(algorithm=name, members=members, steps=STEPS, evaluation=EvaluationConfig(candidates=1), **own)
    model: Any = algorithms.build(config, (OBSERVATION, ACTION, MAX_ACTION), torch.device("cpu"))
    for owner in (model, getattr(model, "policy", None)):
        if hasattr(owner, "schedule"):
            steps = model.config.diffusion_steps, model.config.beta_min, model.config.beta_max
            owner.schedule = variance_preserving(*steps, torch.float64)
    return model


def midway(model: Any, rng: torch.Generator) -> Pack:
    """A pack in the middle of training: copies apart from what they follow, Adam's states not empty."""
    pack = Pack.create(model, [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    for name in (*model.networks, *pack.followers):
        pack[name].add_(0.1 * torch.randn(pack[name].shape, generator=rng))
    for adam in pack.adams.values():
        adam.first.normal_(generator=rng).mul_(0.01)
        adam.second.uniform_(generator=rng).mul_(0.01)
        adam.count.fill_(7)
    return pack


def inputs(model: Any, kind: str, rng: torch.Generator) -> tuple[Batch, dict[str, Tensor]]:
    def normal(*shape: int) -> Tensor:
        return torch.randn((2, *shape), generator=rng)

    def coins(*shape: int) -> Tensor:
        return (torch.rand((2, *shape), generator=rng) < 0.4).to(torch.get_default_dtype())

    more = {"next_actions": normal(BATCH, ACTION).clamp(-1, 1), "has_next": coins(BATCH)}
    batch = Batch(
        observations=normal(BATCH, OBSERVATION),
        actions=(torch.rand((2, BATCH, ACTION), generator=rng) * 2.0 - 1.0) * MAX_ACTION,
        rewards=normal(BATCH),
        next_observations=normal(BATCH, OBSERVATION),
        terminals=coins(BATCH),
        more={name: more[name] for name in model.kinds[kind].reads},
    )
    noise: dict[str, Tensor] = {}
    for name, numbers in model.kinds[kind].noise.items():
        if isinstance(numbers, Normal):
            noise[name] = normal(*numbers.shape).movedim(0, numbers.member_axis)
        else:
            drawn = numbers.read(torch.randint(0, 2**32, (2, numbers.count), generator=rng))
            noise[name] = drawn.double() if drawn.is_floating_point() else drawn
    return batch, noise


def one(name: str, model: Any, pack: Pack, k: int) -> Member:
    """Member k of a pack in NumPy."""
    tensors, settings = {name: as_array(value[k]) for name, value in pack.tensors.items()}, model.members[k]
    found = Member(settings, (OBSERVATION, ACTION, model.batch_bound), tensors)
    for network, adam in pack.adams.items():
        of_critic = network in ("critic", "value", "log_multiplier")
        rate = settings.critic_learning_rate if of_critic else settings.learning_rate
        if network == "behaviour":
            rate = settings.behaviour_learning_rate
        steps = COSINE.get((name, network))
        if getattr(settings, "cosine_decay", False):
            steps = {"critic": STEPS, "actor": -(-STEPS // settings.policy_freq)}.get(network)
        decay = 1e-4 if (name, network) == ("idql", "actor") else 0.0
        found.adams[network] = Adam(
            as_array(adam.first[k]), as_array(adam.second[k]), float(adam.count), rate, steps, decay
        )
    return found


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "update", "changes"), CASES, ids=[f"{n}-{'-'.join(c)}" for n, _, c in CASES])
def test_updates_are_those_of_the_equations(name: str, update: Update, changes: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(7)
    model = built(name, changes)
    pack = midway(model, rng)
    numeric, coins = [one(name, model, pack, k) for k in (0, 1)], set()
    for number in range(7):
        kind = model.kind_at(number)
        batch, noise = inputs(model, kind, rng)
        metrics = model.update(pack, batch, noise, kind)
        model.move_copies(pack, number)
        state, coins = pack.state(), coins | set(noise.get("swap", torch.tensor([0, 1])).tolist())
        for k, own in enumerate(numeric):
            columns = {
                key: value for key, value in vars(batch).items() if key not in ("more", "of_member")
            } | batch.more
            own.b = SimpleNamespace(**{key: as_array(value[k]) for key, value in columns.items()})
            own.n = SimpleNamespace(**{key: along(model.kinds[kind].noise[key], v, k) for key, v in noise.items()})
            own.number, own.said = number, {}
            update(own)
            expected = {key: value for key, value in own.said.items() if key in metrics} | own.tensors
            for key, adam in own.adams.items():  # the mean has moved by a tenth of the gradient
                expected |= {f"{key}_adam.first": adam.first, f"{key}_adam.second": adam.second}
            assert {"critic_loss", "behaviour_loss", "actor_loss"} & expected.keys() or kind == "idle"
            for key, value in expected.items():
                found, where = (metrics | state)[key][k], f"{key}, member {k}, step {number}, {kind}"
                np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-8, err_msg=where)
    assert coins == {0, 1}, "both heads were taken"


def along(numbers: Any, value: Tensor, k: int) -> Any:
    """Those of member k: an array, or a boolean."""
    own = value.movedim(numbers.member_axis, 0)[k] if isinstance(numbers, Normal) else value[k]
    return own.numpy() if own.ndim else own.item()


def test_every_algorithm_has_equations() -> None:
    assert {name for name, *_ in CASES} | ELSEWHERE == set(algorithms.names())
