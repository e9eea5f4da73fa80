"""The status of a trial: how far it is, what its time went to, and checkpoints that are asked for."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from looped import CONFIG, Killed, Reaper, clock, evaluate, learned, looped, straight

from diffcps.config import RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.runs.trial import read_trial
from diffcps.training import cost
from diffcps.training.beside import at_once
from diffcps.training.course import PURPOSES, Course
from diffcps.training.keeping import Kept
from diffcps.training.status import FILLING, Status
from diffcps.training.workers import Workers


def status_of(config: RunConfig, path: Path, now: Callable[[], float]) -> tuple[Status, SimpleNamespace]:
    """The status of a trial by the clock ``now``, and its learner."""
    learner = SimpleNamespace(step=0, filling=False)
    here = {
        "workers": Workers(),
        "begin_evaluation": at_once,
        "sinks": (),
        "diverged": lambda shown: "",
        "clock": SimpleNamespace(spent={}),
        "scores": [],
        "kept": Kept(config, {}),
    }
    course = Course(config, learner, RunFolder(path), **here)  # type: ignore[arg-type]
    return Status(course, now=now), learner


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
    status.course.folder.create(config)
    for learner.step, now[0], learner.filling in ((0, 0.0, False), (50, 10.0, False), (50, 600.0, True)):
        status.write()
    trial = read_trial(tmp_path, config)
    assert trial.doing.startswith(f"{FILLING}, ")
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
    assert folder.done
    assert folder.status["notes"] == []
    assert set(folder.status["seconds"]) == set(PURPOSES)
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
