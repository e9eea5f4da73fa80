"""The loop: kill it anywhere and go on, look at it as often as you like: what is learned and recorded stays the same."""

import functools
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from trials import member, metrics, trial

from diffcps import data, files
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.data.transitions import DatasetInfo, Transitions
from diffcps.deploy.trained import members
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.runs.trials import read_trial
from diffcps.tasks.registry import get_task
from diffcps.training import cost, loop
from diffcps.training.attempt import Assignment, Attempt
from diffcps.training.evaluation import Evaluator, Rollouts
from diffcps.training.facts import PACKAGES, describe, git_commit
from diffcps.training.keeping import Kept
from diffcps.training.learner import Learner, Part
from diffcps.training.policy import Policy
from diffcps.training.process import Machine
from diffcps.training.together import Together
from diffcps.training.trial import run
from diffcps.training.watchdog import Watchdog
from diffcps.training.workers import Workers

RING = get_task("bandit-ring")
CONFIG = trial(
    RING.name,
    members=(member(5), member(8, learning_rate=1e-3, target_kl=0.5)),
    steps=20,
    diffusion_steps=2,
    hidden_size=8,
    batch_size=4,
    time_embedding=4,
    ema_start=5,
    ema_every=2,
    evaluation=EvaluationConfig(every=6, episodes=3),
    log_every=4,
    checkpoint_minutes=2,
)
METRICS = metrics(CONFIG)


def clock(minutes: Sequence[float] = (1,)) -> Callable[[], float]:
    """A clock in seconds that advances by these minutes, in turn, each time it is read, which is once a row."""
    times = itertools.accumulate(itertools.cycle(minutes))
    return lambda: 60 * next(times)


def transitions() -> Transitions:
    rng = np.random.default_rng(0)
    arrays = {
        "observations": np.zeros((50, 1)),
        "actions": rng.uniform(-1, 1, (50, 2)),
        "rewards": rng.normal(size=50),
        "next_observations": np.zeros((50, 1)),
        "terminals": np.ones(50),
    }
    info = DatasetInfo("collected", None, "c0ffee", "other", "made up", 50, 50, np.arange(4.0))
    return Transitions(**{name: value.astype(np.float32) for name, value in arrays.items()}, info=info)


DATA = transitions()
CPU = Machine(torch.device("cpu"))


def make_learner(config: RunConfig = CONFIG) -> Learner:
    return Learner([Part(config, DATA)], RING.max_action)


def evaluate(policy: Policy, index: int, episodes: int = 3) -> Rollouts:
    """[K, episodes] made-up returns that show the weights, the number of the evaluation and the member."""
    weights = policy.parameters["actor"].double().sum(dim=1).numpy()
    shape = policy.members, episodes
    return Rollouts(weights[:, None] + index + 0.01 * np.arange(episodes), np.full(shape, 1 + index))


@dataclass
class Memory:
    """A sink that remembers everything."""

    calls: list[tuple[int, dict[str, list[float]]]] = field(default_factory=list)
    closed: int = 0

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        self.calls.append((step, {name: values.tolist() for name, values in metrics.items()}))

    def close(self, pruned: str = "") -> None:
        self.closed += 1

    def by_step(self) -> dict[int, dict[str, list[float]]]:
        """The newest values of each step, without the speed."""
        return {s: {n: v for n, v in m.items() if n != "training/steps_per_second"} for s, m in self.calls}


@dataclass
class Outcome:
    """What a trial leaves behind, less the speed."""

    metrics: str
    returns: str
    state: str
    status: dict[str, Any]
    result: dict[str, float]
    sink: dict[int, dict[str, list[float]]]

    def assert_equal(self, other: "Outcome") -> None:
        for name in vars(self):
            assert getattr(self, name) == getattr(other, name), name


def exactly(state: Any) -> str:
    """A learner's state, every bit of it, as text."""
    if isinstance(state, torch.Tensor):
        return f"{state.dtype} {tuple(state.shape)} {state.numpy().tobytes().hex()}"
    if isinstance(state, dict):
        return "\n".join(f"{name}: {exactly(value)}" for name, value in sorted(state.items()))
    return "\n".join(map(exactly, state)) if isinstance(state, list) else repr(state)


@dataclass(frozen=True)
class Judge:
    """An evaluator that makes scores up."""

    evaluate: Callable[..., Rollouts]

    def __call__(self, policy: Policy, index: int, episodes: int) -> Rollouts:
        return self.evaluate(policy, index, episodes)

    def close(self) -> None:
        """There is nothing to close."""


def looped(
    config: RunConfig,
    evaluate: Callable[..., Rollouts],
    folder: RunFolder,
    sinks: Sequence[Any] = (),
    *,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    requested_at: float | None = None,
    **more: Any,
) -> dict[str, float]:
    """The trial, evaluated by ``evaluate``; returns its last step and scores."""
    given = Assignment(config, folder, lambda: DATA, lambda _: sinks, report=report, progress=progress)
    attempt = Attempt(given, Workers())
    attempt.open()
    if attempt.error is None and not folder.ended:
        with attempt.recorded():
            attempt.read(CPU.device)
            asked = time.time() if requested_at is None else requested_at
            watchdog = Watchdog(None, folder.trace)
            judge: Any = Judge(evaluate)
            judges = {"judges": lambda attempt, own: (judge, None)}
            Together([attempt], CPU, watchdog, requested_at=asked, **judges | more).run()
    if attempt.error is not None:
        raise attempt.error
    return {name: folder.status[name] for name in ("step", "last", "best") if name in folder.status}


def learned(folder: RunFolder) -> str:
    """The learner of the newest checkpoint, every bit of it."""
    state, _ = folder.load_checkpoint()
    assert state is not None
    return exactly(state["learner"])


def outcome(folder: RunFolder, result: dict[str, float], sink: Memory) -> Outcome:
    metrics = (folder.path / "metrics.csv").read_text()
    assert metrics.split("\n", 1)[0].endswith(",steps_per_second")
    status = {name: folder.status[name] for name in ("state", "step", "steps", "last", "best")}
    return Outcome(
        "\n".join(line.rsplit(",", 1)[0] for line in metrics.splitlines()),
        (folder.path / "returns.csv").read_text(),
        learned(folder),
        status,
        result,
        sink.by_step(),
    )


def straight(config: RunConfig, path: Path, **arguments: Any) -> tuple[Outcome, RunFolder]:
    """The trial without any interruption."""
    folder, sink = RunFolder(path / config.key), Memory()
    arguments = {"evaluate": evaluate, "checkpoint_clock": clock()} | arguments
    result = looped(config, folder=folder, sinks=[sink], **arguments)
    return outcome(folder, result, sink), folder


def table(text: str) -> list[dict[str, str]]:
    heading, *lines = text.splitlines()
    return [dict(zip(heading.split(","), line.split(","), strict=True)) for line in lines]


# Killed anywhere ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Reaper:
    """Counts everything that happens in a trial and kills it at a given moment; an append may be cut short by it."""

    moment: int
    fraction: float

    def pass_by(self) -> None:
        self.moment -= 1
        if self.moment == 0:
            raise Killed

    def write(self, path: Path, content: bytes) -> None:
        self.pass_by()
        files.write_atomically(path, content)
        self.pass_by()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.pass_by()
            result = function(*arguments)
            self.pass_by()
            return result

        return watched


class MortalFolder(RunFolder):
    """A run folder whose process may be killed at every write."""

    def __init__(self, path: Path, reaper: Reaper) -> None:
        super().__init__(path, reaper.write)
        self.reaper = reaper

    def _append(self, name: str, *arguments: Any) -> None:
        file = self.path / name
        before = file.stat().st_size if file.exists() else 0
        super()._append(name, *arguments)
        try:
            self.reaper.pass_by()
        except Killed:
            whole = file.read_bytes()
            file.write_bytes(whole[: before + round(self.reaper.fraction * (len(whole) - before))])
            raise


def killed_and_resumed(
    config: RunConfig, path: Path, kills: list[tuple[int, float, bool]], minutes: Sequence[float] = (1,)
) -> tuple[Outcome, int]:
    """The trial with kills at the given moments, and a damaged checkpoint now and then."""
    sink, happened, checkpoint_clock = Memory(), 0, clock(minutes)
    for moment, fraction, damage in [*kills, (0, 0.0, False)]:
        reaper = Reaper(moment, fraction)
        folder, sink_log = MortalFolder(path / config.key, reaper), mock.Mock(log=reaper.wrap(sink.log))
        try:
            with mock.patch("os.fsync", return_value=None):
                result = looped(
                    config,
                    reaper.wrap(evaluate),
                    folder,
                    sinks=[sink_log],
                    report=reaper.wrap(lambda summary: None),
                    progress=reaper.wrap(lambda status: None),
                    checkpoint_clock=checkpoint_clock,
                    status_seconds=0.0,
                )
            if moment == 0 or reaper.moment > 0:
                break
        except Killed:
            happened += 1
        saved = sorted(path.glob("*/checkpoint/step_*.pt"))
        if damage and saved and not folder.ended:
            saved[-1].write_bytes(saved[-1].read_bytes()[:-100])
    return outcome(folder, result, sink), happened


REFERENCES: dict[tuple[int, int], Outcome] = {}


def reference(config: RunConfig) -> Outcome:
    key = config.log_every, config.evaluation.every
    if key not in REFERENCES:
        with tempfile.TemporaryDirectory() as path:
            REFERENCES[key] = straight(config, Path(path))[0]
    return REFERENCES[key]


kill = st.tuples(st.integers(1, 150), st.floats(0, 1), st.booleans())


@given(
    kills=st.lists(kill, min_size=1, max_size=4),
    every=st.sampled_from([(4, 6), (1, 7), (7, 2), (100, 9)]),
    minutes=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=5),
)
@example(kills=[(1, 0.0, False)], every=(4, 6), minutes=[1.0])
@settings(max_examples=25)
def test_killed_anywhere_and_resumed(
    kills: list[tuple[int, float, bool]], every: tuple[int, int], minutes: list[float]
) -> None:
    """Rows byte for byte, learner bit for bit, scores, and what the sinks show last: as if nothing had happened.

    And that whenever the clock has the checkpoints written.
    """
    log_every, evaluate_every = every
    config = CONFIG.replaced(
        log_every=log_every,
        evaluation=CONFIG.evaluation.replaced(every=evaluate_every),
    )
    with tempfile.TemporaryDirectory() as path:
        resumed, _ = killed_and_resumed(config, Path(path), kills, minutes)
        resumed.assert_equal(reference(config))


def test_killed_at_every_single_moment(tmp_path: Path) -> None:
    """One kill, at each moment that there is, from the first write to the last; the appends cut in their middle."""
    config = CONFIG.replaced(steps=8, evaluation=CONFIG.evaluation.replaced(every=3))
    expected = straight(config, tmp_path / "straight")[0]
    for moment in range(1, 1000):
        resumed, happened = killed_and_resumed(config, tmp_path / str(moment), [(moment, 0.5, False)])
        resumed.assert_equal(expected)
        if not happened:
            break
    assert 60 < moment < 999


# Looking changes nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3, 7, 1000])
@pytest.mark.parametrize("candidates", [1, 50])
def test_evaluation_leaves_training_alone(tmp_path: Path, every: int, candidates: int) -> None:
    """Learner, optimisers, λ and random streams are bit-equal however often policies are judged, and to no loop at all."""
    config = CONFIG.replaced(evaluation=EvaluationConfig(every=every, episodes=3, candidates=candidates))
    evaluator = Evaluator(RING, "modern", config.members, config.evaluation)
    judged, _ = straight(config, tmp_path, evaluate=evaluator)
    alone = make_learner()
    alone.update(config.steps)
    assert judged.state == exactly(alone.state_dict())
    assert len(table(judged.returns)) == 2 * 3 * -(-config.steps // every)


@pytest.mark.parametrize("log_every", [1, 3, 1000])
def test_rows_leave_training_alone(tmp_path: Path, log_every: int) -> None:
    assert straight(CONFIG.replaced(log_every=log_every), tmp_path)[0].state == reference(CONFIG).state


# What is recorded -----------------------------------------------------------------------------------------------------


def test_rows_stand_at_the_documented_steps(tmp_path: Path) -> None:
    """Multiples of ``log_every`` and of ``evaluation.every``, and the end; each a mean since the row before."""
    _, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "metrics.csv").read_text())
    steps = [4, 6, 8, 12, 16, 18, 20]
    assert list(rows[0]) == ["step", "member", "seed", *METRICS, "steps_per_second"]
    expected = [(s, k, m.seed) for s in steps for k, m in enumerate(CONFIG.members)]
    assert [(int(r["step"]), int(r["member"]), int(r["seed"])) for r in rows] == expected
    assert all(float(row["steps_per_second"]) > 0 for row in rows)

    learner, values = make_learner(), []
    for _ in range(20):
        values.append({name: value.numpy() for name, value in learner.update(1).items()})
    for row in rows:
        step, k = int(row["step"]), int(row["member"])
        before = max([0, *(s for s in steps if s < step)])
        for name in METRICS:
            mean = np.mean([value[name][k] for value in values[before:step] if name in value])
            assert float(row[name]) == pytest.approx(mean, rel=1e-5), (step, name)


def test_returns_stand_at_evaluations_and_the_end(tmp_path: Path) -> None:
    _, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "returns.csv").read_text())
    assert list(dict.fromkeys(int(row["step"]) for row in rows)) == [6, 12, 18, 20]
    # evaluation 2 of the snapshot at step 18
    learner = make_learner()
    learner.update(18)
    rollouts = evaluate(learner.policy(), 2)
    stored = [row for row in rows if row["step"] == "18"]
    assert [float(row["return"]) for row in stored] == rollouts.returns.ravel().tolist()
    assert [int(row["length"]) for row in stored] == rollouts.lengths.ravel().tolist()
    assert [row["episode"] for row in stored] == ["0", "1", "2"] * 2


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(2, [6, 12, 18, 20]), (0.5, [4, 6, 8, 12, 16, 18, 20]), (1000, [20]), (3.5, [12, 20]), (7, [20])],
)
def test_checkpoints_come_with_a_row(tmp_path: Path, minutes: float, expected: list[int]) -> None:
    """With the first row after so many minutes since the last one, a minute a row here, and at the end."""
    saved: list[int] = []
    told: list[int] = []

    class Folder(RunFolder):
        def save_checkpoint(self, state: Mapping[str, Any], step: int) -> None:
            saved.append(step)

    folder = Folder(tmp_path)
    folder.create(CONFIG)
    looped(
        CONFIG.replaced(checkpoint_minutes=minutes),
        evaluate,
        folder,
        progress=lambda status: told.append(status["saved"]),
        checkpoint_clock=clock(),
    )
    assert saved == expected
    assert list(dict.fromkeys(told)) == [0, *expected], "the status says from where it would go on"
    assert folder.status["saved"] == 20


def test_report_follows_every_evaluation(tmp_path: Path) -> None:
    """Score is the mean over members; best the mean of each member's own best, not the best mean."""
    given_returns = iter([[[1.0], [0.0]], [[0.0], [0.6]], [[0.5], [0.1]], [[0.2], [0.2]]])
    reports: list[dict[str, float]] = []
    on_disk: list[int] = []

    def judge(policy: Policy, index: int, episodes: int) -> Rollouts:
        return Rollouts(np.array(next(given_returns)), np.ones((2, 1), dtype=np.int64))

    def report(summary: dict[str, float]) -> None:
        reports.append(dict(summary))
        on_disk.append(len((tmp_path / CONFIG.key / "returns.csv").read_text().splitlines()))

    done, _ = straight(CONFIG, tmp_path, evaluate=judge, report=report)
    assert [report["step"] for report in reports] == [6, 12, 18, 20]
    assert [report["score"] for report in reports] == pytest.approx([50, 30, 30, 20])
    assert [report["best"] for report in reports] == pytest.approx([50, 80, 80, 80])
    assert on_disk == [3, 5, 7, 9], "what is reported is on disk already"
    assert done.result == {"step": 20, "last": pytest.approx(20), "best": pytest.approx(80)}


def test_sinks_are_shown_what_the_folder_holds(tmp_path: Path) -> None:
    done, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "metrics.csv").read_text())
    assert list(done.sink) == [4, 6, 8, 12, 16, 18, 20]
    for step, shown in done.sink.items():
        for name in METRICS:
            stored = [float(row[name]) for row in rows if int(row["step"]) == step]
            assert np.float32(shown[f"training/{name}"]).tolist() == np.float32(stored).tolist()
        evaluated = {name for name in shown if name.startswith("evaluation/")}
        expected = {f"evaluation/{name}" for name in ("score", "best", "return", "length")}
        assert evaluated == (expected if step in (6, 12, 18, 20) else set())
    shown = [done.sink[step]["evaluation/score"] for step in (6, 12, 18, 20)]
    best = [done.sink[step]["evaluation/best"] for step in (6, 12, 18, 20)]
    assert best == np.maximum.accumulate(shown).tolist(), "also after a resume: a sink need not remember"
    returns = done.sink[6]["evaluation/return"]
    assert done.sink[6]["evaluation/score"] == pytest.approx([100 * value for value in returns])


def status_of(config: RunConfig, path: Path, now: Callable[[], float]) -> tuple[loop._Status, SimpleNamespace]:
    """The status of a trial by the clock ``now``, and its learner."""
    learner = SimpleNamespace(step=0, filling=False)
    here = {"workers": Workers(), "clock": SimpleNamespace(spent={}), "scores": [], "kept": Kept(config, {})}
    attempt = loop._Attempt(config, learner, RunFolder(path), **here)  # type: ignore[arg-type]
    return loop._Status(attempt, now=now), learner


def test_rows_further_apart_than_checkpoints_are_mentioned(tmp_path: Path) -> None:
    status, _ = status_of(CONFIG.replaced(checkpoint_minutes=0.5), tmp_path, time.monotonic)
    for minutes in (0.4, 0.7, 0.8):
        status.warn_of_long_row(minutes)
    (note,) = status.values["notes"]
    assert "0.5 min" in note
    assert "0.7 min" in note


def test_time_left_tells_cloning_from_what_follows(tmp_path: Path) -> None:
    """Steps of cloning that take 2 s each, then others: their cost follows from the first, and is measured afterwards."""
    config = CONFIG.with_settings(behaviour_steps=60).replaced(steps=100)
    whole, cloning = cost.eager_seconds(config), cost.eager_seconds(config, 60)
    step, later = cloning / 60, (whole - cloning) / 40
    now = [0.0]
    status, learner = status_of(config, tmp_path, lambda: now[0])
    expected = (
        (0, 0.0, 0, None),
        (30, 60.0, 0.5, 60 + 40 * 2 * later / step),
        (60, 120.0, 0.5, 40 * 2 * later / step),
        (80, 520.0, 0.05, 400),
        (90, 920.0, 0.0375, 800 / 3),
    )
    for learner.step, now[0], rate, left in expected:
        status.write()
        assert status.values["steps_per_second"] == pytest.approx(rate)
        assert status.values["seconds_left"] == (None if left is None else pytest.approx(left))
    assert status.values["seconds_whole"] == pytest.approx(920 + 800 / 3), "what it has taken and what is left"


def test_what_comes_before_the_first_step_is_none_of_its_time(tmp_path: Path) -> None:
    """An hour of compiling, or of drawing actions, with signs of life in it."""
    now = [0.0]
    status, learner = status_of(CONFIG.replaced(steps=100), tmp_path, lambda: now[0])
    for learner.step, now[0] in ((0, 0.0), (0, 3600.0), (10, 3605.0)):
        status.write()
    assert status.values["steps_per_second"] == pytest.approx(2.0)
    assert status.values["seconds_left"] == pytest.approx(45.0)


def test_drawing_actions_in_the_middle_of_a_trial_is_told(tmp_path: Path) -> None:
    now, config = [0.0], CONFIG.replaced(steps=100)
    status, learner = status_of(config, tmp_path, lambda: now[0])
    status.attempt.folder.create(config)
    for learner.step, now[0], learner.filling in ((0, 0.0, False), (50, 10.0, False), (50, 600.0, True)):
        status.write()
    trial = read_trial(tmp_path, config)
    assert trial.doing.startswith(f"{loop.FILLING}, ")
    assert trial.seconds_left is None, "it may take longer than all steps that are left"
    learner.step, now[0], learner.filling = 60, 602.0, False
    status.write()
    trial = read_trial(tmp_path, config)
    assert not trial.doing
    assert trial.seconds_left is not None


def test_progress_tells_the_truth(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    _, folder = straight(CONFIG, tmp_path, progress=lambda status: seen.append(dict(status)), status_seconds=0.0)
    assert [status["state"] for status in seen] == ["running"] * (len(seen) - 1) + ["complete"]
    steps = [status["step"] for status in seen]
    assert steps == sorted(steps)
    assert set(steps) == set(range(21)), "every step was shown, as no time is to pass between two"
    assert seen[0]["seconds_left"] is None
    assert all(status["steps"] == 20 for status in seen)
    assert "last" not in seen[0]
    assert "last" in seen[-1]
    for status in seen[1:-1]:
        assert status["seconds_left"] == pytest.approx((20 - status["step"]) / status["steps_per_second"])
    assert folder.status == json.loads(json.dumps(seen[-1]))
    assert folder.ended
    assert folder.status["notes"] == []
    assert set(folder.status["seconds"]) == set(loop.PURPOSES)
    assert all(spent >= 0 for spent in folder.status["seconds"].values())


def test_status_is_quiet_between_rows(tmp_path: Path) -> None:
    """Rows, the start and the end show it; single steps only when seconds have passed."""
    seen: list[int] = []
    straight(CONFIG, tmp_path, progress=lambda status: seen.append(status["step"]))
    assert [step for step in seen if step not in {0, 4, 6, 8, 12, 16, 18, 20}] == []


def test_time_spent_survives_a_resume(tmp_path: Path) -> None:
    """The seconds of all attempts up to their checkpoints are added up."""
    folder = RunFolder(tmp_path)
    folder.create(CONFIG)
    with pytest.raises(Killed):
        looped(CONFIG, Reaper(5, 0).wrap(evaluate), folder, checkpoint_clock=clock())
    state, _ = folder.load_checkpoint()
    assert state is not None
    state["seconds"]["learning"] = 100_000.0
    folder.save_checkpoint(state, state["learner"]["step"])
    looped(CONFIG, evaluate, folder)
    assert 100_000 < folder.status["seconds"]["learning"] < 200_000


def test_start_counts_from_when_the_trial_was_asked_for(tmp_path: Path) -> None:
    """After a crash from the last sign of life, for Ray asks again by itself; what is done twice is told apart."""
    folder = RunFolder(tmp_path)
    folder.create(CONFIG)
    asked = time.time() - 100_000
    with pytest.raises(Killed):
        looped(CONFIG, Reaper(5, 0).wrap(evaluate), folder, requested_at=asked, checkpoint_clock=clock())
    first = folder.status["seconds"]
    assert 100_000 <= first["start"] < 200_000
    state, _ = folder.load_checkpoint()
    assert state is not None
    assert state["seconds"]["start"] == first["start"]
    # long after the newest checkpoint, and fifty minutes ago, it was killed
    lost = {**first, "learning": first["learning"] + 5000}
    folder.write_status({**folder.status, "seconds": lost, "updated": time.time() - 3000})
    looped(CONFIG, evaluate, folder, requested_at=asked)
    spent = folder.status["seconds"]
    assert 103_000 <= spent["start"] < 200_000
    assert 5000 <= spent["repeated"] < 10_000
    assert spent["learning"] < 5000


@pytest.mark.parametrize("at", [1, 3, 4, 7, 18])
def test_a_checkpoint_that_is_asked_for_comes_at_once(tmp_path: Path, at: int) -> None:
    """Hours before the next one would, in the middle of a row; it answers once, and changes nothing of what is learned."""
    folder, whole = RunFolder(tmp_path / "asked"), RunFolder(tmp_path / "whole")
    for each in folder, whole:
        each.create(CONFIG)
    saved = []

    def ask(status: dict[str, Any]) -> None:
        saved.append(status["saved"])
        if status["step"] == at and not status["saved"]:
            folder.ask_to_save()
        elif status["saved"] == at:
            raise Killed

    config = CONFIG.replaced(checkpoint_minutes=600)
    with pytest.raises(Killed):
        looped(config, evaluate, folder, progress=ask, status_seconds=0)
    assert sorted(set(saved)) == [0, at]
    assert not folder.asked_to_save
    looped(config, evaluate, folder)
    looped(CONFIG, evaluate, whole)
    assert learned(folder) == learned(whole)
    for name in ("metrics.csv", "returns.csv"):
        rows, undisturbed = (
            pd.read_csv(each.path / name).drop(columns="steps_per_second", errors="ignore") for each in (folder, whole)
        )
        pd.testing.assert_frame_equal(rows, undisturbed, check_exact=True)


BEST = {6: (1.0, 5.0, np.nan), 12: (3.0, 2.0, np.nan), 18: (3.0, 1.0, np.nan), 20: (2.0, 4.0, np.nan)}
"""Step -> score of each member; the last one has diverged."""


def keeping(
    folder: RunFolder, *, kept: bool = True, newest: int = 0, kill: int = 0, every: float = 1
) -> dict[int, torch.Tensor]:
    """Train three members whose scores are ``BEST``; returns the actors of each evaluation, ``[3, P]``."""
    config = CONFIG.replaced(keep_best=kept, keep_checkpoints=newest, members=(*CONFIG.members, member(9)))
    folder.create(config)
    seen: dict[int, torch.Tensor] = {}

    def known(policy: Policy, index: int, episodes: int) -> Rollouts:
        step = list(BEST)[index]
        seen[step] = policy.parameters["actor"].clone()
        scores = np.array(BEST[step])[:, None].repeat(episodes, axis=1)
        span = RING.expert_return - RING.random_return
        return Rollouts(RING.random_return + scores * span / 100, np.ones_like(scores, dtype=int))

    if kill:
        with pytest.raises(Killed):
            looped(config, Reaper(kill, 0).wrap(known), folder, checkpoint_clock=clock((every,)))
    else:
        looped(config, known, folder, checkpoint_clock=clock((every,)))
    return seen


@pytest.mark.parametrize("every", [0.1, 1, 5])
@pytest.mark.parametrize("kill", [0, 3, 5, 7])
def test_each_member_keeps_its_best_evaluation(tmp_path: Path, kill: int, every: float) -> None:
    """Wherever it is killed, before or after its best, with a checkpoint then or without."""
    folder = RunFolder(tmp_path)
    if kill:
        keeping(folder, kill=kill, every=every)
    seen = keeping(folder)
    best, newest = members(folder, which=0, best=True) + members(folder, which=1, best=True), members(folder)
    assert [policy.card.step for policy in best] == [12, 6]
    assert [policy.card.score for policy in best] == pytest.approx([3.0, 5.0])
    assert [policy.card.step for policy in newest] == [20, 20, 20]
    for k, policy in enumerate(best):
        if policy.card.step in seen:  # else it was evaluated before the kill
            assert torch.equal(policy.policy.parameters["actor"][0], seen[policy.card.step][k])
    with pytest.raises(UserError, match="member 2"):
        members(folder, best=True)


@pytest.mark.parametrize("kill", [0, 3, 5, 7])
def test_the_newest_evaluations_are_kept(tmp_path: Path, kill: int) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    seen = keeping(whole, kept=False, newest=3)
    if kill:
        keeping(folder, kept=False, newest=3, kill=kill)
    keeping(folder, kept=False, newest=3)
    assert folder.config.kept_steps == (12, 18, 20)
    for step in folder.config.kept_steps:
        for k, policy in enumerate(members(folder, step=step)):
            assert torch.equal(policy.policy.parameters["actor"][0], seen[step][k])
            assert policy.card.step == step
            score = BEST[step][k]
            assert policy.card.score == (None if np.isnan(score) else pytest.approx(score))
    with pytest.raises(UserError, match=r"no policy of step 6\. .*of: 12, 18, 20\."):
        members(folder, step=6)
    with pytest.raises(UserError, match="choose one"):
        members(folder, step=12, best=True)
    assert folder.config.key == CONFIG.replaced(members=folder.config.members).key, (
        "it changes nothing of what is learned"
    )


def test_what_is_kept_may_change_when_a_trial_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keeping(folder, kept=False, kill=3)
    assert folder.config.kept_steps == (20,)
    keeping(folder, kept=False, newest=2)
    assert folder.config.kept_steps == (18, 20), "the folder says what it has"
    assert members(folder, step=18)


def test_the_best_is_kept_from_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keeping(folder, kept=False, kill=5, every=5)
    keeping(folder, every=5)
    best = members(folder, which=0, best=True) + members(folder, which=1, best=True)
    assert [(policy.card.step, policy.card.score) for policy in best] == [
        (18, pytest.approx(3.0)),
        (20, pytest.approx(4.0)),
    ]
    plain = RunFolder(tmp_path / "plain")
    keeping(plain, kept=False)
    assert RunFolder(tmp_path).config.key == plain.config.key, "it changes nothing of what is learned"
    with pytest.raises(UserError, match="--keep-best"):
        members(plain, best=True)


def test_sinks_are_closed_once_whatever_happens(tmp_path: Path) -> None:
    sink, folder = Memory(), RunFolder(tmp_path / "failing")
    folder.create(CONFIG)
    with pytest.raises(ZeroDivisionError):
        looped(CONFIG, lambda policy, index, episodes: 1 / 0, folder, sinks=[sink])
    assert sink.closed == 1

    class Slow(Memory):
        def close(self, pruned: str = "") -> None:
            assert not folder.ended, "what is still to be shown belongs to the trial's time"
            time.sleep(0.2)
            super().close()

    sink, folder = Slow(), RunFolder(tmp_path / "whole")
    folder.create(CONFIG)
    looped(CONFIG, evaluate, folder, sinks=[sink])
    assert sink.closed == 1
    assert folder.status["seconds"]["tracking"] >= 0.2


def test_damaged_checkpoint_is_mentioned(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(CONFIG)
    with pytest.raises(Killed):
        looped(CONFIG, Reaper(7, 0).wrap(evaluate), folder, checkpoint_clock=clock())
    newest = max((tmp_path / "checkpoint").glob("*.pt"))
    newest.write_bytes(b"")
    looped(CONFIG, evaluate, folder)
    (note,) = folder.status["notes"]
    assert newest.name in note


def test_complete_trial_is_left_alone(tmp_path: Path) -> None:
    """Run again, even without its checkpoints: nothing is learned, judged, shown or written."""
    done, folder = straight(CONFIG, tmp_path)
    for file in (folder.path / "checkpoint").iterdir():
        file.unlink()
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    refuse = mock.Mock(side_effect=AssertionError)
    again = looped(CONFIG, refuse, folder, sinks=[mock.Mock(log=refuse)], report=refuse, progress=refuse)
    assert again == done.result
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == before


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    """A folder whose checkpoint was put there by hand: said clearly, and nothing is dropped."""
    _, folder = straight(CONFIG, tmp_path)
    folder.write_status({"state": "stopped", "step": 20})
    before = (folder.path / "metrics.csv").read_bytes()
    _, wider = straight(CONFIG.with_settings(hidden_size=12), tmp_path)
    shutil.copytree(wider.path / "checkpoint", folder.path / "checkpoint", dirs_exist_ok=True)
    with pytest.raises(UserError, match="another pack, network or version"):
        looped(CONFIG, evaluate, folder)
    assert (folder.path / "metrics.csv").read_bytes() == before


# A whole trial, in this process ---------------------------------------------------------------------------------------


def trained(path: Path, config: RunConfig = CONFIG, **arguments: Any) -> RunFolder:
    """The run folder after training the trial in this process, by default on the data of this file."""
    arguments = {"folder": RunFolder(path), "load": lambda: DATA, "machine": CPU} | arguments
    given = {field.name: arguments.pop(field.name) for field in fields(Assignment) if field.name in arguments}
    run([Assignment(config, **given)], **arguments)
    return given["folder"]


def contents(folder: RunFolder) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


def test_trial_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    folder = trained(tmp_path, report=reports.append)
    assert folder.ended
    assert [report["step"] for report in reports] == [6, 12, 18, 20]
    assert folder.config == CONFIG
    assert folder.environment["dataset"]["checksum"] == "c0ffee"
    assert {file.name for file in folder.path.iterdir()} == {
        "config.json", "environment.json", "metrics.csv", "returns.csv", "status.json", "owner", "checkpoint",
    }  # fmt: skip


def test_sinks_are_made_from_what_the_trial_runs_with(tmp_path: Path) -> None:
    sink, seen = Memory(), []
    folder = trained(tmp_path, sinks=lambda environment: seen.append(environment) or [sink])
    assert seen == [folder.environment]
    assert list(sink.by_step()) == [4, 6, 8, 12, 16, 18, 20]
    assert sink.closed == 1


def test_failure_is_written_down_and_overcome(tmp_path: Path) -> None:
    """The status says why, beside what was learned; the next attempt continues and clears it."""
    with pytest.raises(RuntimeError):
        trained(tmp_path, report=mock.Mock(side_effect=RuntimeError("the simulator fell over")))
    folder = RunFolder(tmp_path)
    assert folder.status["state"] == "failed"
    assert folder.status["error"] == "RuntimeError: the simulator fell over"
    assert "Traceback" in folder.status["details"]
    assert folder.status["step"] > 0
    trained(tmp_path)
    assert folder.ended
    assert "error" not in folder.status


def test_missing_data_are_a_failure_without_a_traceback(tmp_path: Path) -> None:
    config = CONFIG.replaced(task="hopper-medium-expert-v2")
    (tmp_path / "data").mkdir()
    load = functools.partial(data.load, get_task(config.task), config.data, (tmp_path / "data",))
    with pytest.raises(UserError, match="hopper_medium_expert-v2"):
        trained(tmp_path / "run", config, load=load)
    status = RunFolder(tmp_path / "run").status
    assert (status["state"], status["details"]) == ("failed", "")
    assert "hopper_medium_expert-v2" in status["error"]


def test_complete_trial_survives_the_loss_of_its_data(tmp_path: Path) -> None:
    before = contents(trained(tmp_path))
    assert contents(trained(tmp_path, load=mock.Mock(side_effect=UserError("gone")))) == before


def test_failure_keeps_the_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status({"state": "running", "step": 7, "last": 3.0})
    folder.fail("out of memory", "details")
    status = folder.status
    assert {name: status[name] for name in ("state", "step", "last", "error", "details")} == {
        "state": "failed", "step": 7, "last": 3.0, "error": "out of memory", "details": "details",
    }  # fmt: skip


# What it ran with -----------------------------------------------------------------------------------------------------


def test_environment_is_plain_and_complete() -> None:
    facts = describe(RING, DATA.info, torch.device("cpu"))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(PACKAGES) | {"python"} == set(facts["versions"])
    assert facts["device"].startswith("cpu: ")
    assert facts["dataset"]["behaviour_return"] == 1.5
    assert "returns" not in facts["dataset"]


def test_behaviour_of_no_whole_trajectory_has_no_return() -> None:
    info = DatasetInfo("d4rl", Path("x.hdf5"), "c", "other", "note", 50, 0, np.zeros(0))
    facts = describe(get_task("hopper-medium-v2"), info, torch.device("cpu"))
    assert facts["dataset"]["behaviour_return"] is None
    assert facts["dataset"]["path"] == "x.hdf5"


def test_commit_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that starts a sweep, for workers without a checkout."""
    git_commit.cache_clear()
    monkeypatch.setenv("DIFFCPS_COMMIT", "0123456789ab-dirty")
    assert git_commit() == "0123456789ab-dirty"
    git_commit.cache_clear()
    monkeypatch.delenv("DIFFCPS_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown", "no git on this machine"
    git_commit.cache_clear()
