"""TD3+BC: its loss against closed forms, its observations, and its published settings."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import trained

from diffcps.algorithms import td3bc
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task

ROWS = list(csv.DictReader((Path(__file__).parent / "published" / "hp_td3bc.csv").open(encoding="utf-8")))
"""Table 3 of the paper by task; on AntMaze CORL's runs."""


def test_the_policys_loss() -> None:
    """λ = 2.5 / mean |(1, −3)| = 1.25, so 1.25 · 1 + .125."""
    actions = torch.tensor([[[0.5, 0.0], [0.0, -0.5]]])
    data = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    found = td3bc.actor_loss(torch.tensor([[1.0, -3.0]]), actions, data, torch.tensor([2.5]))
    assert found.item() == pytest.approx(1.375)


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
