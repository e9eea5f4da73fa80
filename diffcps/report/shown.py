"""Parts of a report as a notebook shows them: an object that is a cell's last line is drawn there."""

from dataclasses import dataclass, field


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
