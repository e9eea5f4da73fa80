"""Figures of studies: lines over a setting with a band over seeds, points, and actions in the plane."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffcps.report.actions import cloud
from diffcps.report.document import Picture
from diffcps.report.drawing import STYLE, colours
from diffcps.runs.trial import Trial
from diffcps.tasks.bandits import bandit


def panels(count: int, columns: int = 3, size: tuple[float, float] = (3.6, 3.0)) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most ``columns`` in a row."""
    across = max(1, min(columns, count))
    down = max(1, -(-count // across))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.set_visible(False)
    return figure, list(grid[:count])


def lines(axes: Axes, frame: pd.DataFrame, x: str, y: str, by: str, order: Sequence[object] = ()) -> None:
    """A line for each value of ``by``: the mean of ``y`` over ``x``, with its range over policies as a band."""
    groups = dict(list(frame.groupby(by, sort=False)))
    names = order or list(groups)
    for name, colour in zip(names, colours(len(names)), strict=True):
        if name not in groups:
            continue
        values = groups[name].groupby(x)[y].agg(["mean", "min", "max"])
        marker = "o" if len(values) < 12 else None
        axes.plot(values.index, values["mean"], color=colour, label=str(name), marker=marker, ms=3)
        axes.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.18, lw=0)
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))


def curves(
    frame: pd.DataFrame, x: str, ys: Sequence[str], by: str, order: Sequence[object] = (), log_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """``lines`` of each of ``ys`` in a panel of its own, with one legend."""
    figure, axes = panels(len(ys))
    for one, y in zip(axes, ys, strict=True):
        lines(one, frame, x, y=y, by=by, order=order)
        one.set_xscale("log" if log_x else "linear")
        if x == "diffusion_steps":
            one.set_xlabel("T")
    axes[0].legend(fontsize=7)
    return figure, axes


def points(axes: Axes, frame: pd.DataFrame, category: str, y: str, order: Sequence[object] = ()) -> None:
    """``y`` of each policy as a point above its category, and the mean as a line."""
    groups = dict(list(frame.groupby(category, sort=False)))
    names = [name for name in (order or groups) if name in groups]
    for i, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True)):
        values = groups[name][y].to_numpy(np.float64)
        axes.plot(np.full(len(values), i), values, "o", color=colour, ms=4, alpha=0.7)
        axes.plot([i - 0.3, i + 0.3], [np.mean(values)] * 2, color=colour, lw=2)
    axes.set_xticks(range(len(names)), [str(name) for name in names], rotation=30, ha="right")
    axes.set_ylabel(y.replace("_", " "))


def clouds(trials: Mapping[str, Trial], columns: int = 5) -> Figure:
    """For each title, the actions of a trial's first seed (from the measure ``samples``) over the bandit's data."""
    figure, axes = panels(len(trials), columns, size=(2.2, 2.3))
    for one, (title, trial) in zip(axes, trials.items(), strict=True):
        actions = trial.samples
        if not actions.empty:
            cloud(one, bandit(str(trial.task.bandit)), actions[actions["member"] == 0])
            one.set(aspect="equal", xticks=[], yticks=[])
            one.set_title(title, fontsize=8)
    return figure


def behaviours(*names: str, rows: int = 1000) -> Picture:
    """The data of bandits with two dimensions, coloured by the true mean reward of each action."""
    figure, axes = panels(len(names), 4, size=(2.9, 2.5))
    for one, name in zip(axes, names, strict=True):
        known = bandit(name)
        actions = known.sample(rows, np.random.default_rng(0))
        shown = one.scatter(actions[:, 0], actions[:, 1], c=known.value(actions), s=2, cmap="viridis")
        figure.colorbar(shown, ax=one, shrink=0.75)
        limit = 1.02 * known.bound
        one.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[], title=name)
    return picture("behaviours", figure)


def picture(name: str, figure: Figure) -> Picture:
    """A figure as PNG."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # ticks are made when they are drawn
        figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    return Picture(name, buffer.getvalue())
