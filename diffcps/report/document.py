"""What a report consists of, whatever it is written as: sections of paragraphs, lists, tables and figures."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes

from diffcps.terminal import Column


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
