"""The notebooks run, and what is committed is what their source gives."""

import ast
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import sweeps
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
import run  # noqa: E402

NOTEBOOKS = run.names()
MOST_BYTES = 400_000
SMALL = "16"
"""Gradient steps of each policy here."""
LOGIC = ast.While, ast.If, ast.ClassDef, ast.Try, ast.Lambda


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NotebookClient, Path]]:
    """One kernel for all notebooks, which is emptied between them: importing torch, Ray and MLflow takes longer than they do."""
    place = tmp_path_factory.mktemp("notebooks")
    (place / "home").mkdir()
    with sweeps.isolated(place / "home"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFCPS_STEPS", SMALL)
        patch.setenv("MINARI_DATASETS_PATH", str(place / "minari"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        client = NotebookClient(nbformat.v4.new_notebook(), resources={"metadata": {"path": str(place)}})
        with client.setup_kernel():
            yield client, place


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_small(path: Path, kernel: tuple[NotebookClient, Path]) -> None:
    client, place = kernel
    book = run.execute(path, place, client)
    last = [cell for cell in book.cells if cell.cell_type == "code"][-1]
    assert last.outputs
    assert str(place) not in json.dumps(book), "a path of this machine is among the outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_the_source(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "executed once, in order"
    assert book.metadata[run.SOURCE] == run.digest(book), "its source has changed since: run `make notebooks`"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_name_no_machine(path: Path) -> None:
    outputs = [cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    text = re.sub(r'"image/png": "[^"]*"', "", json.dumps(outputs, ensure_ascii=False))
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|var|opt|Users|private)/[^ \"\\]*", text)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    for garbage in ("\\u001b", "\\r", "<rich", "object at 0x"):
        assert garbage not in json.dumps(outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_has_no_logic_of_its_own(path: Path) -> None:
    """It calls the library: what would need a branch or a class belongs there."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            assert not [node for node in ast.walk(tree) if isinstance(node, LOGIC)], cell.source


def test_every_notebook_is_described() -> None:
    text = (ROOT / "notebooks" / "README.md").read_text("utf-8")
    assert all(f"]({path.name})" in text for path in NOTEBOOKS)
    assert len(NOTEBOOKS) == 6
