"""Every format of a report: whole, readable by what reads it, and saying the same."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import run_folders as synthetic
from matplotlib.axes import Axes
from rich.console import Console

from diffcps import report
from diffcps.report import drawing, writers
from diffcps.report.contents import Report
from diffcps.report.document import Figure, Panel

EMPTY = {"meta", "br", "link", "img", "path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.cells: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        self.references += [str(values[name]) for name in ("href", "src", "xlink:href") if values.get(name)]
        self.references += re.findall(r"url\(([^)]*)\)", " ".join(str(value) for value in values.values()))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in {"td", "th"}:
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.cells and {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


@pytest.fixture
def table(tmp_path: Path) -> Report:
    """An ablation with a trial in every state; its errors hold what each format has to escape."""
    trials = [synthetic.config(diffusion_steps=t, lambda_clip=c, seeds=2) for t in (5, 15) for c in (0.0, 0.1)]
    for trial in trials[:2]:
        synthetic.write(tmp_path, trial)
    folder = synthetic.write(tmp_path, trials[2], "failed", 100)
    folder.write_status(
        {**folder.status, "error": "ValueError: 5 % of a_b & {c} <script>alert(1)</script> ~ $x^2$ #\\"}
    )
    return report.build(synthetic.describe(tmp_path, *trials))


def test_a_page_is_whole_and_needs_nothing_beside_it(table: Report) -> None:
    text = table.html()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text


def test_a_page_adapts_to_light_and_dark_to_phones_and_to_print(table: Report) -> None:
    text = table.html()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == sum(len(figure.panels) for figure in table.document.figures)
    for picture in pictures:
        assert "currentColor" in picture
        assert drawing.INK not in picture
        assert drawing.GROUND not in picture
        assert not re.search(r'<svg[^>]* (?:width|height)="', picture)


def test_a_page_shows_the_numbers_of_the_table_and_escapes_the_rest(table: Report) -> None:
    text = table.html()
    page = Page(text)
    assert "<script" not in text
    assert "5 % of a_b & {c} <script>alert(1)</script>" in "".join(page.words)
    head, *rows = page.cells[:5]
    assert head[:3] == ["task", "T", "λ-clip"]
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["state"] for row in shown] == ["complete", "complete", "failed", "pending"]
    assert shown[0]["last"] == "46.9 ± 0.2"
    assert shown[3]["last"] == "–"
    assert '<tr class="failed">' in text


def test_latex_has_tables_of_equal_rows_and_no_bare_marks(table: Report) -> None:
    text = table.latex()
    assert (
        text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == text.count("{tabular}") // 2
    )
    for form, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(len(re.split(r"(?<!\\)&", row)) == len(form) for row in rows)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"46.9 $\pm$ 0.2" in text
    assert r"$\lambda$-clip" in text
    assert not set("±λκ†‡§×·–…") & set(text.partition("\n")[2])


def test_latex_escapes_what_it_would_read() -> None:
    assert writers.escaped("5 % a_b & {c} $x^2$ #\\~") == (
        r"5 \% a\_b \& \{c\} \$x\textasciicircum{}2\$ \#\textbackslash{}\textasciitilde{}"
    )


def test_a_long_table_may_break_over_pages(tmp_path: Path) -> None:
    trials = [synthetic.config(lambda_clip=round(0.01 * number, 2), seeds=1) for number in range(50)]
    text = report.build(synthetic.describe(tmp_path, *trials)).latex()
    assert "\\begin{longtable}" in text
    assert text.count("\nhopper-medium-v2") == 50


def test_markdown_tables_have_equal_rows(table: Report) -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", table.markdown(), flags=re.MULTILINE)
    assert len(blocks) > 4
    for block in blocks:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "Figure: figures/budget.png" in table.markdown()


def test_csv_says_in_numbers_what_the_table_says(table: Report) -> None:
    records = list(csv.DictReader(io.StringIO(table.csv())))
    assert [record["T"] if "T" in record else record["diffusion_steps"] for record in records] == ["5", "5", "15", "15"]
    row = records[0]
    assert float(row["device_seconds"]) == 9.0
    assert float(row["wall_seconds"]) == 10.0
    assert row["data_differ_from_paper"] == "False"
    assert row["changed_settings"] == "evaluation.every 100|evaluation.episodes 3"
    assert row["published_protocol"] == "DiffCPS: best of its evaluations"
    assert float(row["violation_rate"]) == 1.0
    assert records[3]["last"] == records[3]["violation_rate"] == ""


def test_the_terminal_leaves_details_to_the_files(table: Report) -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    table.print(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Probability of improvement" in text
    assert "Expected online performance" in text
    assert "Cost of each trial" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_an_unfinished_sweep_has_every_format(tmp_path: Path) -> None:
    built = report.build(synthetic.describe(tmp_path, synthetic.config(), synthetic.config("walker2d-medium-v2")))
    Page(built.html())
    assert "2 trials: 2 not started." in built.html()
    assert "\\begin{tabular}" in built.latex()
    assert not built.drawn


def test_many_lines_are_told_apart_by_the_first_setting_with_few_values(tmp_path: Path) -> None:
    trials = [synthetic.config(diffusion_steps=t, lambda_clip=c / 10, seeds=2) for t in (5, 15) for c in range(5)]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    figures = report.build(synthetic.describe(tmp_path, *trials)).document.figures
    (picture,) = drawing.draw(next(figure for figure in figures if figure.name == "learning_curves")).svgs
    assert set(re.findall(r">(T=\d+)<", picture)) == {"T=5", "T=15"}
    assert "λ-clip=" not in picture


def test_each_panel_is_drawn_once_for_both_formats() -> None:
    drawn: list[str] = []
    panels = tuple(
        Panel(name, lambda axes, name=name: (axes.plot(np.arange(3)), drawn.append(name))) for name in "abcd"
    )  # type: ignore[misc]
    figure = Figure("test", "Test", "", "x", "y", panels)
    first = drawing.draw(figure)
    assert drawn == [*"abcd"]
    assert first.png.startswith(b"\x89PNG")
    assert len(first.svgs) == 4
    assert drawing.draw(figure) == first, "the same sweep gives the same file"


@pytest.mark.parametrize(
    ("lines", "places", "where"), [(5, 2, (1, 1)), (6, 3, (0, 0, 1)), (17, 3, (0, 0, 1)), (18, 2, (0, 0))]
)
def test_a_long_legend_hides_no_lines(lines: int, places: int, where: tuple[int, ...]) -> None:
    """A short one is in each panel, a longer one stands alone once, and more colours than can be told apart have none."""

    def panel(axes: Axes) -> None:
        for line in range(lines):
            axes.plot(np.arange(3) + line, label=f"way {line:02}")

    figure = Figure("test", "Test", "", "x", "y", (Panel("a", panel), Panel("b", panel)))
    drawn = drawing.draw(figure)
    assert len(drawn.svgs) == places
    assert tuple(picture.count(">way 03<") for picture in drawn.svgs) == where
    page = writers._figure(figure, drawn)
    assert page.count('class="panel"') == places
    assert ("Test: legend" in page) == (places == 3)


@pytest.mark.slow
def test_a_sweep_of_a_thousand_trials_has_a_report(tmp_path: Path) -> None:
    trials = [
        synthetic.config(task, diffusion_steps=steps, lambda_clip=clip / 100)
        for task in ("hopper-medium-v2", "walker2d-medium-v2")
        for steps in (5, 10, 15, 20, 25)
        for clip in range(100)
    ]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = report.build(synthetic.describe(tmp_path, *trials))
    assert len(built.write()) > 8
    assert "1000 trials: 1000 complete." in (tmp_path / "table.html").read_text("utf-8")
    assert "More than 30 configurations of one domain are not compared across tasks" in built.markdown()
