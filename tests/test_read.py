"""The one reader of trials and sweeps: damage is named and hides nothing, and states are what is true."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_folders as synthetic

from diffcps.errors import UserError
from diffcps.runs import lock
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import load
from diffcps.runs.read import collect, read, trials
from diffcps.runs.rows import read_rows
from diffcps.runs.trial import QUIET_SECONDS, read_trial, varying


def test_a_running_trial_is_interrupted_once_nobody_can_be_working_on_it(tmp_path: Path) -> None:
    """Whether a process works on it follows from the sweep's lock; a folder that is never locked has only the clock."""
    trial = synthetic.config()
    folder = synthetic.write(tmp_path, trial, "running", 200)
    synthetic.describe(tmp_path, trial)
    assert collect(tmp_path).trials[0].state == "running"
    old = time.time() - QUIET_SECONDS - 60
    folder.write_status({**folder.status, "updated": old})
    assert collect(tmp_path).trials[0].state == "interrupted"
    folder.write_status({**folder.status, "updated": time.time()})
    (tmp_path / lock.LOCK).touch()
    assert collect(tmp_path).trials[0].state == "interrupted"


def test_a_study_is_continued_by_its_own_command(tmp_path: Path) -> None:
    file = synthetic.describe(tmp_path, synthetic.config()) / "sweep.json"
    values = json.loads(file.read_text())
    typed = ["bin/diffcps", "study", "constraint", "--quick"]
    file.write_text(json.dumps(values | {"preset": "study", "command": typed}))
    assert collect(tmp_path).resume == shlex.join(typed)
    file.write_text(json.dumps(values | {"command": typed}))
    assert "--resume" in collect(tmp_path).resume


def test_a_damaged_environment_is_named_and_changes_no_state(tmp_path: Path) -> None:
    trial = synthetic.config()
    folder = synthetic.write(tmp_path, trial)
    for content in ("{", "[]"):
        (folder.path / "environment.json").write_text(content)
        found = read_trial(folder.path)
        assert (found.state, found.environment, found.dataset) == ("complete", {}, {})
        assert str(folder.path / "environment.json") in found.damages[0]
        assert len(found.scores) == 4


def test_a_complete_trial_that_lost_rows_says_so(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    assert not read_trial(folder.path).damages
    for name in ("metrics.csv", "returns.csv"):
        file = folder.path / name
        whole = file.read_bytes()
        for content in (b"\x8f\x02" * 50, whole[: len(whole) // 2]):
            file.write_bytes(content)
            (damage,) = read_trial(folder.path).damages
            assert str(file) in damage
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "damage", [b"100,0,0,\x00\x00\x00,9.0,3\n", b"100,0,zero,1,9.0,3\n", b"\xff\xfe,1,2,3,4,5\n", b"7,7\n"]
)
def test_a_row_with_anything_but_numbers_is_left_out(tmp_path: Path, damage: bytes) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    file = folder.path / "returns.csv"
    whole = read_rows(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    pd.testing.assert_frame_equal(read_rows(file), whole, check_dtype=False)
    assert len(read_trial(folder.path).scores) == 4


def test_run_folders_that_the_plan_does_not_list_follow_in_a_report_only(tmp_path: Path) -> None:
    planned, other = synthetic.config(), synthetic.config(seeds=2)
    for trial in (other, planned):
        synthetic.write(tmp_path, trial)
    synthetic.describe(tmp_path, planned)
    (tmp_path / "runs" / "empty").mkdir()
    assert [trial.key for trial in collect(tmp_path).trials] == [planned.key, other.key]
    sweep = read(tmp_path)
    assert sweep is not None
    assert [trial.key for trial in sweep.trials] == [planned.key]
    assert (sweep.state, sweep.total) == ("complete", 1)


def test_a_search_reads_each_configuration_once(tmp_path: Path) -> None:
    first, second = (synthetic.config(lambda_clip=clip) for clip in (0.1, 0.2))
    space = {"diffusion_steps": [5], "lambda_clip": [], "target_kl": [], "trials": 3}
    synthetic.describe(tmp_path, first, search=space)
    for age, trial in enumerate((second, first)):
        folder = synthetic.write(tmp_path, trial)
        os.utime(folder.path / "config.json", (age, age))
    known = {second.key: second}
    found = list(trials(tmp_path, load(tmp_path), known=known))
    assert [trial.key for trial in found] == [second.key, first.key]
    assert found[0].config is second
    assert known[first.key] == first


def test_a_configuration_that_cannot_be_read_is_asked_for_in_vain(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    (folder.path / "config.json").write_text("{")
    found = read_trial(folder.path)
    assert (found.state, found.stored) == ("damaged", None)
    with pytest.raises(UserError, match=r"config\.json"):
        _ = found.config


def test_settings_are_those_of_all_members(tmp_path: Path) -> None:
    base = synthetic.config(seeds=3)
    members = [
        member.replaced(settings={"lambda_clip": clip})
        for member, clip in zip(base.members, (0.5, 0.0, 0.5), strict=True)
    ]
    mixed = base.replaced(members=tuple(members))
    found = [read_trial(synthetic.write(tmp_path, trial).path) for trial in (base, mixed)]
    assert found[1].values("lambda_clip") == (0.0, 0.5)
    assert found[1].values("algorithm") == ("diffcps",)
    assert found[1].values("no such setting") == ()
    assert varying(found) == ["lambda_clip"]


def test_looking_at_statuses_imports_nothing_slow(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    code = (
        "import sys; from pathlib import Path; from diffcps.runs.trial import read_trial\n"
        f"assert read_trial(Path({str(folder.path)!r})).number('step') == 400\n"
        "print(sorted({'pandas', 'torch', 'mlflow', 'ray', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_newest_row_that_all_members_have(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path, synthetic.config())
    file = folder.path / "metrics.csv"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    found = read_trial(folder.path)
    assert np.isnan(found.metric("lambda")[1][-1]).tolist() == [False, False, True]
    assert found.newest("lambda") == pytest.approx(200 / 350)
    assert np.isnan(found.newest("no such metric"))
    assert RunFolder(folder.path).status["step"] == 400
