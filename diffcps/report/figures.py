"""Figures of a report: learning curves, and λ and the behaviour loss against κ; one panel a task."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffcps import stats
from diffcps.report.collect import Trial
from diffcps.report.rows import Row, setting, varying

_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "legend.fontsize": 8, "legend.frameon": False, "figure.dpi": 130,
}  # fmt: skip
_MOST_LABELS = 8
"""A legend with more entries than this hides what it explains."""
_PANEL = 4.2, 3.0
"""Width and height of a panel, inches."""
_SYMBOLS = {"diffusion_steps": "T", "lambda_clip": "λ-clip", "target_kl": "κ"}

Panel = Callable[[Axes, Row, str, str], None]


def draw(table: Sequence[Row]) -> dict[str, bytes]:
    """File name -> PNG. Trials without an evaluation, or without a metric, are left out; so is a figure of none."""
    figures = {}
    with mpl.rc_context(_STYLE):
        evaluated = [row for row in table if row.evaluations]
        if evaluated:
            figures["learning_curves.png"] = _grid(evaluated, _learning_curve, "normalised score")
        logged = [row for row in table if len(row.trial.metric("lambda")[0])]
        if logged:
            figures["lambda.png"] = _grid(logged, _multiplier, "λ")
            figures["behaviour_loss.png"] = _grid(logged, _behaviour_loss, "behaviour loss")
    return figures


def _grid(table: Sequence[Row], panel: Panel, label: str) -> bytes:
    """One panel a task, with a line for each configuration of it; PNG."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        by_task[row.trial.task.name].append(row)
    names = varying(table)
    width = min(3, len(by_task))
    height = math.ceil(len(by_task) / width)
    figure = Figure(figsize=(_PANEL[0] * width, _PANEL[1] * height))
    FigureCanvasAgg(figure)
    # margins in inches around each panel: measuring every label instead would double the time that a figure takes
    margins = {"left": 0.62 / _PANEL[0] / width, "right": 1 - 0.15 / _PANEL[0] / width}
    margins |= {"bottom": 0.5 / _PANEL[1] / height, "top": 1 - 0.35 / _PANEL[1] / height}
    panels = figure.subplots(
        height, width, squeeze=False, gridspec_kw={**margins, "wspace": 0.2, "hspace": 0.4}
    ).ravel()
    for axes, (task, rows) in zip(panels, by_task.items(), strict=False):
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(rows))) if len(rows) > 1 else [(0.12, 0.35, 0.7)]
        for row, colour in zip(rows, colours, strict=True):
            panel(axes, row, mpl.colors.to_hex(colour), _label(row.trial, names))
        axes.set_title(task)
        axes.set_xlabel("gradient steps")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
        handles, labels = axes.get_legend_handles_labels()
        unique: Mapping[str, object] = dict(zip(labels, handles, strict=True))
        if 0 < len(unique) <= _MOST_LABELS:
            axes.legend(unique.values(), unique.keys())
    for axes in panels[len(by_task) :]:
        axes.set_axis_off()
    for axes in panels[::width]:
        axes.set_ylabel(label)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _label(trial: Trial, names: Sequence[str]) -> str:
    values = {name: ", ".join(f"{value:.3g}" for value in setting(trial, name)) for name in names}
    return " ".join(f"{_SYMBOLS[name]}={value}" for name, value in values.items()) or "mean over seeds"


def _learning_curve(axes: Axes, row: Row, colour: str, label: str) -> None:
    """Mean over seeds with its 95 % interval; the behaviour's own score as a dashed line."""
    _band(axes, row.trial.evaluations.steps, row.trial.scores, colour, label)
    if np.isfinite(row.trial.behaviour_score):
        axes.axhline(row.trial.behaviour_score, color="0.45", linestyle="--", linewidth=1.0, label="behaviour")


def _multiplier(axes: Axes, row: Row, colour: str, label: str) -> None:
    """λ along training; its lower clip dotted, where there is one."""
    _band(axes, *row.trial.metric("lambda"), colour, label)
    for clip in row.trial.shared("lambda_clip"):
        if clip > 0:
            axes.axhline(clip, color=colour, linestyle=":", linewidth=1.0, label="λ-clip")


def _behaviour_loss(axes: Axes, row: Row, colour: str, label: str) -> None:
    """The behaviour loss along training, and κ, which it is held against, dotted."""
    _band(axes, *row.trial.metric("behaviour_loss"), colour, label)
    for bound in row.trial.shared("target_kl"):
        axes.axhline(bound, color=colour, linestyle=":", linewidth=1.2, label="κ")
    axes.set_yscale("log")


def _band(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], colour: str, label: str) -> None:
    """Mean over seeds and its 95 % percentile-bootstrap interval; values ``[n, K]``."""
    known = np.isfinite(values).all(axis=1)
    steps, values = steps[known], values[known]
    axes.plot(steps, values.mean(axis=1), color=colour, label=label, marker="o" if len(steps) == 1 else None)
    if values.shape[1] > 1 and len(steps):
        low, high = stats.bootstrap_interval(values.T, np.random.default_rng(0), resamples=1000)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
