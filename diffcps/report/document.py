"""The content of a report, independent of its format: sections of paragraphs, lists, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from diffcps.errors import UserError, nearest
from diffcps.text import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain sentences."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Bullets:
    """A list; ``trouble`` marks a list of failures, ``code`` one of commands, which are shown as they are typed."""

    lines: tuple[str, ...]
    trouble: bool = False
    code: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: columns of equal length."""

    columns: tuple[Column, ...]
    states: tuple[str, ...] = ()
    """State of each row's trial, if rows are trials."""
    title: str = ""
    """Its heading, if the section has several tables."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure."""

    title: str
    draw: Callable[["Axes"], None]


@dataclass(frozen=True)
class Figure:
    """A figure of several panels with common labels."""

    name: str
    """Name of its file."""
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...] = ()


Block = Prose | Bullets | Sheet | Figure


@dataclass(frozen=True)
class Section:
    """A part of the report with its heading."""

    title: str
    """Empty for text directly under the report's title."""
    blocks: tuple[Block, ...]
    aside: bool = False
    """Whether it is a detail: left out on a terminal, folded in a page."""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]
    file: str = "table"
    """Name of its files without an ending, which a shortened table refers to."""

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


# Parts of a report for a notebook, which shows an object that is the last line of a cell.

Part = TypeVar("Part")


@dataclass(frozen=True)
class Text:
    """Text and tables."""

    markdown: str

    def _repr_markdown_(self) -> str:
        """What Jupyter shows."""
        return self.markdown


@dataclass(frozen=True)
class Picture:
    """A figure."""

    name: str
    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        """What Jupyter shows."""
        return self.png


def part(parts: Mapping[str, Part], name: str, whole: str, kind: str) -> Part:
    """The part of that name. Raises ``UserError`` naming the nearest one and all others if there is none."""
    if name not in parts:
        known = [one for one in parts if one]
        raise UserError(f"{whole} has no {kind} {name!r}{nearest(name, known) or '.'} It has: {', '.join(known)}.")
    return parts[name]
