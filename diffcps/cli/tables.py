"""Tables on a terminal, of sweeps and of trials."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from diffcps import text
from diffcps.text import Column, say


def print_table(console: Console, columns: Sequence[Column], styles: Sequence[str]) -> None:
    """Print the columns that are not empty and that fit, and name those that do not."""
    shown, dropped = text.fitting([column for column in columns if any(column.cells)], console.width)
    console.print(text.terminal_table(shown, "", styles), Text(), crop=False)
    if dropped:
        say(console, f"Columns left out: {', '.join(dropped)}. Use a wider window or --json.", "dim")


def how_long_ago(at: float | None) -> str:
    """How long ago a time is, in words; nothing for an unknown one."""
    return "" if at is None else text.ago(time.time() - at)
