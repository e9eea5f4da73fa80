"""What the processes of a trial import: no seconds and no hundreds of megabytes for what a process does not use."""

import pickle
import subprocess
import sys
from pathlib import Path

from waits import GUARD

from diffcps.config import RunConfig
from diffcps.runs.plan import Plan
from diffcps.storage.location import Location
from diffcps.sweep.driver import Job
from diffcps.sweep.resources import Resources

TRIAL = RunConfig("bandit-ring")


def last_words(script: str, *arguments: object) -> set[str]:
    """The words in the last line that a Python process prints."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_driver_is_light(tmp_path: Path) -> None:
    """No torch, MLflow, h5py and SciPy; pandas only because Ray imports it."""
    script = """
import pickle, sys
from pathlib import Path
import diffcps.sweep
import ray.train, ray.tune
before = set(sys.modules)
from diffcps.sweep import driver, ray_train, retries
job = pickle.loads(Path(sys.argv[1]).read_bytes())
trial = job.plan.trial({"key": job.plan.trials[0].key})
location = job.location.on_this_machine()
found = retries.Retries(location, [trial.key], "launch")
ray_train.trainer(found, ray_train.PlacementGroups(trial.key))
found.begin()
assert next(found.groups()) and not location.run_folder(trial.key).done
print("heavy:", *{"torch", "mlflow", "h5py", "scipy"} & set(sys.modules), *{"pandas"} & (set(sys.modules) - before))
"""
    job = Job(Plan("sweep", "demo", (TRIAL,)), Location(tmp_path), Resources(cpus=1, gpus=0, concurrent=1))
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    assert last_words(script, tmp_path / "job") == {"heavy:"}


def test_train_knows_no_storage_and_no_mlflow(tmp_path: Path) -> None:
    script = """
import sys
from diffcps import cli
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
rooms = {".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("diffcps.")}
print("used:", *{"diffcps.storage", "diffcps.tracking", "diffcps.sweep"} & rooms, *{"mlflow", "ray", "optuna"} & set(sys.modules))
"""
    flags = "--preset", "demo", "--steps", 10, "--seeds", 1, "--rows", 200, "--results", tmp_path
    assert last_words(script, "train", "bandit-ring", *flags) == {"used:"}
