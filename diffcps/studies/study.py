"""A study: a grid of trials, and a page with figures, tables and findings made from their run folders."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diffcps.config import Physics, RunConfig
from diffcps.files import save
from diffcps.report.document import Picture, Text, part
from diffcps.runs.flags import Maybe, Several
from diffcps.text import Column, markdown_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from diffcps.studies.results import Results


@dataclass(frozen=True)
class Scale:
    """The size of a study."""

    quick: bool = False
    """Small networks and few steps: minutes on two cores. The results are not meaningful."""
    seeds: Maybe[int] = None
    """Seeds of each trial. Default: depends on the study."""
    steps: Maybe[int] = None
    """Gradient steps of each trial. Default: depends on the study."""
    tasks: Annotated[Several[str], tyro.conf.arg(metavar="TASK ...")] = ()
    """Tasks, for the studies toy, claims, elbo-gap, multimodality, robustness, steps, selection and offline-selection. Bandits
    may be named without `bandit-`."""
    diffusion_steps: Several[int] = ()
    """T, for the studies that vary it. The studies constraint, optimum and multimodality use the first value."""
    hidden_size: Maybe[int] = None
    """Width of the networks on locomotion tasks. Default: the paper's, which takes days on a CPU; 64 takes hours."""
    batch_size: Maybe[int] = None
    """Transitions in a gradient step on locomotion tasks. Default: the paper's."""
    data: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "collected"
    """Data of locomotion tasks: collected (generated on this machine), d4rl (D4RL's files) or minari (imported files)."""
    physics: Maybe[Physics] = None
    """Body masses in the evaluation of locomotion policies. Default: the task's."""


@dataclass(frozen=True)
class Study:
    """A question about the method, as a sweep."""

    name: str
    title: str
    question: str
    """In a sentence or two."""
    trials: Callable[[Scale], tuple[RunConfig, ...]]
    """The grid."""
    page: Callable[["Results"], "Page"]
    """Makes the page from at least one complete trial."""


@dataclass(frozen=True)
class Page:
    """The results of a study. Findings are sentences generated from the numbers."""

    findings: tuple[str, ...]
    tables: Mapping[str, "pd.DataFrame"] = field(default_factory=dict)
    """By caption."""
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    """By file name without its suffix."""

    @property
    def text(self) -> Text:
        """The findings for a notebook."""
        return Text("\n".join(f"* {finding}" for finding in self.findings))

    def table(self, caption: str) -> Text:
        """One table for a notebook. Raises ``UserError`` with the known captions if there is none of that name."""
        return Text(f"**{caption}**\n\n{markdown(part(self.tables, caption, 'the page', 'table'))}")

    def picture(self, name: str) -> Picture:
        """One figure for a notebook. Raises ``UserError`` with the known names if there is none of that name."""
        from diffcps.studies import drawing  # it takes a second to import

        return drawing.picture(name, part(self.figures, name, "the page", "figure"))


def write(study: Study, results: "Results", folder: Path) -> list[Path]:
    """Write ``study.md``, ``study.csv`` and ``figures/study-*.png`` into a sweep's folder; returns their paths.

    Raises ``UserError`` when the folder cannot be written.
    """
    page = study.page(results)
    files = {"study.csv": results.frame.to_csv(index=False).encode()}
    files |= {f"figures/study-{name}.png": page.picture(name).png for name in page.figures}
    parts = [f"# {study.title}", study.question, results.remark, "## Findings", page.text.markdown]
    parts += [f"![{name}](figures/study-{name}.png)" for name in page.figures]
    parts += [page.table(caption).markdown for caption in page.tables]
    parts += [
        "Every number, one row a policy: `study.csv`; along training: `runs/*/metrics.csv` and `runs/*/measures.csv`."
    ]
    files["study.md"] = ("\n\n".join(parts) + "\n").encode()
    return save(folder, files)


_WIDEST, _MOST_ACROSS = 10, 5
"""A table with more columns than the first number and no more rows than the second has its rows as columns."""


def markdown(table: "pd.DataFrame") -> str:
    """A data frame as a Markdown table, numbers to four digits; a wide one of few rows has its rows as columns."""
    import pandas as pd

    head = [*(str(name) for name in table.columns)]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    if len(head) > _WIDEST and len(rows) <= _MOST_ACROSS:  # a terminal would cut every cell of it
        head, *rows = [[*cells] for cells in zip(head, *rows, strict=True)]
        numeric = [False, *(True for _ in head[1:])]
    return markdown_table([Column(head[i], [row[i] for row in rows], right) for i, right in enumerate(numeric)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)
