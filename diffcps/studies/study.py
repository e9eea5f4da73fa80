"""What a study is: a grid of trials, and a page of figures, tables and findings drawn from their run folders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from diffcps.config import Physics, RunConfig
from diffcps.files import save
from diffcps.report.document import Picture, Text, part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from diffcps.studies.results import Results


# How large a study is run: what its command line asks, and nothing that is slow to import.


@dataclass(frozen=True)
class Scale:
    """How large a study is run."""

    quick: bool = False
    """Minutes on two cores instead of the full settings."""
    seeds: int | None = None
    """Seeds of each trial; by default the study's own number."""
    steps: int | None = None
    """Gradient steps of each trial; by default the study's own number."""
    data: tuple[str, ...] = ()
    """Names of the bandits (`ring`, `corners`, `8gaussians`, `mixture-5x2`, …) or tasks, where a study lets one choose."""
    diffusion_steps: tuple[int, ...] = ()
    """T, where a study lets one choose."""
    hidden_size: int | None = None
    """Width of the networks on locomotion tasks; by default the paper's. 64 makes hours of a CPU's days."""
    batch_size: int | None = None
    """Transitions in a gradient step on locomotion tasks; by default the paper's."""
    source: str = "collected"
    """Where the data of locomotion tasks come from: collected here, D4RL's files, or those imported as Minari data sets."""
    physics: Physics | None = None
    """Body masses under which locomotion policies are judged; by default the task's own."""

    def of_steps(self, steps: int) -> "Scale":
        """The same with another number of gradient steps."""
        return replace(self, steps=steps)


@dataclass(frozen=True)
class Study:
    """A question about the method, as a sweep."""

    name: str
    title: str
    question: str
    """What is asked, in a sentence or two."""
    trials: Callable[[Scale], tuple[RunConfig, ...]]
    """The grid."""
    page: Callable[["Results"], "Page"]
    """What is drawn and said, from at least one finished trial."""


@dataclass(frozen=True)
class Page:
    """What a study shows: findings are sentences made from the numbers, whichever way they came out."""

    findings: tuple[str, ...]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By caption."""
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    """By file name without its ending."""

    @property
    def text(self) -> Text:
        """The findings for a notebook."""
        return Text("\n".join(f"* {finding}" for finding in self.findings))

    def table(self, caption: str) -> Text:
        """One table for a notebook. Raises ``UserError`` naming those that there are when it is none of them."""
        return Text(f"**{caption}**\n\n{markdown(part(self.tables, caption, 'the page', 'table'))}")

    def picture(self, name: str) -> Picture:
        """One figure for a notebook. Raises ``UserError`` naming those that there are when it is none of them."""
        from diffcps.studies import drawing  # it takes a second to import

        return drawing.picture(name, part(self.figures, name, "the page", "figure"))


def write(study: Study, results: "Results", folder: Path) -> list[Path]:
    """Write ``study.md``, ``study.csv`` and ``figures/study-*.png`` into a sweep's folder; returns their paths.

    Raises ``UserError`` when the folder cannot be written.
    """
    page = study.page(results)
    files = {"study.csv": results.frame.to_csv(index=False).encode()}
    lines = [f"# {study.title}", "", study.question, "", *results.remarks()]
    lines += ["## Findings", "", *(f"* {finding}" for finding in page.findings), ""]
    for name in page.figures:
        files[f"figures/study-{name}.png"] = page.picture(name).png
        lines += [f"![{name}](figures/study-{name}.png)", ""]
    for caption, table in page.tables.items():
        lines += [f"**{caption}**", "", markdown(table), ""]
    lines += [
        "Every number, one row a policy: `study.csv`; along training: `runs/*/metrics.csv` and `runs/*/measures.csv`."
    ]
    files["study.md"] = ("\n".join(lines) + "\n").encode()
    return save(folder, files)


_WIDEST, _MOST_ACROSS = 10, 5
"""A table of more columns than the one is laid on its side when it has no more rows than the other."""


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, numbers to four digits; a wide one of few rows lies on its side."""
    head = [*(str(name) for name in table.columns)]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    if len(head) > _WIDEST and len(rows) <= _MOST_ACROSS:  # a terminal would cut every cell of it
        head, *rows = [[*cells] for cells in zip(head, *rows, strict=True)]
        numeric = [False, *(True for _ in head[1:])]
    rule = ["--:" if number else ":--" for number in numeric]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if pd.isna(value) else f"{value:.4g}"
    return str(value)
