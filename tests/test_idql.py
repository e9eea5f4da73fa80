"""IDQL's residual noise net with layer norms and dropout, against plain modules; its equations are in ``test_equations``."""

import math
from typing import Any

import numpy as np
import plain
import pytest
import torch
import trained

from diffcps.algorithms import diffusion, idql, resnet, streams

LR, RATE, DISCOUNT = 1e-2, 0.05, 0.9
SMALL: dict[str, Any] = {
    "seeds": 1, "steps": 50, "hidden_size": 8, "hidden_layers": 2, "batch_size": 6, "learning_rate": LR,
    "critic_learning_rate": LR, "target_rate": RATE, "discount": DISCOUNT,
}  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_steps_of_idql(dropout: float) -> None:
    more: dict[str, Any] = {"expectile": 0.8, "ema_rate": 0.3, "policy_layers": 2, "dropout": dropout}
    learner = trained.learner(trained.config(algorithm="idql", **SMALL, diffusion_steps=3, time_embedding=4, **more))
    own: Any = learner.algorithm
    nets: dict[str, Any] = {
        name: plain.ResidualNet(own.noise_net.layout.layers(learner.pack[name]), 0) for name in ("actor", "average")
    }
    nets |= {name: plain.heads(learner, name, torch.relu) for name in ("critic", "target")}
    nets["value"] = plain.Net(own.value.layout.layers(learner.pack["value"]), 0, torch.relu)
    adam = torch.optim.AdamW(nets["actor"].parameters(), LR, weight_decay=1e-4)
    value_adam, critic_adam = (torch.optim.Adam(nets[name].parameters(), LR) for name in ("value", "critic"))
    schedule = diffusion.variance_preserving(3, 0.1, 10.0, torch.float64)
    for step in range(4):
        batch, noise = plain.next_batch(learner)
        metrics = learner.update(1)
        states, drawn, which = batch.observations, noise["noise"][0].double(), noise["step"][0]
        adam.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / 50))
        assert ("kept" in noise) == (dropout > 0.0)
        kept = (noise["kept"][0].double(), dropout) if dropout else ()
        noisy = diffusion.add_noise(schedule, batch.actions, which, drawn)
        errors = (drawn - nets["actor"](noisy, which, states, *kept)).square()
        plain.descend(adam, errors.sum(dim=1).mean())
        assert metrics["behaviour_loss"].item() == pytest.approx(errors.mean().item(), rel=1e-4)
        with torch.no_grad():
            target = plain.values(nets["target"], states, batch.actions).amin(dim=0)
        excess = target - nets["value"](states).squeeze(1)
        plain.descend(value_adam, (torch.where(excess > 0, 0.8, 0.2) * excess.square()).mean())
        with torch.no_grad():
            ahead = nets["value"](batch.next_observations).squeeze(1)
            goal = batch.rewards + DISCOUNT * (1 - batch.terminals) * ahead
        loss = (plain.values(nets["critic"], states, batch.actions) - goal).square().mean(dim=1).sum()
        plain.descend(critic_adam, loss)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        plain.follow(nets["target"], nets["critic"], RATE)
        plain.follow(nets["average"], nets["actor"], 0.3)
    plain.compare(learner, nets)


def test_what_dropout_keeps() -> None:
    kind = resnet.Kept((1, 3, 5001), 0.1)
    assert kind.count == 7_502, "two numbers from a word"
    words = streams.words(streams.keys([3, 4], purpose=1), torch.tensor(7), kind.count)
    kept = kind.read(words)
    assert kept.shape == (2, 1, 3, 5001)
    assert kept.dtype == torch.bool
    assert kept.double().mean().item() == pytest.approx(0.9, abs=0.005)
    assert not torch.equal(kept[0], kept[1])
    assert resnet.Kept((4,), 0.0).read(words[:, :2]).all()


def test_idql_acts_without_dropout_by_its_average() -> None:
    learner = trained.learner(
        trained.config(algorithm="idql", **SMALL, diffusion_steps=3, time_embedding=4, dropout=0.5)
    )
    learner.update(3)
    own: Any = learner.algorithm
    net = plain.ResidualNet(own.noise_net.layout.layers(learner.pack["average"]), 0)
    schedule = diffusion.variance_preserving(3, 0.1, 10.0, torch.float64)
    states = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    (actions,) = learner.policy().act([states], [torch.Generator().manual_seed(1)], 1, "average")
    noise = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    x = noise[0]
    with torch.no_grad():
        for step in (2, 1, 0):
            predicted = net(x, torch.full((5,), step), torch.from_numpy(states).double())
            x = idql.reverse_mean(schedule.beta[step], schedule.alpha_bar[step], x, predicted)
            x = (x + (step > 0) * schedule.beta[step].sqrt() * noise[3 - step if step else 0]).clamp(-1, 1)
    np.testing.assert_allclose(actions, x, atol=1e-5)
