"""Interruptions: how many a trial bears, who may write when two think that they should, full disks, and what hangs.

The minutes of ``python -m tests.chaos`` are among the slow ones.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import looped as trials
import pytest
import sweeps
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from sweeps import Session
from waits import GUARD

from diffcps.files import DiskFullError, write_atomically
from diffcps.runs.folder import RunFolder, TakenOverError
from diffcps.runs.plan import Plan, load
from diffcps.storage.location import Location
from diffcps.storage.mirror import MirroredFolder
from diffcps.storage.remote import Remote
from diffcps.sweep import claim
from diffcps.sweep.driver import Job, more_trials
from diffcps.sweep.ray_train import Reserve, RetryPolicy, TrialWorkers, cause_of, left_behind, someone_waits
from diffcps.sweep.resources import Resources
from diffcps.sweep.retries import CRASHES, INTERRUPTIONS, Retries
from diffcps.training.watchdog import Watchdog

CONFIG = trials.CONFIG.replaced(checkpoint_minutes=1e-9)  # a checkpoint a row
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed."
)
NODE_GONE = "The actor died because its node has died. Node Id: abc\n\tthe actor's node was terminated unexpectedly."


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The trial without any interruption."""
    return trials.trained(tmp_path_factory.mktemp("undisturbed"))


def died(text: str = KILLED) -> WorkerGroupError:
    """What Ray Train's controller is told when a worker is gone."""
    failure = RayActorError(error_msg=text)
    return WorkerGroupError("", {0: WorkerHealthCheckFailedError("A worker health check failed.", failure)})


# How many interruptions a trial bears ---------------------------------------------------------------------------------


def begun(location: Location, launch: str = "launch-1") -> Retries:
    trial = Retries(location, [CONFIG.key], launch)
    trial.begin()
    return trial


def tell(location: Location, step: int, saved: int) -> None:
    location.run_folder(CONFIG.key).write_status({"state": "running", "step": step, "saved": saved, "steps": 20})


def test_a_trial_that_gets_on_survives_any_number_of_deaths(tmp_path: Path) -> None:
    location = Location(tmp_path)
    trial = begun(location)
    for step in range(30):
        tell(location, 10 * step + 5, 10 * step)
        for _ in range(CRASHES - 1):
            assert trial.again(cause_of(died()))
    record = location.run_folder(CONFIG.key).attempts
    assert record["interruptions"] == 30 * (CRASHES - 1)
    assert len(record["newest"]) == 20, "the record does not grow for ever"


@pytest.mark.parametrize(
    ("saved", "where"), [(1200, "its next checkpoint (the last is of step 1,200)"), (0, "its first")]
)
def test_a_trial_that_dies_again_and_again_at_one_place_fails(tmp_path: Path, saved: int, where: str) -> None:
    location = Location(tmp_path)
    trial = begun(location)
    tell(location, saved + 7, saved)
    decisions = [trial.again(cause_of(died())) for _ in range(CRASHES)]
    assert decisions == [True] * (CRASHES - 1) + [False]
    status = location.run_folder(CONFIG.key).status
    assert status["state"] == "failed"
    assert status["error"].startswith(f"its worker died {CRASHES} times in a row before {where}")
    assert "killed, out of memory, or crashed" in status["error"]

    again = begun(location, "launch-2")
    tell(location, saved + 7, saved)
    assert again.again(cause_of(died())), "the next launch has fresh attempts"
    assert location.run_folder(CONFIG.key).attempts["interruptions"] == CRASHES + 1


def test_what_comes_from_outside_is_borne_more_often(tmp_path: Path) -> None:
    """Lost machines and dead drivers count together, before the first checkpoint too, and have an end as well."""
    location = Location(tmp_path)
    for count in range(1, INTERRUPTIONS):
        trial = begun(location)
        assert list(trial.groups()) == [(CONFIG.key,)]
        assert location.run_folder(CONFIG.key).attempts["external"] == count - 1
    assert trial.again(cause_of(died(NODE_GONE)))
    last = begun(location)
    assert not list(last.groups())
    status = location.run_folder(CONFIG.key).status
    assert status["state"] == "failed"
    assert (
        f"it was interrupted {INTERRUPTIONS} times in a row before its first checkpoint: its driver" in status["error"]
    )


def test_deaths_of_its_own_and_from_outside_are_counted_apart(tmp_path: Path) -> None:
    location = Location(tmp_path)
    trial = begun(location)
    for error in [died(), died(NODE_GONE)] * (CRASHES - 1):
        assert trial.again(cause_of(error))
    record = location.run_folder(CONFIG.key).attempts
    assert (record["crashes"], record["external"]) == (CRASHES - 1, CRASHES - 1)


def test_what_the_worker_says_itself_is_the_reason(tmp_path: Path) -> None:
    location = Location(tmp_path)
    trial = begun(location)
    for _ in range(CRASHES):
        location.run_folder(CONFIG.key).fail("RuntimeError: the simulator fell over", "its traceback")
        trial.again(cause_of(WorkerGroupError("", {0: RuntimeError("the simulator fell over")})))
    status = location.run_folder(CONFIG.key).status
    assert status["error"].endswith("first checkpoint: RuntimeError: the simulator fell over")
    assert status["details"] == "its traceback"


def test_waiting_for_machines_costs_nothing(tmp_path: Path) -> None:
    location = Location(tmp_path)
    policy = RetryPolicy(begun(location), pause=0.01)
    start = time.monotonic()
    for _ in range(100):
        error = ControllerError(InsufficientClusterResourcesError("no node has a CPU"))
        assert policy.make_decision(error) is FailureDecision.RETRY
    assert time.monotonic() - start >= 1
    assert location.run_folder(CONFIG.key).attempts["interruptions"] == 0


def test_a_complete_trial_and_one_that_another_drives_are_left_alone(tmp_path: Path) -> None:
    location = Location(tmp_path)
    old = begun(location)
    new = begun(location)
    before = location.run_folder(CONFIG.key).attempts
    assert not old.again(cause_of(died()))
    assert location.run_folder(CONFIG.key).attempts == before
    location.run_folder(CONFIG.key).write_status({"state": "complete", "step": 20, "saved": 20})
    assert not new.again(cause_of(died()))
    assert location.run_folder(CONFIG.key).done
    assert location.run_folder(CONFIG.key).attempts == before


@pytest.mark.parametrize(
    ("error", "external", "words"),
    [
        (died(), False, "killed, out of memory, or crashed"),
        (died(NODE_GONE), True, "terminated unexpectedly"),
        (WorkerGroupError("", {0: WorkerHealthCheckTimeoutError("hanging")}), False, "did not answer"),
        (WorkerGroupError("", {0: ValueError("no"), 1: died(NODE_GONE).worker_failures[0]}), True, "terminated"),
        (ControllerError(WorkerGroupStartupFailedError("at least one")), False, "at least one"),
        (ControllerError(ZeroDivisionError("oh")), False, "ZeroDivisionError: oh"),
    ],
)
def test_causes_are_told_in_a_sentence(error: Exception, external: bool, words: str) -> None:
    cause = cause_of(error)
    assert cause.external is external
    assert words in cause.text
    assert len(cause.text) <= 400
    assert "\n" not in cause.text


def test_what_a_dead_driver_has_reserved_is_given_back() -> None:
    """The groups of the trial's earlier drivers, of other dead drivers, and of a sweep whose process is dead; no others."""
    alive, dead = "01000000", "02000000"
    table = {
        f"{number:028x}{job}": {"name": name, "state": state}
        for number, (name, state, job) in enumerate(
            [
                ("diffcps:launch-1:ring:a1:gone", "CREATED", alive),
                ("diffcps:launch-1:ring:b2:gone", "REMOVED", alive),
                ("diffcps:launch-1:ring2:c3:here", "CREATED", alive),
                ("diffcps:launch-1:ring2:c4:gone", "CREATED", alive),
                ("diffcps:launch-2:ring:d4:here", "PENDING", alive),
                ("diffcps:launch-0:corners:e5:here", "CREATED", dead),
                ("diffcps:launch-0:corners:f6:gone", "REMOVED", dead),
                ("diffcps:launch-1:ring:g7:here", "CREATED", alive),
                ("another program's:gone", "CREATED", dead),
                ("", "CREATED", alive),
            ]
        )
    }
    found = left_behind(table, "diffcps:launch-1:ring", {dead}, is_dead=lambda driver: driver == "gone")
    assert [table[identity]["name"].split(":")[3] for identity in found] == ["a1", "c4", "e5", "g7"]


def test_a_worker_is_not_kept_where_another_trial_waits_for_room() -> None:
    def table(*groups: tuple[str, str]) -> dict[str, dict[str, str]]:
        return {str(number): {"name": name, "state": state} for number, (name, state) in enumerate(groups)}

    assert someone_waits(
        table(("diffcps:launch-1:ring:a1:here", "CREATED"), ("diffcps:launch-2:ring:b2:there", "PENDING"))
    )
    assert not someone_waits(table(("diffcps:launch-1:ring:a1:here", "CREATED"), ("another program's", "PENDING")))


def test_a_worker_is_kept_while_there_are_trials_that_nobody_has_begun(tmp_path: Path) -> None:
    plan, location = Plan("own", "demo", (CONFIG, CONFIG.replaced(steps=98))), Location(tmp_path)
    job = Job(plan, location, Resources(1, 0, 1))
    for trial in plan.trials:
        assert more_trials(job)
        location.run_folder(trial.key).path.mkdir(parents=True)
    assert not more_trials(job)


class Kept:
    """Stands for a reserved worker."""

    def __init__(self, *, alive: bool = True) -> None:
        self.worker, self.alive, self.ended = SimpleNamespace(resources={"CPU": 1.0}), alive, Event()

    def answers(self) -> bool:
        return self.alive

    def end(self) -> None:
        self.ended.set()


class BrokenStart(TrialWorkers):
    """Its worker dies after Ray Train believes that the group has started."""

    def __init__(self, reserved: Any) -> None:
        self._worker_group_state: Any = object()
        self.reserved = reserved

    def _start_impl(self, *arguments: Any) -> None:
        raise RayActorError


def test_a_start_that_fails_gives_the_kept_workers_cpus_back() -> None:
    kept = Kept()
    with pytest.raises(RayActorError):
        BrokenStart(kept)._start()
    assert kept.ended.is_set()


def test_a_worker_waits_for_the_next_trial_and_not_for_ever() -> None:
    reserve: Any = Reserve(seconds=GUARD)
    assert reserve.take([{"CPU": 1.0}]) is None
    reserve.keep(kept := Kept())
    assert reserve.take([{"CPU": 1.0}]) is kept
    assert reserve.take([{"CPU": 1.0}]) is None, "it is given once"
    for unfit, wanted in (Kept(alive=False), [{"CPU": 1.0}]), (Kept(), [{"CPU": 2.0}]), (Kept(), [{"CPU": 1.0}] * 2):
        reserve.keep(unfit)
        assert reserve.take(wanted) is None
        assert unfit.ended.is_set()
    assert not kept.ended.is_set()
    broken = Kept()
    broken.answers = lambda: 1 / 0  # type: ignore[method-assign]
    reserve.keep(broken)
    with pytest.raises(ZeroDivisionError):
        reserve.take([{"CPU": 1.0}])
    assert broken.ended.is_set(), "whatever goes wrong, its CPUs are given back"
    short: Any = Reserve(seconds=0.05)
    short.keep(late := Kept())
    assert late.ended.wait(GUARD)
    assert short.take([{"CPU": 1.0}]) is None


def test_running_trials_are_asked_for_a_checkpoint_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(tmp_path / "sweep")
    folder, other, earlier = (location.run_folder(CONFIG.replaced(steps=steps).key) for steps in (97, 98, 99))
    begun = time.time()
    for each, state, updated in (folder, "running", begun), (other, "complete", begun), (earlier, "running", begun - 9):
        each.path.mkdir(parents=True)
        (each.path / "config.json").touch()
        each.write_status({"state": state, "step": 7, "saved": 3, "updated": updated})
    claim.save_running(location, begun, 0.1)
    assert folder.asked_to_save
    assert not earlier.asked_to_save, "it says that it is running, but an earlier launch said so"
    assert not other.asked_to_save

    def answer() -> None:
        while not asking.is_set():
            pass
        folder.write_status({"state": "running", "step": 8, "saved": 8})

    asking = threading.Event()
    monkeypatch.setattr(RunFolder, "ask_to_save", lambda self: asking.set() or True)
    thread = threading.Thread(target=answer)
    thread.start()
    claim.save_running(location, begun, GUARD)
    thread.join()
    assert folder.status["saved"] == 8


# Who may write --------------------------------------------------------------------------------------------------------


def test_only_the_newest_owner_writes(tmp_path: Path) -> None:
    old, new = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    old.create(CONFIG)
    old.claim()
    old.write_status({"state": "running", "step": 1})
    new.create(CONFIG)
    new.claim()
    writes: list[Callable[[], object]] = [
        lambda: old.write_status({"state": "running", "step": 2}),
        lambda: old.save_checkpoint({}, 2),
        lambda: old.rewind(0),
        lambda: old.log(2, CONFIG, {}, ()),
        lambda: old.fail("late"),
        lambda: old.record_environment({"dataset": {"checksum": "c"}}),
    ]
    before = {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()}
    for write in writes:
        with pytest.raises(TakenOverError, match=f"process {os.getpid()}"):
            write()
    assert {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()} == before
    new.write_status({"state": "running", "step": 3})
    assert RunFolder(tmp_path / "run").status["step"] == 3


def test_the_newest_owner_on_any_machine_writes(tmp_path: Path) -> None:
    """Two machines, each with its own copy of a run folder in an object store."""
    store = Remote(f"memory://{tmp_path.name}/run")
    old, new = MirroredFolder(tmp_path / "a", store), MirroredFolder(tmp_path / "b", store)
    for folder in (old, new):
        folder.create(CONFIG)
        folder.claim()
    with pytest.raises(TakenOverError):
        old.save_checkpoint({}, 5)
    with pytest.raises(TakenOverError):
        old.write_status({"state": "complete", "step": 20})
    assert not any(name.startswith("checkpoint") or name == "status.json" for name in store.names())
    new.save_checkpoint({}, 5)
    assert "checkpoint/step_000000005.pt" in store.names()


def test_a_worker_that_was_only_thought_dead_stops(tmp_path: Path, undisturbed: RunFolder) -> None:
    """It stops after an evaluation; another one claims the folder; the first wakes up and leaves without writing."""
    stopped, wake_up = threading.Event(), threading.Event()
    ended: list[Exception] = []

    def sleep(scores: dict[str, float]) -> None:
        if scores["step"] == 12:
            stopped.set()
            wake_up.wait(GUARD)

    def work() -> None:
        try:
            trials.trained(tmp_path, CONFIG, report=sleep)
        except TakenOverError as error:
            ended.append(error)

    old = threading.Thread(target=work)
    old.start()
    assert stopped.wait(GUARD)
    folder = trials.trained(tmp_path, CONFIG)
    assert folder.done
    before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")}
    wake_up.set()
    old.join(GUARD)
    assert len(ended) == 1
    assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")} == before
    sweeps.assert_same_result(folder, undisturbed)


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_no_room_for_a_checkpoint(tmp_path: Path, undisturbed: RunFolder, number: int) -> None:
    """The one before it stays intact, the status says why, and the next attempt continues exactly."""
    seen: list[Path] = []

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".pt":
            seen.append(path)
            if len(seen) == 3:
                raise OSError(number, os.strerror(number), str(path))
        write_atomically(path, content)

    with pytest.raises(DiskFullError, match=os.strerror(number)):
        trials.trained(tmp_path, CONFIG, folder=RunFolder(tmp_path, full))
    folder = RunFolder(tmp_path)
    assert folder.status["state"] == "failed"
    assert "--resume" in folder.status["error"]
    assert seen[2].name in folder.status["error"]
    state, complaints = folder.load_checkpoint()
    assert state is not None
    assert not complaints
    assert f"step_{state['learner']['step']:09d}.pt" == seen[1].name
    sweeps.assert_same_result(trials.trained(tmp_path, CONFIG), undisturbed)


def test_other_errors_of_a_disk_are_tried_again(tmp_path: Path) -> None:
    """A network's file system may fail for a moment: no user can mend that."""

    def failing(path: Path, content: bytes) -> None:
        if path.suffix == ".pt":
            raise OSError(errno.EIO, "Input/output error")
        write_atomically(path, content)

    with pytest.raises(OSError, match="Input/output error"):
        trials.trained(tmp_path, CONFIG, folder=RunFolder(tmp_path, failing))
    assert RunFolder(tmp_path).status["error"] == "OSError: [Errno 5] Input/output error"


def test_no_room_for_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even for the status: the reason is in the log, and no second error hides it."""

    def full(path: Path, content: bytes) -> None:
        if list(tmp_path.rglob("*.pt")):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, content)

    with pytest.raises(DiskFullError, match="No space left"):
        trials.trained(tmp_path, CONFIG, folder=RunFolder(tmp_path, full))
    assert caplog.text.count("No space left") >= 2
    assert trials.trained(tmp_path, CONFIG).done


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_really_is_full(tmp_path: Path) -> None:
    """This process may write files of 100 kB only, which is enough for all but a checkpoint."""
    config = CONFIG.with_settings(hidden_size=64)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match="File too large"):
            trials.trained(tmp_path, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = RunFolder(tmp_path)
    assert folder.status["state"] == "failed"
    assert "File too large" in folder.status["error"]
    assert not list(folder.path.glob("checkpoint/*.pt"))
    assert not list(folder.path.rglob("*.tmp"))
    assert trials.trained(tmp_path, config).done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="makes a small disk in a mount namespace")
def test_every_write_on_a_disk_that_is_full(tmp_path: Path) -> None:
    """A disk of two megabytes, on which the trial is left ever one page more: each of its writes meets the end once.

    It is told which file it was, keeps what it had saved, goes on when there is room, and ends bit-equal.
    """
    enter = ["unshare", "--map-root-user", "--mount"]
    allowed = subprocess.run([*enter, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip(f"may not mount here: {allowed.stderr.decode().strip()}")
    script = Path(__file__).with_name("full_disk.py")
    root = Path(__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'tests'}"}
    done = subprocess.run(
        [*enter, sys.executable, script, tmp_path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    *lines, report, tracking = done.stdout.splitlines()
    assert (report, tracking) == ("table.md", "mlflow")
    refused = {line.split()[1] for line in lines}
    assert refused >= {"owner", "environment.json", "status.json", "metrics.csv"}
    assert sum(name.endswith(".pt") for name in refused) >= 2
    assert len({line.split()[2] for line in lines}) >= 3, "it failed before its first checkpoint and after several"


# What hangs -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_stuck_ends_itself(tmp_path: Path, undisturbed: RunFolder) -> None:
    """It hangs with the GIL held. Its folder says why it ended; the next attempt says so too, and continues exactly."""
    location = Location(tmp_path)
    folder = location.run_folder(CONFIG.key)
    script = f"""
import ctypes
from pathlib import Path
import looped as trials
def hang_with_the_gil(scores):
    if scores["step"] == 12:
        ctypes.PyDLL(None).pause()
config = trials.CONFIG.replaced(checkpoint_minutes=1e-9)
trials.trained(Path({str(folder.path)!r}), config, report=hang_with_the_gil, stuck_after=3.0)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, timeout=GUARD, check=False
    )
    assert done.returncode == 1, done.stderr.decode()
    assert "hang_with_the_gil" in folder.stuck
    assert begun(location).again(cause_of(died()))
    (event,) = folder.attempts["newest"]
    assert "nothing moved for 0:00:03" in event["cause"]
    trials.trained(folder.path, CONFIG)
    assert "nothing moved for 0:00:03" in folder.status["notes"][0]
    sweeps.assert_same_result(folder, undisturbed)


def test_a_watchdog_ends_nothing_before_the_first_heartbeat_and_after_its_end(tmp_path: Path) -> None:
    with Watchdog(None, tmp_path / "never") as never:
        never.heartbeat()
    with Watchdog(0.1, tmp_path / "stuck.txt") as watchdog:
        time.sleep(0.3)
        watchdog.heartbeat()
        assert (tmp_path / "stuck.txt").exists()
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())


def test_a_trial_that_moves_is_left_alone(tmp_path: Path) -> None:
    folder, watched = RunFolder(tmp_path), []
    trials.trained(tmp_path, CONFIG, progress=lambda status: watched.append(folder.trace.exists()), stuck_after=60.0)
    assert all(watched)
    assert not folder.trace.exists()


# On a cluster ---------------------------------------------------------------------------------------------------------

RING = (
    "--preset", "demo", "--tasks", "bandit-ring", "--rows", 500, "--steps", 600, "--batch-size", 32, "--seeds", 2,
    "--diffusion-steps", 3, "--evaluate-every", 200, "--episodes", 20, "--checkpoint-minutes", 1000, "--name", "ring",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[None]:
    """A machine without data sets and without other clusters."""
    with sweeps.isolated(tmp_path / "home"):
        yield


def kill_a_worker(session: Session, folder: RunFolder) -> None:
    """Kill the worker of a trial when it has begun, and wait until the next one starts, or none does any more."""
    session.wait_until(lambda: folder.status["state"] == "running" and session.called("ray::RayTrainWorker"))
    killed = set(session.called("ray::RayTrainWorker"))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    session.wait_until(
        lambda: folder.status["state"] == "failed" or set(session.called("ray::RayTrainWorker")) - killed
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_worker_that_always_dies_fails_its_trial_alone(home: None, tmp_path: Path) -> None:
    """The other trial is complete, the table says why, and resuming gives fresh attempts."""
    session = Session.sweep(tmp_path / "log", *RING, "--lambda-clip", 0, 0.3, "--concurrent", 1, "--results", tmp_path)
    again = None
    try:
        session.wait_until((tmp_path / "ring" / "sweep.json").exists)
        bad, good = (RunFolder(tmp_path / "ring" / "runs" / trial.key) for trial in load(tmp_path / "ring").trials)
        for _ in range(CRASHES):
            kill_a_worker(session, bad)
        assert session.wait() == 1, session.output
        assert good.done
        assert f"its worker died {CRASHES} times in a row before its first checkpoint" in bad.status["error"]
        assert "1 trial failed" in session.output
        assert f"died {CRASHES} times in a row" in (tmp_path / "ring" / "table.md").read_text("utf-8")
        again = Session.sweep(tmp_path / "log2", "--resume", "ring", "--results", tmp_path)
        assert again.wait() == 0, again.output
        assert bad.done
    finally:
        for each in filter(None, [session, again]):
            each.end()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
@pytest.mark.parametrize("arguments", [(), ("--mlflow",)], ids=["sqlite", "server"])
def test_chaos(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Each kind of disturbance once and a few more; see ``python -m tests.chaos`` for the full length."""
    command = [
        sys.executable, "-m", "tests.chaos", "--kills", "14", "--diffusion-steps", "2", "3", "--lambda-clip", "0", "0.2",
        "--steps", "3000", "--folder", tmp_path / "chaos", *arguments,
    ]  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
