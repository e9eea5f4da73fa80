"""A report as Markdown. Figures are files beside it, which a line names."""

from collections.abc import Sequence

from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Section, Sheet
from diffcps.terminal import Column


def markdown(document: Document) -> str:
    """The whole report."""
    parts = [f"# {document.title}"]
    for part in document.sections:
        parts += section(part)
    return "\n\n".join(parts) + "\n"


def section(part: Section) -> list[str]:
    """The paragraphs of one section."""
    blocks = [block for block in part.blocks if not isinstance(block, Figure)]
    found = [f"## {part.title}"] if part.title and blocks else []
    for block in blocks:
        found += _block(block)
    if blocks:
        found += [f"Figure: figures/{block.name}.png" for block in part.blocks if isinstance(block, Figure)]
    return found


def _block(block: Block) -> list[str]:
    if isinstance(block, Prose):
        return list(block.paragraphs)
    if isinstance(block, Bullets):
        return ["\n".join(f"* {escaped(line)}" for line in block.lines)]
    assert isinstance(block, Sheet)
    return [*([f"### {block.title}"] if block.title else []), _table(block.columns)]


def _table(columns: Sequence[Column]) -> str:
    lines = [[escaped(column.title) for column in columns], ["--:" if column.right else ":--" for column in columns]]
    lines += [[escaped(cell) for cell in cells] for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|<*_`":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
