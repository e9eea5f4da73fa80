"""Pictures of the actions that policies left to look at, over those of the data: which modes they keep, what they leave."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from diffcps.report.analysis import Row, said, varying
from diffcps.report.document import Figure, Panel
from diffcps.report.drawing import colours
from diffcps.tasks.bandits import Bandit, bandit

if TYPE_CHECKING:
    import pandas as pd

    from diffcps.runs.trial import Trial

_BEHIND = 1500
"""Actions of the behaviour that are drawn."""
MOST = 24
"""Panels; a grid of hundreds of trials would make the page heavy."""


def cloud(axes: Axes, known: Bandit, actions: "pd.DataFrame") -> None:
    """A policy's actions (columns a_0, a_1) over the behaviour's; those off its support have another colour."""
    own = actions[["a_0", "a_1"]].to_numpy()
    off = known.off_support(own)
    on_support, off_support = colours(2)
    # thousands of points as vectors would make a page heavy
    style: dict[str, Any] = {"marker": ".", "linestyle": "", "rasterized": True}
    axes.plot(*known.sample(_BEHIND, np.random.default_rng(0)).T, ms=2, color="0.75", **style)
    axes.plot(*own[~off].T, ms=2, color=on_support, **style)
    axes.plot(*own[off].T, ms=2, color=off_support, **style)
    limit = 1.02 * known.bound
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))


def pictured(
    table: Sequence[Row], figure: Figure, left: Callable[["Trial"], bool], draw: Callable[..., None]
) -> Figure | None:
    """``figure`` with a panel, drawn by ``draw(axes, row=…)``, for each trial that ``left`` something; ``None`` without one."""
    names = varying(table)
    panels = [
        Panel(f"{row.trial.task.name} {said(row.trial, names)}".strip(), partial(draw, row=row))
        for row in table
        if left(row.trial)
    ]
    more = len(panels) - MOST
    caption = figure.caption + (f" {more} more trials are not drawn." if more > 0 else "")
    return replace(figure, caption=caption, panels=tuple(panels[:MOST])) if panels else None


def picture(table: Sequence[Row]) -> Figure | None:
    """A panel for each trial on a bandit in the plane that left actions; ``None`` without such a trial."""
    figure = Figure(
        "actions",
        "Actions",
        caption="Actions of all seeds at the end, those outside the data's support in orange; grey: the data's.",
        x_label="first action dimension",
        y_label="second action dimension",
    )
    return pictured(table, figure, lambda trial: trial.task.action_size == 2 and "a_0" in trial.samples, _drawn)


def _drawn(axes: Axes, row: Row) -> None:
    cloud(axes, bandit(str(row.trial.task.bandit)), row.trial.samples.dropna())
