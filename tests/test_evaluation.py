"""Judging a pack: which episodes are played, by whom, and what may not be touched by it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from trials import member, trial

from diffcps.config import EvaluationConfig, Member, RunConfig
from diffcps.tasks.registry import Task, get_task
from diffcps.training import policy as policies
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.learner import Learner, Part
from diffcps.training.policy import Policy

RING = get_task("bandit-ring")
HOPPER = replace(get_task("hopper-medium-v2"), episode_limit=20)
MEMBERS = tuple(Member(seed) for seed in (3, 4, 9))
SMALL = trial(diffusion_steps=2, hidden_size=16, batch_size=8, time_embedding=4)
CONFIG = EvaluationConfig(episodes=4, candidates=5)


def make_learner(task: Task, members: Sequence[Member] = MEMBERS, config: RunConfig = SMALL) -> Learner:
    rng = np.random.default_rng(0)
    rows = {
        "observations": rng.normal(size=(50, task.observation_size)),
        "actions": rng.uniform(-1, 1, size=(50, task.action_size)),
        "rewards": rng.normal(size=50),
        "next_observations": rng.normal(size=(50, task.observation_size)),
        "terminals": np.zeros(50),
    }
    dataset = SimpleNamespace(**{name: value.astype(np.float32) for name, value in rows.items()})
    return Learner([Part(config.replaced(members=tuple(members)), dataset)], task.max_action)


def make(task: Task, members: Sequence[Member] = MEMBERS, config: EvaluationConfig = CONFIG) -> Evaluator:
    return Evaluator(task, task.physics, members, config)


def same(one: Rollouts, other: Rollouts) -> bool:
    return np.array_equal(one.returns, other.returns) and np.array_equal(one.lengths, other.lengths)


# Which episodes -------------------------------------------------------------------------------------------------------


def test_seed_and_index_alone_set_the_episodes() -> None:
    """The same again, whether other evaluations came before or not; other ones at another index."""
    policy = make_learner(HOPPER).policy()
    evaluator = make(HOPPER)
    first = [evaluator(policy, index) for index in range(3)]
    assert first[0].returns.shape == first[0].lengths.shape == (3, 4)
    assert first[0].returns.dtype == np.float64
    for index in 2, 0, 1:
        assert same(make(HOPPER)(policy, index), first[index])
        assert same(evaluator(policy, index), first[index])
    returns = np.stack([rollouts.returns for rollouts in first])
    assert len(np.unique(returns)) == returns.size, "every episode of every member and evaluation is another one"


def test_ring_is_the_same_again() -> None:
    """The bandit has no reset to seed: its randomness is the policy's alone."""
    config = EvaluationConfig(episodes=300, candidates=1)
    policy = make_learner(RING).policy()
    one, other = make(RING, config=config)(policy, 0), make(RING, config=config)(policy, 0)
    assert same(one, other)
    assert not same(one, make(RING, config=config)(policy, 1))
    assert (one.lengths == 1).all()
    assert set(np.unique(one.returns)) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "config",
    [SMALL, trial(hidden_size=64, batch_size=8), SMALL.with_settings(hidden_size=17)],
    ids=["small", "T5", "odd_size"],
)
def test_company_changes_nothing(config: RunConfig) -> None:
    """A member alone, in a pack, and in the pack in another order: the same to the last bit, for a CPU acts for one
    member after the other."""
    pack = make(HOPPER)(make_learner(HOPPER, config=config).policy(), 1)
    assert (pack.lengths.min(axis=1) < pack.lengths.max(axis=1)).any(), "episodes should end at different times"
    swapped = make(HOPPER, MEMBERS[::-1])(make_learner(HOPPER, MEMBERS[::-1], config).policy(), 1)
    np.testing.assert_array_equal(swapped.lengths[::-1], pack.lengths)
    np.testing.assert_array_equal(swapped.returns[::-1], pack.returns)
    for k, one in enumerate(MEMBERS):
        alone = make(HOPPER, [one])(make_learner(HOPPER, [one], config).policy(), 1)
        np.testing.assert_array_equal(alone.lengths[0], pack.lengths[k])
        np.testing.assert_array_equal(alone.returns[0], pack.returns[k])


@pytest.mark.parametrize("task", [HOPPER, replace(get_task("antmaze-umaze-v0"), episode_limit=5)])
def test_threads_change_nothing(task: Task) -> None:
    policy = make_learner(task).policy()
    one, three = (Evaluator(task, task.physics, MEMBERS, CONFIG, threads=threads)(policy, 0) for threads in (1, 3))
    assert same(one, three)


def test_every_step_of_the_environments_is_a_heartbeat() -> None:
    beats: list[None] = []
    evaluator = Evaluator(HOPPER, HOPPER.physics, MEMBERS, CONFIG, heartbeat=lambda: beats.append(None))
    rollouts = evaluator(make_learner(HOPPER).policy(), 0)
    assert len(beats) == rollouts.lengths.max()


@pytest.mark.parametrize("candidates", [1, 7])
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, candidates: int) -> None:
    """However few rows are worked on at a time, each gets its own draws and its own action, on either kind of device."""
    learner = make_learner(HOPPER)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(count, HOPPER.observation_size)).astype(np.float32) for count in (5, 0, 3)]

    def act(limit: int, device: str) -> NDArray[np.float32]:
        """On a CPU, in the pieces of that kind of device."""
        monkeypatch.setattr(policies, "CANDIDATES_AT_ONCE_CPU", limit)
        monkeypatch.setattr(policies, "CANDIDATES_AT_ONCE_GPU", limit)
        monkeypatch.setattr(policies, "_pieces", lambda _, *arguments: pieces(device, *arguments))
        generators = [torch.Generator().manual_seed(k) for k in range(3)]
        return np.concatenate(policy.act(rows, generators, candidates))

    pieces, policy = policies._pieces, learner.policy()
    whole = act(1000, "cpu")
    assert len(np.unique(whole, axis=0)) > 4
    for limit in 1, 15, 1000:
        for device in "cpu", "cuda":
            np.testing.assert_allclose(act(limit, device), whole, rtol=0, atol=1e-5)


def test_members_of_one_seed_play_the_same_episodes() -> None:
    """Members that differ in a hyper-parameter only are compared on the same starts and the same noise."""
    twins = member(3), member(3, target_kl=0.5)
    rollouts = make(HOPPER, twins)(make_learner(HOPPER, twins).policy(), 0)
    np.testing.assert_array_equal(rollouts.returns[0], rollouts.returns[1])


def test_episodes_are_those_of_the_policy_given() -> None:
    """An evaluator keeps environments, not policies."""
    learner, evaluator = make_learner(HOPPER), make(HOPPER)
    before = evaluator(learner.policy(), 0)
    snapshot = learner.policy()
    learner.update(20)
    after = evaluator(learner.policy(), 0)
    assert not np.array_equal(before.returns, after.returns)
    assert same(before, evaluator(snapshot, 0)), "a snapshot does not learn on"


# What may not be touched ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [RING, HOPPER], ids=lambda task: task.name)
def test_other_random_streams_are_left_alone(task: Task) -> None:
    """The learner's, torch's, NumPy's and Python's own: neither drawn from nor seeded, and not listened to."""
    learner = make_learner(task)

    def streams() -> list[Any]:
        return [
            str(learner.state_dict()),
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            random.getstate(),
        ]

    before = streams()
    first = make(task)(learner.policy(), 0)
    assert streams() == before

    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert same(make(task)(learner.policy(), 0), first)


def test_weights_are_left_alone() -> None:
    learner = make_learner(HOPPER)
    policy = learner.policy()
    before = {name: value.clone() for name, value in policy.parameters.items()}
    make(HOPPER)(policy, 0)
    for name, value in before.items():
        assert torch.equal(policy.parameters[name], value)
        assert torch.equal(learner.pack[name], value)


# Candidates -----------------------------------------------------------------------------------------------------------


def test_one_candidate_or_fifty() -> None:
    policy = make_learner(HOPPER).policy()
    results = {n: make(HOPPER, config=CONFIG.replaced(candidates=n))(policy, 0) for n in (1, 50)}
    for n, rollouts in results.items():
        assert same(rollouts, make(HOPPER, config=CONFIG.replaced(candidates=n))(policy, 0))
    assert not np.array_equal(results[1].returns, results[50].returns)


def test_one_candidate_never_asks_the_critic() -> None:
    """The policy's own actions, whatever the critic thinks; with fifty, a critic that is sure of itself decides."""
    policy = make_learner(HOPPER).policy()
    confident = Policy(policy.algorithm, policy.parameters | {"target": 1000 * policy.parameters["target"]})
    for n, equal in (1, True), (50, False):
        evaluator = make(HOPPER, config=CONFIG.replaced(candidates=n))
        assert same(evaluator(policy, 0), evaluator(confident, 0)) is equal


# Bookkeeping ----------------------------------------------------------------------------------------------------------


class Corridors:
    """Environment i observes (i, steps so far), lasts 1 + i mod 4 steps and rewards with its action's first number."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.length = 1 + np.arange(n) % 4
        self.seeds: list[list[int]] = []
        self.closed = False

    def _observe(self) -> NDArray[np.float32]:
        return np.stack([np.arange(self.n), self.time], axis=1).astype(np.float32)

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        assert len(seeds) == self.n
        assert all(type(seed) is int for seed in seeds)
        self.seeds.append(list(seeds))
        self.time = np.zeros(self.n)
        return self._observe()

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> Any:
        assert active.any()
        assert not (active & (self.time >= self.length)).any(), "an environment was stepped after its end"
        self.time += active
        return self._observe(), np.where(active, actions[:, 0], 77.0), active & (self.time >= self.length)

    def close(self) -> None:
        self.closed = True


class Echo:
    """A policy that acts with 1000 k + (number of the environment), and checks what it is asked."""

    def __init__(self, members: int, episodes: int) -> None:
        self.algorithm = SimpleNamespace(device=torch.device("cpu"))
        self.members, self.episodes = members, episodes
        self.states: list[list[Any]] = []

    def act(
        self, observations: Sequence[Any], generators: Sequence[torch.Generator], candidates: int, actor: str
    ) -> list[Any]:
        assert candidates == 5
        assert len(observations) == len(generators) == self.members
        self.states.append([generator.get_state().tolist() for generator in generators])
        for k, rows in enumerate(observations):
            assert ((rows[:, 0] >= k * self.episodes) & (rows[:, 0] < (k + 1) * self.episodes)).all()
            assert (rows[:, 1] <= rows[:, 0] % 4).all(), "asked about an episode that has ended"
        return [
            np.stack([1000 * k + r[:, 0], 0 * r[:, 0]], axis=1).astype(np.float32) for k, r in enumerate(observations)
        ]


TWO_ACTIONS = replace(HOPPER, action_size=2)


def in_corridors(members: Sequence[Member] = MEMBERS, config: EvaluationConfig = CONFIG) -> tuple[Evaluator, Corridors]:
    """An evaluator whose environments are corridors, and these."""
    evaluator = make(TWO_ACTIONS, members, config)
    evaluator.environments.close()
    evaluator.environments = corridors = Corridors(len(members) * config.episodes)  # type: ignore[assignment]
    return evaluator, corridors


def test_every_action_reaches_its_own_episode() -> None:
    """Members end at different times, some long before others; returns are plain sums of untransformed rewards."""
    evaluator, _ = in_corridors(config=CONFIG.replaced(episodes=6))
    rollouts = evaluator(Echo(3, 6), 0)  # type: ignore[arg-type]
    numbers = np.arange(18).reshape(3, 6)
    lengths = 1 + numbers % 4
    np.testing.assert_array_equal(rollouts.lengths, lengths)
    np.testing.assert_array_equal(rollouts.returns, lengths * (1000 * np.arange(3)[:, None] + numbers))


def test_member_whose_episodes_all_ended_waits() -> None:
    """With one episode each, member 0 has none left after the first step."""
    evaluator, _ = in_corridors(config=CONFIG.replaced(episodes=1))
    rollouts = evaluator(Echo(3, 1), 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rollouts.lengths[:, 0], [1, 2, 3])


def test_no_start_is_used_twice() -> None:
    """Reset seeds and action streams differ between members and evaluations."""
    members = tuple(Member(seed) for seed in range(4))
    (evaluator, corridors), echo = in_corridors(members), Echo(4, 4)
    for index in range(20):
        evaluator(echo, index)  # type: ignore[arg-type]
    seeds = [seed for seeds in corridors.seeds for seed in seeds]
    assert len(set(seeds)) == 20 * 4 * 4
    streams = {str(state) for states in echo.states for state in states}
    assert len(streams) == 20 * 4, "Echo never draws, so a member's stream is one state per evaluation"


def test_close_closes_the_environments() -> None:
    evaluator, corridors = in_corridors()
    evaluator.close()
    assert corridors.closed


# AntMaze --------------------------------------------------------------------------------------------------------------


def goals_of(evaluator: Evaluator) -> NDArray[np.float64]:
    """[K, E, 2]."""
    environments: Any = evaluator.environments
    goals: NDArray[np.float64] = environments.goals.copy()
    return goals.reshape(len(evaluator.seeds), -1, 2)


def test_antmaze_v0_gives_each_member_one_goal_for_life() -> None:
    task = replace(get_task("antmaze-umaze-v0"), episode_limit=2)
    config = EvaluationConfig(episodes=2, candidates=1)
    evaluator = make(task, MEMBERS[:2], config)
    goals = goals_of(evaluator)
    assert (goals == goals[:, :1]).all()
    assert not np.array_equal(goals[0, 0], goals[1, 0])
    policy = make_learner(task, MEMBERS[:2]).policy()
    for index in range(2):
        rollouts = evaluator(policy, index)
        assert (rollouts.lengths == 2).all()
        assert (rollouts.returns == 0).all()
        np.testing.assert_array_equal(goals_of(evaluator), goals)
    np.testing.assert_array_equal(goals_of(make(task, MEMBERS[1:2], config))[0], goals[1])


def test_a_diverged_member_gets_no_number_and_its_pack_goes_on() -> None:
    policy = make_learner(HOPPER).policy()
    healthy = make(HOPPER)(policy, 0)
    policy.parameters["actor"][1] = float("nan")
    rollouts = make(HOPPER)(policy, 0)
    assert np.isnan(rollouts.returns[1]).all()
    others = [0, 2]
    np.testing.assert_allclose(rollouts.returns[others], healthy.returns[others], rtol=1e-6)
