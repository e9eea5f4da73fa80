"""A report as Markdown. Figures are files beside it, which a line names."""

from collections.abc import Sequence

from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Sheet
from diffcps.terminal import Column


def markdown(document: Document) -> str:
    """The whole report."""
    parts = [f"# {document.title}"]
    for section in document.sections:
        blocks = [block for block in section.blocks if not isinstance(block, Figure)]
        pictures = [block for block in section.blocks if isinstance(block, Figure)]
        if section.title and blocks:
            parts.append(f"## {section.title}")
        for block in blocks:
            parts += _block(block)
        parts += [f"Figure: figures/{figure.name}.png" for figure in pictures if blocks]
    return "\n\n".join(parts) + "\n"


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
