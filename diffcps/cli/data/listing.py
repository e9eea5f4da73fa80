"""`diffcps data list`, `minari` and `import`: what data there are, and how others become a task's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.filesize import decimal

from diffcps.errors import UserError
from diffcps.runs.flags import DataFlags, Maybe
from diffcps.text import say

if TYPE_CHECKING:
    from diffcps.data.library import Holding
    from diffcps.data.transitions import DatasetInfo
    from diffcps.tasks.registry import Task


@dataclass(frozen=True)
class ListData(DataFlags):
    """List the tasks, the sources of their data, the data on this machine, and the folders that were searched."""

    verify: bool = False
    """Show the sha256 of every D4RL file. It is computed once and remembered until the file changes."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.data import library, provenance
        from diffcps.tasks.registry import MORE, PATTERNS, TASKS, defined, get_task

        console = Console()
        seen: set[str] = set()
        say(console, f"{'task':29} {'source':9} {'size':>8} {'rows':>10}  sha256", "bold")
        for name in [*TASKS, *defined(), *MORE]:
            try:
                task = get_task(name)
            except UserError as error:
                say(console, f"{name}\n    {error}", "red")
                continue
            found = library.holdings(
                task, self.data_dir, provenance.sha256_of if self.verify else provenance.known_sha256
            )
            if not found and name in MORE:
                continue
            seen |= {holding.checksum_state for holding in found if holding.checksum_state}
            for text, style in self._lines(task, found):
                say(console, text, style)
        for pattern in PATTERNS:
            say(console, f"and {pattern}")
        say(console, "    K, D, S and N stand for numbers")
        say(console, "")
        for state, meaning in provenance.MEANINGS.items():
            if state in seen:
                say(console, f"{state}: {meaning}")
        for text in self._places():
            say(console, text)

    def _lines(self, task: "Task", found: "list[Holding]") -> Iterator[tuple[str, str]]:
        """The task's lines with their styles: some for each data set on this machine, one for the missing sources."""
        label = task.name
        for holding in found:
            rows = f"{holding.rows:,}" if holding.rows is not None else "–"
            check = holding.checksum_state or ""
            yield f"{label:29} {holding.source:9} {decimal(holding.size):>9} {rows:>10}  {check}".rstrip(), "bold"
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


# `diffcps data import` converts D4RL files to Minari; `diffcps data minari` makes a task of a Minari data set -----


@dataclass(frozen=True)
class ImportData:
    """Convert D4RL HDF5 files to Minari data sets. Use them with `--data minari`, or in any program that uses Minari."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")]
    """D4RL HDF5 files."""
    task: Annotated[Maybe[str], tyro.conf.arg(metavar="TASK")] = None
    """The task of the file, if there is only one file. Default: found by the name of the file."""
    root: Maybe[Path] = None
    """Folder for the data sets. Default: $MINARI_DATASETS_PATH, else ~/.minari/datasets."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.data import d4rl, imports, minari

        if not self.files:
            raise UserError("name at least one D4RL HDF5 file to import.")
        if self.task is not None and len(self.files) > 1:
            raise UserError(
                f"--task {self.task} applies to one file, and {len(self.files)} are named. Import them one by one."
            )
        for path in self.files:
            d4rl.check_file(path)
        console = Console()
        root = self.root.expanduser().absolute() if self.root is not None else minari.root()
        for path, task in [(path, d4rl.recognise(path, self.task)) for path in self.files]:
            with console.status(f"importing {path.name}"):
                info, new = imports.import_file(task, path, root)
            done = "imported as" if new else "was already imported as"
            say(console, f"{path.name} {done} {minari.imported_id(task)}")
            for line in _summary(task, info):
                say(console, f"    {line}")


@dataclass(frozen=True)
class MinariData:
    """Make a task of a Minari data set, and download the data set if necessary.

    Example: diffcps data minari mujoco/hopper/medium-v0
    """

    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """Minari's id of the data set."""
    no_evaluation: bool = False
    """Make a task without evaluations and scores, for data recorded in an environment that cannot be made here."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.data import minari_tasks
        from diffcps.tasks.registry import from_definition, read_definition

        console = Console()
        with console.status(f"reading {self.id}"):
            found = minari_tasks.describe(self.id, evaluated=not self.no_evaluation)
        file, new = minari_tasks.register(found.definition)
        task = from_definition(found.definition)
        definition, defined = found.definition, read_definition(file)
        model = found.settings_of
        environment = f"environment: {task.environment.id} as recorded, at most {task.episode_limit} steps"
        environment += ", an episode ends at the goal" if task.score == "success" else ""
        lines = [
            f"{self.id} (not D4RL's data)",
            *_summary(task, found.info),
            environment if defined.evaluation.episodes else "policies are not evaluated, so there are no scores",
            f"observations: {task.observation_size} numbers, flattened from {found.observations}",
            f"actions: {task.action_size} numbers in ±{task.max_action:g}",
            f"hyper-parameters: those of {model}" if model else "hyper-parameters: the defaults",
            f"task {definition.name}, defined in {file}" + ("" if new else " (this file existed and was not changed)"),
            f"to use it: diffcps train {definition.name}, or diffcps sweep --tasks {definition.name}",
        ]
        for number, line in enumerate(lines):
            say(console, ("    " if number else "") + line)


def _summary(task: "Task", info: "DatasetInfo") -> list[str]:
    """The size, the returns and the provenance of a data set, as lines."""
    lines = [f"{info.rows:,} rows, {info.trajectories:,} complete trajectories, in {info.path}"]
    if len(info.returns):
        returns = info.returns
        scores = task.normalised_score(returns)
        score = {
            "normalised": f"normalised {scores.mean():.1f} ± {scores.std():.1f} (random 0, expert 100)",
            "success": f"{scores.mean():.1f} % reach the goal",
            "return": "no reference scores, so the score is the return",
        }[task.score]
        lines.append(
            f"return {returns.mean():.4g} ± {returns.std():.3g}, {returns.min():.4g} to {returns.max():.4g}; {score}"
        )
    return [*lines, info.provenance_note]
