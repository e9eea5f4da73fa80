"""The pages that tell how to add something do what they say: every block of Python runs. So does README's."""

import contextlib
import io
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import sweeps
from test_ways import small
from trials import members

from diffcps import algorithms, envs
from diffcps.data.library import SOURCES
from diffcps.tasks.registry import TASKS, get_task

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)


def run(page: str, folder: Path) -> str:
    """What the page's blocks print, run in order in ``folder``; a block with a name of a file is written there."""
    said, names = io.StringIO(), {"__name__": page}
    with contextlib.redirect_stdout(said):
        for block in BLOCKS.finditer((DOCS / page).read_text(encoding="utf-8")):
            if block["file"]:
                (folder / block["file"]).write_text(block["code"], encoding="utf-8")
            else:
                exec(compile(block["code"], page, "exec"), names)
    return said.getvalue()


def test_add_an_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFCPS_HOME", str(tmp_path / "home"))
    with mock.patch.dict(algorithms.ALGORITHMS):
        said = run("add-an-algorithm.md", tmp_path)
    assert "actor_loss,largest_weight,actor_grad_norm" in said
    assert "(3, 2) 5.0" in said


def test_add_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("HOME", "DIFFCPS_HOME", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("DIFFCPS_DATA", raising=False)
    with mock.patch.dict(SOURCES), mock.patch.dict(TASKS):  # the page adds an entry to each
        said = run("add-a-data-set.md", tmp_path)
        assert envs.make_vector(get_task("pendulum-log"), "modern", 2).reset([0, 1]).shape == (2, 3)
    assert "minari-mine-pendulum-v0" in said
    assert "995 transitions of 1000 rows" in said
    for fact in ("pendulum-log.csv", "csv-data", "--data-dir"):
        assert fact in said


def test_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "DIFFCPS_HOME", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    own, policies = BLOCKS.finditer((DOCS.parent / "README.md").read_text(encoding="utf-8"))
    said = io.StringIO()
    with mock.patch.dict(TASKS), contextlib.redirect_stdout(said):
        exec(compile(own["code"], "README.md", "exec"), {})
    assert said.getvalue() == "minari-mine-pendulum-v0\n", "as the comment beside it says"
    run = sweeps.train(small("diffcps", members=members(3)), tmp_path / "run").path
    names = {"observations": np.zeros((5, 1), dtype=np.float32)}
    exec(compile(policies["code"].replace("results/NAME/runs/KEY", str(run)), "README.md", "exec"), names)
    assert names["actions"].shape == (5, 2)
