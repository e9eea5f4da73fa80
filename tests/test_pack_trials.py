"""Trials that train together: which ones, what their driver does when something interrupts them, and what is refused."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_survival import NODE_GONE, died

from diffcps.config import Member, RunConfig
from diffcps.errors import UserError
from diffcps.runs.flags import MachineFlags, SweepOptions
from diffcps.runs.plan import Plan
from diffcps.runs.presets import official
from diffcps.storage.location import Location
from diffcps.sweep import dry_run
from diffcps.sweep.driver import Job
from diffcps.sweep.groups import MOST_MEMBERS, check, grouped, keys, members, packed
from diffcps.sweep.ray_train import cause_of
from diffcps.sweep.resources import Cluster, Node, Resources
from diffcps.sweep.retries import INTERRUPTIONS, Retries
from diffcps.tasks.registry import get_task

CPUS, GPUS = Resources(1, 0, 1), Resources(1, 1, 1)


def trials(count: int, seeds: int = 5, first: int = 0, steps: int = 100) -> list[RunConfig]:
    """Trials of one kind with so many seeds each."""
    each = [range(first + seeds * number, first + seeds * (number + 1)) for number in range(count)]
    return [RunConfig("bandit-ring", tuple(map(Member, own)), steps=steps) for own in each]


def by_steps(trial: RunConfig) -> Hashable:
    """In place of ``alike``; a trial of one step is like no other."""
    return trial.steps if trial.steps > 1 else trial.key


@given(
    found=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9) | st.integers(20, 90)), max_size=30),
    pack_trials=st.just("auto") | st.integers(1, 40),
    slots=st.integers(1, 40),
    gpus=st.booleans(),
)
def test_groups(found: list[tuple[int, int]], pack_trials: Any, slots: int, gpus: bool) -> None:
    wanted = [trials(1, seeds, 100 * n, steps)[0] for n, (steps, seeds) in enumerate(found)]
    groups = grouped(wanted, pack_trials, Resources(1, float(gpus), slots), by_steps)
    place = {trial.key: number for number, trial in enumerate(wanted)}
    assert sorted(place[trial.key] for group in groups for trial in group) == list(range(len(wanted)))
    assert [[place[trial.key] for trial in group] for group in groups] == sorted(
        sorted(place[trial.key] for trial in group) for group in groups
    )
    sizes = defaultdict(list)
    for group in groups:
        (steps,) = {trial.steps for trial in group}
        assert len(group) == 1 or steps > 1
        sizes[steps].append(len(group))
    for steps, own in sizes.items():
        assert max(own) - min(own) <= 1 or steps == 1
    if pack_trials != "auto":
        assert all(len(group) <= pack_trials for group in groups)
        whole = Counter(trial.steps for trial in wanted)
        assert all(len(own) == -(-whole[steps] // pack_trials) for steps, own in sizes.items() if steps > 1)
    elif gpus:
        assert all(len(group) == 1 or members(group) <= MOST_MEMBERS for group in groups)
        assert len(groups) >= min(slots, len(wanted))
    else:
        assert len(groups) == len(wanted)


@pytest.mark.parametrize(
    ("count", "slots", "sizes"),
    [
        (6, 1, [6]), (15, 1, [15]), (16, 1, [8, 8]), (15, 2, [7, 8]), (15, 8, [1, *[2] * 7]), (3, 8, [1, 1, 1]), (0, 2, []),
    ],
)  # fmt: skip
def test_groups_are_as_large_as_a_full_machine_allows(count: int, slots: int, sizes: list[int]) -> None:
    assert [len(group) for group in grouped(trials(count), "auto", Resources(1, 1, slots), by_steps)] == sizes


def test_the_largest_groups_are_divided_first() -> None:
    wanted = [*trials(3, steps=100), *trials(9, steps=200)]
    assert [len(group) for group in grouped(wanted, "auto", Resources(1, 1, 4), by_steps)] == [3, 3, 3, 3]


def test_a_trial_with_many_seeds_or_with_several_workers_is_not_packed() -> None:
    large = trials(2, seeds=80)
    assert grouped(large, "auto", GPUS, by_steps) == [(trial,) for trial in large]
    assert len(grouped(trials(4), "auto", Resources(1, 1, 1, workers=2), by_steps)) == 4


def test_what_trains_together_has_the_same_shapes_and_the_same_course() -> None:
    names = "halfcheetah-medium-v2", "walker2d-medium-v2", "hopper-medium-v2", "walker2d-medium-replay-v2"
    wanted = [official(get_task(name)) for name in names]
    groups = grouped(wanted, "auto", GPUS)
    assert [[trial.task for trial in group] for group in groups] == [[names[0], names[1], names[3]], [names[2]]]
    assert packed(groups) == "4 trials in 2 packs"
    assert keys(groups) == {wanted[0].key: tuple(wanted[n].key for n in (0, 1, 3))}
    assert not packed(grouped(wanted, "auto", CPUS))
    others = wanted[0].replaced(steps=10), *(official(get_task(name), "sfbc") for name in names[:2])
    assert not packed(grouped([wanted[0], *others], "auto", GPUS))


def test_a_dry_run_says_what_trains_together() -> None:
    plan = Plan(
        "own", "paper", tuple(official(get_task(name)) for name in ("halfcheetah-medium-v2", "walker2d-medium-v2"))
    )
    gpus, cpus = (Cluster("it", (Node(16.0, count, 0.0),)) for count in (1.0, 0.0))
    said = dry_run.packing(plan, SweepOptions(), gpus)
    assert all(
        word in said for word in ("on it", "--pack-trials auto", "2 trials in 1 pack", "10 members", "by itself")
    )
    assert "2 trials in 1 pack" in dry_run.packing(plan, SweepOptions(pack_trials=2), cpus)
    larger = SweepOptions(gpus_per_trial=8), SweepOptions(pack_trials=1), SweepOptions(concurrent=2)
    for options, cluster in [*((options, gpus) for options in larger), (SweepOptions(), cpus)]:
        assert not dry_run.packing(plan, options, cluster)


def test_a_driver_gets_the_trials_of_a_group_or_one() -> None:
    wanted = trials(3)
    job = Job(Plan("own", "demo", tuple(wanted)), Location(Path("/")), GPUS, groups=keys([tuple(wanted[:2])]))
    assert job.trials({"key": wanted[0].key, "requested_at": 0.0}) == wanted[:2]
    assert job.trials({"key": wanted[2].key, "requested_at": 0.0}) == wanted[2:]


@pytest.mark.parametrize(
    ("flags", "search", "words"),
    [
        ({"pack_trials": 0}, None, ["--pack-trials 0", "at least one"]),
        ({"pack_trials": 2}, 3, ["--pack-trials 2", "search", "Leave it out"]),
        ({"pack_trials": 2, "workers_per_trial": 2}, None, ["--pack-trials 2", "--workers-per-trial 2", "Leave one"]),
    ],
)
def test_what_cannot_be_packed_is_refused(flags: dict[str, int], search: int | None, words: list[str]) -> None:
    plan = Plan("own", "demo", tuple(trials(2)), search=search)
    with pytest.raises(UserError) as said:
        check(plan, MachineFlags(**flags))  # type: ignore[arg-type]
    assert all(word in str(said.value) for word in words)
    for most in "auto", 1:
        check(plan, MachineFlags(**flags | {"pack_trials": most}))  # type: ignore[arg-type]


# Interruptions --------------------------------------------------------------------------------------------------------


THREE = trials(3)
KEYS = tuple(trial.key for trial in THREE)


def begun(location: Location, state: str = "running") -> Retries:
    """The policy of a group that trains."""
    policy = Retries(location, KEYS, "launch-1")
    policy.begin()
    for number, trial in enumerate(THREE):
        location.run_folder(trial.key).create(trial)
        tell(location, number, state)
    return policy


def tell(location: Location, number: int, state: str, saved: int = 0) -> None:
    status = {"state": state, "step": saved + 5, "saved": saved, "steps": 100}
    location.run_folder(KEYS[number]).write_status(status)


def record(location: Location, number: int) -> dict[str, Any]:
    return location.run_folder(KEYS[number]).attempts


def test_a_group_is_interrupted_from_outside_and_goes_on_as_a_group(tmp_path: Path) -> None:
    location = Location(tmp_path)
    policy = begun(location)
    groups = policy.groups()
    assert next(groups) == KEYS
    tell(location, 0, "complete", saved=100)
    assert policy.again(cause_of(died(NODE_GONE)))
    assert [record(location, number)["external"] for number in range(3)] == [0, 1, 1]
    again = Retries(location, KEYS, "launch-1")
    again.begin()
    assert next(again.groups()) == KEYS[1:], "what has ended is left out"
    assert not policy.again(cause_of(died(NODE_GONE))), "a newer driver has them"
    assert not list(groups)


def test_after_a_crash_the_rest_trains_one_after_the_other(tmp_path: Path) -> None:
    """Also in a driver that begins later, but not in the next launch."""
    location = Location(tmp_path)
    policy = begun(location)
    groups = policy.groups()
    assert next(groups) == KEYS
    tell(location, 1, "complete", saved=100)
    assert not policy.again(cause_of(died()))
    states = [location.run_folder(key).status["state"] for key in KEYS]
    assert states == ["pending", "complete", "pending"], "they wait"
    assert next(groups) == KEYS[:1]
    tell(location, 0, "running")
    assert policy.again(cause_of(died())), "each has its own attempts"
    assert [record(location, number)["crashes"] for number in range(3)] == [2, 0, 1]
    again = Retries(location, KEYS, "launch-1")
    again.begin()
    assert list(again.groups()) == [KEYS[:1], KEYS[2:]]
    later = Retries(location, KEYS, "launch-2")
    later.begin()
    assert next(later.groups()) == (KEYS[0], KEYS[2])


def test_a_trial_that_failed_by_mistake_leaves_the_pack_together(tmp_path: Path) -> None:
    """However often machines are lost afterwards; but a mistake of before this driver is not held against it."""
    location = Location(tmp_path)
    policy = begun(location)
    groups = policy.groups()
    assert next(groups) == KEYS
    location.run_folder(KEYS[0]).fail("no such file here")
    for count in range(INTERRUPTIONS + 5):
        for number in (1, 2):
            tell(location, number, "running", saved=count)
        assert policy.again(cause_of(died(NODE_GONE)))
    assert record(location, 0)["interruptions"] == 0
    later = Retries(location, KEYS[:1], "launch-2")
    later.begin()
    assert next(later.groups()) == KEYS[:1]
    assert later.again(cause_of(died(NODE_GONE))), "it has not even begun again"
    location.run_folder(KEYS[0]).fail("still no such file")
    assert not later.again(cause_of(died(NODE_GONE)))


def test_the_last_of_a_group_needs_no_other_process(tmp_path: Path) -> None:
    location = Location(tmp_path)
    policy = begun(location)
    groups = policy.groups()
    assert next(groups) == KEYS
    for number in (0, 2):
        tell(location, number, "complete", saved=100)
    assert policy.again(cause_of(died()))
    assert not list(groups)


def test_a_trial_with_too_many_interruptions_takes_none_with_it(tmp_path: Path) -> None:
    """The others have new checkpoints; they go on as a pack."""
    location = Location(tmp_path)
    policy = begun(location)
    groups = policy.groups()
    assert next(groups) == KEYS
    for count in range(1, INTERRUPTIONS):
        for number in (1, 2):
            tell(location, number, "running", saved=count)
        assert policy.again(cause_of(died(NODE_GONE)))
    assert not policy.again(cause_of(died(NODE_GONE)))
    assert f"interrupted {INTERRUPTIONS} times in a row" in location.run_folder(KEYS[0]).status["error"]
    assert list(groups) == [KEYS[1:]], "nothing speaks against them"
