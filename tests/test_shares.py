"""Members shared out among workers, or among packs of one worker: what is learned and recorded does not show it."""

import multiprocessing
import socket
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from hypothesis import given
from hypothesis import strategies as st
from looped import BESIDE, CONFIG, DATA, RING, Killed, clock, trained
from sweeps import assert_equal, assert_same_result
from trials import member
from waits import GUARD

from diffcps.config import RunConfig
from diffcps.data.transitions import Transitions
from diffcps.errors import UserError
from diffcps.runs.flags import MachineFlags
from diffcps.runs.folder import RunFolder
from diffcps.runs.presets import official
from diffcps.sweep.resources import Cluster, Node, Resources
from diffcps.tasks.registry import get_task
from diffcps.training import cost
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.learner import Learner, Part
from diffcps.training.loop import Prune
from diffcps.training.packs import fitting, resident_bytes, working_bytes
from diffcps.training.process import Machine
from diffcps.training.workers import (
    WorkerLostError,
    Workers,
    connect,
    disconnect,
    joined_state,
    share_of_state,
    shares,
)

FIVE = CONFIG.replaced(members=tuple(member(seed, target_kl=0.1 * (seed + 1)) for seed in range(5)))
GIB = 2**30


@given(members=st.integers(1, 200), parts=st.integers(1, 50))
def test_shares_are_whole_and_as_equal_as_can_be(members: int, parts: int) -> None:
    found = shares(members, parts)
    assert [k for part in found for k in range(members)[part]] == list(range(members))
    sizes = [part.stop - part.start for part in found]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1 or members < parts


def learner_of(config: RunConfig) -> Learner:
    return Learner([Part(config, DATA)], RING.max_action)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_state_is_cut_and_joined(parts: int) -> None:
    """What is joined is one learner's state; each part is what a learner of those members alone would have."""
    whole = learner_of(FIVE)
    whole.update(7)
    state = whole.state_dict()
    cut = [share_of_state(state, own) for own in shares(5, parts)]
    assert_equal(joined_state(cut), state)
    for own, part in zip(shares(5, parts), cut, strict=True):
        alone = learner_of(FIVE.replaced(members=FIVE.members[own]))
        alone.load_state_dict(part)
        assert alone.step == 7
        assert_equal(alone.state_dict(), part)
    cut[0]["pack"]["actor"].zero_()
    assert state["pack"]["actor"].any(), "a share is a copy"


def test_shares_that_have_come_apart_are_not_joined() -> None:
    first, second = learner_of(CONFIG), learner_of(CONFIG)
    second.update(1)
    with pytest.raises(ValueError, match="differ"):
        joined_state([first.state_dict(), second.state_dict()])


# Several packs in one worker ------------------------------------------------------------------------------------------


def split(config: RunConfig, path: Path, parts: int) -> RunFolder:
    """The run folder of the trial trained in so many packs, on a machine with just so little memory."""
    memory = sweeps.memory_for(config, rows=DATA.info.rows, packs=parts)
    return trained(path, config, machine=Machine(torch.device("cpu"), memory=memory))


def test_packs_that_take_turns_leave_the_run_folder_of_one(tmp_path: Path) -> None:
    whole, parts = trained(tmp_path / "whole", FIVE), split(FIVE, tmp_path / "parts", 2)
    assert_same_result(whole, parts)
    assert (whole.environment["pack_sizes"], parts.environment["pack_sizes"]) == ([5], [2, 3])


def test_packs_of_one_differ_in_rounding_at_most(tmp_path: Path) -> None:
    """For networks this small, matrix products of a single member take another kernel than those of several."""
    folders = trained(tmp_path / "whole", FIVE), split(FIVE, tmp_path / "parts", 5)
    first, second = (sweeps.training_rows(folder) for folder in folders)
    np.testing.assert_allclose(first.to_numpy(), second.to_numpy(), rtol=1e-5, atol=1e-6)
    states = [state["learner"]["pack"] for folder in folders if (state := folder.load_checkpoint()[0])]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_pack_that_prepares_its_data_needs_memory_for_them() -> None:
    """TD3+BC keeps observations and actions of its own, DiffCPS nothing where rewards stay as they are."""
    sizes = {
        name: cost.prepared_bytes(official(get_task("hopper-medium-v2"), name), 100) for name in ("diffcps", "td3bc")
    }
    assert sizes == {"diffcps": 0, "td3bc": 4 * 100 * (2 * 11 + 3)}
    assert cost.prepared_bytes(official(get_task("antmaze-umaze-v0")), 100) == 4 * 100, "its rewards"


def test_the_largest_packs_that_fit() -> None:
    """Never more than the memory holds by the estimate, never more packs than needed; no limit, one pack."""
    task = get_task("hopper-medium-v2")
    config = official(task)
    assert fitting(config, 1000, task, rows=1_000_000, memory=None) == [slice(0, 1000)]
    resident, working = resident_bytes(config), working_bytes(config)
    for members, memory in ((5, 4 * GIB), (1000, 24 * GIB), (1000, 80 * GIB), (3000, 80 * GIB)):
        found = fitting(config, members, task, rows=1_000_000, memory=memory)
        largest = max(part.stop - part.start for part in found)
        data = 4 * 1_000_000 * (2 * 11 + 3 + 2)
        assert GIB + data + members * resident + largest * working <= 0.8 * memory
        if len(found) > 1:
            fewer = -(-members // (len(found) - 1))
            assert GIB + data + members * resident + fewer * working > 0.8 * memory
    assert len(fitting(config, 5, task, rows=1_000_000, memory=4 * GIB)) == 1
    with pytest.raises(UserError, match=r"4000 seeds .* need at least .* GiB .* has 24.0.*--workers-per-trial"):
        fitting(config, 4000, task, rows=1_000_000, memory=24 * GIB)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v0"])
def test_estimated_size_of_a_member_is_that_of_its_state(name: str) -> None:
    task = get_task(name)
    config = official(task, seeds=2)
    rng = np.random.default_rng(0)
    data = type(DATA)(
        rng.normal(size=(9, task.observation_size)).astype(np.float32),
        np.zeros((9, task.action_size), np.float32), np.zeros(9, np.float32),
        rng.normal(size=(9, task.observation_size)).astype(np.float32), np.zeros(9, np.float32), DATA.info,
    )  # fmt: skip
    learner = Learner([Part(config, data)], task.max_action)
    tensors = learner.state_dict()["pack"].values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / len(config.members)
    assert 2 * size == pytest.approx(resident_bytes(config), rel=1e-3)


# Several workers ------------------------------------------------------------------------------------------------------


def _worker(rank: int, count: int, address: str, path: Path, *, fault: str, outcome: Any) -> None:
    """One worker of a trial, a process of its own; puts how it ended into ``outcome``."""
    torch.set_num_threads(1)
    connect(rank, count, address)
    group = Workers(rank, count, shares(len(FIVE.members), count)[rank])
    guilty = rank == count - 1
    reports: list[dict[str, float]] = []

    def load() -> Transitions:
        if fault == "data" and guilty:
            raise UserError("no such file here")
        return DATA

    def report(scores: dict[str, float]) -> None:
        if fault == "report" and guilty and scores["step"] == 18:
            raise RuntimeError("the simulator fell over")
        reports.append(scores)

    def prune(data: Transitions) -> Prune:
        return lambda step, metrics: "the first worker says so"

    # clocks differ between machines: the first worker's says when there is a checkpoint
    ticking = clock([1 if rank == 0 else 0.3])
    try:
        ends = {"prune": prune} if fault == "prune" else {}
        trained(path, FIVE, load=load, report=report, workers=group, checkpoint_clock=ticking, **ends)
        outcome.put((rank, "done", reports))
    except Exception as error:
        outcome.put((rank, type(error).__name__, str(error) + traceback.format_exc()))
    disconnect()


def workers(count: int, path: Path, fault: str = "") -> dict[int, tuple[str, Any]]:
    """Train ``FIVE`` with so many workers; rank -> how it ended, and its reports or its error."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    fork = multiprocessing.get_context("fork")
    outcome = fork.Queue()
    processes = [
        fork.Process(target=_worker, args=(rank, count, address, path), kwargs={"fault": fault, "outcome": outcome})
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    found = [outcome.get(timeout=GUARD) for _ in processes]
    for process in processes:
        process.join(GUARD)
    return {rank: rest for rank, *rest in found}


def test_several_workers_leave_the_run_folder_of_one(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", FIVE)
    ended = workers(2, tmp_path / "shared")
    assert [ended[rank][0] for rank in range(2)] == ["done"] * 2
    folder = RunFolder(tmp_path / "shared")
    assert_same_result(whole, folder)
    assert folder.environment["workers"] == 2
    assert [report["step"] for report in ended[0][1]] == [6, 12, 18, 20]
    assert ended[0][1] == ended[1][1], "every worker reports the same, as often"
    assert folder.status["seconds"]["waiting"] > 0


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_trial_goes_on_with_another_number_of_workers(tmp_path: Path, before: int, after: int) -> None:
    """The last worker fails after the first checkpoint; the first learns of it and writes down why."""
    whole = trained(tmp_path / "whole", FIVE)
    ended = workers(before, tmp_path / "shared", fault="report")
    folder = RunFolder(tmp_path / "shared")
    assert ended[before - 1][0] == "RuntimeError"
    assert folder.status["state"] == "failed"
    assert "RuntimeError: the simulator fell over" in folder.status["error"]
    assert "Traceback" in folder.status["details"]
    if before > 1:
        assert ended[0][0] == WorkerLostError.__name__
        assert folder.status["error"].startswith("worker 2 of 2: ")
    assert [file.stem for file in sorted(folder.path.glob("checkpoint/*.pt"))] == ["step_000000012", "step_000000018"]
    ended = workers(after, tmp_path / "shared")
    assert {state for state, _ in ended.values()} == {"done"}
    assert_same_result(whole, folder)


@pytest.mark.parametrize("by", ["one", "packs", "workers"])
def test_an_evaluation_under_way_is_done_again_by_whoever_goes_on(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint comes from a machine that evaluates beside learning."""
    folder = RunFolder(tmp_path / "shared")

    def endless(evaluator: Evaluator, *arguments: Any) -> Rollouts:
        while True:
            evaluator.heartbeat()

    def progress(status: dict[str, Any]) -> None:
        if status.get("saved"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_round", endless)
        with pytest.raises(Killed):
            trained(folder.path, FIVE, machine=BESIDE, progress=progress, checkpoint_clock=clock())
    state, _ = folder.load_checkpoint()
    assert state is not None
    assert (state["learner"]["step"], state["evaluation"]["step"]) == (6, 6)
    if by == "workers":
        assert {state for state, _ in workers(2, folder.path).values()} == {"done"}
    elif by == "packs":
        assert split(FIVE, folder.path, 2).environment["pack_sizes"] == [2, 3]
    else:
        trained(folder.path, FIVE)
    assert_same_result(trained(tmp_path / "whole", FIVE), folder)


def test_what_one_worker_lacks_is_everybodys_mistake(tmp_path: Path) -> None:
    ended = workers(2, tmp_path, fault="data")
    assert {state for state, _ in ended.values()} == {"UserError"}
    status = RunFolder(tmp_path).status
    assert status["state"] == "failed"
    assert status["error"].startswith("no such file here (on ")
    assert status["details"] == ""


# What a trial takes ---------------------------------------------------------------------------------------------------


def cluster(*nodes: tuple[float, float]) -> Cluster:
    return Cluster("here", tuple(Node(cpus, gpus, cpus * 2 * GIB) for cpus, gpus in nodes))


def flags(**asked: Any) -> MachineFlags:
    return MachineFlags(**{name if name == "concurrent" else f"{name}_per_trial": asked[name] for name in asked})


@pytest.mark.parametrize(
    ("nodes", "asked", "expected", "threads"),
    [
        ([(2, 0)], {}, (0.9, 0, 2), 1),
        ([(8, 0)], {}, (1.0, 0, 7), 1),
        ([(16, 1)], {}, (15.9, 1, 1), 16),
        ([(16, 2)], {}, (7.9, 1, 2), 8),
        ([(16, 1)], {"gpus": 0.5}, (7.9, 0.5, 2), 8),
        ([(16, 1)], {"gpus": 0.25}, (3.9, 0.25, 4), 4),
        ([(16, 1)], {"gpus": 0}, (1.0, 0, 15), 1),
        ([(16, 1)], {"cpus": 3}, (3, 1, 1), 3),
        ([(2, 1)], {}, (1.9, 1, 1), 2),
        ([(0, 0), (16, 4), (64, 4)], {}, (3.9, 1, 8), 4),
        ([(16, 2)], {"workers": 2}, (7.9, 1, 1), 8),
        ([(16, 4)], {"workers": 2, "gpus": 2}, (3.9, 1, 2), 4),
        ([(2, 0)], {"workers": 2}, (0.9, 0, 1), 1),
        ([(16, 0)], {"workers": 2, "cpus": 8}, (4, 0, 1), 4),
        ([(16, 0)], {"concurrent": 3}, (1.0, 0, 3), 1),
    ],
)
def test_resources(nodes: list[tuple[float, float]], asked: dict[str, float], expected: Any, threads: int) -> None:
    there = cluster(*nodes)
    found = Resources.fitting(there, flags(**asked))
    assert (found.cpus, found.gpus, found.concurrent) == pytest.approx(expected)
    assert found.threads == threads
    # every worker that may run at once has its threads' cores
    assert threads * found.workers * found.concurrent <= max(there.cpus, 1)


@pytest.mark.parametrize(
    ("nodes", "asked", "words"),
    [
        ([(2, 0)], {"workers": 3}, ["2.71 CPUs", "--workers-per-trial"]),
        ([(16, 1)], {"workers": 2}, ["2 GPUs", "--workers-per-trial"]),
        ([(16, 4)], {"gpus": 3, "workers": 2}, ["--gpus-per-trial 3"]),
    ],
)
def test_more_than_there_is(nodes: list[tuple[float, float]], asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as said:
        Resources.fitting(cluster(*nodes), flags(**asked))
    assert all(word in str(said.value) for word in words)


def test_drivers_on_a_node_of_their_own_cost_no_room() -> None:
    """Sixteen small machines hold sixteen trials; fifteen where drivers take a sliver of one."""
    there = cluster((0, 0), *[(1, 0)] * 16)
    assert Resources.fitting(there, flags()).concurrent == 15
    assert Resources.fitting(replace(there, for_drivers=True), flags()).concurrent == 16


def test_memory_of_a_worker_is_its_share_of_its_machines() -> None:
    assert Resources.fitting(cluster((16, 0)), flags(cpus=4, workers=2)).memory == pytest.approx(16 * 2 * GIB * 2 / 16)
