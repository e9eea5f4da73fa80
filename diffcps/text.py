"""What the project's tables on a terminal have in common: columns that give way where there is no room, colours."""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import rich.box
import rich.table
from rich.text import Text

STYLES = {
    "complete": "", "running": "cyan", "starting": "cyan", "pending": "dim", "stopped": "yellow",
    "interrupted": "yellow", "failed": "red", "some failed": "red", "damaged": "red",
}  # fmt: skip
"""State of a trial or a sweep -> how its row looks."""

_HEADING_WIDTH = 13
_GAP = 2
"""Characters between two columns."""


@dataclass(frozen=True)
class Column:
    """One column: a heading and a cell for each row."""

    title: str
    cells: list[str]
    right: bool = True
    liftable: bool = False
    """Whether a terminal may say it once above the table when all rows agree."""
    drop: int = 0
    """Where a terminal lacks room, columns go in this order; 0 never goes."""

    @property
    def heading(self) -> list[str]:
        """The title in lines for a terminal."""
        return textwrap.wrap(self.title, _HEADING_WIDTH, break_long_words=False)

    @property
    def width(self) -> int:
        """Characters of the longest line in a terminal."""
        return max(len(line) for text in (*self.heading, *self.cells) for line in text.split("\n"))


def lifted(columns: Sequence[Column], row: str = "trial") -> tuple[list[Column], str]:
    """The columns that stay, and a line for those whose rows all agree: ``Every trial: seeds 2 · steps 300``."""
    up = [column for column in columns if column.liftable and len(set(column.cells)) == 1]
    said = " · ".join(f"{column.title} {column.cells[0]}" for column in up)
    return [column for column in columns if column not in up], f"Every {row}: {said}" if up else ""


def fitting(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit into ``width``, and the titles of those that had to go."""
    kept, dropped = list(columns), []
    for column in sorted((column for column in columns if column.drop), key=lambda column: column.drop):
        if sum(other.width + _GAP for other in kept) <= width:
            break
        kept.remove(column)
        dropped.append(column.title)
    return kept, dropped


def table(columns: Sequence[Column], title: str, styles: Sequence[str] | None = None) -> rich.table.Table:
    """The columns as they are printed; ``styles`` has one for each row."""
    built = rich.table.Table(
        title=Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD,
        pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        built.add_column(Text("\n".join(column.heading)), justify=justify, no_wrap=True)
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        built.add_row(*(Text(cell) for cell in cells), style=styles[index] if styles else "")
    return built


def short(count: int) -> str:
    """``6k``, ``1.5M``: four digits at most."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


def counted(count: int, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def tally(count: Mapping[str, int]) -> str:
    """``2 running, 1 complete``; states that no trial is in are left out."""
    return ", ".join(f"{number} {state}" for state, number in count.items() if number > 0)


def progress(step: int, steps: int, number: Callable[[int], str] = "{:,}".format) -> str:
    """``1,200/4,000  30%``."""
    return f"{number(step)}/{number(steps)} {100 * step / steps:3.0f}%" if steps else ""


def ago(seconds: float) -> str:
    """``just now``, ``12 s ago``, ``3 min ago``, ``5 h ago``, ``2 d ago``."""
    if seconds < 5:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def number(value: float, digits: int = 1) -> str:
    """``12.3``; a dash for what does not exist."""
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def significant(value: float) -> str:
    """Three digits or more, ``0.0512``, ``13.4``, ``1451``; a dash for what does not exist."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def signed(value: float, digits: int = 1) -> str:
    """``+1.2`` or ``−0.3``, a difference; a dash for what does not exist."""
    return "–" if not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """``12 %``; a dash for what does not exist."""
    return "–" if not math.isfinite(share) else f"{100 * share:.0f} %"


def interval(low: float, high: float, digits: int = 1) -> str:
    """``[90.8, 93.1]``; nothing where there is none."""
    return "" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def stacked(*lines: str) -> str:
    """One cell of several lines, without the empty ones."""
    return "\n".join(filter(None, lines))


def duration_numbers(seconds: float) -> str:
    """``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def shown(text: str) -> str:
    """A URI, or text with URIs in it, without the passwords that they may hold."""
    return re.sub(r"://[^/\s]+@", "://", text)


def first_line(error: Exception) -> str:
    """An exception in one line of bounded length, without passwords."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
