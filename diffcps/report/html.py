"""A report as one page that needs nothing beside it: style and figures are inside."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Section, Sheet
from diffcps.report.drawing import Drawn
from diffcps.terminal import STYLES, Column, lifted

_SHORT, _LONG = 12, 25
"""Characters of a heading that stays on one line, and of one that is given more room."""


def html(document: Document, drawn: Mapping[str, Drawn]) -> str:
    """The whole report as an HTML page, with its figures, which are ``drawn`` by name."""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    titled = [section for section in document.sections if section.title]
    contents = "".join(f'<a href="#{_anchor(section.title)}">{escape(section.title)}</a>' for section in titled)
    body = "\n".join(_section(section, drawn) for section in document.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(document.title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape(document.title)}</h1></header>
<nav>{contents}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section, drawn: Mapping[str, Drawn]) -> str:
    blocks = "\n".join(_block(block, drawn) for block in section.blocks)
    if not section.title:
        return f"<section>\n{blocks}\n</section>"
    anchor, title = _anchor(section.title), escape(section.title)
    if section.aside:
        return f'<details id="{anchor}"><summary><h2>{title}</h2></summary>\n{blocks}\n</details>'
    # small figures stand side by side where there is room
    slim = all(isinstance(block, Figure) and len(block.panels) == 1 for block in section.blocks)
    kind = ' class="slim"' if slim else ""
    return f'<section id="{anchor}"{kind}>\n<h2>{title}</h2>\n{blocks}\n</section>'


def _block(block: Block, drawn: Mapping[str, Drawn]) -> str:
    if isinstance(block, Prose):
        return "\n".join(f"<p>{escape(line)}</p>" for line in block.paragraphs)
    if isinstance(block, Bullets):
        kind = ' class="trouble"' if block.trouble else ""
        return f"<ul{kind}>" + "".join(f"<li>{escape(line)}</li>" for line in block.lines) + "</ul>"
    return _sheet(block) if isinstance(block, Sheet) else _figure(block, drawn[block.name])


def _figure(figure: Figure, drawn: Drawn) -> str:
    panels = "\n".join(
        f'<div class="panel" role="img" aria-label="{escape(f"{figure.title}: {panel.title}")}">{picture}</div>'
        for panel, picture in zip(figure.panels, drawn.svgs, strict=True)
    )
    return f'<figure>\n<div class="panels">\n{panels}\n</div>\n<figcaption>{escape(figure.caption)}</figcaption>\n</figure>'


def _sheet(sheet: Sheet) -> str:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    # a phone shows the first columns: scores, and the circumstances behind them
    columns = [*columns[:1], *sorted(columns[1:], key=lambda column: column.liftable)]
    title = f"<h3>{escape(sheet.title)}</h3>" if sheet.title else ""
    above = f'<p class="agreed">{escape(agreed)}</p>' if agreed else ""
    head = "".join(f"<th{_side(column)}>{_heading(column.title)}</th>" for column in columns)
    cells = zip(*(column.cells for column in columns), strict=True)
    rows = "\n".join(_row(columns, row, sheet.states[i] if sheet.states else "") for i, row in enumerate(cells))
    # a table may be wider than the page: then it is moved sideways, with the keyboard too
    return (
        f'{title}{above}<div class="sheet" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(columns: Sequence[Column], cells: Sequence[str], state: str) -> str:
    kind = f' class="{escape(state)}"' if STYLES.get(state) else ""
    first, *others = [escape(cell).replace("\n", "<br>") for cell in cells]
    body = "".join(f"<td{_side(c)}>{cell}</td>" for c, cell in zip(columns[1:], others, strict=True))
    return f'<tr{kind}><th scope="row"{_side(columns[0])}>{first}</th>{body}</tr>'


def _heading(title: str) -> str:
    """A title that breaks between words only, not at all where it is short, into few lines where it is long."""
    kind = "short" if len(title) <= _SHORT else "long" if len(title) >= _LONG else ""
    return f'<span class="{kind}">{escape(title)}</span>' if kind else escape(title)


def _side(column: Column) -> str:
    return ' class="number"' if column.right else ""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("λ", "lambda")).strip("-")
