"""The JAX yardstick computes what the PyTorch one computes: whole gradient steps, with the same random numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import reference
from torch import Tensor, nn
from trials import trial

from diffcps import algorithms

jax = pytest.importorskip("jax", reason="needs jax, which only this comparison uses")

from benchmarks import jax_reference  # noqa: E402

OBSERVATION, ACTION, ROWS, MAX_ACTION = 5, 3, 64, 0.8


def layers(module: nn.Module) -> list[dict[str, Any]]:
    """The linear layers of a PyTorch network as the JAX program has them."""
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [
        {"w": jax.numpy.asarray(m.weight.detach().numpy().T), "b": jax.numpy.asarray(m.bias.detach().numpy())}
        for m in linear
    ]


def actor(diffusion: reference.Diffusion) -> dict[str, Any]:
    return {"time": layers(diffusion.net.time), "net": layers(diffusion.net.net)}


def critic(twin: reference.TwinCritic) -> list[Any]:
    return [layers(twin.q1), layers(twin.q2)]


def numbers(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value))


def draws_of(agent: jax_reference.Agent, key: Any) -> tuple[Tensor, reference.Draws]:
    """The rows and random numbers of a step of the JAX program."""
    config = agent.config
    many = config.max_q_candidates if config.max_q_backup else 1
    rows_key, goal_key, actor_key = jax.random.split(key, 3)
    one, two, three, four = jax.random.split(actor_key, 4)
    size, steps = config.batch_size, config.diffusion_steps
    draws = reference.Draws(
        next_actions=numbers(jax.random.normal(goal_key, (steps, size * many, ACTION))),
        step=numbers(jax.random.randint(one, (size,), 0, steps)).long(),
        noise=numbers(jax.random.normal(two, (size, ACTION))),
        actions=numbers(jax.random.normal(three, (steps, size, ACTION))),
        swap=bool(jax.random.uniform(four) > 0.5),
    )
    return numbers(jax.random.randint(rows_key, (size,), 0, ROWS)).long(), draws


@pytest.mark.parametrize("backup", [False, True], ids=["backup_of_one", "max_q_backup"])
def test_steps_are_those_of_the_other_yardstick(backup: bool) -> None:
    config = trial(
        "hopper-medium-v2", hidden_size=16, batch_size=8, max_q_backup=backup, max_q_candidates=3, policy_freq=2, ema_start=2,
        ema_every=2, grad_norm=0.5, lambda_init=0.4, lambda_clip=0.3, learning_rate=1e-3,
    )  # fmt: skip
    (settings,) = algorithms.settings(config)
    rng = np.random.default_rng(0)
    data = {
        "observations": rng.standard_normal((ROWS, OBSERVATION), np.float32),
        "actions": rng.uniform(-MAX_ACTION, MAX_ACTION, (ROWS, ACTION)).astype(np.float32),
        "rewards": rng.standard_normal(ROWS, np.float32),
        "next_observations": rng.standard_normal((ROWS, OBSERVATION), np.float32),
        "terminals": (rng.random(ROWS) < 0.3).astype(np.float32),
    }
    tensors = {name: torch.from_numpy(value) for name, value in data.items()}
    tensors |= {name: tensors[name][:, None] for name in ("rewards", "terminals")}
    torch.manual_seed(0)
    theirs = reference.Agent(settings, reference.Batch(**tensors), MAX_ACTION, "cpu")
    own = jax_reference.Agent(settings, data, MAX_ACTION)
    learned = {"actor": actor(theirs.actor), "critic": critic(theirs.critic), "multiplier": own.state["multiplier"]}
    own.state |= learned | {"average": actor(theirs.average), "target": critic(theirs.target)}
    own.state["adams"] = {name: jax_reference.fresh(value) for name, value in learned.items()}
    for _ in range(5):
        _, key = jax.random.split(own.key)
        rows, draws = draws_of(own, key)
        own.update()
        theirs.update(reference.Batch(**{name: value[rows] for name, value in tensors.items()}), draws)
    found = {"actor": actor(theirs.actor), "average": actor(theirs.average)}
    found |= {"critic": critic(theirs.critic), "target": critic(theirs.target)}
    for name, value in found.items():
        for one, other in zip(jax.tree.leaves(own.state[name]), jax.tree.leaves(value), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)
    assert float(own.state["multiplier"]) == pytest.approx(float(theirs.multiplier), rel=1e-5)
