"""Evaluations beside learning: learning goes on meanwhile, and nothing that is learned or recorded is another."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from looped import BESIDE, CONFIG, CPU, DATA, RING, Judge, Killed, Memory, clock, evaluate, looped, outcome, straight
from sweeps import assert_same_result
from trials import member

from diffcps.config import EvaluationConfig, RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.training.attempt import Assignment, Attempt
from diffcps.training.beside import StoppedError
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.policy import Policy
from diffcps.training.process import Machine
from diffcps.training.together import Together
from diffcps.training.trials import run
from diffcps.training.watchdog import Watchdog
from diffcps.training.workers import Workers

PATIENCE = 60.0
"""Seconds that nothing here takes, unless it has failed."""
RARELY = {"checkpoint_clock": clock((0.001,)), "status_seconds": 0.0}
"""No checkpoint but the last, so that nobody waits for an evaluation; and every step is told."""


class Slow:
    """An evaluator that is done only when the learner is some steps further, or has ended."""

    def __init__(self, config: RunConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self.reached = threading.Condition()
        self.step = 0
        self.overlaps: list[bool] = []

    def progress(self, status: dict[str, Any]) -> None:
        with self.reached:
            self.step = status["step"]
            self.reached.notify_all()

    def __call__(self, policy: Policy, index: int, episodes: int = 3) -> Rollouts:
        at = min(self.config.steps, self.config.evaluation.every * (index + 1))
        wanted = min(self.config.steps, at + self.steps)
        with self.reached:
            self.overlaps.append(self.reached.wait_for(lambda: self.step >= wanted, PATIENCE) and self.step > at)
        return evaluate(policy, index, episodes)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_learning_goes_on_and_the_outcome_is_the_same(tmp_path: Path, steps: int) -> None:
    """Rows, returns, learner and what sinks are shown, in its order."""
    expected, _ = straight(CONFIG, tmp_path / "in turn")
    slow, sink = Slow(CONFIG, steps), Memory()
    reports: list[float] = []
    found, folder = straight(
        CONFIG,
        tmp_path / "beside",
        machine=BESIDE,
        evaluate=slow,
        progress=slow.progress,
        report=lambda news: reports.append(news["step"]),
        **RARELY,
    )
    found.assert_equal(expected)
    assert reports == [6, 12, 18, 20]
    assert slow.overlaps == [True, True, True, False], "the last has nothing beside it"
    looped(CONFIG, evaluate, RunFolder(tmp_path / "again"), [sink], machine=BESIDE, **RARELY)
    assert [step for step, _ in sink.calls] == sorted(step for step, _ in sink.calls)
    assert folder.status["seconds"]["evaluation"] < PATIENCE


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
@pytest.mark.parametrize("asked", [7, 9])
def test_a_checkpoint_does_not_wait_for_an_evaluation(tmp_path: Path, asked: int, machine: Machine) -> None:
    """In the middle of a row or with it; what resumes does the evaluation again, wherever it runs."""
    expected, _ = straight(CONFIG, tmp_path / "straight")
    folder, sink, slow = RunFolder(tmp_path / CONFIG.key), Memory(), Slow(CONFIG, 14)

    def progress(status: dict[str, Any]) -> None:
        if status.get("saved"):
            slow.progress({"step": 20})  # it may end now, but nobody will ask for its results
            raise Killed
        if status["step"] == asked:
            folder.ask_to_save()

    with pytest.raises(Killed):
        looped(CONFIG, slow, folder, [sink], machine=BESIDE, progress=progress, **RARELY)
    state, _ = folder.load_checkpoint()
    assert state is not None
    assert (state["learner"]["step"], state["scores"], state["evaluation"]["step"]) == (asked, [], 6)
    result = looped(CONFIG, evaluate, folder, [sink], machine=machine, checkpoint_clock=clock())
    outcome(folder, result, sink).assert_equal(expected)


def test_an_evaluation_written_after_the_checkpoint_is_written_once(tmp_path: Path) -> None:
    """The kill comes when the results are there, but no checkpoint knows of them."""
    expected, _ = straight(CONFIG, tmp_path / "straight")
    folder, sink, slow = RunFolder(tmp_path / CONFIG.key), Memory(), Slow(CONFIG, 3)

    def progress(status: dict[str, Any]) -> None:
        slow.progress(status)
        if status["step"] == 7 and not status.get("saved"):
            folder.ask_to_save()
        if status["step"] > 12:
            slow.progress({"step": 20})
            raise Killed

    with pytest.raises(Killed):
        looped(CONFIG, slow, folder, [sink], machine=BESIDE, progress=progress, **RARELY)
    assert len((folder.path / "returns.csv").read_text().splitlines()) == 1 + 2 * 3
    result = looped(CONFIG, evaluate, folder, [sink], machine=BESIDE, checkpoint_clock=clock())
    outcome(folder, result, sink).assert_equal(expected)


def test_simulators_give_the_same_episodes(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(every=6, episodes=3, candidates=4)
    config = CONFIG.replaced(evaluation=evaluation, keep_best=True, keep_checkpoints=2, measures=("likelihood",))
    folders = [RunFolder(tmp_path / name) for name in ("turn", "beside")]
    for folder, machine in zip(folders, (CPU, BESIDE), strict=True):
        run([Assignment(config, folder, lambda: DATA)], machine)
    assert_same_result(*folders)


def test_an_evaluation_that_fails_is_the_trials_failure(tmp_path: Path) -> None:
    def broken(policy: Policy, index: int, episodes: int = 3) -> Rollouts:
        if index == 1:
            raise RuntimeError("the simulator fell over")
        return evaluate(policy, index, episodes)

    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="fell over"):
        looped(CONFIG, broken, folder, machine=BESIDE)
    assert folder.status["state"] == "failed"
    expected, _ = straight(CONFIG, tmp_path / "straight")
    looped(CONFIG, evaluate, folder, machine=BESIDE)
    assert (folder.path / "returns.csv").read_text() == expected.returns


@pytest.mark.parametrize("machine", [CPU, BESIDE], ids=["in turn", "beside"])
def test_environments_are_closed_when_nobody_uses_them_any_more(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is ended in the middle of an evaluation stops it first."""
    config = CONFIG.replaced(evaluation=EvaluationConfig(every=6, episodes=3))
    inside, ends, closed = threading.Event(), [], []
    rounds, close = Evaluator._round, Evaluator.close

    def endless(self: Evaluator, *arguments: Any) -> Rollouts:
        inside.set()
        try:
            while True:
                self.heartbeat()
                if machine is CPU:
                    return rounds(self, *arguments)
        except StoppedError:
            ends.append("stopped")
            raise

    def closing(self: Evaluator) -> None:
        closed.append(list(ends))
        close(self)

    monkeypatch.setattr(Evaluator, "_round", endless)
    monkeypatch.setattr(Evaluator, "close", closing)

    def killed(after: int) -> Callable[[dict[str, Any]], None]:
        def progress(status: dict[str, Any]) -> None:
            if status["step"] >= after and inside.is_set():
                raise Killed

        return progress

    assert RING.bandit
    with pytest.raises(Killed):
        run([Assignment(config, RunFolder(tmp_path), lambda: DATA, progress=killed(7))], machine)
    assert closed == ([[]] if machine is CPU else [["stopped"]])


def test_an_end_waits_for_no_evaluation_of_others(tmp_path: Path) -> None:
    """Two trials of a pack: the evaluation of one is under way, that of the other waits in the queue."""
    begun: list[int] = []
    stopped: list[int] = []
    config = CONFIG.with_settings(hidden_size=16, batch_size=16)
    configs = [config, config.replaced(members=(member(1), member(2)))]

    def evaluators(attempt: Attempt, own: slice, *, heartbeat: Callable[[], None], threads: int) -> tuple[Judge, None]:
        def endless(policy: Policy, index: int, episodes: int) -> Rollouts:
            begun.append(index)
            try:
                while True:
                    heartbeat()
            except StoppedError:
                stopped.append(index)
                raise

        return Judge(endless), None

    def progress(status: dict[str, Any]) -> None:
        if status["step"] >= 7 and begun:
            raise Killed

    attempts = [
        Attempt(Assignment(each, RunFolder(tmp_path / each.key), lambda: DATA, progress=progress), Workers())
        for each in configs
    ]
    for attempt in attempts:
        attempt.open()
        attempt.read()
    given: Any = {"evaluators": evaluators, "requested_at": time.time(), "status_seconds": 0.0}
    with pytest.raises(Killed):
        Together(attempts, BESIDE, Watchdog(None, tmp_path / "trace"), **given).run()
    assert stopped == begun
