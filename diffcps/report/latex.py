"""The tables of a report as LaTeX, to be taken into a paper with ``\\input``."""

from collections.abc import Sequence

from diffcps.report.document import Document, Prose, Section, Sheet
from diffcps.terminal import Column, fitting, lifted

_LONG = 40
"""Rows of a table that no longer fits on one page."""
_WIDTH = 115
"""Characters of a line that can still be read when it is made as wide as a page's text."""
_MARKS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": r"$-$", "≤": r"$\le$", "≥": r"$\ge$", "∞": r"$\infty$",
    "λ": r"$\lambda$", "κ": r"$\kappa$", "γ": r"$\gamma$", "τ": r"$\tau$", "ε": r"$\varepsilon$",
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "–": "--", "…": r"\ldots{}", "\n": " ",
}  # fmt: skip


def latex(document: Document) -> str:
    """Every table that is not for a closer look, each a ``table`` of its own, or a ``longtable`` where it is long."""
    parts = [
        f"% {document.title}: needs \\usepackage{{booktabs,graphicx,longtable}} and UTF-8 input".replace("\n", " ")
    ]
    notes: list[str] = []
    for section in document.sections:
        if section.title == "Notes":
            notes = [line for block in section.blocks if isinstance(block, Prose) for line in block.paragraphs]
        if not section.aside:
            parts += [_sheet(block, document, section) for block in section.blocks if isinstance(block, Sheet)]
    if notes:
        parts.append(
            "\\begin{itemize}\n" + "\n".join(f"  \\item {escaped(line)}" for line in notes) + "\n\\end{itemize}"
        )
    return "\n\n".join(parts) + "\n"


def _sheet(sheet: Sheet, document: Document, section: Section) -> str:
    columns, agreed = lifted(sheet.columns, "trial" if sheet.states else "row")
    columns, dropped = fitting(columns, _WIDTH)
    heading = sheet.title or section.title
    caption = ". ".join(filter(None, (f"{document.title}: {heading}" if heading else document.title, agreed)))
    body = _body(columns)
    if dropped:
        body.insert(0, f"% no room for: {escaped('; '.join(dropped))}; table.csv has them")
    form = "".join("r" if column.right else "l" for column in columns)
    head = f"\\caption{{{escaped(caption)}.}}"
    if len(columns[0].cells) > _LONG:
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
    """Titles, those of several words in several lines."""
    cells = []
    for column in columns:
        lines = r"\\".join(escaped(line) for line in column.heading)
        side = "r" if column.right else "l"
        cells.append(lines if len(column.heading) == 1 else f"\\shortstack[{side}]{{{lines}}}")
    return " & ".join(cells) + r" \\"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(escaped(cell) for cell in cells) + r" \\"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_MARKS.get(letter, letter) for letter in text)
