"""What a report consists of, whatever it is written as: sections of paragraphs, lists, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from matplotlib.axes import Axes

from diffcps.errors import UserError, nearest
from diffcps.text import Column


@dataclass(frozen=True)
class Prose:
    """Paragraphs, each a plain sentence or several."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Bullets:
    """A list; ``trouble`` says that it tells what went wrong."""

    lines: tuple[str, ...]
    trouble: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: columns of equal length."""

    columns: tuple[Column, ...]
    states: tuple[str, ...] = ()
    """State of the trial of each row, where a row is a trial."""
    title: str = ""
    """Heading of its own where it is not the section's only table."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure."""

    title: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Figure:
    """A figure of several panels with common labels."""

    name: str
    """Name of its file."""
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]


Block = Prose | Bullets | Sheet | Figure


@dataclass(frozen=True)
class Section:
    """A part of the report with its heading."""

    title: str
    """Empty for what stands right under the report's own title."""
    blocks: tuple[Block, ...]
    aside: bool = False
    """Whether it is for those who look closer: left out on a terminal, folded in a page."""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


# Parts of a report as a notebook shows them: an object that is a cell's last line is drawn there.

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
    """The part of that name. Raises ``UserError`` naming the nearest one, and all, when there is none."""
    if name not in parts:
        known = [one for one in parts if one]
        raise UserError(f"{whole} has no {kind} {name!r}{nearest(name, known) or '.'} It has: {', '.join(known)}.")
    return parts[name]
