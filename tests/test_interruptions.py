"""A sweep that is killed, interrupted or loses a worker ends with the same numbers, and leaves no process behind."""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sweeps
from sweeps import Session

from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import load
from diffcps.training.process import prepare_process

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
    pytest.mark.timeout(1800),
]

STEPS, HALF = 300, 60
RING = (
    "--preset", "demo", "--tasks", "bandit-ring", "--rows", 500, "--steps", STEPS, "--batch-size", 32,
    "--diffusion-steps", 8, "--evaluate-every", 50, "--checkpoint-minutes", 0.001, "--episodes", 20, "--concurrent", 1,
    "--name", "ring",
)  # fmt: skip

Start = Callable[..., Session]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine without data sets and without other clusters."""
    with sweeps.isolated(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a sweep, with its results in ``tmp_path``; whatever of it lives at the end of the test is ended."""
    sessions: list[Session] = []

    def launch(*arguments: object, command: list[str] | None = None) -> Session:
        log = tmp_path / f"launch{len(sessions)}.log"
        session = Session(command, log) if command else Session.sweep(log, *arguments, "--results", tmp_path)
        sessions.append(session)
        return session

    yield launch
    for session in sessions:
        session.end()


@pytest.fixture(scope="module")
def uninterrupted(home: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunFolder], RunFolder]:
    """The same trial trained in this process from its start to its end, without Ray, each seed in a pack of its own."""
    root, done = tmp_path_factory.mktemp("uninterrupted"), {}

    def train(folder: RunFolder) -> RunFolder:
        config = folder.config
        prepare_process(1)  # as a worker does
        if config.key not in done:
            done[config.key] = sweeps.train(config, root, packs=len(config.members))
        return done[config.key]

    return train


def half_way(folder: RunFolder, step: int = HALF) -> Callable[[], Any]:
    """Whether a trial is being trained and has come past a step, short of its end."""

    def reached() -> bool:
        status = folder.status
        assert status["state"] != "complete", "it was over before anything could be done to it"
        return status["state"] == "running" and status["step"] >= step

    return reached


def wait_for_progress(session: Session, folder: RunFolder) -> None:
    """Wait until a trial is being trained by this session; what an earlier one left may say "running" too."""
    begun = time.time()
    session.wait_until(lambda: half_way(folder)() and folder.status["updated"] > begun)


def planned(session: Session, sweep: Path) -> list[RunFolder]:
    """The run folders that a sweep is going to make, in order."""
    session.wait_until((sweep / "sweep.json").exists)
    return [RunFolder(sweep / "runs" / trial.key) for trial in load(sweep).trials]


def kill_driver(session: Session) -> None:
    """End the driver, and then all that Ray has started, as when the machine goes down."""
    # a stopped worker cannot end its trial in the moments between
    for worker in session.called("ray::RayTrainWorker"):
        os.kill(worker, signal.SIGSTOP)
    os.kill(session.process.pid, signal.SIGKILL)
    assert session.wait() == -signal.SIGKILL
    session.end()


def assert_interrupted(session: Session, sweep: Path, folder: RunFolder) -> list[str]:
    """A signal has ended the sweep: what it left and said; returns the command that it printed."""
    assert session.wait() == 130, session.output
    assert not session.left_behind()
    assert folder.status["state"] == "stopped"
    assert "Traceback" not in session.output
    assert "running trials have 10 s to write a checkpoint" in session.output
    levels = sweeps.runs_of(sweep)
    stopped = [run for run in levels["member"] if run.data.tags["config_key"] == folder.config.key]
    assert {run.info.status for run in stopped} == {run.info.status for run in levels["sweep"]} == {"KILLED"}
    states = {run.data.tags["config_key"]: run.info.status for run in levels["trial"]}
    complete = {key for key, other in sweeps.folders_of(sweep).items() if other.done}
    assert states == {folder.config.key: "KILLED"} | dict.fromkeys(complete, "FINISHED")
    assert "stopped" in (sweep / "table.md").read_text("utf-8")
    (command,) = re.findall(r"^ +(\S*python\S* .*--resume.*)$", session.output, re.MULTILINE)
    return shlex.split(command)


def test_killed_driver_signal_and_killed_worker(start, tmp_path, uninterrupted):
    """One trial meets all three, and no trace of them is left; another, complete before, is not touched again.

    Two workers share the seeds of a trial. After the driver's death it continues until Ctrl-C. The command that is printed
    then continues it, and one of its workers is killed.
    """
    sweep = tmp_path / "ring"
    first = start(*RING, "--lambda-clip", 0.3, 0.5, "--seeds", 2, "--workers-per-trial", 2)
    done, cut = planned(first, sweep)
    first.wait_until(half_way(cut))
    kill_driver(first)
    assert done.done
    assert not cut.done
    assert sorted((cut.path / "checkpoint").glob("*.pt")), "there is something to go on from"
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}

    again = start("--resume", "ring", "--workers-per-trial", 2)
    wait_for_progress(again, cut)
    os.kill(again.process.pid, signal.SIGINT)
    last = start(command=assert_interrupted(again, sweep, cut))
    wait_for_progress(last, cut)
    pair = last.wait_until(lambda: len(found := last.called("ray::RayTrainWorker")) == 2 and found)
    os.kill(pair[1], signal.SIGKILL)
    last.wait_until(lambda: set(last.called("ray::RayTrainWorker")) - set(pair))

    assert last.wait() == 0, last.output
    assert not last.left_behind()
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before, "not run again"
    for folder in (done, cut):
        assert folder.done
        sweeps.assert_same_result(folder, uninterrupted(folder))
    sweeps.assert_tree(sweep)


def test_after_the_death_of_a_pack_its_trials_go_on_one_by_one(start, tmp_path):
    """Each in a process of its own, for nobody knows whose fault it was."""
    sweep = tmp_path / "ring"
    session = start(*RING, "--lambda-clip", 0.3, 0.5, "--seeds", 3, "--pack-trials", 2)
    folders = planned(session, sweep)
    session.wait_until(half_way(folders[0]))
    (killed,) = session.called("ray::RayTrainWorker")
    os.kill(killed, signal.SIGKILL)
    assert session.wait() == 0, session.output
    assert not session.left_behind()
    processes = {int((folder.path / "owner").read_text().split()[2]) for folder in folders}
    assert len(processes) == 2
    assert killed not in processes
    prepare_process(1)  # as a worker does
    for folder in folders:
        assert folder.done
        assert folder.attempts["alone"]
        assert [event["external"] for event in folder.attempts["newest"]] == [False]
        sweeps.assert_same_result(folder, sweeps.train(folder.config, tmp_path / "alone"))
    sweeps.assert_tree(sweep)


def test_ctrl_c_ends_a_single_trial_with_a_checkpoint(start, tmp_path):
    """In the middle of its only row."""
    flags = "--rows", 500, "--seeds", 1, "--steps", 3000, "--set", "log_every=3000", "--evaluate-every", 3000
    flags = *flags, "--checkpoint-minutes", 600
    command = ["train", "bandit-ring", "--preset", "demo", *flags, "--results", tmp_path]
    session = start(command=[sys.executable, "-m", "diffcps", *map(str, command)])
    session.wait_until(lambda: list(tmp_path.glob("single/runs/*/status.json")))
    (file,) = tmp_path.glob("single/runs/*/status.json")
    folder = RunFolder(file.parent)
    session.wait_until(lambda: folder.status["step"] > 0)
    assert not folder.status["saved"]
    os.kill(session.process.pid, signal.SIGINT)
    assert session.wait() == 130, session.output
    assert folder.status["state"] == "stopped"
    assert folder.status["saved"] == folder.status["step"] > 0
    assert "Run the same command again" in session.output
    assert "Traceback" not in session.output


@pytest.mark.slow
def test_sigterm(start, tmp_path, uninterrupted):
    """As Ctrl-C."""
    sweep = tmp_path / "ring"
    session = start(*RING)
    (folder,) = planned(session, sweep)
    session.wait_until(half_way(folder))
    os.kill(session.process.pid, signal.SIGTERM)
    again = start(command=assert_interrupted(session, sweep, folder))
    assert again.wait() == 0, again.output
    sweeps.assert_same_result(folder, uninterrupted(folder))
    sweeps.assert_tree(sweep)
