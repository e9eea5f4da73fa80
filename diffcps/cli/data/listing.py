"""``diffcps data list``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.data.library import Holding
    from diffcps.tasks.registry import Task

_MEANING = {
    "verified": "D4RL's own file: its sha256 is the published one",
    "differs": "not D4RL's file: its sha256 is not the published one",
    "none published": "no sha256 is published for this file",
    "not computed": "not compared yet; use --verify",
}


@dataclass(frozen=True)
class ListData:
    """List the tasks, the sources of their data, the data on this machine, and the folders that were searched."""

    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files, searched first."""
    verify: bool = False
    """Show the sha256 of every D4RL file. It is computed once and remembered until the file changes."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.data import library, provenance
        from diffcps.tasks.registry import MORE, PATTERNS, TASKS, defined, get_task

        console = Console()
        seen: set[str] = set()
        _line(console, f"{'task':29} {'source':9} {'size':>8} {'rows':>10}  sha256", "bold")
        for name in [*TASKS, *defined(), *MORE]:
            try:
                task = get_task(name)
            except UserError as error:
                _line(console, f"{name}\n    {error}", "red")
                continue
            found = library.holdings(
                task, self.data_dir, provenance.sha256_of if self.verify else provenance.known_sha256
            )
            if not found and name in MORE:
                continue
            seen |= {holding.checksum for holding in found if holding.checksum}
            for text, style in self._lines(task, found):
                _line(console, text, style)
        for pattern in PATTERNS:
            _line(console, f"and {pattern}")
        _line(console, "    K, D, S and N stand for numbers")
        _line(console, "")
        for state, meaning in _MEANING.items():
            if state in seen:
                _line(console, f"{state}: {meaning}")
        for text in self._places():
            _line(console, text)

    def _lines(self, task: "Task", found: "list[Holding]") -> Iterator[tuple[str, str]]:
        """The task's lines with their styles: some for each data set on this machine, one for the missing sources."""
        from diffcps.cli.data.downloading import size

        label = task.name
        for holding in found:
            rows = f"{holding.rows:_}".replace("_", " ") if holding.rows is not None else "–"
            check = holding.checksum or ""
            yield f"{label:29} {holding.source:9} {size(holding.size):>8} {rows:>10}  {check}".rstrip(), "bold"
            yield f"    {holding.path}", "default"
            if self.verify and holding.sha256:
                yield f"    sha256 {holding.sha256}", "default"
            if holding.fault:
                yield f"    {holding.fault}", "red"
            label = ""
        absent = [source for source in task.sources if source not in {holding.source for holding in found}]
        if absent:
            yield f"{label:29} {', '.join(absent)}: not on this machine", "default"
        if task.d4rl_file is not None and task.sources[0] in absent:
            yield f"    file {task.d4rl_file}", "dim"

    def _places(self) -> Iterator[str]:
        from diffcps.data import library

        for name in library.SOURCES:
            source = library.source(name)
            yield f"Folders searched for {source.says}:"
            yield from (f"    {line}" for line in source.looked(self.data_dir))
        yield "To download D4RL's files: `diffcps data download TASK…`"


def _line(console: Console, text: str, style: str = "default") -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
