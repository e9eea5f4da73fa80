"""The report on one sweep, part by part, in the order in which it is read."""

from collections.abc import Sequence

from diffcps.report import figures, notes, provenance, sheets
from diffcps.report.collect import Sweep
from diffcps.report.columns import main_columns
from diffcps.report.document import Block, Bullets, Document, Prose, Section, Sheet
from diffcps.report.groups import MOST, Budget, Group, comparable, families
from diffcps.report.published import version
from diffcps.report.rows import Row
from diffcps.report.sensitivity import Grid, beside_paper, lines


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
        sections.append(Section("Averages over complete tasks", (sheets.averages(averages),)))
    if troubles := notes.troubles(sweep):
        sections.append(Section("What went wrong", (Bullets(tuple(troubles), trouble=True),)))
    sections.append(Section("Notes", (Prose(tuple(notes.footnotes(table))),)))
    drawn = figures.over_time(table)
    sections += [Section(figure.title, (figure,)) for figure in drawn[:1]]
    sections += _across([] if sweep.is_search else groups)
    sections += [Section(f"{item.task}: last score over T and λ-clip", (sheets.grid(item),)) for item in grids]
    sections += _sensitivity([] if sweep.is_search else table)
    if budgets:
        said = (
            "The highest last score to expect when k of a task's configurations, picked uniformly at random with "
            "replacement, are tried online (EOP; Kurenkov & Kolesnikov, 2022), ± its standard deviation. A "
            "configuration's score is its mean over seeds."
        )
        blocks = _present(Prose((said,)), sheets.budget(budgets), figures.budget(budgets))
        sections.append(Section("Expected online performance", blocks))
    sections += [Section(figure.title, (figure,)) for figure in drawn[1:]]
    if remarks := notes.remarks(sweep):
        sections.append(Section("Remarks", (Bullets(tuple(remarks)),)))
    if made := provenance.provenance(sweep):
        sections.append(Section("Departures from the paper", (Bullets(tuple(provenance.deviations(sweep))),)))
        sections.append(Section("Made with", (Bullets(tuple(made)),)))
    if not narrow:
        sections += _details(table)
    return Document(sweep.name, tuple(section for section in sections if _said(section)))


def _main(table: Sequence[Row], narrow: bool) -> list[Block]:
    """The table; two of them where AntMaze v0 and v2 would share one."""
    versions = {version(row.trial) for row in table} - {""}
    parts = [[row for row in table if version(row.trial) != "v2"], [row for row in table if version(row.trial) == "v2"]]
    if len(versions) < 2:
        parts = [list(table)]
    found: list[Block] = []
    for rows, title in zip(parts, ("", "AntMaze v2: other data and other goals than v0, not comparable"), strict=False):
        if rows:
            states = tuple(row.trial.state for row in rows)
            found.append(Sheet(tuple(main_columns(rows, narrow)), states, title))
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
            sheets.aggregates(shown),
        ]
        if any(len({group.tasks for group in family}) > 1 for family in found):
            blocks.append(Prose(("Configurations stand on different tasks here, since not all trials are complete.",)))
        sections.append(Section("Across tasks", tuple(blocks)))
    if found:
        profiles = figures.profiles(found)
        sections.append(Section(profiles.title, (profiles,)))
        if (pairs := sheets.improvement(found)) is not None:
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
        sections.append(Section("λ-clip beside the paper's ablation", (Prose((said,)), sheets.beside(found))))
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
        found.append(Section("Constraint and critic", (Prose((said,)), sheets.constraint(logged)), aside=True))
    evaluated = [row for row in table if row.evaluations]
    if evaluated:
        found.append(Section("Cost of each trial", (sheets.costs(evaluated),), aside=True))
    found.append(Section("Data", _present(sheets.data(table)), aside=True))
    return found


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _said(section: Section) -> bool:
    """Whether there is anything in a section."""
    return any(
        not (isinstance(block, Bullets) and not block.lines) and not (isinstance(block, Sheet) and not block.columns)
        for block in section.blocks
    )
