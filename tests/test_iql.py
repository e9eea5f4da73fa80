"""IQL: its losses against closed forms, and its published settings."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import trained
from torch import Tensor
from trials import member

from diffcps.algorithms import iql, rewards
from diffcps.algorithms.base import Batch, Problem
from diffcps.algorithms.pack import Pack
from diffcps.errors import UserError
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task

ROWS = list(csv.DictReader((Path(__file__).parent / "published" / "hp_iql.csv").open(encoding="utf-8")))
"""Section 5 of the paper and the authors' program, by task; columns ``corl_…`` are of another program."""


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(("expectile", "loss"), [(0.7, 0.691667), (0.9, 0.508333)])
def test_expectile_loss(expectile: float, loss: float) -> None:
    found = iql.expectile_loss(tensor(1, -2, 0.5), torch.tensor([expectile]))
    assert found.item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("expectile", "least"), [(0.5, 2.0), (0.7, 2.75), (0.9, 4.0)])
def test_the_expectile_of_four_values_is_where_the_loss_is_least(expectile: float, least: float) -> None:
    at = torch.tensor(least, dtype=torch.float64, requires_grad=True)
    iql.expectile_loss(tensor(0, 1, 2, 5) - at, torch.tensor([expectile])).sum().backward()
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("beta", "weights"), [(3.0, (20.0855, 0.002479, 4.481689)), (10.0, (100, 2.06e-9, 100))])
def test_advantage_weights(beta: float, weights: tuple[float, ...]) -> None:
    found = iql.advantage_weights(tensor(1, -2, 0.5), torch.tensor([beta]))
    np.testing.assert_allclose(found[0].numpy(), weights, rtol=1e-3)


def test_log_density_and_the_loss_of_one_row() -> None:
    found = iql.log_density(torch.tensor([[[0.5, -0.5]]]), torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    assert found.item() == pytest.approx(-2.087877, abs=1e-6)
    weight = iql.advantage_weights(torch.ones(1, 1), torch.tensor([3.0]))
    assert (-weight * found).item() == pytest.approx(41.936132, abs=1e-4)


def test_it_acts_by_the_mean_and_its_learning_rate_falls_to_zero() -> None:
    learner = trained.learner(trained.config(algorithm="iql", seeds=1, steps=30))
    learner.update(30)
    before = learner.pack["actor"].clone()
    learner.update(1)
    torch.testing.assert_close(learner.pack["actor"], before, rtol=0, atol=1e-7)
    states = np.ones((4, 11), np.float32)
    first, second = (learner.policy().act([states], [torch.Generator().manual_seed(n)], 1)[0] for n in (1, 2))
    np.testing.assert_array_equal(first, second)


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["task"])
def test_published_settings(row: dict[str, str]) -> None:
    trial = official(get_task(row["task"]), "iql", seeds=1)
    given = {name: trial.value(name) for name in ("expectile", "inverse_temperature", "reward_transform")}
    names = {"return_range_1000": "return_range"}
    transform = names.get(row["reward_transform"], row["reward_transform"])
    expected = float(row["expectile"]), float(row["inverse_temperature"]), transform
    assert tuple(given.values()) == expected
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


# Rewards --------------------------------------------------------------------------------------------------------------


def data(values: list[float], ends: list[bool], jumps: tuple[int, ...] = ()) -> Batch:
    """Rows that walk along a line; after each of ``jumps`` the next one begins elsewhere."""
    count = len(values)
    position = torch.arange(count + 1.0)[:, None]
    after = position[1:].clone()
    after[list(jumps)] += 0.5
    return Batch(position[:-1], torch.zeros(count, 1), torch.tensor(values), after, torch.tensor(ends).float())


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("none", [0, 1]), ("minus_one", [-1, 0]), ("antmaze", [-2, 2]), ("ten_five", [-5, 5]), ("times_100", [0, 100])],
)
def test_reward_transforms(transform: str, expected: list[float]) -> None:
    assert rewards.transformed(transform, data([0, 1], [False, False])).tolist() == expected  # type: ignore[arg-type]


def test_the_range_of_returns_is_over_trajectories_and_counts_the_last_one() -> None:
    """Returns 3, −1 and 5: a terminal after two rows, a jump after two more, and a rest that nothing ends."""
    rows = data([1, 2, -3, 2, 4, 1], [False, True, False, False, False, False], jumps=(3,))
    found = rewards.transformed("return_range", rows)
    np.testing.assert_allclose(found.numpy(), rows.rewards.numpy() * 1000 / 6, rtol=1e-6)


def test_a_range_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="return_range"):
        rewards.transformed("return_range", data([1, 1], [True, True]))


def test_what_is_learned_from() -> None:
    """Actions in units of their bound and kept off it, rewards transformed; the recorded data stay as they are."""
    recorded = Batch(torch.zeros(3, 2), torch.tensor([[2.0], [-2.0], [0.5]]), torch.tensor([0.0, 1.0, 0.0]),
                     torch.ones(3, 2), torch.zeros(3))  # fmt: skip
    own = iql.IQL([iql.Settings(reward_transform="minus_one")], Problem(2, 1, 2.0, steps=5), torch.device("cpu"))
    found = own.prepare(Pack.create(own, [torch.Generator()]), recorded)
    np.testing.assert_allclose(found.actions[:, 0], [1 - 1e-5, 1e-5 - 1, 0.25])
    assert found.rewards.tolist() == [-1, 0, -1]
    assert recorded.actions[:, 0].tolist() == [2, -2, 0.5]


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("pointmaze-umaze", "minus_one"),
        ("bandit-ring", "none"),
        ("pointmaze-medium-navigate-singletask-v0", "return_range"),
    ],
)
def test_settings_of_other_tasks(name: str, transform: str) -> None:
    """OGBench's rewards are −1 and 0 as they are recorded."""
    task = get_task(name)
    assert official(task, "iql", seeds=1).value("reward_transform") == transform
    assert official(task, "iql", seeds=1).steps == task.steps


def test_members_may_have_their_own_expectile() -> None:
    trial = trained.config(algorithm="iql").replaced(members=(member(0), member(0, expectile=0.9)))
    learner = trained.learner(trial)
    metrics = learner.update(200)
    assert metrics["value"][1] > metrics["value"][0]
