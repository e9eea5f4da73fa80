"""Parts of a report as a notebook shows them: an object that is a cell's last line is drawn there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from diffcps.errors import UserError, nearest

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
