"""What the list and the view of one sweep say in the same words."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from diffcps.distributed.catalogue import SweepEntry
from diffcps.distributed.display import ago
from diffcps.terminal import Column, fitting, table

_PIPED_WIDTH = 200


def wide_console() -> Console:
    """The terminal; into a pipe or a file nothing is left out for want of room."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _PIPED_WIDTH))


def line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, for the terminal itself to break: a path or a command can then be copied."""
    console.print(Text(text, style=style), soft_wrap=True)


def columns(console: Console, parts: Sequence[Column], styles: Sequence[str]) -> None:
    """Print those columns that say anything and for which there is room, and name those for which there is none."""
    shown, dropped = fitting([column for column in parts if any(column.cells)], console.width)
    console.print(table(shown, "", styles), Text(), crop=False)
    if dropped:
        line(console, f"No room here for {', '.join(dropped)}; a wider window and --json have them.", "dim")


def moment(at: float | None) -> str:
    """How long ago that was."""
    return "" if at is None else ago(time.time() - at)


def score(value: float | None) -> str:
    """A score with one decimal."""
    return "" if value is None else f"{value:.1f}"


def how_to_go_on(sweep: SweepEntry) -> str | None:
    """A sentence and, in its second line, the command; ``None`` where there is nothing to go on with."""
    if sweep.state == "stopped":
        return f"To go on with {sweep.name}:\n  {sweep.resume}"
    if sweep.state == "some failed":
        return f"To try what failed in {sweep.name} again:\n  {sweep.resume}"
    return None
