"""`diffcps data check`: is one data set complete, is it D4RL's, and does this simulator reproduce it?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from diffcps.config import Physics
from diffcps.errors import UserError
from diffcps.runs.flags import DataFlags, Maybe
from diffcps.text import Column, say, terminal_table

if TYPE_CHECKING:
    from diffcps.data.checking.check import Check
    from diffcps.data.checking.layouts import Visits
    from diffcps.data.checking.parity import Parity, ParityReport
    from diffcps.data.checking.statistics import Actions, Dimension, Ends, Spread, Trajectories

CANNOT_BE_LEARNED_FROM = 1
_WORST = 5
"""Dimensions that are compared with D4RL's in the terminal; the JSON file has all."""


@dataclass(frozen=True)
class CheckData(DataFlags):
    """Check a data set: is it complete, is it D4RL's, and does this simulator reproduce its steps?

    Exit status: 1 when no policy can be trained on the data, 2 when there is no such data set.
    """

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A D4RL HDF5 file, an OGBench NPZ file, the folder of a Minari data set, or the name of a task."""
    task: Annotated[Maybe[str], tyro.conf.arg(metavar="TASK")] = None
    """The task of a file. Default: found by the name of the file."""
    physics: Literal["d4rl", "modern", "both"] = "both"
    """Body masses for the replay of recorded steps: those of D4RL's recordings, those of today's models, or both in turn."""
    rows: int = 60_000
    """Maximum number of rows to replay, spread evenly over the data. 0: no replay."""
    out: Path = Path("checks")
    """Folder for the figure and for a JSON file with all results."""

    def __call__(self) -> int:
        """Run it."""
        from diffcps.data import library
        from diffcps.data.checking import check, pictures
        from diffcps.files import unwritable_as_user_error, write_atomically, write_json

        if self.rows < 0:
            raise UserError(f"--rows {self.rows}: it must be zero or more.")
        source = library.look_up(self.data, self.task, self.data_dir)
        console = Console()
        with console.status(f"checking {source.path.name}"):
            examined = check.examine(
                source, get_args(Physics) if self.physics == "both" else (self.physics,), self.rows
            )
            picture = pictures.draw(examined)
        found = examined.check
        _show(console, found)
        if source.others:
            say(console, f"\n{found.task} has other data sets here, which are checked by their paths:")
            for path in source.others:
                say(console, f"    {path}")
        folder, name = self.out.expanduser(), f"check-{found.task}-{found.source}"
        with unwritable_as_user_error(folder, f"Name another folder than --out {self.out}."):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{name}.json", found.to_dict())
            if picture is not None:
                write_atomically(folder / f"{name}.png", picture)
        kinds = "json" if picture is None else "{json,png}"
        say(console, f"\nAll results: {folder / name}.{kinds}")
        return CANNOT_BE_LEARNED_FROM if found.refusal is not None else 0


def _show(console: Console, found: "Check") -> None:
    size = f", {found.rows:,} rows" if found.rows is not None else ""
    console.print(f"[bold]{found.task}[/], source {found.source}{size}", highlight=False)
    say(console, found.path)
    if found.provenance_note:
        _text(console, found.provenance_note)
    if found.checksum:
        say(console, f"  sha256 {found.checksum}")
    if found.rows is not None:
        _measured(console, found)
    if found.arrays:
        _facts(console, "Arrays", list(found.arrays.items()))
    _heading(console, "Remarks")
    for remark in found.remarks:
        _text(console, remark, "• ")
    if found.refusal is not None:
        _text(console, f"No policy can be trained on these data. {found.refusal}", "✗ ", "bold red")
    elif not found.remarks:
        _text(console, "Nothing unusual.", "✓ ", "green")


def _measured(console: Console, found: "Check") -> None:
    if found.trajectories is not None:
        _trajectories(console, found.trajectories, found)
    if found.ends is not None:
        _facts(console, "Ends", _ends(found.ends))
    if found.actions is not None:
        _facts(console, "Columns", _columns(found, found.actions))
    if found.published:
        _published(console, found.published)
    if found.visits is not None:
        _facts(console, "Maze", _maze(found.visits))
    if found.parity is not None:
        _parity(console, found.parity)
    else:
        _heading(console, "Replay")
        _text(console, f"No replay: {found.no_parity}")


def _heading(console: Console, title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def _text(console: Console, text: str, mark: str = "", style: str = "") -> None:
    """Print indented text, with `mark` before its first line."""
    grid = Table.grid(padding=0)
    if mark:
        grid.add_column(width=len(mark))
    grid.add_column(overflow="fold")
    grid.add_row(*([Text(mark, style)] if mark else []), Text(text, style))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False), highlight=False)


def _facts(console: Console, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print a heading, then one line for each (name, value)."""
    _heading(console, title)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, Text(value))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False), highlight=False)


def _trajectories(console: Console, found: "Trajectories", check: "Check") -> None:
    cut = f", {found.cut:,} cut without a flag" if found.cut else ""
    kept = f"; {check.transitions:,} usable transitions" if check.transitions is not None else ""
    _heading(console, "Trajectories")
    _text(console, f"{found.complete:,} complete{cut}{kept}")
    if found.lengths is None:
        return
    titles = "", "mean", "std", "min", "25 %", "median", "75 %", "max"
    rows: list[tuple[str, Spread | None]] = [
        ("rows", found.lengths), ("return", found.returns), ("normalised", found.normalised)
    ]  # fmt: skip
    _table(
        console, titles, [[name, *map(_number, vars(spread).values())] for name, spread in rows if spread is not None]
    )


def _table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table in which the first `left` columns are words and the others are numbers."""
    columns = [Column(title, [row[i] for row in rows], right=i >= left) for i, title in enumerate(titles)]
    console.print(Padding(terminal_table(columns), (0, 0, 0, 2), expand=False), highlight=False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ends(ends: "Ends") -> list[tuple[str, str]]:
    runs = f" in {ends.terminal_runs:,} runs of up to {ends.longest_run:,} rows" if ends.longest_run > 1 else ""
    how = "" if ends.timeouts_flagged else ", found by counting steps"
    usual = f", usually after {ends.timeout_length:,} rows" if ends.timeout_length is not None else ""
    facts = [
        ("terminals", f"{ends.terminals:,}{runs}"),
        ("time-outs", f"{ends.timeouts:,}{usual}{how}"),
        ("both at once", f"{ends.both:,}"),
    ]
    if ends.jumps is None:
        facts.append(("jumps", "cannot be detected: the observations do not contain the robot's position"))
    else:
        flags = f"after {ends.jumps:,} rows, {ends.jumps_unflagged:,} of them without a flag"
        facts.append(("jumps", f"the robot is at another position {flags}"))
    if ends.stored_next_wrong is not None:
        facts.append(("next rows", f"{ends.stored_next_wrong:,} differ from next_observations in the file"))
    return facts


def _columns(found: "Check", actions: "Actions") -> list[tuple[str, str]]:
    assert found.observations is not None
    assert found.duplicates is not None
    constant = ", ".join(map(str, found.observations.constant))
    sizes = f"{len(found.observations.mean)} dimensions" + (f", constant: {constant}" if constant else "")
    if found.observations.minimum:
        sizes += f", from {min(found.observations.minimum):.4g} to {max(found.observations.maximum):.4g}"
    never = f", constant: {', '.join(map(str, actions.constant))}" if actions.constant else ""
    broken = ", ".join(f"{count:,} rows of {name}" for name, count in found.not_finite.items())
    return [
        ("observations", sizes),
        ("actions", f"up to {actions.largest:.4g}, {actions.at_bounds:.1%} of the values at a bound{never}"),
        ("not finite", broken or "none"),
        ("duplicates", f"{found.duplicates:,} rows"),
    ]


def _published(console: Console, dimensions: Sequence["Dimension"]) -> None:
    from diffcps.data.provenance import TOLERANCE

    _heading(console, "Observations compared with D4RL's published statistics")
    rows = []
    for d in dimensions[:_WORST]:
        values = (d.mean, d.published_mean, d.std, d.published_std)
        rows.append([str(d.dimension), *(f"{v:.4g}" for v in values), f"{d.mean_off:.3f} std", f"{d.std_off:.1%}"])
    titles = "dimension", "mean", "D4RL's", "std", "D4RL's", "mean off by", "std off by"
    _table(console, titles, rows, left=0)
    within = sum(max(d.mean_off, d.std_off) <= TOLERANCE for d in dimensions)
    shown = f"The {_WORST} largest differences. " if len(dimensions) > _WORST else ""
    _text(console, f"{shown}{within} of {len(dimensions)} dimensions agree within {TOLERANCE:.0%}.")


def _maze(visits: "Visits") -> list[tuple[str, str]]:
    goal = visits.goal
    if goal is None:
        text = "no single goal explains the rewards"
    else:
        text = (
            f"({goal.x:.3f}, {goal.y:.3f}) m, within {goal.radius:.3f} m, explains {goal.explained:.2%} of the rewards"
        )
        text += "" if goal.observation == "next" else " (from the observation before the action)"
    walls = f", {visits.in_walls:,} rows in walls" if visits.in_walls else ""
    most = f", {min(visits.share):.1%} to {max(visits.share):.1%} of the rows in each" if visits.share else ""
    return [
        ("goal", text),
        ("reached", f"by {visits.reached:.1%} of the complete trajectories"),
        ("cells", f"{visits.cells} of {visits.free_cells} visited{most}{walls}"),
    ]


def _parity(console: Console, report: "ParityReport") -> None:
    _heading(console, "Replay: one step from each recorded state, with the recorded action")
    part = "all" if report.rows == report.usable else f"of {report.usable:,}, spread evenly"
    _text(console, f"{report.rows:,} rows ({part}); states from {report.states}.")
    titles = "physics", "error of", "50 %", "90 %", "99 %", "99.9 %", "max"
    rows = []
    for result in report.results:
        for name, errors in _errors(result):
            first = result.physics if name == "observation" else ""
            values = [""] * 5 if errors is None else [f"{value:.1e}" for value in vars(errors).values()]
            rows.append([first, name, *values])
    _table(console, titles, rows, left=2)
    _text(console, report.verdict)
    for result in report.results:
        if result.edges:
            _text(console, _about_edges(result))


def _errors(result: "Parity") -> list[tuple[str, Any]]:
    parts = ("observation", "position", "velocity", "reward")
    return [(name, getattr(result, name)) for name in parts if getattr(result, name) is not None]


def _about_edges(result: "Parity") -> str:
    from diffcps.data.checking.parity import EDGE_POSITION, EDGE_VELOCITY

    explained = len(result.edges) - result.unexplained
    return (
        f"{result.beyond:,} of {result.rows:,} rows differ by more than {EDGE_POSITION:g} in a position or "
        f"{EDGE_VELOCITY:g} in a velocity. {len(result.edges)} of them were examined; {explained} are at the edge of a "
        f"contact, where rounding decides: a state within half a unit in the last place gives the recorded step. "
        f"With such states the largest position error is {result.position_beyond_rounding:.1e}."
    )
