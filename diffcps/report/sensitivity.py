"""How the score of one task depends on T and λ-clip: the grid, and the lines of a figure through it."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffcps.report.published import ablation
from diffcps.report.rows import Row, by_task, varying


@dataclass(frozen=True)
class Grid:
    """Last score of one task over T (rows) and λ-clip (columns)."""

    task: str
    diffusion_steps: tuple[int, ...]
    lambda_clips: tuple[float, ...]
    cells: dict[tuple[int, float], Row]


@dataclass(frozen=True)
class Line:
    """A task's rows along one setting, all others being the same."""

    task: str
    label: str
    """Value of the other setting, where several lines are told apart by it."""
    points: tuple[tuple[float, Row], ...]
    """(value of the setting, row), in ascending order, evaluated rows only."""


@dataclass(frozen=True)
class Beside:
    """A task's best scores over λ-clip beside those of the paper's figures 4 and 5."""

    task: str
    points: tuple[tuple[float, Row, float], ...]
    """(λ-clip, row, the paper's number)."""


def grids(table: Sequence[Row]) -> list[Grid]:
    """A T × λ-clip grid for each task in which both vary and nothing else does."""
    found = []
    for task, group in by_task(table).items():
        if any(len(row.trial.shared("lambda_clip")) > 1 for row in group):
            continue
        cells = {(row.trial.config.algorithm.diffusion_steps, row.trial.shared("lambda_clip")[0]): row for row in group}
        steps, clips = sorted({point[0] for point in cells}), sorted({point[1] for point in cells})
        alone = len(cells) == len(group) and _only(group, "diffusion_steps", "lambda_clip")
        if alone and len(steps) > 1 and len(clips) > 1:
            found.append(Grid(task, tuple(steps), tuple(clips), cells))
    return found


def lines(table: Sequence[Row], along: str) -> list[Line]:
    """For each task a line of its rows along ``diffusion_steps`` or ``lambda_clip``, for each value of the other.

    Where anything else varies too, or members differ, there is no line: the difference between its points would have two causes.
    """
    other, symbol = ("lambda_clip", "λ-clip") if along == "diffusion_steps" else ("diffusion_steps", "T")
    found = []
    for task, group in by_task(table).items():
        if any(len(row.trial.settings[name]) > 1 for row in group for name in (along, other)):
            continue
        if not _only(group, along, other):
            continue
        values = sorted({row.trial.settings[other][0] for row in group})
        for value in values:
            points = [(r.trial.settings[along][0], r) for r in group if r.trial.settings[other][0] == value and r.last]
            points.sort(key=lambda point: point[0])
            if len(points) > 1 and len({point[0] for point in points}) == len(points):
                found.append(Line(task, f"{symbol}={value:g}" if len(values) > 1 else "", tuple(points)))
    return found


def _only(group: Sequence[Row], *names: str) -> bool:
    """Whether a task's rows differ in these settings alone."""
    frames = {(row.trial.config.profile, row.trial.config.physics, row.data) for row in group if row.trial.dataset}
    return len(frames) < 2 and set(varying(group)) <= set(names)


def beside_paper(table: Sequence[Row]) -> list[Beside]:
    """Where several λ-clips of the paper's ablation were run at T = 5 on its data: ours and the paper's, both best."""
    found = []
    for task, group in by_task(table).items():
        points = []
        for row in group:
            theirs, clips = ablation(row.trial), row.trial.shared("lambda_clip")
            if row.trial.config.algorithm.diffusion_steps == 5 and row.best and len(clips) == 1 and clips[0] in theirs:
                points.append((clips[0], row, theirs[clips[0]]))
        points.sort(key=lambda point: point[0])
        if len({point[0] for point in points}) == len(points) > 1:
            found.append(Beside(task, tuple(points)))
    return found
