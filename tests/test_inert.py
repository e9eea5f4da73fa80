"""Settings without effect: λ moves no farther than is said, and what is called without effect changes no bit."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_algorithms import make
from trials import member, trial

from diffcps import algorithms
from diffcps.algorithms import duals
from diffcps.algorithms.adam import Adam
from diffcps.runs import inert
from diffcps.runs.flags import SweepOptions
from diffcps.runs.plan import Plan
from diffcps.runs.planning import build

STEADY: tuple[Literal["released", "projected", "softplus"], ...] = "released", "projected", "softplus"
ALONE = (member(3),)


def plan_of(**flags: Any) -> Plan:
    return build(SweepOptions(**{"tasks": ("bandit-ring",), "seeds": 1, "steps": 60, **flags}))


# The bound ------------------------------------------------------------------------------------------------------------


def distance(gradients: list[float]) -> float:
    """How far Adam moves a number, in learning rates, adding up every move."""
    number = torch.zeros(1, 1, dtype=torch.float64)
    adam, moved = Adam.create(number, torch.ones(1)), 0.0
    for gradient in gradients:
        before = number.clone()
        adam.step(number, torch.full((1, 1), gradient, dtype=torch.float64))
        moved += float((number - before).abs())
    return moved


@settings(max_examples=100)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60))
def test_no_gradients_move_a_number_farther(gradients: list[float]) -> None:
    assert distance(gradients) <= Adam.farthest(len(gradients)) * (1 + 1e-9)


def test_the_bound_is_near_what_gradients_can_do() -> None:
    """Steady gradients move by one learning rate an update; each update alone reaches the bound with its worst gradients."""
    assert distance([0.3] * 50) == pytest.approx(50, rel=1e-6)
    for count in (1, 3, 40):
        growing = [1e-3 * (0.999 / 0.9) ** i for i in range(count)]
        last = distance(growing) - distance(growing[:-1])
        assert last == pytest.approx(Adam.farthest(count) - Adam.farthest(count - 1), rel=0.01)
    assert Adam.farthest(0) == 0
    assert Adam.farthest(30_000) - Adam.farthest(29_999) == pytest.approx(7.27, abs=0.01)


@settings(max_examples=20)
@given(
    dual=st.sampled_from(STEADY),
    rate=st.floats(1e-5, 0.05),
    start=st.floats(0.0, 3.0),
    bound=st.floats(0.001, 3.0),
    steps=st.integers(1, 14),
    frequency=st.integers(1, 3),
)
def test_training_moves_lambda_no_farther(
    dual: Any, rate: float, start: float, bound: float, steps: int, frequency: int
) -> None:
    """λ after a real training of a few steps."""
    own: dict[str, Any] = {"lambda_learning_rate": rate, "lambda_init": start, "target_kl": bound, "dual": dual}
    learner = make(ALONE, policy_freq=frequency, hidden_size=8, batch_size=4, **own)
    learner.update(steps)
    reach = duals.Reach.of(dual, start, rate * Adam.farthest(-(-steps // frequency)))
    found = duals.value(dual, learner.pack["multiplier"])[:, 0].numpy().astype(np.float64)
    assert (found >= reach.low - 1e-5).all()
    assert (found <= reach.high + 1e-5).all()


def test_what_cannot_come_into_play_changes_no_bit() -> None:
    """Two trainings that differ in λ-clip alone."""
    base: dict[str, Any] = {"lambda_init": 1.0, "policy_freq": 1}
    for clip in (0.1, 0.9):
        found = algorithms.inert(trial("bandit-ring", steps=20, lambda_clip=clip, **base))
        assert found["lambda_clip"].effect == "no effect"
    one, other, third = (make(ALONE, lambda_clip=clip, **base) for clip in (0.1, 0.9, 1.1))
    for learner in (one, other, third):
        learner.update(20)
    assert torch.equal(one.pack["actor"][0], other.pack["actor"][0])
    assert not torch.equal(one.pack["actor"][0], third.pack["actor"][0]), "a λ-clip above λ is used"
    assert "lambda_clip" not in algorithms.inert(trial("bandit-ring", steps=20, lambda_clip=1.1, **base))


# What is said ---------------------------------------------------------------------------------------------------------


def test_the_number_of_steps_that_it_takes() -> None:
    """From 1 to 0.3 at 3e-5 in every second step: 46 667 steps."""
    settings: dict[str, Any] = {"lambda_init": 1.0, "lambda_clip": 0.3, "policy_freq": 2, "lambda_learning_rate": 3e-5}
    found = algorithms.inert(trial(steps=40_000, **settings))
    assert found["lambda_clip"].steps == pytest.approx(46_667, abs=1)
    assert found["lambda_clip"].effect == "hardly any effect", "growing violations would move it farther"
    assert "20000 policy updates" in found["lambda_clip"].why
    assert "target_kl" not in found, "λ comes half of the way"
    assert not algorithms.inert(trial(steps=47_000, **settings))


def test_kappa_below_a_clip_that_lambda_does_not_leave() -> None:
    found = algorithms.inert(trial(steps=100, lambda_init=0.1, lambda_clip=0.5))
    assert found["target_kl"].effect == "no effect"
    assert "0.5" in found["target_kl"].why


@pytest.mark.parametrize("dual", ["pi", "augmented"])
def test_a_gain_brings_kappa_into_play_at_once(dual: str) -> None:
    assert algorithms.inert(trial(steps=2, dual=dual)) == {}
    assert algorithms.inert(trial(steps=2, dual="augmented", dual_gain=0.0)).keys() == {"lambda_clip", "target_kl"}


def test_slack_takes_the_place_of_kappa() -> None:
    settings: dict[str, Any] = {"slack": 0.1, "behaviour_steps": 40, "dual": "projected"}
    found = algorithms.inert(trial(steps=100, lambda_learning_rate=1e-5, **settings))
    assert {"target_kl", "slack"} <= found.keys()
    assert "30 policy updates" in found["slack"].why, "those after cloning"


def test_an_algorithm_without_a_multiplier_has_nothing_to_say() -> None:
    assert algorithms.inert(trial(algorithm="dql", steps=10)) == {}


# Sweeps ---------------------------------------------------------------------------------------------------------------


def test_a_search_of_what_has_no_effect_warns() -> None:
    """λ-clip from 0 to 1 and κ in 60 steps; T has an effect."""
    (clip, bound) = inert.warnings(plan_of(preset="search"))
    assert "λ-clip" in clip
    assert "κ" in bound
    assert all("bandit-ring" in said for said in (clip, bound))
    assert inert.warnings(plan_of(preset="search", steps=1_000_000)) == []
    assert not [said for said in inert.warnings(plan_of(search=("lambda_clip=0:1", "lambda_init=0.1:0.9")))]


def test_values_that_give_the_same_warn() -> None:
    (said,) = inert.warnings(plan_of(vary=("lambda_clip=0,0.1,2",)))
    assert "0, 0.1" in said
    assert inert.warnings(plan_of(vary=("lambda_clip=0.1,2",))) == []
    assert inert.warnings(plan_of(vary=("learning_rate=1e-4,1e-3",))) == []


def test_notes_name_the_tasks_of_each_value() -> None:
    plan = plan_of(tasks=("bandit-ring", "bandit-moons"))
    found = inert.notes(plan.trials)
    assert all("bandit-ring" in said or "bandit-moons" in said for said in found)
    assert len(inert.notes(plan.trials, without=("target_kl",))) < len(found)


def test_many_values_are_one_note() -> None:
    """The highest of them is the first to be reached: from 1 to 0.49 in 34 000 steps."""
    trials = [trial(steps=400, lambda_init=1.0, lambda_clip=0.01 * number) for number in range(50)]
    (said,) = inert.notes(trials, without=("target_kl",))
    assert "34k steps" in said
    assert "hopper-medium-v2" in said
