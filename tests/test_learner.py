"""The engine: independence of members, resuming, acting on the side, and what a step may touch."""

import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from trials import member, trial

from diffcps.config import Member, RunConfig
from diffcps.errors import UserError
from diffcps.training import engine
from diffcps.training.learner import Learner, Part
from diffcps.training.policy import Policy

OBSERVATION, ACTION, MAX_ACTION = 4, 2, 0.7
SMALL = trial(hidden_size=16, batch_size=16, time_embedding=8, ema_start=20)
MEMBERS = (
    member(3),
    member(4, learning_rate=1e-3, lambda_init=0.2, lambda_clip=0.5, target_kl=0.1, grad_norm=0.3),
    member(5, learning_rate=3e-5, lambda_init=4.0, target_kl=1.5, grad_norm=2.0),
    member(6, lambda_init=200.0, grad_norm=5.0),
)


def make_learner(
    members: Sequence[Member] = MEMBERS, config: RunConfig = SMALL, observation: int = OBSERVATION
) -> Learner:
    rng = np.random.default_rng(0)
    rows = {
        "observations": rng.normal(size=(300, observation)),
        "actions": rng.uniform(-MAX_ACTION, MAX_ACTION, size=(300, ACTION)),
        "rewards": rng.normal(size=300),
        "next_observations": rng.normal(size=(300, observation)),
        "terminals": rng.random(300) < 0.1,
    }
    dataset = SimpleNamespace(**{name: value.astype(np.float32) for name, value in rows.items()})
    return Learner([Part(config.replaced(members=tuple(members)), dataset)], MAX_ACTION)


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.pack.state().items()}


def assert_same_state(one: Learner, other: Learner) -> None:
    """Bit for bit."""
    assert one.step == other.step
    for name, value in one.pack.state().items():
        assert torch.equal(value, other.pack.state()[name]), name
    assert draws_of(one)["rows"].equal(draws_of(other)["rows"])


def draws_of(learner: Learner, kind: str = "policy") -> dict[str, Tensor]:
    """What the learner's next step is going to draw."""
    return dict(engine.draw(learner.algorithm, learner.work, kind))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# Members --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "alone"),
    [
        (SMALL, (0, 1, 2, 3)),
        (SMALL.with_settings(hidden_size=17, batch_size=13, max_q_backup=True, max_q_candidates=3), (2,)),
    ],
    ids=["even_sizes", "odd_sizes"],
)
def test_member_learns_what_it_learns_alone(config: RunConfig, alone: tuple[int, ...]) -> None:
    """80 steps, members that differ in every setting they may differ in.

    Measured: bit-equal where sizes are multiples of 16, else 5e-8, because which elements fall into the remainder of a
    vectorised loop depends on how many members there are. A leak between members would show at 1e-4 and more.
    """
    pack = make_learner(config=config)
    metrics = pack.update(80)
    for k in alone:
        single = make_learner((MEMBERS[k],), config)
        own = single.update(80)
        for name, value in single.pack.state().items():
            other = pack.pack.state()[name]
            torch.testing.assert_close(value, other[k : k + 1] if other.ndim else other, rtol=0, atol=1e-6, msg=name)
        for name, value in own.items():
            torch.testing.assert_close(value, metrics[name][k : k + 1], rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(draws_of(single)["rows"], draws_of(pack)["rows"][k : k + 1])


def test_draws_belong_to_the_seed() -> None:
    """Other seeds, other draws; the same seed draws the same in any company and place."""
    one, two = make_learner(), make_learner((member(9), MEMBERS[1], member(4)))
    for part in ("policy", "critic"):
        fields, others = draws_of(one, part), draws_of(two, part)
        assert fields.keys() == others.keys()
        for name, value in fields.items():
            axis = 1 if name in ("next_actions", "actions") else 0
            mine, theirs = value.movedim(axis, 0), others[name].movedim(axis, 0)
            assert torch.equal(mine[1], theirs[1]), name
            assert torch.equal(mine[1], theirs[2]), name
            if name != "swap":
                assert all(not torch.equal(mine[a], mine[b]) for a in range(4) for b in range(a)), name
                assert not torch.equal(mine[0], theirs[0]), name


def test_draws_have_their_distributions() -> None:
    learner = make_learner((member(0),), SMALL.with_settings(policy_freq=1, batch_size=300))
    drawn = []
    for _ in range(40):
        drawn.append(draws_of(learner))
        learner.work.step.add_(1)
    rows = torch.cat([draws["rows"][0] for draws in drawn])
    steps = torch.cat([draws["step"][0] for draws in drawn])
    swaps = sum(int(draws["swap"][0]) for draws in drawn)
    assert len(rows.unique()) == 300
    assert stats.chisquare(torch.bincount(rows, minlength=300)).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(steps, minlength=5)).pvalue > 1e-3
    assert 10 < swaps < 30
    normal = []
    for name in ("next_actions", "noise", "actions"):
        normal.append(torch.cat([draws[name].flatten() for draws in drawn]))
        assert stats.kstest(normal[-1][:20_000], "norm").pvalue > 1e-3, name
    values = torch.cat(normal)
    assert len(values.unique()) > 0.9 * len(values)  # no draw is used twice (float32 leaves a few ties)


# Steps ----------------------------------------------------------------------------------------------------------------


def test_a_step_touches_only_its_own() -> None:
    learner = make_learner(config=SMALL.with_settings(policy_freq=3, ema_start=10, ema_every=5))
    initial = learner.pack["actor"].clone()
    data = {name: value.clone() for name, value in vars(learner.work.data).items() if name not in ("more", "of_member")}
    for number in range(16):
        before = copy_of(learner)
        learner.update(1)
        changed = {name for name, value in learner.pack.state().items() if not torch.equal(value, before[name])}
        expected = {"critic", "target"} | {f"critic_adam.{part}" for part in ("first", "second", "count")}
        if number % 3 == 0:
            expected |= {"actor", "multiplier"}
            expected |= {f"{n}_adam.{part}" for n in ("actor", "multiplier") for part in ("first", "second", "count")}
        if number in (10, 15):
            expected.add("average")
        assert changed == expected, number
        assert torch.equal(learner.pack["average"], initial) == (number < 10)
    assert all(torch.equal(getattr(learner.work.data, name), value) for name, value in data.items())


def test_the_policys_step_leaves_the_critics_alone() -> None:
    """The same step with and without a policy update ends with the same critics."""
    learner = make_learner()
    noise, other = draws_of(learner), make_learner()
    engine.learn(learner.algorithm, learner.work, noise, "policy")
    engine.learn(other.algorithm, other.work, {name: noise[name] for name in ("rows", "next_actions")}, "critic")
    assert not torch.equal(learner.pack["actor"], other.pack["actor"])
    for name in ("critic", "target", "critic_adam.first", "critic_adam.second"):
        assert torch.equal(learner.pack.state()[name], other.pack.state()[name]), name


def test_metrics_are_means_over_the_steps() -> None:
    one, other = make_learner(), make_learner()
    means = one.update(7)
    rows = [other.update(1) for _ in range(7)]
    assert_same_state(one, other)
    assert {"critic_loss", "q_value", "behaviour_loss", "lambda", "actor_loss", "q_loss"} <= means.keys()
    for name, mean in means.items():
        values = [row[name] for row in rows if name in row]
        assert len(values) == (4 if name in rows[0] and name not in rows[1] else 7)
        assert mean.shape == (4,)
        torch.testing.assert_close(mean, torch.stack(values).mean(dim=0), rtol=1e-5, atol=1e-6)


# Saving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 33])
def test_going_on_from_a_checkpoint_is_bit_equal(steps: int) -> None:
    straight = make_learner()
    straight.update(steps)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    straight.update(30)
    file.seek(0)
    resumed = make_learner(tuple(m.replaced(seed=m.seed + 50) for m in MEMBERS))  # nothing but the state may count
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.step == steps
    resumed.update(30)
    assert_same_state(straight, resumed)


def test_a_state_is_a_copy() -> None:
    learner = make_learner()
    state = learner.state_dict()
    saved = {name: value.clone() for name, value in state["pack"].items()}
    learner.update(2)
    assert all(torch.equal(state["pack"][name], value) for name, value in saved.items())
    learner.load_state_dict(state)
    learner.update(2)
    assert all(torch.equal(state["pack"][name], value) for name, value in saved.items())


@pytest.mark.parametrize(
    "other",
    [
        {"members": MEMBERS[:3]},
        {"members": MEMBERS[:1]},
        {"config": SMALL.with_settings(hidden_size=32)},
        {"observation": OBSERVATION + 1},
    ],
    ids=["three_members", "one_member", "wider", "other_task"],
)
def test_the_state_of_another_pack_is_refused(other: dict[str, Any]) -> None:
    learner = make_learner()
    before = copy_of(learner)
    with pytest.raises(UserError, match="another pack"):
        learner.load_state_dict(make_learner(**other).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in learner.pack.state().items())
    assert learner.step == 0


def test_the_state_of_an_older_version_is_refused() -> None:
    """It has neither the sums of the unfinished row nor the steps taken in it."""
    state = make_learner().state_dict()
    old = {"step": state["step"], "pack": {name: value for name, value in state["pack"].items() if name != "sums"}}
    with pytest.raises(UserError, match="version: sums differ"):
        make_learner().load_state_dict(old)


# Acting ---------------------------------------------------------------------------------------------------------------


def rows_of(*counts: int) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(count, OBSERVATION)).astype(np.float32) for count in counts]


def test_acting_leaves_training_bit_equal() -> None:
    quiet, watched = make_learner(), make_learner()
    quiet.update(30)
    for _ in range(6):
        watched.update(5)
        watched.policy().act(rows_of(2, 2, 2, 2), generators(0, 1, 2, 3), candidates=50)
        torch.rand(3)  # the global stream plays no part
        watched.state_dict()
    assert_same_state(quiet, watched)


def test_a_policy_is_a_snapshot() -> None:
    learner = make_learner()
    policy, rows = learner.policy(), rows_of(40, 40, 40, 40)
    before = policy.act(rows, generators(0, 1, 2, 3), candidates=4)
    learner.update(20)
    after = policy.act(rows, generators(0, 1, 2, 3), candidates=4)
    newer = learner.policy().act(rows, generators(0, 1, 2, 3), candidates=4)
    for k in range(4):
        np.testing.assert_array_equal(before[k], after[k])
        assert not np.array_equal(before[k], newer[k])


@pytest.mark.parametrize("candidates", [1, 50])
def test_actions_of_ragged_rows(candidates: int) -> None:
    """Each member gets as many actions as it has rows, within bounds, the same as when it acts alone."""
    policy = make_learner().policy()
    assert policy.members == 4
    rows = rows_of(3, 0, 5, 1)
    actions = policy.act(rows, generators(0, 1, 2, 3), candidates)
    for k, own in enumerate(actions):
        assert own.shape == (len(rows[k]), ACTION)
        assert own.dtype == np.float32
        assert np.all(np.abs(own) <= np.float32(MAX_ACTION))
        if len(own):
            single = Policy(policy.algorithm, {name: value[k : k + 1] for name, value in policy.parameters.items()})
            np.testing.assert_allclose(single.act([rows[k]], generators(k), candidates)[0], own, rtol=0, atol=1e-5)
    repeated = policy.act(rows, generators(0, 1, 2, 3), candidates)
    assert all(np.array_equal(a, b) for a, b in zip(actions, repeated, strict=True))
    others = policy.act(rows, generators(9, 1, 2, 3), candidates)
    assert not np.array_equal(actions[0], others[0])
    assert np.array_equal(actions[2], others[2])


def scaled_target(policy: Policy, factor: float) -> dict[str, Tensor]:
    """The policy's parameters with target critics whose values are ``factor`` times as far from each other."""
    parameters = {name: value.clone() for name, value in policy.parameters.items()}
    size = cast(Any, policy.algorithm).critic.layout.sizes[-1][0]
    parameters["target"].view(2 * policy.members, -1)[:, -size - 1 : -1].mul_(factor)  # the last layer's weights
    return parameters


def test_the_choice_is_a_softmax_over_the_smaller_target_value() -> None:
    """The same 6 candidates at 30 000 rows, each with its own uniform draws: frequencies against softmax(min Q')."""
    policy = make_learner(MEMBERS[:2]).policy()
    parameters, model = scaled_target(policy, 20.0), cast(Any, policy.algorithm)
    rng = torch.Generator().manual_seed(2)
    count, candidates = 30_000, 6
    state = torch.randn(2, 1, OBSERVATION, generator=rng)
    draws = torch.randn(5, 2, candidates, ACTION, generator=rng)
    uniform = torch.rand(2, count, candidates, generator=rng).clamp(1e-7, 1.0 - 1e-7)

    options = model.policy.sample(model.weights(parameters), state.expand(-1, candidates, -1), draws)
    values = model.critic(model.critic.layers(parameters["target"]), state.expand(-1, candidates, -1), options)
    expected = values.amin(dim=1).double().softmax(dim=-1)
    assert float(expected.max()) < 0.9
    assert all(not torch.equal(values.amin(dim=1), values[:, head]) for head in range(2))
    assert all(len(options[k].unique(dim=0)) == candidates for k in range(2))

    chosen = model.act(parameters, state.expand(-1, count, -1), draws.repeat(1, 1, count, 1), uniform)
    for k in range(2):
        distance = (chosen[k, :, None] - options[k]).abs().sum(dim=-1)
        assert float(distance.amin(dim=-1).max()) < 1e-5  # each chosen action is one of the candidates
        frequencies = torch.bincount(distance.argmin(dim=-1), minlength=candidates).double()
        assert stats.chisquare(frequencies, expected[k] * count).pvalue > 1e-3


def test_acting_prefers_what_the_target_critic_values() -> None:
    """Through ``act``: with a sharp critic the chosen of 50 are, on average, far better than single draws."""
    policy = make_learner(MEMBERS[:1]).policy()
    sharp = Policy(policy.algorithm, scaled_target(policy, 1e4))
    states = rows_of(1)[0].repeat(200, axis=0)
    critic = cast(Any, policy.algorithm).critic
    layers = critic.layers(sharp.parameters["target"])
    values = {}
    for candidates in (1, 50):
        (actions,) = sharp.act([states], generators(0), candidates)
        q = critic(layers, torch.tensor(states)[None], torch.tensor(actions)[None]).amin(dim=1)[0]
        values[candidates] = q
    assert float(values[50].min()) > float(values[1].quantile(0.5))
    assert float(values[50].mean()) > float(values[1].quantile(0.9))
