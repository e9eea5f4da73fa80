"""Executes the notebooks in this folder in order, each in its own kernel, and writes their outputs.

``python notebooks/run.py`` runs all of them, ``python notebooks/run.py 01 04`` two. They share a temporary folder, because
some read the results of others. Text that depends on the run or the machine is removed from the outputs: paths, times of
cells, messages on stderr.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 1800
SOURCE = "executed_source"
"""Entry in a notebook's metadata: the digest of the source that gave its outputs."""


def names(*beginnings: str) -> list[Path]:
    """The notebooks whose names start with one of ``beginnings``; by default all, in order."""
    return [path for path in sorted(FOLDER.glob("*.ipynb")) if not beginnings or path.name.startswith(beginnings)]


def execute(path: Path, workplace: Path, client: NotebookClient | None = None) -> NotebookNode:
    """Execute a notebook in the folder ``workplace`` and return it with its outputs; raises when a cell raises.

    ``client``: reuse this client's kernel, after deleting all its variables.
    """
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(workplace)}}
    if client is None:
        NotebookClient(book, timeout=CELL_SECONDS, resources=resources).execute()
        return cleaned(book, workplace)
    own = NotebookClient(book, timeout=CELL_SECONDS, resources=resources, km=client.km)
    own.kc = client.kc
    book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    for index, cell in enumerate(book.cells):
        own.execute_cell(cell, index)
    del book.cells[0]
    return cleaned(book, workplace)


def digest(book: NotebookNode) -> str:
    """A digest of the code cells, without spaces, because a formatter may change them."""
    sources = ["".join(cell.source.split()) for cell in book.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:12]


def cleaned(book: NotebookNode, workplace: Path) -> NotebookNode:
    """The notebook without text that depends on the machine or the run."""
    book.metadata = NotebookNode(kernelspec=book.metadata.kernelspec, language_info={"name": "python"})
    book.metadata[SOURCE] = digest(book)
    for cell in book.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = _joined([_plain(out, workplace) for out in cell.outputs if out.get("name") != "stderr"])
    return book


def _plain(output: NotebookNode, workplace: Path) -> NotebookNode:
    """The output with paths relative to ``workplace``, and this Python by its name."""

    def relative(text: str) -> str:
        return text.replace(f"{workplace}/", "").replace(str(workplace), ".").replace(sys.executable, "python")

    if "text" in output:
        output.text = relative(output.text)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = relative(value)
    # the text alternative of a figure contains a memory address
    if "image/png" in output.get("data", {}):
        output.data = {kind: value for kind, value in output.data.items() if kind == "image/png"}
    return output


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join adjacent pieces of a stream, and drop empty displays."""
    found: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "display_data" and not "".join(output.data.values()).strip():
            continue
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder for everything that notebooks write: data, tasks, results."""
    with tempfile.TemporaryDirectory(prefix="notebooks-", dir="/tmp") as folder:
        path = Path(folder).resolve()
        own = {"DIFFCPS_HOME": "home", "MINARI_DATASETS_PATH": "minari", "RAY_TMPDIR": "ray"}
        with mock.patch.dict(os.environ, {name: str(path / place) for name, place in own.items()}):
            yield path


def main() -> None:
    """Execute notebooks and write them back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("beginnings", nargs="*", help="beginnings of names of notebooks; default: all")
    with workplace() as folder:
        for path in names(*parser.parse_args().beginnings):
            began = time.monotonic()
            nbformat.write(execute(path, folder), path)
            print(f"{path.name}: {time.monotonic() - began:.0f} s, {path.stat().st_size / 1024:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
