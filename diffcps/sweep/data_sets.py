"""The data of a sweep: read, or collected, once before any trial starts, so that a broken set is refused before work begins."""

from collections.abc import Mapping

from rich.console import Console
from rich.status import Status

from diffcps import data
from diffcps.config import DataConfig
from diffcps.data.transitions import DatasetInfo
from diffcps.errors import UserError
from diffcps.runs.plan import Plan
from diffcps.storage.location import Location
from diffcps.tasks.registry import task_of
from diffcps.text import Column, say, terminal_table


def require_data(plan: Plan, location: Location) -> None:
    """Raise ``UserError`` when a data set is missing that cannot be made here."""
    wanted = [(task_of(trial), trial.data) for trial in plan.trials]
    if reason := data.missing(wanted, location.data_directories):
        raise UserError(reason)


def read_data(plan: Plan, location: Location, console: Console) -> Location:
    """Read, or collect, every data set, and show what was found.

    If the results are in an object store, the data are uploaded too. The location returned knows checksums and where they are.
    Raises ``UserError`` when a set is broken, or is not the one on which a trial was started.
    """
    found: dict[tuple[str, DataConfig], DatasetInfo] = {}
    for trial in {(trial.task, trial.data): trial for trial in plan.trials}.values():
        with console.status(f"reading data for {trial.task} ({trial.data.source})") as status:

            def show(done: int, rows: int, status: Status = status, task: str = trial.task) -> None:
                status.update(f"collecting data for {task}: {done:,} of {rows:,} rows, {100 * done // rows} %")

            info = data.load(task_of(trial), trial.data, location.data_directories, show).info
            for other in plan.trials:
                if (other.task, other.data) == (trial.task, trial.data):
                    location.run_folder(other.key).check_data(info.checksum)
            if location.remote is not None:
                status.update(f"uploading data for {trial.task}")
            location = location.with_data(trial, info)
        found[trial.task, trial.data] = info
    _show_data(found, console)
    return location


def _show_data(found: Mapping[tuple[str, DataConfig], DatasetInfo], console: Console) -> None:
    """Print a line a data set, then where the data come from, once for all tasks with the same origin."""
    means = [
        f"{info.returns.mean():.4g} ± {info.returns.std():.3g}" if len(info.returns) else "none complete"
        for info in found.values()
    ]
    columns = [
        Column("task", [task for task, _ in found], right=False),
        Column("rows", [f"{info.rows:,}" for info in found.values()]),
        Column("trajectories", [f"{info.trajectories:,}" for info in found.values()]),
        Column("return", means),
    ]
    console.print(terminal_table(columns, "data"))
    origins: dict[str, dict[str, None]] = {}
    for (task, _), info in found.items():
        origins.setdefault(info.provenance_note, {})[task] = None
    for note, tasks in origins.items():
        say(console, f"{', '.join(tasks)}: {note}")
