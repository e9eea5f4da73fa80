"""What the project's tables on a terminal have in common: columns that give way where there is no room, colours."""

import textwrap
from collections.abc import Sequence
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
