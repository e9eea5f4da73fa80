"""Judging policies without an environment: what is held out, fitted Q evaluation, and the policy's own critic."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import sweeps
import torch
import trained
from hypothesis import given
from hypothesis import strategies as st
from test_ways import small

from diffcps import algorithms
from diffcps.config import DataConfig, Member
from diffcps.data import library
from diffcps.data.hold_out import beginnings, parted
from diffcps.data.transitions import DatasetInfo, Transitions
from diffcps.deploy.trained import members
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.tasks.registry import get_task
from diffcps.training import measures
from diffcps.training.measures import offline
from diffcps.training.measures.offline import Experience, fit
from diffcps.training.measures.subject import Subject, taken


def made(lengths: list[int]) -> Transitions:
    """Trajectories of these lengths: state t of trajectory i is (i, t), and every second one ends in a terminal."""
    rows = [(i, t) for i, length in enumerate(lengths) for t in range(length)]
    states = np.array(rows, dtype=np.float32)
    ends = np.array([float(t == lengths[i] - 1 and i % 2 == 0) for i, t in rows], dtype=np.float32)
    info = DatasetInfo(
        "made", None, "0", "other", "made up", rows=len(rows), trajectories=len(lengths), returns=np.zeros(1)
    )
    actions = np.zeros((len(rows), 1), dtype=np.float32)
    return Transitions(states, actions, states[:, 0], states + np.float32([0, 1]), ends, info)


@given(st.lists(st.integers(1, 9), min_size=4, max_size=30), st.floats(0.01, 0.5), st.integers(0, 5))
def test_whole_trajectories_are_held_out(lengths: list[int], fraction: float, seed: int) -> None:
    data = made(lengths)
    assert beginnings(data, True).tolist() == np.cumsum([0, *lengths[:-1]]).tolist()
    try:
        kept, held = parted(data, fraction, seed)
    except UserError:
        assert max(lengths) > (1 - fraction) * sum(lengths) - max(lengths), "most of the rows are one trajectory"
        return
    both = [set(part.observations[:, 0].tolist()) for part in (kept, held)]
    assert both[0] | both[1] == set(range(len(lengths)))
    assert not both[0] & both[1]
    assert len(kept) + len(held) == len(data)
    assert fraction * len(data) <= len(held) < fraction * len(data) + max(lengths) + 1
    again = parted(data, fraction, seed)[1]
    np.testing.assert_array_equal(again.observations, held.observations)


def test_too_few_trajectories_to_hold_any_out() -> None:
    with pytest.raises(UserError, match="of 2 trajectories"):
        parted(made([5, 5]), 0.6, 0)


def cycle(discount_actions: torch.Tensor) -> Experience:
    """States 0 → 1 → 0 …, reward 1 in state 1, plus the action; the policies' actions are given, ``[K, 2, 1]``."""
    states = torch.tensor([[[0.0], [1.0]]]).repeat(1, 50, 1)
    actions = torch.linspace(-1, 1, 100)[None, :, None]
    rewards = states[..., 0] + actions[..., 0]
    following = discount_actions.repeat(1, 50, 1)
    return Experience(states, actions, rewards, torch.ones(1, 100), 1.0 - states, following)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_fitted_q_evaluation_finds_the_value_of_a_known_policy() -> None:
    """Policies that add a to every reward: V(0) = (γ + a (1 + γ))/(1 − γ²) and V(1) = (1 + a (1 + γ))/(1 − γ²), γ = ½."""
    added = torch.tensor([0.5, -0.25])
    problem = cycle(added[:, None, None].expand(2, 2, 1))
    problem = Experience(*(part.expand(2, *part.shape[1:]) for part in problem))
    found = fit(problem, 0.5, seeded(0, 1), steps=800)
    states = torch.tensor([[0.0], [1.0]]).expand(2, 2, 1)
    values = found(states, added[:, None, None].expand(2, 2, 1))
    expected = torch.stack([(0.5 + 1.5 * added) / 0.75, (1.0 + 1.5 * added) / 0.75], dim=1)
    torch.testing.assert_close(values, expected, rtol=0, atol=0.06)


def test_terminals_end_what_is_added_up() -> None:
    problem = cycle(torch.full((1, 2, 1), 0.5))._replace(continues=torch.zeros(1, 100))
    found = fit(problem, 0.9, seeded(0), steps=600)
    values = found(torch.tensor([[[0.0], [1.0]]]), torch.full((1, 2, 1), 0.5))
    torch.testing.assert_close(values, torch.tensor([[0.5, 1.5]]), rtol=0, atol=0.06)


def test_mazes_go_on_at_the_goal() -> None:
    data = made([3, 4, 2])
    np.testing.assert_array_equal(beginnings(data, False), [0, 3, 7])
    ended = Transitions(**{**vars(data), "terminals": np.ones(9, dtype=np.float32)})
    np.testing.assert_array_equal(beginnings(ended, False), [0, 3, 7])
    np.testing.assert_array_equal(beginnings(ended, True), range(9))


@pytest.fixture
def briefly() -> Iterator[None]:
    """A fitted Q of a few steps."""
    with mock.patch.object(offline, "STEPS", 20):
        yield


@pytest.mark.usefixtures("briefly")
def test_they_are_columns_of_a_trial_that_learns_from_the_rest(tmp_path: Path) -> None:
    whole = small("diffcps", measures=("fqe", "critic"))
    held = algorithms.complete(whole.replaced(data=whole.data.replaced(hold_out=0.25)))
    first, second = (sweeps.train(trial, tmp_path / name) for name, trial in (("whole", whole), ("held", held)))
    assert {"fqe_value", "critic_value", "critic_error"} <= set(pd.read_csv(first.path / "measures.csv"))
    table = pd.read_csv(second.path / "measures.csv")
    assert table[["fqe_value", "fqe_error", "critic_value", "critic_error"]].notna().all(axis=None)
    facts = read_json(second.path / "environment.json")["dataset"]
    assert facts["rows"] == 200
    assert facts["held_out"] == 50
    assert "held_out" not in read_json(first.path / "environment.json")["dataset"]
    assert first.config.key != second.config.key


def test_what_is_learned_from_is_not_what_is_held_out(tmp_path: Path) -> None:
    data = library.load(get_task("bandit-corners"), DataConfig(source="collected", rows=200), [])
    kept, held = parted(data, 0.25, 0)
    assert (len(kept), len(held)) == (150, 50)
    rows = {tuple(row) for row in kept.actions.tolist()}
    assert not any(tuple(row) in rows for row in held.actions.tolist())


def test_who_has_no_critic_to_ask() -> None:
    for name in algorithms.names():
        trial = trained.config(algorithm=name, measures=("critic",))
        if name in ("diffcps", "dql", "edp", "dac", "weighted"):
            measures.check(trial)
        else:
            with pytest.raises(UserError, match=f"{name} keep no critic"):
                measures.check(trial)


@pytest.mark.usefixtures("briefly")
def test_policies_are_judged_together_as_each_alone(tmp_path: Path) -> None:
    trial = small("diffcps", members=tuple(Member(seed) for seed in range(3)), measures=("fqe", "critic"))
    trial = algorithms.complete(trial.replaced(data=trial.data.replaced(hold_out=0.25)))
    folder = sweeps.train(trial, tmp_path / "run")
    kept, held = parted(library.load(get_task(trial.task), trial.data, []), 0.25, trial.data.seed)
    subjects = [
        Subject(get_task(trial.task), trial, member, policy.policy, kept, index=0, held_out=held)
        for member, policy in zip(trial.members, members(folder), strict=True)
    ]
    with torch.no_grad():
        alone = [taken([subject])[0] for subject in subjects]
        assert len({row["fqe_value"] for row in alone}) == 3
        for parameters in subjects[1].policy.parameters.values():
            parameters.fill_(float("nan"))
        together = taken(subjects)
    assert all(np.isnan(value) for value in together[1].values())
    for k in (0, 2):
        assert together[k] == pytest.approx(alone[k], rel=1e-5)
