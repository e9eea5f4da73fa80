"""The report on one sweep, part by part, in the order in which it is read."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import RenderableType

from diffcps.report import diagnostics, drawing, figures, notes, tables
from diffcps.report.analysis import (
    MOST,
    NEWEST,
    SETTINGS,
    Budget,
    Grid,
    Group,
    Row,
    Score,
    beside_paper,
    budgets,
    comparable,
    families,
    grids,
    groups,
    lines,
    rows,
)
from diffcps.report.document import Block, Bullets, Document, Figure, Prose, Section, Sheet
from diffcps.report.notes import first_line
from diffcps.report.published import OTHER_DATA, OTHER_ENVIRONMENT, PUBLISHED, marks
from diffcps.report.tables import main_columns
from diffcps.report.writers import html, latex, markdown, screen
from diffcps.runs.frames import Sweep, worded


def contents(
    sweep: Sweep,
    table: Sequence[Row],
    groups: Sequence[Group],
    averages: Sequence[Group],
    grids: Sequence[Grid],
    budgets: Sequence[Budget],
    narrow: bool = False,
) -> Document:
    """Everything that is said of a sweep; ``narrow`` for a terminal: intervals under their scores, no details."""
    sections = [Section("", (Prose((notes.progress(sweep),)), *_main(table, narrow)))]
    if averages:
        sections.append(Section("Averages over complete tasks", (tables.averages(averages),)))
    if troubles := notes.troubles(sweep):
        sections.append(Section("What went wrong", (Bullets(tuple(troubles), trouble=True),)))
    sections.append(Section("Notes", (Prose(tuple(notes.footnotes(table))),)))
    drawn = figures.over_time(table)
    sections += [Section(figure.title, (figure,)) for figure in drawn[:1]]
    sections += _across([] if sweep.is_search else groups)
    sections += [Section(f"{item.task}: last score over T and λ-clip", (tables.grid(item),)) for item in grids]
    sections += _sensitivity([] if sweep.is_search else table)
    if budgets:
        said = (
            "The highest last score to expect when k of a task's configurations, picked uniformly at random with "
            "replacement, are tried online (EOP; Kurenkov & Kolesnikov, 2022), ± its standard deviation. A "
            "configuration's score is its mean over seeds."
        )
        blocks = _present(Prose((said,)), tables.budget(budgets), figures.budget(budgets))
        sections.append(Section("Expected online performance", blocks))
    sections += [Section(figure.title, (figure,)) for figure in drawn[1:]]
    if remarks := notes.remarks(sweep):
        sections.append(Section("Remarks", (Bullets(tuple(remarks)),)))
    if made := notes.provenance(sweep):
        sections.append(Section("Departures from the paper", (Bullets(tuple(notes.deviations(sweep))),)))
        sections.append(Section("Made with", (Bullets(tuple(made)),)))
    if not narrow:
        sections += _details(table)
    return Document(sweep.name, tuple(section for section in sections if _said(section)))


def _main(table: Sequence[Row], narrow: bool) -> list[Block]:
    """The table; D4RL's second versions of tasks have one of their own where others are shown."""
    second = [row for row in table if row.trial.task.second_version]
    first = [row for row in table if not row.trial.task.second_version]
    other = "AntMaze v2: other data and other goals than v0, not comparable" if first else ""
    found: list[Block] = []
    for part, title in (first, ""), (second, other):
        if part:
            states = tuple(row.trial.state for row in part)
            found.append(Sheet(tuple(main_columns(part, narrow)), states, title))
    return found


def _across(groups: Sequence[Group]) -> list[Section]:
    """Aggregates, comparisons and profiles over the tasks of each domain."""
    found = comparable(groups)
    sections = []
    # of a single task the aggregates are the table's own numbers
    shown = [group for family in found for group in family if any(len(other.rows) > 1 for other in family)]
    if shown:
        blocks: list[Block] = [
            Prose(
                (
                    "Of the last scores of complete trials, over all seeds and tasks of a domain, with stratified-bootstrap "
                    "95 % intervals (Agarwal et al., 2021). Optimality gap: how far scores fall short of 100.",
                )
            ),
            tables.aggregates(shown),
        ]
        if any(len({group.tasks for group in family}) > 1 for family in found):
            blocks.append(Prose(("Configurations stand on different tasks here, since not all trials are complete.",)))
        sections.append(Section("Across tasks", tuple(blocks)))
    if found:
        profiles = figures.profiles(found)
        sections.append(Section(profiles.title, (profiles,)))
        if (pairs := tables.improvement(found)) is not None:
            said = "How likely a run of X ends with a higher last score than a run of Y on the same task, a tie being half."
            sections.append(Section("Probability of improvement", (Prose((said,)), pairs)))
    if any(len(family) > MOST for family in families(groups)):
        said = (
            f"More than {MOST} configurations of one domain are not compared across tasks; the table has each of them."
        )
        sections.append(Section("", (Prose((said,)),)))
    return sections


def _sensitivity(table: Sequence[Row]) -> list[Section]:
    drawn = [figures.sensitivity(along, lines(table, along)) for along in ("diffusion_steps", "lambda_clip")]
    sections = [Section(figure.title, (figure,)) for figure in drawn if figure is not None]
    if found := beside_paper(table):
        said = "Both are the best of a run's evaluations: the paper's figures 4 and 5, T = 5, beside ours."
        sections.append(Section("λ-clip beside the paper's ablation", (Prose((said,)), tables.beside(found))))
    return sections


def _details(table: Sequence[Row]) -> list[Section]:
    """For those who look closer."""
    found = []
    logged = [row for row in table if len(row.trial.metric("behaviour_loss")[0])]
    if logged:
        said = (
            "Means over seeds. Behaviour loss, λ and the Q estimate are of the newest row of metrics; violations: share of "
            "rows in which what κ bounds (the behaviour loss, unless a setting says otherwise) is above it. return, "
            "discounted: the newest evaluation's return on the critic's scale, as if its reward came evenly over the "
            "episode. Q estimate: of the policy's own actions in states of the data; far above the discounted return it "
            "hints at a critic that overestimates."
        )
        found.append(Section("Constraint and critic", (Prose((said,)), tables.constraint(logged)), aside=True))
    evaluated = [row for row in table if row.evaluations]
    if evaluated:
        found.append(Section("Cost of each trial", (tables.costs(evaluated),), aside=True))
    found.append(Section("Data", _present(tables.data(table)), aside=True))
    return found


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _said(section: Section) -> bool:
    """Whether there is anything in a section."""
    return any(
        not (isinstance(block, Bullets) and not block.lines) and not (isinstance(block, Sheet) and not block.columns)
        for block in section.blocks
    )


# The table as CSV: one row a trial, plain numbers, everything that a spreadsheet or a script may want.


def table_csv(table: Sequence[Row]) -> str:
    """One line a trial; an empty field is a number that does not exist."""
    return as_csv([_record(row) for row in table], "task")


def as_csv(records: Sequence[Mapping[str, Any]], first: str) -> str:
    """Records as CSV; of none, a header that says ``first``."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]) if records else [first], lineterminator="\n")
    writer.writeheader()
    for record in records:
        missing = {name for name, value in record.items() if isinstance(value, float) and math.isnan(value)}
        writer.writerow({name: None if name in missing else value for name, value in record.items()})
    return out.getvalue()


def _record(row: Row) -> dict[str, Any]:
    trial = row.trial
    found, differing = row.diagnosis, marks(trial)
    return {
        "task": trial.task.name,
        "key": trial.key,
        **{name: "|".join(map(worded, trial.settings[name])) for name in SETTINGS},
        "profile": trial.config.profile,
        "physics": trial.config.physics,
        "data": row.data,
        "provenance": trial.dataset.get("provenance"),
        "data_differ_from_paper": OTHER_DATA in differing,
        "environment_differs_from_paper": OTHER_ENVIRONMENT in differing,
        "changed_settings": "|".join(trial.changes),
        "score": trial.task.score,
        "dataset_rows": trial.dataset.get("rows"),
        "dataset_checksum": trial.dataset.get("checksum"),
        "state": trial.state,
        "seeds": trial.seeds,
        "step": trial.status.get("step", 0),
        "steps": trial.config.steps,
        "evaluations": row.evaluations,
        "episodes": trial.config.evaluation.episodes,
        "behaviour": trial.behaviour_score,
        "first": row.first,
        **score_record("last", row.last),
        "newest_evaluations": min(row.evaluations, NEWEST),
        **score_record("newest", row.newest),
        **score_record("best_oracle", row.best),
        "lambda": row.final_lambda,
        "behaviour_loss": found.behaviour_loss,
        "loss_over_kappa": found.ratio,
        "violation_rate": found.violations,
        "violation_rate_second_half": found.late_violations,
        "q_estimate": found.q_value,
        "return_discounted": found.discounted,
        "return": found.returned,
        **{f"published_{name}": row.published.values.get(name) for name in (*PUBLISHED, "DiffCPS_std")},
        "published_protocol": "DiffCPS: best of its evaluations" if row.published.values else None,
        "steps_per_second": diagnostics.rate(trial),
        "learner_share": diagnostics.learner_share(trial),
        "wall_seconds": diagnostics.wall(trial),
        "device_seconds": diagnostics.device_time(trial),
        "device": trial.environment.get("device"),
        "git_commit": trial.environment.get("git_commit"),
        "error": first_line(trial.status.get("error")) if trial.state == "failed" else None,
    }


def score_record(name: str, score: Score | None) -> dict[str, float | None]:
    """A score as four columns."""
    mean, std, low, high = score or (None, None, None, None)
    return {name: mean, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}


# All numbers of a sweep, computed once, and what they are written as.


@dataclass(frozen=True, eq=False)
class Table:
    """Everything that a report says in words, numbers and figures."""

    sweep: Sweep
    rows: list[Row]
    groups: list[Group]
    """Complete trials that may be put together."""
    grids: list[Grid]
    budgets: list[Budget]

    @classmethod
    def of(cls, sweep: Sweep) -> "Table":
        """Find what there is to tell of a sweep."""
        table = rows(sweep)
        return cls(sweep, table, groups(table), grids(table), budgets(table))

    @property
    def averages(self) -> list[Group]:
        """The groups over several tasks; a search has none, for its trials have no configuration in common."""
        return [] if self.sweep.is_search else [group for group in self.groups if len(group.rows) > 1]

    @cached_property
    def document(self) -> Document:
        """The whole report, for a file."""
        return self._contents(narrow=False)

    @property
    def figures(self) -> Sequence[Figure]:
        """Every figure of the report."""
        return self.document.figures

    def markdown(self) -> str:
        """The whole report as Markdown."""
        return markdown(self.document)

    def html(self) -> str:
        """The whole report as a page that needs nothing beside it."""
        return html(self.document, self.drawn)

    def latex(self) -> str:
        """The tables for a paper."""
        return latex(self.document)

    def csv(self) -> str:
        """One row a trial with plain numbers."""
        return table_csv(self.rows)

    def terminal(self, width: int = 120) -> RenderableType:
        """The report for a console ``width`` columns wide."""
        return screen(self._contents(narrow=True), width)

    def pictures(self) -> dict[str, bytes]:
        """File name -> PNG of each figure."""
        return {f"{name}.png": drawn.png for name, drawn in self.drawn.items()}

    @cached_property
    def drawn(self) -> dict[str, drawing.Drawn]:
        """Every figure by its name, drawn once for the page and for the folder."""
        return drawing.drawn(self.figures)

    def _contents(self, narrow: bool) -> Document:
        return contents(self.sweep, self.rows, self.groups, self.averages, self.grids, self.budgets, narrow)
