"""A wheel is complete: in an environment of its own, far from the repository, it does what the repository does."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from waits import GUARD

ROOT = Path(__file__).parents[1]


def done(*command: object, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [*map(str, command)]
    found = subprocess.run(words, cwd=cwd, env=own, capture_output=True, text=True, timeout=GUARD, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources; setuptools would leave its own folders beside them."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "diffcps", copy / "diffcps", ignore=shutil.ignore_patterns("__pycache__"))
    for name in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(ROOT / name, copy)
    done(
        sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "made", cwd=copy
    )
    (made,) = (copy / "made").iterdir()
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what the wheel needs is found where these tests find it."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    done(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--no-deps", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return folder


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "diffcps").rglob("*") if path.is_file()}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("diffcps/")}
    assert inside == {name for name in here if "__pycache__" not in name}


def test_its_commands_work_in_any_folder(environment: Path, tmp_path: Path) -> None:
    where = "import diffcps; print(diffcps.__file__)"
    assert done(environment / "bin/python", "-c", where, cwd=tmp_path).startswith(str(environment))
    command = environment / "bin/diffcps"
    assert "hopper-medium-v2" in done(command, "data", "list", cwd=tmp_path)
    planned = done(command, "sweep", "--preset", "demo", "--tasks", "bandit-corners", "--dry-run", cwd=tmp_path)
    assert "bandit-corners" in planned
    trained = "train", "bandit-corners", "--preset", "demo", "--rows", 500, "--steps", 20, "--seeds", 1
    assert "run folder" in done(command, *trained, "--results", tmp_path / "results", cwd=tmp_path)
