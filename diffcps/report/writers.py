"""A report as one self-contained HTML page, as Markdown, as LaTeX, and for the terminal."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from rich.console import Group, RenderableType
from rich.text import Text

from diffcps import text
from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Section, Sheet
from diffcps.report.drawing import Drawn
from diffcps.text import STYLES, Column, fitting, lifted, markdown_table, terminal_table

_SHORT, _LONG = 12, 25
"""Up to this many characters a heading stays on one line; from this many on it gets more width."""


def html(document: Document, drawn: Mapping[str, Drawn]) -> str:
    """The whole report as an HTML page; ``drawn`` has its figures by name."""
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
    # small figures are placed side by side
    slim = all(isinstance(block, Figure) and len(block.panels) == 1 for block in section.blocks)
    kind = ' class="slim"' if slim else ""
    return f'<section id="{anchor}"{kind}>\n<h2>{title}</h2>\n{blocks}\n</section>'


def _block(block: Block, drawn: Mapping[str, Drawn]) -> str:
    if isinstance(block, Prose):
        return "\n".join(f"<p>{escape(line)}</p>" for line in block.paragraphs)
    if isinstance(block, Bullets):
        kind = ' class="trouble"' if block.trouble else ""
        lines = [f"<code>{escape(line)}</code>" if block.code else escape(line) for line in block.lines]
        return f"<ul{kind}>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
    return _sheet(block) if isinstance(block, Sheet) else _figure(block, drawn[block.name])


def _figure(figure: Figure, drawn: Drawn) -> str:
    titles = [*(panel.title for panel in figure.panels), "legend"]  # a short one is among the lines
    panels = "\n".join(
        f'<div class="panel" role="img" aria-label="{escape(f"{figure.title}: {title}")}">{picture}</div>'
        for title, picture in zip(titles, drawn.svgs, strict=False)
    )
    return f'<figure>\n<div class="panels">\n{panels}\n</div>\n<figcaption>{escape(figure.caption)}</figcaption>\n</figure>'


def _sheet(sheet: Sheet) -> str:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    # a phone shows the first columns: put the scores there
    columns = [*columns[:1], *sorted(columns[1:], key=lambda column: column.liftable)]
    title = f"<h3>{escape(sheet.title)}</h3>" if sheet.title else ""
    above = f'<p class="agreed">{escape(agreed)}</p>' if agreed else ""
    head = "".join(f"<th{_side(column)}>{_heading(column.title)}</th>" for column in columns)
    cells = zip(*(column.cells for column in columns), strict=True)
    rows = "\n".join(_row(columns, row, sheet.states[i] if sheet.states else "") for i, row in enumerate(cells))
    # a table wider than the page scrolls sideways; tabindex makes that work with the keyboard
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
    """A title: a short one never breaks, a long one breaks into few lines."""
    kind = "short" if len(title) <= _SHORT else "long" if len(title) >= _LONG else ""
    return f'<span class="{kind}">{escape(title)}</span>' if kind else escape(title)


def _side(column: Column) -> str:
    return ' class="number"' if column.right else ""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("λ", "lambda")).strip("-")


# A report as Markdown. Figures are separate files, named in a line.


def markdown(document: Document, pictures: bool = False) -> str:
    """The whole report; ``pictures`` shows the figures, which must be in ``figures/`` beside it, instead of naming them."""
    parts = [f"# {document.title}"]
    for part in document.sections:
        parts += section(part, pictures)
    return "\n\n".join(parts) + "\n"


def section(part: Section, pictures: bool = False) -> list[str]:
    """The paragraphs of one section."""
    blocks = [block for block in part.blocks if not isinstance(block, Figure)]
    found = [f"## {part.title}"] if part.title and blocks else []
    for block in blocks:
        found += _block_markdown(block)
    if blocks:
        figures = [block for block in part.blocks if isinstance(block, Figure)]
        files = [(block.title, f"figures/{block.name}.png") for block in figures]
        found += [f"![{title}]({file})" if pictures else f"Figure: {file}" for title, file in files]
    return found


def _block_markdown(block: Block) -> list[str]:
    if isinstance(block, Prose):
        return list(block.paragraphs)
    if isinstance(block, Bullets):
        return ["\n".join(f"* `{line}`" if block.code else f"* {text.markdown(line)}" for line in block.lines)]
    assert isinstance(block, Sheet)
    return [*([f"### {block.title}"] if block.title else []), markdown_table(block.columns)]


# The tables of a report as LaTeX, for ``\input`` in a paper.

_LONG_latex = 40
"""A table with more rows may break over pages."""
_WIDTH = 115
"""Characters of a line that is still readable when scaled to the width of a page."""
_MARKS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": r"$-$", "≤": r"$\le$", "≥": r"$\ge$", "∞": r"$\infty$",
    "λ": r"$\lambda$", "κ": r"$\kappa$", "γ": r"$\gamma$", "τ": r"$\tau$", "ε": r"$\varepsilon$",
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "–": "--", "…": r"\ldots{}", "\n": " ",
}  # fmt: skip


def latex(document: Document) -> str:
    """Every table but the details, each as a ``table``, or as a ``longtable`` if it is long."""
    parts = [
        f"% {document.title}: needs \\usepackage{{booktabs,graphicx,longtable}} and UTF-8 input".replace("\n", " ")
    ]
    notes: list[str] = []
    for section in document.sections:
        if section.title == "Notes":
            notes = [line for block in section.blocks if isinstance(block, Prose) for line in block.paragraphs]
        if not section.aside:
            parts += [_sheet_latex(block, document, section) for block in section.blocks if isinstance(block, Sheet)]
    if notes:
        parts.append(
            "\\begin{itemize}\n" + "\n".join(f"  \\item {escaped(line)}" for line in notes) + "\n\\end{itemize}"
        )
    return "\n\n".join(parts) + "\n"


def _sheet_latex(sheet: Sheet, document: Document, section: Section) -> str:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    columns, dropped = fitting(columns, _WIDTH)
    heading = sheet.title or section.title
    caption = ". ".join(filter(None, (f"{document.title}: {heading}" if heading else document.title, agreed)))
    body = _body(columns)
    if dropped:
        body.insert(0, f"% left out for lack of width: {escaped('; '.join(dropped))}; {document.file}.csv has them")
    form = "".join("r" if column.right else "l" for column in columns)
    head = f"\\caption{{{escaped(caption)}.}}"
    if len(columns[0].cells) > _LONG_latex:
        top, rows = body[: body.index("\\midrule") + 1], body[body.index("\\midrule") + 1 :]
        lines = [f"\\begin{{longtable}}{{{form}}}", f"{head} \\\\", *top, "\\endhead", *rows, "\\end{longtable}"]
        return "\n".join(["{\\small", *lines, "}"])
    inner = "\n".join([f"\\begin{{tabular}}{{{form}}}", *body, "\\end{tabular}"])
    fitted = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{inner}}}"
    return "\n".join(["\\begin{table}[tb]", "\\centering", head, fitted, "\\end{table}"])


def _body(columns: Sequence[Column]) -> list[str]:
    lines = ["\\toprule", _heads(columns), "\\midrule"]
    lines += [_line(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    return [*lines, "\\bottomrule"]


def _heads(columns: Sequence[Column]) -> str:
    """Titles; long ones are broken into lines."""
    cells = []
    for column in columns:
        lines = r"\\".join(escaped(line) for line in column.heading)
        side = "r" if column.right else "l"
        cells.append(lines if len(column.heading) == 1 else f"\\shortstack[{side}]{{{lines}}}")
    return " & ".join(cells) + r" \\"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(_cell_latex(cell) for cell in cells) + r" \\"


def _cell_latex(cell: str) -> str:
    """A cell; one of several lines keeps them."""
    lines = r"\\".join(escaped(line) for line in cell.split("\n"))
    return f"\\shortstack[r]{{{lines}}}" if "\n" in cell else lines


def escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_MARKS.get(letter, letter) for letter in text)


# A report on a terminal: the columns that fit, without details and figures.


def screen(document: Document, width: int) -> RenderableType:
    """The report for a console of ``width`` columns; table columns that do not fit are named below their table."""
    parts: list[RenderableType] = []
    for index, section in enumerate(document.sections):
        if not section.aside:
            heading = section.title or (document.title if index == 0 else "")
            parts += _section_screen(section, heading, width, head=index == 0, file=document.file)
    return Group(*parts)


def _section_screen(section: Section, heading: str, width: int, *, head: bool, file: str) -> list[RenderableType]:
    tables = any(isinstance(block, Sheet) for block in section.blocks)
    parts: list[RenderableType] = []
    for block in section.blocks:
        if isinstance(block, Sheet):
            parts += _sheet_screen(block, block.title or heading, width, file)
        elif not (isinstance(block, Figure) or (tables and not head)):  # explanations of further tables are in the file
            parts += _lines(block, dim=not head)
    return parts


def _lines(block: Block, dim: bool) -> Sequence[Text]:
    if isinstance(block, Bullets):
        return [Text(line, style="red" if block.trouble else "dim") for line in block.lines]
    assert isinstance(block, Prose)
    return [Text(line, style="dim" if dim else "") for line in block.paragraphs]


def _sheet_screen(sheet: Sheet, title: str, width: int, file: str) -> list[RenderableType]:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    shown, dropped = fitting(columns, width)
    styles = [STYLES.get(state, "") for state in sheet.states] if sheet.states else None
    parts: list[RenderableType] = [Text(agreed, style="dim")] if agreed else []
    parts += [terminal_table(shown, title, styles), Text()]
    if dropped:
        parts.append(Text(f"Columns left out: {', '.join(dropped)}. See {file}.md.", style="dim"))
    return parts
