"""Pictures of data sets: what a check found, and a maze from above with the ways that were taken in it."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from diffcps.data.checking.check import Check, Examined
from diffcps.data.checking.parity import FITS
from diffcps.data.checking.recording import Recording
from diffcps.data.provenance import TOLERANCE
from diffcps.data.transitions import trajectory_returns
from diffcps.envs.simulations import Layout

_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "legend.fontsize": 8, "legend.frameon": False, "figure.dpi": 130, "axes.axisbelow": True,
}  # fmt: skip
_BLUE, _ORANGE, _GREEN, _RED, _WALL = "#2f6db3", "#d9822b", "#2a9d5c", "#c8453b", "#8d857b"
_PHYSICS = {"d4rl": _ORANGE, "modern": _BLUE}
_PANEL = 4.4, 3.2
"""Width and height of a panel, inches."""
_MOST_DRAWN = 200
"""Trajectories; more hide one another."""
_MOST_POINTS = 400
"""Of one trajectory."""
_SMALLEST_SHOWN = 1e-17
"""An error of 0 has no place on a logarithmic axis."""


@dataclass(frozen=True, eq=False)
class Way:
    """One trajectory through a maze."""

    positions: NDArray[np.floating[Any]]
    """[L, 2] in metres."""
    success: bool


def draw(examined: Examined) -> bytes | None:
    """The plot of a check as PNG; ``None`` when there is nothing to show."""
    check, data = examined.check, examined.data
    if data is None or check.rows is None:
        return None
    panels: list[Any] = [lambda axes: _returns(axes, examined, data), lambda axes: _lengths(axes, examined, data)]
    if check.published:
        panels.append(lambda axes: _published(axes, check))
    else:
        panels.append(lambda axes: _columns(axes, check))
    if examined.errors:
        panels.append(lambda axes: _errors(axes, examined))
    maze = examined.maze
    with mpl.rc_context(_STYLE):
        rows = (len(panels) + 1) // 2
        tall = 2 * _PANEL[1]
        width = 2 * _PANEL[0] + (1.15 * tall * _aspect(maze) if maze is not None else 0.0)
        figure = Figure(figsize=(width, rows * _PANEL[1] + 0.45), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(_title(check), fontsize=11, x=0.01, ha="left")
        parts: Any = figure
        if maze is not None:
            both: Any = figure.subfigures(1, 2, width_ratios=[2 * _PANEL[0], width - 2 * _PANEL[0]])
            parts, right = both
            top_view(right.subplots(), maze, ways(data), _goal(check))
        grid = parts.subplots(rows, 2, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            panel(axes)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def ways(data: Recording) -> list[Way]:
    """The trajectories of a maze's data set; success is a reward anywhere."""
    positions = data.own[:, :2]
    return [Way(positions[part], bool((data.rewards[part] > 0).any())) for part in data.segments()]


def top_view(axes: Axes, maze: Layout, trajectories: Sequence[Way], goal: tuple[float, float] | None = None) -> None:
    """Draw a maze from above, walls, start and goal, and the trajectories through it, coloured by the time in the episode.

    Of many trajectories some are drawn, spread evenly over all. Without ``goal``, (x, y) in metres, the cell that has the
    goals is marked.
    """
    half = maze.cell / 2
    squares = [Rectangle((x - half, y - half), maze.cell, maze.cell) for x, y in maze.centres("#")]
    axes.add_collection(PatchCollection(squares, facecolor=_WALL, edgecolor="none", zorder=1))
    count = len(trajectories)
    drawn = [trajectories[i * count // min(count, _MOST_DRAWN)] for i in range(min(count, _MOST_DRAWN))]
    drawn = [way for way in drawn if len(way.positions) > 1 and np.isfinite(way.positions).all()]
    alpha = float(np.clip(12.0 / max(len(drawn), 1), 0.12, 0.8))
    longest = max((len(way.positions) for way in drawn), default=1)
    for way in sorted(drawn, key=lambda w: w.success):
        taken = np.unique(np.linspace(0, len(way.positions) - 1, _MOST_POINTS).astype(int))
        points = way.positions[taken].astype(np.float64)
        lines = np.stack([points[:-1], points[1:]], axis=1)
        drawing = LineCollection(list(lines), array=taken[:-1], cmap="plasma", norm=mpl.colors.Normalize(0, longest))
        drawing.set(linewidth=0.9, alpha=alpha, zorder=2, capstyle="round")
        axes.add_collection(drawing)
    _marks(axes, maze, goal)
    corners = maze.centres("#.SG")
    # half of the outer walls is enough to see that they are there
    (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
    axes.xaxis.set_major_locator(MultipleLocator(maze.cell))
    axes.yaxis.set_major_locator(MultipleLocator(maze.cell))
    axes.set(
        xlim=(left, right), ylim=(low, high) if maze.y_up else (high, low), aspect="equal", xlabel="x, m", ylabel="y, m"
    )
    axes.grid(visible=False)
    if drawn:
        shades = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, longest), "plasma")
        axes.figure.colorbar(shades, ax=axes, label="step of the trajectory", shrink=0.6, pad=0.02)
    reached = sum(way.success for way in trajectories)
    shown = "" if len(drawn) == count else f" ({len(drawn)} drawn)"
    axes.set_title(f"{count:,} trajectories{shown}, {reached:,} reach the goal")


def _marks(axes: Axes, maze: Layout, goal: tuple[float, float] | None) -> None:
    (start,), (middle,) = maze.centres("S"), maze.centres("G")
    axes.plot(*start, marker="o", markersize=8, color="white", markeredgecolor="black", zorder=4)
    axes.annotate("start", tuple(start), xytext=(7, 7), textcoords="offset points", zorder=5, fontweight="bold")
    if goal is None:
        half = maze.cell / 2
        x, y = middle
        frame = Rectangle((x - half, y - half), maze.cell, maze.cell, fill=False, edgecolor=_GREEN, linestyle="--")
        frame.set(linewidth=1.6, zorder=4)
        axes.add_patch(frame)
        axes.annotate("goals", (x, y), ha="center", va="center", zorder=5, fontweight="bold")
        return
    axes.add_patch(Circle(goal, maze.goal_radius, fill=False, edgecolor="white", linewidth=3.2, zorder=3))
    axes.add_patch(Circle(goal, maze.goal_radius, fill=False, edgecolor=_GREEN, linewidth=1.8, zorder=4))
    axes.annotate("goal", goal, xytext=(11, 7), textcoords="offset points", zorder=5, fontweight="bold")


def _aspect(maze: Layout) -> float:
    """Width of a maze over its height."""
    spans = np.ptp(maze.centres("#.SG"), axis=0)
    return float(spans[0] / spans[1])


def _goal(check: Check) -> tuple[float, float] | None:
    found = None if check.visits is None else check.visits.goal
    return None if found is None else (found.x, found.y)


def _title(check: Check) -> str:
    return f"{check.task} ({check.source})   {check.rows:,} rows, {check.path.rsplit('/', maxsplit=1)[-1]}"


def _returns(axes: Axes, examined: Examined, data: Recording) -> None:
    returns = trajectory_returns(data.rewards, data.terminals, data.ends, data.cuts, limit=examined.task.episode_limit)
    returns = returns[np.isfinite(returns)]
    axes.set_title(f"returns of {len(returns):,} complete trajectories")
    if len(returns):
        axes.hist(returns, bins=min(40, max(8, len(returns) // 4)), color=_BLUE)
        axes.axvline(returns.mean(), color="black", linewidth=1.2, label=f"mean {returns.mean():.4g}")
        axes.legend()
    axes.set(xlabel="return", ylabel="trajectories")
    span = examined.task.expert_return - examined.task.random_return
    if examined.task.random_return != 0.0 or span != 1.0:
        low = examined.task.random_return
        upper = axes.secondary_xaxis(
            "top", functions=(_affine(-100 * low / span, 100 / span), _affine(low, span / 100))
        )
        upper.set_xlabel("normalised score", fontsize=8)
        upper.tick_params(labelsize=8)


def _affine(shift: float, scale: float) -> Callable[[Any], Any]:
    return lambda values: shift + scale * np.asarray(values)


def _lengths(axes: Axes, examined: Examined, data: Recording) -> None:
    parts = data.segments()
    lengths = np.array([part.stop - part.start for part in parts])
    by_timeout = np.array([bool(data.timeouts[part.stop - 1]) for part in parts])
    by_terminal = ~by_timeout & np.array([bool(data.ends[part.stop - 1]) for part in parts])
    kinds = [
        ("terminal", by_terminal, _RED), ("time-out", by_timeout, _BLUE), ("cut", ~by_timeout & ~by_terminal, "0.6")
    ]  # fmt: skip
    shown = [(name, lengths[which], colour) for name, which, colour in kinds if which.any()]
    edges = np.linspace(0, max(int(lengths.max()), examined.task.episode_limit) * 1.02, 40).tolist()
    names = [f"{name} ({len(values):,})" for name, values, _ in shown]
    axes.hist([values for _, values, _ in shown], edges, stacked=True, label=names, color=[c for *_, c in shown])
    axes.axvline(examined.task.episode_limit, color="black", linestyle=":", linewidth=1.2, label="episode limit")
    axes.legend()
    axes.set(title="lengths, by how they end", xlabel="rows", ylabel="trajectories")


def _published(axes: Axes, check: Check) -> None:
    """Each dimension's mean and standard deviation in D4RL's units: a point at 0 with a bar of ±1 is D4RL's."""
    found = sorted(check.published, key=lambda d: d.dimension)
    x = np.array([d.dimension for d in found])
    shift = np.array([(d.mean - d.published_mean) / d.published_std for d in found])
    spread = np.array([d.std / d.published_std for d in found])
    off = np.array([max(d.mean_off, d.std_off) > TOLERANCE for d in found])
    axes.axhspan(-1, 1, color="0.9", zorder=0, label="D4RL's mean ± std")
    axes.axhline(0, color="0.5", linewidth=0.8)
    for which, colour, name in ((~off, _GREEN, "agrees"), (off, _RED, "differs")):
        if which.any():
            axes.errorbar(
                x[which], shift[which], spread[which], fmt="o", markersize=4, color=colour, label=name, capsize=2
            )
    axes.set(title="observations beside D4RL's", xlabel="dimension", ylabel="in D4RL's standard deviations")
    axes.margins(y=0.25)
    axes.legend(ncols=3, loc="upper center")


def _columns(axes: Axes, check: Check) -> None:
    """Mean, standard deviation and range of each observation dimension."""
    columns = check.observations
    assert columns is not None
    x = np.arange(len(columns.mean))
    mean, low, high = np.array(columns.mean), np.array(columns.minimum), np.array(columns.maximum)
    axes.vlines(x, low, high, color="0.75", linewidth=1, label="range")
    axes.errorbar(x, mean, columns.std, fmt="o", markersize=4, color=_BLUE, capsize=2, label="mean ± std")
    axes.set(title="observations", xlabel="dimension", ylabel="value")
    axes.set_yscale("symlog")
    axes.margins(y=0.2)
    axes.legend(ncols=2, loc="upper center")


def _errors(axes: Axes, examined: Examined) -> None:
    """Share of replayed rows with a smaller error, by physics."""
    medians = {physics: float(np.median(errors)) for physics, errors in examined.errors.items()}
    for physics, errors in examined.errors.items():
        ordered = np.sort(np.maximum(errors, _SMALLEST_SHOWN))
        picked = np.unique(np.linspace(0, len(ordered) - 1, 2000).astype(int))
        axes.plot(ordered[picked], (picked + 1) / len(ordered), color=_PHYSICS[physics], linewidth=1.8)
        # the curve with the larger errors runs along the right edge
        right = len(medians) > 1 and medians[physics] == max(medians.values())
        axes.annotate(
            f"{physics} physics\nmedian {medians[physics]:.0e}",
            (max(medians[physics], _SMALLEST_SHOWN), 0.5),
            xytext=(-6 if right else 6, 8 if right else -8),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if right else "top",
            color=_PHYSICS[physics],
        )
    axes.axvline(FITS, color="0.4", linestyle=":", linewidth=1.2)
    axes.annotate(
        "fits if the median\nis left of here", (FITS, 0.06), xytext=(4, 0), textcoords="offset points", fontsize=8
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        title="one-step error of the observation",
        xlabel="largest error of a row",
        ylabel="share of rows",
        ylim=(0, 1.02),
    )
