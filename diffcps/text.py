"""Values as text: numbers, durations, lists, errors, and tables for a terminal and for Markdown."""

import codecs
import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Numbers --------------------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 1) -> str:
    """``12.3``; a dash if it is not finite."""
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number. ``True`` and ``False`` are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def if_known(value: float | None, form: Callable[[float], str] = number) -> str:
    """A value in this form; empty if there is none."""
    return "" if value is None else form(value)


def significant(value: float) -> str:
    """At least three digits, ``0.0512``, ``13.4``, ``1451``; a dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def signed(value: float) -> str:
    """A difference, ``+1.2`` or ``−0.3``; a dash if it is not finite."""
    return "–" if not math.isfinite(value) else f"{value:+.1f}".replace("-", "−")


def percent(share: float) -> str:
    """``12 %``; a dash if it is not finite."""
    return "–" if not math.isfinite(share) else f"{100 * share:.0f} %"


def interval(low: float, high: float, digits: int = 1) -> str:
    """``[90.8, 93.1]``; empty if it is nan."""
    return "" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def short(count: int) -> str:
    """``6k``, ``1.5M``: at most four digits."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


def progress(step: int, steps: int, number: Callable[[int], str] = "{:,}".format) -> str:
    """``1,200/4,000  30%``; empty if the number of steps is 0."""
    return f"{number(step)}/{number(steps)} {100 * step / steps:3.0f}%" if steps else ""


def worded(setting: object, digits: int = 4) -> str:
    """A setting: ``yes``, ``no``, ``none``, a word, a whole number in full, or a real one of so many digits."""
    if isinstance(setting, bool) or setting is None:
        return {True: "yes", False: "no", None: "none"}[setting]
    return f"{setting:.{digits}g}" if isinstance(setting, float) else str(setting)


# Times ----------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(seconds: float) -> str:
    """``just now``, ``12 s ago``, ``3 min ago``, ``5 h ago``, ``2 d ago``."""
    if seconds < 5:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


# Words ----------------------------------------------------------------------------------------------------------------


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``3 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tally(counts: Mapping[str, int]) -> str:
    """``2 running, 1 complete``, without zeros."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count > 0)


def listed(words: Sequence[str], most: int) -> str:
    """``a, b, c and 4 more``: at most so many words."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def span(numbers: Sequence[int]) -> str:
    """Whole numbers in ascending order: ``0 to 4`` if none is missing, else each one."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def stacked(*lines: str) -> str:
    """One cell of several lines, without empty ones."""
    return "\n".join(filter(None, lines))


def redacted(text: str) -> str:
    """Text without the passwords of the URIs in it."""
    return re.sub(r"://[^/\s]+@", "://", text)


_LONGEST = 300
"""Characters of an error's line."""


def first_line(error: object) -> str:
    """The first line of an error, cut to 300 characters, without passwords."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = redacted(line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


_ASCII = {
    "−": "-", "–": "-", "—": "-", "─": "-", "━": "=", "│": "|", "·": "|", "•": "*", "…": "...", "±": "+-", "×": "x", "→": "->",
    "←": "<-", "≤": "<=", "≥": ">=", "√": "sqrt", "∞": "inf", "‖": "||", "†": "+", "‡": "++", "§": "section ", "✓": "ok",
    "✗": "x", "½": "1/2", "“": '"', "”": '"', "\u2018": "'", "\u2019": "'", "«": "<<", "»": ">>",
}  # fmt: skip


def ascii_only(text: str) -> str:
    """The text in ASCII: ``λ ± 1…`` becomes ``lambda +- 1...``, and a character without an equivalent ``?``."""
    return "".join(character if character.isascii() else _ascii(character) for character in text)


def _ascii(character: str) -> str:
    if character in _ASCII:
        return _ASCII[character]
    name = unicodedata.name(character, "")
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)(?: WITH .*)?", name):
        letter = match[2].replace("LAMDA", "LAMBDA").capitalize()
        return letter.lower() if match[1] == "SMALL" else letter
    if unicodedata.combining(character):
        return ""
    if name.startswith("BOX DRAWINGS"):
        return "+"
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def _encode_readably(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_only(error.object[error.start : error.end]), error.end


READABLE = "diffcps.readable"
"""Name of the error handler for streams that cannot encode all characters: it writes what ``ascii_only`` makes of them."""
codecs.register_error(READABLE, _encode_readably)


def say(console: "Console", text: str, style: str = "default") -> None:
    """Print text as it is: without markup, colours of its own, or line breaks, so that a path or a command can be copied."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


# Tables ---------------------------------------------------------------------------------------------------------------

STYLES = {
    "complete": "", "running": "cyan", "starting": "cyan", "pending": "dim", "pruned": "dim", "stopped": "yellow",
    "interrupted": "yellow", "failed": "red", "some failed": "red", "damaged": "red",
}  # fmt: skip
"""State of a trial or a sweep -> style of its row on a terminal."""
_HEADING_WIDTH = 13
_GAP = 2
"""Characters between two columns."""


@dataclass(frozen=True)
class Column:
    """One column of a table: a heading and a cell for each row."""

    title: str
    cells: list[str]
    right: bool = True
    liftable: bool = False
    """Whether it is stated once above the table if all rows agree."""
    drop: int = 0
    """Columns are dropped in this order if a table is too wide; 0 is never dropped."""

    @property
    def heading(self) -> list[str]:
        """The title, broken into lines for a terminal."""
        return textwrap.wrap(self.title, _HEADING_WIDTH, break_long_words=False)

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        return max(len(line) for text in (*self.heading, *self.cells) for line in text.split("\n"))


def lifted(columns: Sequence[Column], row: str = "trial") -> tuple[list[Column], str]:
    """The columns that stay, and a line for those on which all rows agree: ``Every trial: seeds 2 · steps 300``."""
    up = [column for column in columns if column.liftable and len(set(column.cells)) == 1]
    said = " · ".join(f"{column.title} {column.cells[0]}" for column in up)
    return [column for column in columns if column not in up], f"Every {row}: {said}" if up else ""


def fitting(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit into ``width`` characters, and the titles of those that do not."""
    kept, dropped = list(columns), []
    for column in sorted((column for column in columns if column.drop), key=lambda column: column.drop):
        if sum(other.width + _GAP for other in kept) <= width:
            break
        kept.remove(column)
        dropped.append(column.title)
    return kept, dropped


def terminal_table(columns: Sequence[Column], title: str = "", styles: Sequence[str] | None = None) -> "Table":
    """A table for a terminal; ``styles`` has one for each row."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    built = Table(
        title=Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD,
        pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in columns:
        built.add_column(Text("\n".join(column.heading)), justify="right" if column.right else "left", no_wrap=True)
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        built.add_row(*map(Text, cells), style=styles[index] if styles else "")
    return built


def markdown_table(columns: Sequence[Column]) -> str:
    """A table in Markdown."""
    lines = [[markdown(column.title) for column in columns], ["--:" if column.right else ":--" for column in columns]]
    lines += [[markdown(cell) for cell in cells] for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(text: str) -> str:
    """Text with Markdown's special characters escaped, on one line."""
    for mark in "\\|<*_`":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
