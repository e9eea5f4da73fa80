"""What the commands say to a person: a mistake gets one clear sentence, exit status 2, and leaves nothing behind."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sweeps
import test_d4rl as d4rl_files

from diffcps import cli
from diffcps.sweep.dry_run import Estimator
from diffcps.tasks.registry import TASKS, get_task
from diffcps.text import duration

HOPPER = get_task("hopper-medium-v2")
RING = "--preset", "demo", "--tasks", "bandit-ring"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; no data set and no cluster of this machine is seen."""
    for name, value in {"DIFFCPS_HOME": "home", "HOME": "person", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, str(tmp_path / value) if name != "COLUMNS" else value)
    for name in ("DIFFCPS_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a small file for each of the paper's tasks."""
    folder = tmp_path / "data"
    folder.mkdir()
    for task in TASKS.values():
        if task.d4rl_file:
            d4rl_files.write(folder / task.d4rl_file, d4rl_files.arrays(task))
    return folder


def refused(capsys: pytest.CaptureFixture[str], place: Path, *arguments: object) -> str:
    """What a sweep that must not start says; checks the exit status and that nothing was made."""
    assert sweeps.run_here(*arguments) == 2
    said = capsys.readouterr()
    text = said.err + said.out
    assert "Traceback" not in text
    assert not list(place.iterdir()), "nothing is left behind"
    assert not (place.parent / "home" / "collected").exists(), "nothing was collected for a sweep that cannot start"
    return text


def command(*arguments: object) -> int:
    """``diffcps`` with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffcps", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks", "hoper-medium-v2"), ("hoper-medium-v2", "did you mean 'hopper-medium-v2'")),
        (("--tasks", "bandit-ring", "antmaze-umaze-v9"), ("antmaze-umaze-v9", "did you mean 'antmaze-umaze-")),
        (("--preset", "demmo"), ("demmo", "demo")),
        (("--sedes", "3"), ("--sedes", "--seeds")),
        (("--difusion-steps", "3"), ("--difusion-steps", "--diffusion-steps")),
        (("--steps", "many"), ("many", "--steps")),
        ((*RING, "--diffusion-steps", "0"), ("diffusion_steps", "0", "positive")),
        (("--preset", "search", "--tasks", "bandit-ring", "--diffusion-steps", "5", "0"), ("diffusion_steps", "0")),
        ((*RING, "--lambda-clip=-0.1"), ("lambda_clip", "-0.1", "zero or more")),
        ((*RING, "--lambda-clip", "nan"), ("lambda_clip", "nan")),
        ((*RING, "--target-kl=-1"), ("target_kl", "-1")),
        ((*RING, "--seeds", "0"), ("seeds = 0", "positive")),
        ((*RING, "--steps", "0"), ("steps", "0", "positive")),
        ((*RING, "--batch-size", "0"), ("batch_size", "0")),
        ((*RING, "--episodes=-1"), ("episodes", "-1")),
        ((*RING, "--candidates", "0"), ("candidates", "0")),
        ((*RING, "--evaluate-every", "0"), ("every", "0")),
        ((*RING, "--checkpoint-minutes", "0"), ("checkpoint_minutes", "0")),
        ((*RING, "--rows", "0"), ("rows", "0")),
        (("--preset", "search", "--tasks", "bandit-ring", "--trials", "0"), ("--trials 0",)),
        ((*RING, "--data", "d4rl"), ("bandit-ring", "d4rl", "collected")),
        ((*RING, "--name", "../elsewhere"), ("../elsewhere", "letters")),
        ((*RING, "--tracking-uri", "http://127.0.0.1:9"), ("no MLflow server answers at http://127.0.0.1:9",)),
        ((*RING, "--tracking-uri", "http://me:secret@127.0.0.1:9"), ("MLFLOW_TRACKING_PASSWORD", "127.0.0.1:9")),
        ((*RING, "--tracking-uri", "somewhere"), ("somewhere", "sqlite:////")),
        ((*RING, "--address", "127.0.0.1:9"), ("nothing answers at the Ray address 127.0.0.1:9", "--address local")),
        ((*RING, "--address", "ray://127.0.0.1:9"), ("nothing answers at the Ray address ray://127.0.0.1:9",)),
        ((*RING, "--address", "nonsense"), ("nothing answers at the Ray address nonsense",)),
        ((*RING, "--data-dir", "absent"), ("absent", "no such folder")),
        (("--resume", "absent"), ("no sweep is called 'absent'", "It holds no sweep")),
    ],
)
def test_a_mistake_in_a_flag(capsys, place, arguments, words):
    said = refused(capsys, place, *arguments)
    assert all(word in said for word in words), said
    assert "secret" not in said


def test_ray_address_from_the_environment(capsys, place, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "nothing answers at the Ray address 127.0.0.1:9" in refused(capsys, place, *RING)


def test_missing_data(capsys, place, data):
    (data / str(HOPPER.d4rl_file)).unlink()
    (data / "walker2d_medium-v2.hdf5").unlink()
    said = refused(capsys, place, "--data-dir", data)
    for words in (
        "2 data sets are missing", "hopper_medium-v2.hdf5", "walker2d_medium-v2.hdf5", str(data),
        "Three ways", "diffcps data download hopper-medium-v2 walker2d-medium-v2", "--data-dir", "--data collected",
    ):  # fmt: skip
        assert words in said
    assert "halfcheetah" not in said.split("Three ways")[0], "those that are there are not named as missing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": b"this is no HDF5 file"}, "HDF5"),
        ({"cut": 1500}, "truncated"),
        ({"without": "rewards"}, "rewards"),
        ({"rewards": 39}, "39"),
        ({"observations": float("nan")}, "NaN"),
        ({"actions": 7.0}, "actions"),
        ({"task": "walker2d-medium-v2"}, "17"),
    ],
)
def test_broken_data(capsys, place, tmp_path, change, words):
    folder = tmp_path / "broken"
    folder.mkdir()
    content = d4rl_files.arrays(get_task(change.get("task", HOPPER.name)))
    content.pop(change.get("without"), None)
    if "rewards" in change:
        content["rewards"] = content["rewards"][:39]
    for key in change.keys() & {"observations", "actions"}:
        content[key][5, 1] = change[key]
    file = d4rl_files.write(folder / str(HOPPER.d4rl_file), content)
    if "text" in change or "cut" in change:
        file.write_bytes(change["text"] if "text" in change else file.read_bytes()[: change["cut"]])
    said = refused(capsys, place, "--tasks", HOPPER.name, "--data-dir", folder)
    assert str(file) in said
    assert words in said


@pytest.mark.parametrize("below", ["a regular file", "/proc"])
def test_a_results_folder_that_cannot_be_written(capsys, place, tmp_path, below):
    (tmp_path / "file").touch()
    results = tmp_path / "file" / "results" if below != "/proc" else Path("/proc/results")
    assert f"{results}" in refused(capsys, place, *RING, "--results", results)


def test_a_folder_that_holds_something_else(capsys, place, tmp_path):
    thesis = tmp_path / "results" / "mine" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    said = refused(capsys, place, *RING, "--results", tmp_path / "results", "--name", "mine")
    assert str(thesis.parent) in said
    assert "--name" in said
    assert list((tmp_path / "results").rglob("*")) == [thesis.parent, thesis]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a sweep of 20 steps that was stopped before its first trial."""
    from diffcps.runs.flags import SweepOptions
    from diffcps.runs.planning import build
    from diffcps.storage.location import Location
    from diffcps.sweep import claim

    plan = build(SweepOptions(preset="demo", tasks=("bandit-ring",), steps=20, name="begun"))
    here = Location(tmp_path / "results" / "begun", tracking_uri=f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    with claim.claimed(here, plan):
        claim.begin(here, plan)
    return here.folder


def test_a_folder_that_holds_another_sweep(capsys, place, begun):
    before = {path: path.stat().st_mtime_ns for path in begun.parent.rglob("*.*") if path.name != ".lock"}
    arguments = *RING, "--results", begun.parent, "--name", "begun", "--steps", 30
    said = refused(capsys, place, *arguments)
    assert "holds another sweep" in said
    assert "--resume begun" in said
    after = {path: path.stat().st_mtime_ns for path in begun.parent.rglob("*.*") if path.name != ".lock"}
    assert after == before


def test_resuming_what_is_not_there_or_with_a_change(capsys, place, begun):
    said = refused(capsys, place, "--resume", "begin", "--results", begun.parent)
    assert "no sweep is called 'begin'" in said
    assert "It holds: begun" in said
    said = refused(capsys, place, "--resume", "begun", "--results", begun.parent, "--steps", 30, "--seeds", 3)
    assert "--seeds, --steps would change it" in said


def test_a_sweep_in_use(capsys, place, begun):
    from diffcps.runs.plan import load
    from diffcps.storage.location import Location
    from diffcps.sweep import claim

    with claim.claimed(Location(begun), load(begun)):
        said = refused(capsys, place, "--resume", "begun", "--results", begun.parent)
    assert "is in use by process" in said


# What is printed and what is made


def test_dry_run(capsys, place, data, monkeypatch):
    monkeypatch.setattr(Estimator, "_time", lambda *_: ([0.01], Counter()))
    assert sweeps.run_here("--dry-run", "--data-dir", data) == 0
    said = capsys.readouterr().out
    tasks = [task for task in TASKS.values() if task.in_paper]
    assert len(tasks) == 15
    for task in tasks:
        (line,) = [line for line in said.splitlines() if f" {task.name} " in line]
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        settings = task.settings
        assert cells[:7] == [
            task.name, "d4rl", *(f"{settings[name]:g}" for name in ("diffusion_steps", "lambda_clip", "target_kl")), "5",
            f"{task.steps:,}",
        ]  # fmt: skip
        assert cells[7] == duration(0.01 * task.steps)
        assert f"grad_norm {settings['grad_norm']:g}" in cells[-1]
    assert "15 trials" in said
    assert "each trial takes: CPUs" in said
    assert not list(place.iterdir())


def test_dry_run_times_the_computation_itself(capsys, place):
    assert sweeps.run_here("--dry-run", "--preset", "demo", "--tasks", "bandit-ring") == 0
    said = capsys.readouterr().out
    assert "1 trial" in said
    assert "of work for one trial at a time" in said
    assert not list(place.iterdir())


def test_help_and_flags_of_the_script(place):
    """The script itself, in a process of its own."""
    done = subprocess.run([sys.executable, sweeps.SCRIPT, "--help"], capture_output=True, text=True, check=True)
    for flag in ("--preset", "--tasks", "--resume", "--dry-run", "--data-dir", "--tracking-uri", "--address"):
        assert flag in done.stdout


def test_train_and_report(capsys, place):
    arguments = "train", "bandit-ring", "--preset", "demo", "--steps", 20, "--seeds", 2
    assert command(*arguments) == 0
    said = capsys.readouterr().out
    (folder,) = (place / "results" / "single" / "runs").iterdir()
    assert f"run folder: {folder}" in said
    assert (folder / "returns.csv").exists()
    before = (folder / "metrics.csv").read_text()
    assert command(*arguments) == 0, "a second time finds it done"
    assert (folder / "metrics.csv").read_text() == before
    capsys.readouterr()

    assert command("report", "single") == 0
    assert "bandit-ring" in capsys.readouterr().out
    assert (place / "results" / "single" / "table.md").exists()
    assert command("report", place / "results" / "single") == 0
    capsys.readouterr()
    assert command("report", "singel") == 2
    assert "'singel'" in capsys.readouterr().err


def test_data_commands(capsys, place, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert command("data", "collect", "bandit-ring", "--rows", 100) == 0
    said = capsys.readouterr().out
    assert "100 rows" in said
    assert Path(said.split("\n")[1].strip()).is_dir()
    assert command("data", "collect", "bandit-ring", "--rows", 100) == 0
    assert "already here" in capsys.readouterr().out
    assert command("data", "list", "--data-dir", data) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TASKS)
    assert str(data / str(HOPPER.d4rl_file)) in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "bandit-rign"), "did you mean 'bandit-ring'"),
        (("train", "bandit-ring", "--seeds", 0), "seeds = 0"),
        (("train", "hopper-medium-v2"), "hopper_medium-v2.hdf5"),
        (("train", "bandit-ring", "--data-dir", "absent"), "absent"),
        (("data", "collect"), "Name tasks"),
        (("data", "collect", "hopper-expert-v3"), "did you mean 'hopper-expert-v2'"),
        (("data", "collect", "bandit-ring", "--rows", 0), "rows"),
        (("data", "list", "--data-dir", "absent"), "absent"),
        (("report", "absent"), "absent"),
        (("train", "bandit-ring", "--results", "s3://bucket/x"), "keeps its folder on this machine"),
        (("data", "check", "data"), "does not hold a Minari data set"),
        (("trian", "bandit-ring"), "trian"),
    ],
)
def test_mistakes_in_other_commands(capsys, place, arguments, words):
    (place / "data").mkdir()
    assert command(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err + said.out
    assert "Traceback" not in said.err
    assert not list(place.rglob("config.json"))


# The command from any folder, on any terminal


def test_the_main_job_is_a_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "anywhere"
    place.mkdir()
    monkeypatch.chdir(place)
    assert command("sweep", "--tasks", "hoper-medium-v2") == 2
    assert "'hopper-medium-v2'" in capsys.readouterr().err
    assert not list(place.iterdir())
