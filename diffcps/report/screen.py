"""A report on a terminal: what fits in its width, without the parts for those who look closer."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Section, Sheet
from diffcps.terminal import STYLES, fitting, lifted
from diffcps.terminal import table as rich_table


def screen(document: Document, width: int) -> RenderableType:
    """The report for a console ``width`` columns wide; columns for which there is no room are named instead."""
    parts: list[RenderableType] = []
    for index, section in enumerate(document.sections):
        if not section.aside:
            heading = section.title or (document.title if index == 0 else "")
            parts += _section(section, heading, width, head=index == 0)
    return Group(*parts)


def _section(section: Section, heading: str, width: int, head: bool) -> list[RenderableType]:
    tables = any(isinstance(block, Sheet) for block in section.blocks)
    parts: list[RenderableType] = []
    for block in section.blocks:
        if isinstance(block, Sheet):
            parts += _sheet(block, block.title or heading, width)
        elif not (isinstance(block, Figure) or (tables and not head)):  # what explains a table is in table.md
            parts += _lines(block, dim=not head)
    return parts


def _lines(block: Block, dim: bool) -> Sequence[Text]:
    if isinstance(block, Bullets):
        return [Text(line, style="red" if block.trouble else "dim") for line in block.lines]
    assert isinstance(block, Prose)
    return [Text(line, style="dim" if dim else "") for line in block.paragraphs]


def _sheet(sheet: Sheet, title: str, width: int) -> list[RenderableType]:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    shown, dropped = fitting(columns, width)
    styles = [STYLES.get(state, "") for state in sheet.states] if sheet.states else None
    parts: list[RenderableType] = [Text(agreed, style="dim")] if agreed else []
    parts += [rich_table(shown, title, styles), Text()]
    if dropped:
        parts.append(Text(f"No room here for {', '.join(dropped)}: see table.md.", style="dim"))
    return parts
