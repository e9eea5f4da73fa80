"""The answer of a search: the best configuration of each task, what matters, and the score along each axis."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes

from diffcps.report.analysis import Row, Score, by_task, said
from diffcps.report.document import Block, Bullets, Figure, Panel, Prose, Section, Sheet
from diffcps.report.drawing import colours
from diffcps.report.figures import WIDE
from diffcps.report.tables import score, score_interval
from diffcps.runs.commands import full_length_command
from diffcps.runs.criteria import CRITERIA, SCORE, newest
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.read import Sweep
from diffcps.text import Column, counted, is_number, percent


def best(table: Sequence[Row], objective: str = SCORE) -> list[Row]:
    """The complete trial of each task with the highest objective."""
    found = []
    for rows in by_task(table).values():
        scored = [
            (value, row)
            for row in rows
            if row.trial.state == "complete" and math.isfinite(value := newest(row.trial, objective))
        ]
        if scored:
            found.append(max(scored, key=lambda pair: pair[0])[1])
    return found


def answer(sweep: Sweep, table: Sequence[Row]) -> list[tuple[str, str]]:
    """For each task its best configuration in a sentence, and the command that runs it at full length; empty without a search."""
    if sweep.plan is None or sweep.plan.search is None:
        return []
    names, objective = [axis.name for axis in sweep.plan.axes], sweep.plan.objective
    directories = [str(folder) for folder in sweep.description.get("data_directories", ())]
    found = []
    for row in best(table, objective):
        what = said(row.trial, names)
        reached = "" if objective == SCORE else f"{objective} {newest(row.trial, objective):.4g}, "
        words = (
            f"best of {counted(_complete(table, row), 'complete trial')} for {row.trial.task.name}: {what}, {reached}last "
            f"{score(row.last)}. At full length:"
        )
        found.append((words, full_length_command(row.trial.config, directories)))
    return found


def sections(sweep: Sweep, table: Sequence[Row]) -> list[Section]:
    """The answer first, then a figure for each axis; empty for a sweep that is no search, or before a trial is complete."""
    plan = sweep.plan
    if plan is None or plan.search is None or not (found := best(table, plan.objective)):
        return []
    names = [axis.name for axis in plan.axes]
    columns = [
        Column("task", [row.trial.task.name for row in found], right=False),
        Column("best configuration", [said(row.trial, names) for row in found], right=False),
        *_objective(plan, found),
        Column("last", [score(row.last) for row in found]),
        Column("95 % interval", [score_interval(row.last) for row in found]),
        Column("complete trials", [str(_complete(table, row)) for row in found]),
        Column("online episodes", [f"{_episodes(table, row):,}" for row in found]),
        *_importance(plan, sweep.importances, found),
    ]
    explained = (
        f"{_maximised(plan)} Online episodes: those of all trials of the task in its environment, at every evaluation and seed, "
        "without those of students and of other ways to act. Importance: Optuna's share of each axis, by how much the best "
        "trials differ from all along it (PED-ANOVA); a rough estimate for few trials."
    )
    told: list[Block] = []
    for words, command in answer(sweep, table):
        told += [Prose((words,)), Bullets((command,), code=True)]
    return [
        Section("The best configuration", (Prose((explained,)), Sheet(tuple(columns)), *told)),
        *(Section(figure.title, (figure,)) for figure in map(partial(_figure, table), plan.axes) if figure.panels),
    ]


def _importance(plan: Plan, known: Mapping[str, Mapping[str, float]], found: Sequence[Row]) -> list[Column]:
    """A column for each axis, where any task has its importance."""
    columns = []
    for axis in plan.axes if known else ():
        shares = [known.get(row.trial.task.name, {}).get(axis.name, math.nan) for row in found]
        symbol = found[0].trial.config.symbols.get(axis.name, axis.name)
        columns.append(Column(f"importance of {symbol}", [percent(share) for share in shares], drop=1))
    return columns


def _maximised(plan: Plan) -> str:
    """What the search goes by, and what that is worth."""
    if plan.objective == SCORE:
        return (
            "Optuna maximises the last score: that of the final checkpoint, mean over seeds. The highest score of many trials "
            "is biased upwards; run the configuration again, with other seeds or longer, before you report it."
        )
    return (
        f"Optuna looks for {CRITERIA[plan.objective].goal}, of the final checkpoint, mean over seeds. Here {plan.objective} has "
        "its sign turned where less is better. No environment has a part in the choice; `diffcps select` says how well it ranks."
    )


def _objective(plan: Plan, found: Sequence[Row]) -> list[Column]:
    """A column of what was maximised, where that is not the last score."""
    if plan.objective == SCORE:
        return []
    return [Column(plan.objective, [f"{newest(row.trial, plan.objective):.4g}" for row in found])]


def _episodes(table: Sequence[Row], row: Row) -> int:
    """Episodes that the trials of a row's task have had in its environment, by their own way to act."""
    own = [other.trial for other in table if other.trial.task == row.trial.task]
    return sum(values.size for trial in own for values in trial.evaluations.returns)


def _complete(table: Sequence[Row], row: Row) -> int:
    """Complete trials of a row's task."""
    return sum(other.trial.task == row.trial.task and other.trial.state == "complete" for other in table)


def _figure(table: Sequence[Row], axis: Axis) -> Figure:
    """The last score of every complete trial along one axis; one panel a task."""
    panels = []
    symbol = axis.name
    for task, rows in by_task(table).items():
        points = [
            (row.trial.values(axis.name)[0], row.last)
            for row in rows
            if row.trial.state == "complete"
            and row.last
            and math.isfinite(row.last.mean)
            and row.trial.values(axis.name)
        ]
        if len({value for value, _ in points}) > 1:
            panels.append(Panel(task, partial(_points, axis=axis, points=points)))
            symbol = str(rows[0].trial.config.symbols.get(axis.name, axis.name))
    return Figure(
        name=f"search_{axis.name.replace('.', '_')}",
        title=f"Score over {symbol}",
        caption="Last score of each complete trial of the search, mean over seeds; the other axes differ between the points. "
        "Filled: the best one.",
        x_label=symbol,
        y_label="last score",
        panels=tuple(panels),
    )


def _points(axes: Axes, axis: Axis, points: Sequence[tuple[object, Score]]) -> None:
    (colour,) = colours(1)
    numbers = all(is_number(value) for value, _ in points)
    values = [value if numbers else str(value) for value, _ in points]
    scores = [score.mean for _, score in points]
    axes.plot(values, scores, color=colour, linestyle="none", marker="o", markersize=4, fillstyle="none")  # type: ignore[arg-type]
    top = max(range(len(scores)), key=lambda index: scores[index])
    axes.plot(values[top], scores[top], color=colour, linestyle="none", marker="o", markersize=6)  # type: ignore[arg-type]
    if numbers and (axis.log or (axis.low is None and min(values) > 0 and max(values) > WIDE * min(values))):  # type: ignore
        axes.set_xscale("log")
