"""Pictures of the paths that policies left to look at in a maze, from above, over those of the data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from diffcps.report.actions import pictured
from diffcps.report.analysis import Row
from diffcps.report.document import Figure
from diffcps.report.drawing import colours

if TYPE_CHECKING:
    import pandas as pd

    from diffcps.tasks import Task


def picture(table: Sequence[Row]) -> Figure | None:
    """A panel for each trial in a maze that left paths; ``None`` without such a trial."""
    figure = Figure(
        "paths",
        "Paths in the maze",
        caption="From above: episodes of each seed at the end; in grey the data's paths. Dot: start; dotted: where goals are.",
        x_label="x, metres",
        y_label="y, metres",
    )
    return pictured(table, figure, lambda trial: "path" in trial.samples, _drawn)


def _drawn(axes: Axes, row: Row) -> None:
    walls(axes, row.trial.task)
    lines(axes, row.trial.samples.dropna())


def walls(axes: Axes, task: "Task") -> None:
    """The walls of a task's maze, its start and its goal."""
    from diffcps.envs import maze  # imports MuJoCo

    found = maze(task)
    half = found.cell / 2
    for x, y in found.centres("#"):
        axes.add_patch(Rectangle((x - half, y - half), found.cell, found.cell, color="0.35", lw=0))
    (start,), (goal,) = found.centres("S"), found.centres("G")
    axes.plot(*start, "o", color="black", ms=4, zorder=3)
    style: dict[str, Any] = {"fill": False, "color": "black", "ls": ":", "zorder": 3}
    axes.add_patch(
        FancyBboxPatch(goal, found.goal_spread, found.goal_spread, f"round,pad={found.goal_radius}", **style)
    )
    xs, ys = found.centres("#.SG").T
    axes.set(xlim=(xs.min() - half, xs.max() + half), ylim=(ys.min() - half, ys.max() + half), aspect="equal")


def lines(axes: Axes, paths: "pd.DataFrame") -> None:
    """Paths (columns path, x, y): the data's in grey, each member's in a colour of its own."""
    members = paths["member"].unique()
    of_member = dict(zip(members, colours(len(members)), strict=True))
    style: dict[str, Any] = {"lw": 0.7, "rasterized": True}
    for (member, number), path in paths.groupby(["member", "path"]):
        if number >= 0:
            axes.plot(path["x"], path["y"], color=of_member[member], zorder=2, **style)
        elif member == members[0]:  # the same for all
            axes.plot(path["x"], path["y"], color="0.75", zorder=1, **style)
