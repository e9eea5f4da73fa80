"""TD3+BC: its loss against closed forms, whole steps against plain PyTorch modules, and its published settings."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import trained
from test_iql import descend, network
from torch import Tensor

from diffcps.algorithms import td3bc
from diffcps.algorithms.base import Batch
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task
from diffcps.training import engine

ROWS = list(csv.DictReader((Path(__file__).parent / "published" / "hp_td3bc.csv").open(encoding="utf-8")))
"""Table 3 of the paper by task; on AntMaze CORL's runs."""


def test_the_policys_loss() -> None:
    """λ = 2.5 / mean |(1, −3)| = 1.25, so 1.25 · 1 + .125."""
    actions = torch.tensor([[[0.5, 0.0], [0.0, -0.5]]])
    data = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    found = td3bc.actor_loss(torch.tensor([[1.0, -3.0]]), actions, data, torch.tensor([2.5]))
    assert found.item() == pytest.approx(1.375)


def test_four_steps_are_those_of_plain_modules() -> None:
    """Against ``nn.Linear`` and ``torch.optim.Adam``; the policy and both targets move in the second and fourth."""
    trial = trained.config(
        algorithm="td3bc", seeds=1, hidden_size=8, batch_size=6, learning_rate=1e-2, critic_learning_rate=1e-2,
        target_rate=0.1, discount=0.9, alpha=1.5, target_noise=0.4, target_noise_clip=0.3,
    )  # fmt: skip
    learner = trained.learner(trial)
    own, pack = learner.algorithm, learner.pack
    assert isinstance(own, td3bc.TD3BC)
    actor, target_actor = (network(own.policy.layout.layers(pack[n]), 0) for n in ("actor", "target_actor"))
    heads, targets = ([network(own.critic.layers(pack[n]), r) for r in (0, 1)] for n in ("critic", "target"))
    adam = torch.optim.Adam(actor.parameters(), 1e-2)
    critic_adam = torch.optim.Adam([p for head in heads for p in head.parameters()], 1e-2)
    for step in range(4):
        kind = "policy" if step % 2 else "critic"
        assert own.kind_at(step) == kind
        noise = engine.draw(own, learner.work, kind)
        columns = {name: column[noise["rows"][0]] for name, column in vars(learner.work.data).items() if name != "more"}
        batch = Batch(**columns)
        metrics = learner.update(1)
        with torch.no_grad():
            shift = (0.4 * noise["target_noise"][0]).clamp(-0.3, 0.3)
            actions = (target_actor(batch.next_observations).tanh() + shift).clamp(-1, 1)
            values = torch.min(*(head(joined(batch.next_observations, actions)) for head in targets))
            goal = batch.rewards + 0.9 * (1 - batch.terminals) * values.squeeze(1)
        pairs = joined(batch.observations, batch.actions)
        critic_loss = torch.stack([((head(pairs).squeeze(1) - goal) ** 2).mean() for head in heads]).sum()
        descend(critic_adam, critic_loss)
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=1e-4), "the sum over both heads"
        if kind == "critic":
            continue
        actions = actor(batch.observations).tanh()
        q = heads[0](joined(batch.observations, actions))
        descend(adam, -1.5 / q.abs().mean().detach() * q.mean() + ((actions - batch.actions) ** 2).mean())
        for new, old in [(actor, target_actor), *zip(heads, targets, strict=True)]:
            for mine, copy in zip(new.parameters(), old.parameters(), strict=True):
                copy.data.lerp_(mine.data, 0.1)
    expected = {"actor": [actor], "target_actor": [target_actor], "critic": heads, "target": targets}
    for name, modules in expected.items():
        layout = own.policy.layout.layers if "actor" in name else own.critic.layers
        for row, module in enumerate(modules):
            given = [part for weight, bias in layout(pack[name]) for part in (weight[row].T, bias[row, 0])]
            for mine, theirs in zip(given, module.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-6, msg=name)


def joined(observations: Tensor, actions: Tensor) -> Tensor:
    return torch.cat([observations, actions], dim=1)


def test_observations_are_normalised_when_learning_and_when_acting() -> None:
    learner = trained.learner(trained.config(algorithm="td3bc", seeds=1))
    data = learner.work.data.observations
    np.testing.assert_allclose(data.mean(dim=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(data.std(dim=0, correction=0), 1.0, atol=0.01)
    std, mean = learner.pack["std"][0], learner.pack["mean"][0]
    recorded_next = learner.work.data.next_observations * std + mean
    assert -1.0 <= recorded_next.min() < -0.9, "the same mean and deviation for both"
    assert 0.9 < recorded_next.max() <= 1.0
    recorded = data * learner.pack["std"][0] + learner.pack["mean"][0]
    (actions,) = learner.policy().act([recorded.numpy()], [torch.Generator()], 1)
    own = learner.algorithm
    assert isinstance(own, td3bc.TD3BC)
    expected = own.policy(own.policy.layout.layers(learner.pack["actor"]), data[None]).tanh()[0].detach()
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["task"])
def test_published_settings(row: dict[str, str]) -> None:
    trial = official(get_task(row["task"]), "td3bc", seeds=1)
    assert trial.value("alpha") == float(row["alpha"])
    assert trial.value("reward_transform") == row["reward_transform_corl"]
    assert (trial.steps, trial.evaluation.every) == (int(row["steps"]), int(row["eval_every"]))
    assert (trial.evaluation.episodes, trial.evaluation.candidates) == (int(row["eval_episodes"]), 1)
    shape = (
        "hidden_size",
        "hidden_layers",
        "batch_size",
        "learning_rate",
        "critic_learning_rate",
        "target_rate",
        "discount",
    )
    assert [trial.value(name) for name in shape] == [256, 2, 256, 3e-4, 3e-4, 0.005, 0.99]
    assert [trial.value(name) for name in ("policy_freq", "target_noise", "target_noise_clip")] == [2, 0.2, 0.5]
