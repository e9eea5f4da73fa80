"""``diffcps sweeps``: what it says of sweeps in every state, damaged ones too, and that looking disturbs nobody."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import run_folders as synthetic

from diffcps import cli
from diffcps.config import RunConfig
from diffcps.files import read_json, write_json
from diffcps.runs.folder import GROWING, RunFolder
from diffcps.runs.lock import LEASE, LOCK, holder
from diffcps.runs.plan import Axis, load
from diffcps.runs.read import Sweep
from diffcps.runs.trial import QUIET_SECONDS
from diffcps.storage.location import Location, opened
from diffcps.storage.remote import Remote, leased
from diffcps.sweep.claim import claimed

CLIPS = 0.1, 0.2, 0.3, 0.4
TRIALS = tuple(synthetic.config("bandit-ring", seeds=2, lambda_clip=clip) for clip in CLIPS)


def call(*arguments: object) -> int:
    """``diffcps sweeps …`` in this process; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffcps", "sweeps", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def records(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What ``--json`` prints."""
    assert call(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call(*arguments) == 0
    return capsys.readouterr().out


def row(text: str, name: str) -> list[str]:
    """The words of the one line that begins with ``name`` and is no sentence."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.split()


def make(results: Path, name: str, *states: str, updated: float | None = None, **values: Any) -> Path:
    """A sweep over λ-clip; each state is a trial's, ``""`` is one that has no run folder yet."""
    folder = synthetic.describe(results / name, *TRIALS[: len(states)])
    (folder / LOCK).touch()
    if updated is not None:
        os.utime(folder / LOCK, (updated, updated))
    for trial, state in zip(TRIALS, states, strict=False):
        if state:
            run = synthetic.write(folder, trial, state, until=400 if state == "complete" else 200)
            scores = {"last": 50.0, "best": 60.0, "steps_per_second": 10.0} if state != "pending" else {}
            at = time.time() if updated is None else updated
            if state != "pending":
                run.write_status({**run.status, **scores, "updated": at, **values})
    return folder


def find(root: Path, name: str) -> Sweep:
    with opened(str(root)) as results:
        return results.find(name)


@contextmanager
def driver(folder: Path) -> Iterator[None]:
    """A main job works on the sweep."""
    with claimed(Location(folder), load(folder)):
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweeps in every state, and folders that are none."""
    root = tmp_path_factory.mktemp("template")
    make(root, "done", "complete", "complete")
    make(root, "broken", "complete", "failed")
    make(root, "halted", "complete", "stopped", "")
    make(root, "killed", "complete", "running", "failed", "")
    make(root, "torn", "complete")
    (root / "torn" / "sweep.json").write_text('{"name": "torn", "tri')
    synthetic.write(root / "single", TRIALS[0])
    (root / "foreign" / "runs").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "mlflow.db").write_text("")
    return root


@pytest.fixture
def results(template: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(template, tmp_path / "results")


def test_list_tells_every_state_and_leaves_out_what_is_no_sweep(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {record["name"]: record for record in records(capsys, "--results", results)}
    assert {name: record["state"] for name, record in found.items()} == {
        "done": "complete", "broken": "some failed", "halted": "stopped", "killed": "stopped", "torn": "damaged",
    }  # fmt: skip
    assert found["killed"]["counts"] == {"complete": 1, "running": 0, "failed": 1, "pruned": 0, "to_go": 2, "total": 4}
    assert found["halted"]["counts"] == {"complete": 1, "running": 0, "failed": 0, "pruned": 0, "to_go": 2, "total": 3}
    assert (found["done"]["last_mean"], found["done"]["best_oracle_mean"]) == (50.0, 60.0)
    assert found["torn"]["counts"]["total"] == 0
    assert "sweep.json cannot be read" in found["torn"]["trouble"]
    resumable = {name for name, record in found.items() if record["resume"]}
    assert resumable == {"broken", "halted", "killed"}

    text = said(capsys, "list", "--results", results)
    assert row(text, "killed") == ["killed", "stopped", "paper", "1/4", "1", "2", "50.0", "60.0", "just", "now"]
    assert row(text, "done")[:4] == ["done", "complete", "paper", "2/2"]
    assert "best (oracle)" in " ".join(text.split())
    assert "torn: " in text
    assert text.count("--resume") == 1, "the command is printed once"
    assert "foreign" not in text
    assert "single" not in text


def test_show_tells_which_trials_train_as_one_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first and the third, and the last with one that is not in the plan any more."""
    folder = make(tmp_path, "packed", *["complete"] * 4)
    assert "pack" not in said(capsys, "show", "packed", "--results", tmp_path).split()
    keys = [trial.key for trial in TRIALS]
    for number, others in (0, [keys[2]]), (2, [keys[0]]), (3, ["gone"]):
        run = RunFolder(folder / "runs" / keys[number])
        run.record_environment(run.environment | {"together": {"with": others, "members": 4}})
    found = records(capsys, "show", "packed", "--results", tmp_path)["trials"]
    assert [record["in_one_pack_with"] for record in found] == [[keys[2]], [], [keys[0]], ["gone"]]
    text = said(capsys, "show", "packed", "--results", tmp_path)
    assert "pack" in text.split()
    lines = [line.split() for line in text.splitlines() if line.startswith("bandit-ring ")]
    assert [line[2] for line in lines] == ["1", "complete", "1", "2"]


def test_newest_comes_first_and_its_command_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, age in (("older", 9000), ("newer", 100)):
        folder = make(tmp_path, name, "stopped", updated=time.time() - age)
        os.utime(folder / "sweep.json", (0, 0))
    text = said(capsys, "--results", tmp_path)
    assert text.index("newer") < text.index("older")
    assert row(text, "newer")[-3:] == ["1", "min", "ago"]
    assert row(text, "older")[-3:] == ["2", "h", "ago"]
    assert f"--resume newer --results {tmp_path}" in text
    assert "--resume older" not in text


def test_a_held_sweep_runs_and_tells_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two at once: 20 s of each to go, then two more of 40 s, one after each: 60 s in all."""
    folder = make(tmp_path, "live", "", "", "", "")
    with driver(folder):
        for trial in TRIALS[:2]:
            run = synthetic.write(folder, trial, "running", until=200)
            run.write_status({**run.status, "steps_per_second": 10.0, "updated": time.time() + 1})
        (record,) = records(capsys, "--results", tmp_path)
        assert record["state"] == "running"
        assert record["held_by"] == f"process {os.getpid()} on {os.uname().nodename}"
        assert record["counts"] == {"complete": 0, "running": 2, "failed": 0, "pruned": 0, "to_go": 2, "total": 4}
        assert record["seconds_left"] == pytest.approx(60.0)
        assert record["resume"] is None
        text = said(capsys, "show", "live", "--results", tmp_path)
        assert "live: running · 2 running, 2 pending of 4 · about 1 min left" in text
        assert text.count("200/400  50%     22.2") == 2
        assert "--resume" not in text
    (record,) = records(capsys, "--results", tmp_path)
    assert (record["state"], record["seconds_left"], record["counts"]["to_go"]) == ("stopped", None, 4)


def test_running_is_only_what_somebody_works_on(tmp_path: Path) -> None:
    """A status of a launch before, or one that is long untouched, is no sign of life."""
    folder = make(tmp_path, "live", "running", "running", "running", "failed")
    with driver(folder):
        since = holder(folder).since  # type: ignore[union-attr]
        ages = (since + 0.5, since - 5, since - 5, since - 5)
        for trial, at in zip(TRIALS, ages, strict=True):
            run = RunFolder(folder / "runs" / trial.key)
            run.write_status({**run.status, "updated": at})
        entry = find(tmp_path, "live")
        assert [trial.state for trial in entry.trials] == ["running", "interrupted", "interrupted", "failed"]
        # the failed one of the launch before will be tried again: 20 s, three times, one at a time
        assert entry.seconds_left() == pytest.approx(80.0)
        long_ago = time.time() - QUIET_SECONDS - 60
        os.utime(folder / LOCK, (0, 0))
        run = RunFolder(folder / "runs" / TRIALS[0].key)
        run.write_status({**run.status, "updated": long_ago})
        assert find(tmp_path, "live").trials[0].state == "interrupted"
    assert {trial.state for trial in find(tmp_path, "live").trials} == {"interrupted", "failed"}


def test_a_sweep_that_has_not_begun_is_starting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    plan = load(make(tmp_path / "elsewhere", "x", ""))
    with claimed(Location(tmp_path / "results" / "fresh"), plan):
        text = said(capsys, "--results", tmp_path / "results")
        assert row(text, "fresh")[:2] == ["fresh", "starting"]
        text = said(capsys, "show", "fresh", "--results", tmp_path / "results")
        assert f"process {os.getpid()}" in text
    assert records(capsys, "--results", tmp_path / "results") == []


def test_show_has_a_line_a_trial_and_says_why_one_failed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", "killed", "--results", results)
    lines = [line.split() for line in text.splitlines() if line.startswith("bandit-ring ")]
    assert [(line[1], line[2]) for line in lines] == [
        ("0.1", "complete"), ("0.2", "interrupted"), ("0.3", "failed"), ("0.4", "pending"),
    ]  # fmt: skip
    assert lines[1][3:] == ["200/400", "50%", "22.2", "50.0", "60.0", "just", "now"]
    assert "Every trial: algorithm diffcps · profile official · T 5 · κ 0.05 · seeds 2" in text
    assert "λ-clip 0.1, 0.2, 0.3, 0.4" in text
    assert "preset paper" in text
    assert "commit 0123456789ab" in text
    assert "data: collected" in text
    assert "RuntimeError: the | disk [is] full" in text
    assert "and more" not in text, "one line"
    assert str(results / "killed" / "runs" / TRIALS[2].key / "status.json") in text
    assert f"tune/sweep_d4rl.py --resume killed --results {results}" in text
    assert f"diffcps report killed --results {results}" in text
    done = said(capsys, "show", results / "done")
    assert "--resume" not in done
    assert "some failed" in said(capsys, "show", "broken", "--results", results)


def test_json_of_one_sweep_is_plain(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(results / "killed" / "runs" / TRIALS[1].key)
    run.write_status({**run.status, "last": float("nan"), "best": float("inf")})
    record = records(capsys, "show", "killed", "--results", results)
    first, second, third, fourth = record["trials"]
    settings = {name: first["settings"][name] for name in ("diffusion_steps", "lambda_clip", "slack")}
    assert (first["task"], settings) == ("bandit-ring", {"diffusion_steps": 5, "lambda_clip": 0.1, "slack": None})
    assert (first["step"], first["steps"], first["last"], first["best_oracle"]) == (400, 400, 50.0, 60.0)
    assert first["data"]["checksum"] == "c0ffee" * 10 + "beef"
    assert (second["state"], second["last"], second["best_oracle"]) == ("interrupted", None, None)
    assert third["trouble"].startswith("RuntimeError")
    assert (fourth["state"], fourth["updated"], fourth["data"]) == ("pending", None, None)
    assert record["commits"] == ["0123456789ab"]


def test_secrets_stay_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, "remote", "failed", error="no answer from https://ann:hunter2@mlflow.org/api")
    values = read_json(folder / "sweep.json")
    command = [
        "tune/sweep_d4rl.py",
        "--tracking-uri",
        "https://ann:hunter2@mlflow.org",
        "--address=local",
        "--concurrent",
        "3",
    ]
    write_json(folder / "sweep.json", values | {"tracking_uri": "https://ann:hun@ter2@mlflow.org", "command": command})
    text = said(capsys, "show", "remote", "--results", tmp_path) + said(capsys, "--results", tmp_path)
    text += json.dumps(records(capsys, "show", "remote", "--results", tmp_path))
    assert "ter2" not in text
    assert "MLflow: https://mlflow.org" in text
    assert "no answer from https://mlflow.org/api" in text
    assert "--address local --concurrent 3" in text


@pytest.mark.parametrize("content", ["", '{"state": "runn', "[]", '{"state": "asleep"}', "null"])
def test_a_damaged_status_is_told_of_where_it_is(
    results: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = results / "halted" / "runs" / TRIALS[1].key / "status.json"
    file.write_text(content)
    # what a kill leaves of a write is no status
    file.with_name(".status.json.123.tmp").write_text("{")
    found = {record["name"]: record for record in records(capsys, "--results", results)}
    assert (found["halted"]["state"], found["halted"]["counts"]["failed"]) == ("stopped", 1)
    assert found["killed"]["state"] == "stopped"
    text = said(capsys, "show", "halted", "--results", results)
    assert "damaged" in text
    assert str(file) in text
    assert [line.split()[2] for line in text.splitlines() if line.startswith("bandit-ring ")] == [
        "complete", "damaged", "pending",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"name": "x", "preset": "paper", "trials": [{"task": 3}], "axes": [], "search": null}']
)
def test_a_damaged_plan_hides_no_other_sweep(results: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (results / "torn" / "sweep.json").write_text(content)
    text = said(capsys, "--results", results)
    assert row(text, "torn")[:2] == ["torn", "damaged"]
    assert "does not describe a sweep" in text
    assert row(text, "done")[1] == "complete"
    assert "does not describe a sweep" in said(capsys, "show", "torn", "--results", results)


def test_a_folder_that_cannot_be_read_hides_no_other(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "killed" / LOCK).unlink()
    (results / "killed" / LOCK).mkdir()
    text = said(capsys, "--results", results)
    assert f"{results / 'killed'} cannot be read: Is a directory" in text
    assert row(text, "done")[1] == "complete"


def test_a_search_counts_what_it_has_still_to_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = (
        Axis("diffusion_steps", (5,)),
        Axis("target_kl", low=0.01, high=0.3, log=True),
        Axis("hidden_size", low=8, high=64),
    )
    folder = synthetic.describe(tmp_path / "hunt", TRIALS[0], axes=axes, search=10)
    for trial, state in zip(TRIALS[:3], ("complete", "stopped", "running"), strict=True):
        synthetic.write(folder, trial, state, until=200)
    broken = folder / "runs" / TRIALS[2].key / "config.json"
    broken.write_text("{")
    (record,) = records(capsys, "--results", tmp_path)
    assert record["counts"] == {"complete": 1, "running": 0, "failed": 1, "pruned": 0, "to_go": 8, "total": 10}
    text = said(capsys, "show", "hunt", "--results", tmp_path)
    assert (
        "Optuna chooses T from 5; κ from 0.01 to 0.3 (logarithmic); hidden_size from 8 to 64 by last; 10 trials a task"
        in text
    )
    assert row(text, TRIALS[2].key)[1] == "damaged"
    assert str(broken) in text


def upload(folder: Path, remote: Remote) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            remote.put(file, file.relative_to(folder).as_posix())


def test_sweeps_in_an_object_store(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same is said of them; who works on one follows from the note that it keeps renewing."""
    url = "memory://bucket/prefix"
    remote = Remote(url)
    upload(results, remote)
    here = {record["name"]: record for record in records(capsys, "--results", results)}
    there = {record["name"]: record for record in records(capsys, "--results", url)}
    assert there.keys() == here.keys()
    for name, record in there.items():
        same = "state", "preset", "counts", "last_mean", "best_oracle_mean", "held_by"
        assert {key: record[key] for key in same} == {key: here[name][key] for key in same}
        assert record["folder"] == f"{url}/{name}"
    assert f"--resume killed --results {url}" in there["killed"]["resume"]
    text = said(capsys, "show", "killed", "--results", url)
    assert f"{url}/killed/runs/{TRIALS[2].key}/status.json" in text
    assert "commit 0123456789ab" in text

    with leased(remote.below("killed"), beat=0.5):
        run = RunFolder(results / "killed" / "runs" / TRIALS[1].key)
        run.write_status({**run.status, "updated": time.time() + 1})
        upload(results, remote)
        record = records(capsys, "show", "killed", "--results", url)
        assert (record["state"], record["held_by"]) == ("running", f"process {os.getpid()} on {os.uname().nodename}")
        assert [trial["state"] for trial in record["trials"]] == ["complete", "running", "failed", "pending"]
        note = remote.read(f"killed/{LEASE}")
    # a note that nobody has renewed, which is what a killed job leaves
    values = json.loads(note or b"")
    for old in (json.dumps(values | {"at": values["at"] - 600}), "[]", "{"):
        remote.write(f"killed/{LEASE}", old.encode())
        assert records(capsys, "show", "killed", "--results", url)["state"] == "stopped"
    assert call("--results", "memory://bucket/elsewhere") == 0
    assert "There is no sweep in memory://bucket/elsewhere" in capsys.readouterr().out
    assert call("--results", "s3://ann:secret@bucket/x") == 2
    assert "secret" not in capsys.readouterr().err


def test_one_reason_of_many_failures_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "full", *["failed"] * 4)
    text = said(capsys, "show", "full", "--results", tmp_path)
    assert text.count("RuntimeError") == 1
    assert "failed: 4 trials: RuntimeError: the | disk [is] full" in text
    assert text.count("status.json") == 3
    assert "and 1 more" in text


def test_mistakes_are_sentences(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, parts in (
        (("show", "kiled", "--results", results), ("no sweep is called 'kiled'", "did you mean 'killed'?", "halted")),
        (("show", "single", "--results", results), ("single holds trials", "diffcps report single")),
        (("show", "foreign/..", "--results", results), ("no sweep is called",)),
        (("--results", results / "nowhere"), (f"{results / 'nowhere'} cannot be read: No such file", "--results")),
        (("show", "x", "--results", results / "mlflow.db"), ("Not a directory",)),
    ):
        assert call(*arguments) == 2
        message = capsys.readouterr().err
        assert all(part in message for part in parts), message
    text = said(capsys, "--results", results / "empty")
    assert "There is no sweep" in text
    assert records(capsys, "--results", results / "empty") == []


@pytest.mark.parametrize("width", [80, 160])
def test_it_fits_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int) -> None:
    folder = tmp_path / "ablation-0a1b2c"
    trials = [synthetic.config("antmaze-medium-diverse-v0", lambda_clip=clip, steps=1_000_000) for clip in CLIPS]
    synthetic.describe(folder, *trials)
    with driver(folder):
        for trial, state in zip(trials, ("running", "failed", "complete"), strict=False):
            run = synthetic.write(folder, trial, state, until=400)
            run.write_status(
                {**run.status, "step": 123_400, "steps_per_second": 4.0, "last": 55.5, "updated": time.time() + 1}
            )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TTY_COMPATIBLE", "1")  # rich takes the capture for a terminal
            patch.setenv("NO_COLOR", "1")
            listed = said(capsys, "--results", tmp_path)
            text = said(capsys, "show", folder.name, "--results", tmp_path)
    for table in (listed, text):
        rows = [line for line in table.splitlines() if line.startswith(("antmaze-", folder.name + "  ", "──"))]
        assert len(rows) >= 2
        assert max(map(len, rows)) <= width
    assert ("123.4k/1M  12%" in text) is (width == 80)
    assert ("Columns left out: " in text) is (width == 80)
    assert "2 d 12 h" in text


def test_a_list_of_sweeps_reads_no_rows(tmp_path: Path) -> None:
    """A thousand trials are counted by their small files alone: what grows with training is not opened."""
    trials = [synthetic.config("bandit-ring", seeds=2, lambda_clip=clip / 1000) for clip in range(1000)]
    folder = synthetic.describe(tmp_path / "large", *trials)
    (folder / LOCK).touch()
    status = {"state": "running", "step": 3, "steps": 400, "steps_per_second": 1.0, "last": 1.0, "updated": time.time()}
    for trial in trials:
        run = folder / "runs" / trial.key
        run.mkdir(parents=True)
        (run / "status.json").write_text(json.dumps(status))
        for name in GROWING:
            (run / name).mkdir()  # cannot be read
    with opened(str(tmp_path)) as results:
        (entry,) = results.sweeps()
    assert entry.counts["interrupted"] == 1000


def test_looking_keeps_nobody_from_taking_hold(tmp_path: Path) -> None:
    folder = make(tmp_path, "busy", "")
    location, plan, ended = Location(folder), load(folder), threading.Event()

    def look() -> None:
        while not ended.is_set():
            holder(folder)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            with claimed(location, plan):
                pass
    finally:
        ended.set()
        thread.join()


def test_nothing_slow_is_imported(tmp_path: Path) -> None:
    folder: Path = make(tmp_path, "done", "complete")
    code = (
        "import sys; from diffcps import cli\n"
        f"sys.argv = ['diffcps', 'sweeps', 'show', 'done', '--results', {str(folder.parent)!r}]\n"
        "try: cli.main()\n"
        "finally: print('imported', sorted({'ray', 'torch', 'mlflow', 'optuna', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported []\n")


def test_a_trial_that_nobody_planned_is_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path, "plain", "complete")
    other: RunConfig = synthetic.config("bandit-ring", seeds=1)
    synthetic.write(folder, other, "failed")
    (folder / "runs" / "notes.txt").write_text("mine")
    entry = find(tmp_path, "plain")
    assert [trial.key for trial in entry.trials] == [TRIALS[0].key]
    assert entry.state == "complete"
