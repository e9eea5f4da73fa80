"""Trials that train as one pack leave what each leaves alone, to the bit, whatever happens to the others."""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from hypothesis import given
from hypothesis import strategies as st
from looped import BESIDE, CONFIG, CPU, DATA, RING
from sweeps import assert_same_result
from trials import member, trial

from diffcps import algorithms
from diffcps.algorithms import names
from diffcps.algorithms.base import Algorithm
from diffcps.config import RunConfig
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.alike import alike
from diffcps.runs.folder import RunFolder
from diffcps.runs.planning import PAPER_TASKS
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task
from diffcps.training import cost, engine
from diffcps.training.attempt import Assignment
from diffcps.training.learner import Learner
from diffcps.training.loop import Prune
from diffcps.training.packs import cut
from diffcps.training.process import Machine
from diffcps.training.trials import run
from diffcps.training.workers import shares

# sizes of whole vector registers and even packs: of others, rounding depends on how many members there are
SMALL = CONFIG.with_settings(hidden_size=16, batch_size=16)
CONFIGS = (
    SMALL,
    SMALL.replaced(
        task="bandit-corners", members=(member(5, target_kl=0.2), member(6), member(7, discount=0.5), member(9))
    ),
    SMALL.replaced(physics="modern", members=(member(1), member(2))),
)


def data_of(number: int) -> Transitions:
    """The data of a trial: of each other rows, and so many."""
    rng = np.random.default_rng(number)
    columns = {
        name: getattr(DATA, name)[: 50 - 7 * number] for name in ("observations", "next_observations", "terminals")
    }
    rows = len(columns["terminals"])
    columns["actions"] = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    columns["rewards"] = rng.normal(size=rows).astype(np.float32)
    return replace(DATA, **columns, info=replace(DATA.info, rows=rows, checksum=f"c0ffee{number}"))


def assigned(path: Path, configs: Sequence[RunConfig] = CONFIGS, **more: Any) -> list[Assignment]:
    """The trials, each with data of its own and a run folder below ``path``."""
    return [
        Assignment(config, RunFolder(path / config.key), functools.partial(data_of, number), **more)
        for number, config in enumerate(configs)
    ]


@pytest.fixture(scope="module", autouse=True)
def products() -> Iterator[None]:
    """Products by torch's default: which of oneDNN's kernels multiplies matrices this small depends on how many there are."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    yield
    matmul.fp32_precision = before


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """The run folders of the trials when each trains by itself."""
    found = assigned(tmp_path_factory.mktemp("alone"))
    for one in found:
        run([one], CPU)
    return [one.folder for one in found]


def sizes(folder: RunFolder) -> list[int]:
    return list(folder.environment["pack_sizes"])


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
def test_each_trial_is_as_if_it_were_alone(tmp_path: Path, alone: list[RunFolder], machine: Machine) -> None:
    together = assigned(tmp_path)
    run(together, machine)
    for one, expected in zip(together, alone, strict=True):
        assert_same_result(one.folder, expected)
        assert sizes(one.folder) == [8]
        assert one.config.key not in one.folder.environment["together"]["with"]
        assert one.folder.environment["together"]["members"] == 8
    assert [sizes(folder) for folder in alone] == [[2], [4], [2]]


def test_a_folder_stays_as_it_is_once_its_trial_has_ended(tmp_path: Path) -> None:
    """While the others of the pack still end."""
    together = assigned(tmp_path)
    seen: list[dict[Path, bytes]] = []

    def look(scores: dict[str, float]) -> None:
        if together[0].folder.done:
            seen.append({file: file.read_bytes() for file in together[0].folder.path.rglob("*") if file.is_file()})

    run([*together[:2], replace(together[2], report=look)], CPU, stuck_after=1000.0)
    assert seen, "the last trial reports its last scores when the first has ended"
    assert seen[0] == {file: file.read_bytes() for file in together[0].folder.path.rglob("*") if file.is_file()}


def test_they_take_turns_where_memory_is_small(tmp_path: Path, alone: list[RunFolder]) -> None:
    """Eight members in two packs, of which the second begins within a trial."""
    joined = CONFIGS[0].replaced(members=tuple(member(seed) for seed in range(8)))
    rows = sum(data_of(number).info.rows for number in range(3))
    together = assigned(tmp_path)
    run(together, Machine(torch.device("cpu"), memory=sweeps.memory_for(joined, rows=2 * rows, packs=2)))
    assert [sizes(one.folder) for one in together] == [[4], [4, 4], [4]]
    for one, expected in zip(together, alone, strict=True):
        assert_same_result(one.folder, expected)


def test_those_that_memory_cannot_hold_at_a_time_train_one_after_the_other(
    tmp_path: Path, alone: list[RunFolder]
) -> None:
    alive: dict[int, int] = {}

    def count(scores: dict[str, float], number: int) -> None:
        alive[number] = sum(type(each) is Learner for each in gc.get_objects())

    together = [
        replace(one, report=functools.partial(count, number=number)) for number, one in enumerate(assigned(tmp_path))
    ]
    memory = sweeps.memory_for(CONFIGS[1], rows=data_of(1).info.rows, packs=2)
    gc.collect()
    run(together, Machine(torch.device("cpu"), memory=memory))
    assert alive == {0: 1, 1: 2, 2: 1}, "the packs of before have made room"
    assert [sizes(one.folder) for one in together] == [[2], [2, 2], [2]]
    for one, expected in zip(together, alone, strict=True):
        assert_same_result(one.folder, expected)
        assert "together" not in one.folder.environment


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
@pytest.mark.parametrize("when", [6, 12])
def test_one_that_fails_leaves_the_others_alone(
    tmp_path: Path, alone: list[RunFolder], machine: Machine, when: int
) -> None:
    """It says why in its folder, and is tried again from its newest checkpoint."""
    together = assigned(tmp_path)

    def report(scores: dict[str, float]) -> None:
        if scores["step"] == when:
            raise RuntimeError("the simulator fell over")

    with pytest.raises(RuntimeError):
        run([together[0], replace(together[1], report=report), together[2]], machine)
    assert together[1].folder.status["state"] == "failed"
    assert "the simulator fell over" in together[1].folder.status["error"]
    for number in (0, 2):
        assert_same_result(together[number].folder, alone[number])
    run(together, machine)
    assert_same_result(together[1].folder, alone[1])
    assert sizes(together[1].folder) == [4]


class Stubborn:
    """A sink that takes nothing, and cannot be closed either."""

    def log(self, metrics: Any, step: int) -> None:
        raise RuntimeError("the disk is full")

    def close(self, pruned: str = "") -> None:
        raise RuntimeError("the disk is still full")


def test_one_that_cannot_even_be_closed_leaves_the_others_alone(tmp_path: Path, alone: list[RunFolder]) -> None:
    together = assigned(tmp_path)
    with pytest.raises(RuntimeError):
        run([replace(together[0], sinks=lambda facts: [Stubborn()]), *together[1:]], CPU)
    assert together[0].folder.status["state"] == "failed"
    assert "full" in together[0].folder.status["error"]
    for number in (1, 2):
        assert_same_result(together[number].folder, alone[number])


def test_data_that_cannot_be_read_are_one_trials_failure(tmp_path: Path, alone: list[RunFolder]) -> None:
    together = assigned(tmp_path)

    def broken() -> Transitions:
        raise UserError("no such file here")

    with pytest.raises(UserError, match="no such file here"):
        run([together[0], together[1], replace(together[2], load=broken)], CPU)
    assert together[2].folder.status["state"] == "failed"
    for number in (0, 1):
        assert_same_result(together[number].folder, alone[number])


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
def test_one_that_is_pruned_leaves_the_pack(tmp_path: Path, alone: list[RunFolder], machine: Machine) -> None:
    together = assigned(tmp_path)

    def prune(data: Transitions) -> Prune:
        return lambda step, metrics: "it is far behind" if step == 12 else ""

    run([replace(together[0], prune=prune), *together[1:]], machine)
    assert (together[0].folder.status["state"], together[0].folder.status["step"]) == ("pruned", 12)
    for number in (1, 2):
        assert_same_result(together[number].folder, alone[number])


def test_what_is_wrong_with_a_pack_made_anew_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the status of those whose pack it is; each text once."""
    complaints = iter(["no compiler", "no compiler yet"])

    def broken(*_: object) -> None:
        raise RuntimeError(next(complaints))

    monkeypatch.setattr(cost, "COMPILE_FROM_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_compiled", broken)
    together = assigned(tmp_path)
    run([replace(together[0], prune=lambda data: lambda step, metrics: "behind"), *together[1:]], CPU)
    notes = [[note.rpartition(": ")[2] for note in one.folder.status["notes"]] for one in together]
    assert notes == [["no compiler"], *[["no compiler", "no compiler yet"]] * 2]


class Killed(BaseException):
    """The process is gone."""


def killing(at: int) -> Callable[[dict[str, Any]], None]:
    """A progress that ends the process in the first status of a step."""

    def progress(status: dict[str, Any]) -> None:
        if status["step"] >= at:
            raise Killed

    return progress


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
@pytest.mark.parametrize("at", [4, 8, 16])
@pytest.mark.parametrize("who", [0, 2])
def test_killed_and_resumed(tmp_path: Path, alone: list[RunFolder], machine: Machine, at: int, who: int) -> None:
    """Whichever trial writes its status when the kill comes; some may be a checkpoint ahead of the others then."""
    together = assigned(tmp_path, [config.replaced(checkpoint_minutes=1e-9) for config in CONFIGS])
    doomed = [replace(one, progress=killing(at)) if number == who else one for number, one in enumerate(together)]
    with pytest.raises(Killed):
        run(doomed, machine)
    saved = [one.folder.status.get("saved", 0) for one in together]
    run(together, machine)
    for one, expected in zip(together, alone, strict=True):
        assert_same_result(one.folder, expected)
    if who == 0:
        assert len(set(saved)) == 2, "the first was killed between its checkpoint and those of the others"
    # it goes back to the checkpoint before, which all have
    assert sizes(together[0].folder) == ([2] if who == 0 and at == 4 else [8])


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
def test_a_checkpoint_that_is_asked_of_one_is_written_by_all(
    tmp_path: Path, alone: list[RunFolder], machine: Machine
) -> None:
    """In the middle of a row and at the same step, so that they continue as one pack."""
    together = assigned(tmp_path)

    def progress(status: dict[str, Any]) -> None:
        if status["step"] == 4:
            together[1].folder.ask_to_save()
        if status["saved"]:
            raise Killed

    with pytest.raises(Killed):
        run([*together[:2], replace(together[2], progress=progress)], machine)
    steps = {state["learner"]["step"] for one in together if (state := one.folder.load_checkpoint()[0])}
    assert len(steps) == 1
    run(together, machine)
    for one, expected in zip(together, alone, strict=True):
        assert_same_result(one.folder, expected)
        assert sizes(one.folder) == [8]


def test_trials_that_have_ended_are_left_alone(tmp_path: Path) -> None:
    together = assigned(tmp_path)
    run(together[:1], CPU)
    before = {file: file.read_bytes() for file in together[0].folder.path.rglob("*") if file.is_file()}
    run(together, CPU)
    assert {file: file.read_bytes() for file in together[0].folder.path.rglob("*") if file.is_file()} == before
    assert sizes(together[1].folder) == [6]


# Which trials are alike -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 21}, {"log_every": 5}, {"algorithm": "dql"}, {"hidden_size": 16}, {"diffusion_steps": 3}, {"ema_every": 3},
        {"max_q_backup": True}, {"discount": 0.0}, {"checkpoint_minutes": 7}, {"precision": "bf16"},
    ],
)  # fmt: skip
def test_trials_that_are_not_alike(change: dict[str, Any]) -> None:
    assert alike(trial(RING.name, **change)) != alike(trial(RING.name))


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 1e-3}, {"target_kl": 0.7}, {"physics": "modern"}, {"keep_best": True}, {"lambda_clip": 3.0}],
)
def test_trials_that_are_alike(change: dict[str, Any]) -> None:
    assert alike(trial(RING.name, **change)) == alike(trial(RING.name))


def test_packs_of_the_papers_table() -> None:
    """HalfCheetah and Walker2d have the same sizes; the mazes differ in settings of a pack."""
    groups: dict[Any, list[str]] = {}
    for name in PAPER_TASKS:
        groups.setdefault(alike(official(get_task(name))), []).append(name)
    assert sorted(map(len, groups.values())) == [1, 2, 3, 3, 6]


def test_stages_that_fill_columns_train_alone() -> None:
    task = get_task("hopper-medium-v2")
    for name in names():
        config = official(task, name)
        algorithm = algorithms.build(config, (11, 3, 1.0), torch.device("cpu"))
        fills = bool(algorithm.member_columns) or type(algorithm).fill is not Algorithm.fill
        assert (alike(config) == config.key) == fills, name


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_cut_into_packs_every_member_is_in_one(members: list[int], packs: int) -> None:
    total = sum(members)
    held = list(cut(members, shares(total, min(packs, total))))
    found = [(number, k) for pack in held for number, own in pack for k in range(members[number])[own]]
    assert found == [(number, k) for number, count in enumerate(members) for k in range(count)]
