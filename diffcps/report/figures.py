"""The figures of a report: curves over training, sensitivity, performance profiles, budget. One panel a task or domain."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from diffcps import stats
from diffcps.report.across import Budget, Group
from diffcps.report.analysis import Line, Row, Score, by_task, said, symbol, varying
from diffcps.report.diagnostics import bounded, bounds_loss, discounted
from diffcps.report.document import Figure, Panel
from diffcps.report.drawing import INK, colours, crowded
from diffcps.runs.trial import Trial

_MOST_POINTS = 200
"""Points of a line; a panel cannot show more."""
_FEWER_POINTS = 50
"""The same in a panel with many lines."""
WIDE = 20.0
"""Ratio of the largest to the smallest value of a setting from which on its axis is logarithmic."""
_LEAST = 0.05
"""Smallest height of the axis of λ, relative to λ."""
FAINT: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0, "color": INK, "alpha": 0.55}
"""How lines of reference are drawn."""


class Series(NamedTuple):
    """The line of one trial."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    """``[n, K]``."""
    points: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    """Steps and values that are marked as points as well."""


Read = Callable[[Trial], Series]
References = Callable[[Axes, Sequence[Trial]], None]
"""Draws the reference lines of a panel."""


class _Curves(NamedTuple):
    """A figure over gradient steps, one panel a task, one line a row."""

    rows: Sequence[Row]
    name: str
    title: str
    caption: str
    y_label: str
    read: Read
    references: References = lambda axes, trials: None

    def figure(self) -> Figure:
        settings = varying(self.rows)
        panels = tuple(
            Panel(task, partial(_rows, rows=rows, read=self.read, references=self.references, names=settings))
            for task, rows in by_task(self.rows).items()
        )
        return Figure(
            self.name,
            self.title,
            caption=self.caption,
            x_label="gradient steps",
            y_label=self.y_label,
            panels=panels,
        )


def over_time(table: Sequence[Row]) -> list[Figure]:
    """Score, λ, behaviour loss, constraint and Q estimate over training, for the trials that have them."""

    def having(name: str) -> list[Row]:
        return [row for row in table if np.isfinite(row.trial.metric(name)[1]).any()]

    curves = [
        _Curves(
            [row for row in table if row.evaluations],
            name="learning_curves",
            title="Learning curves",
            caption="Mean over seeds with its 95 % interval; dashed: the data's own trajectories.",
            y_label="normalised score",
            read=_scores,
            references=_behaviour,
        ),
        _Curves(
            having("lambda"),
            name="lambda",
            title="λ",
            caption="λ as the policy's loss uses it: mean over seeds with its 95 % interval; dashed: λ-clip.",
            y_label="λ",
            read=partial(_logged, name="lambda"),
            references=_clips,
        ),
        _Curves(
            having("behaviour_loss"),
            name="behaviour_loss",
            title="Behaviour loss",
            caption="Mean over seeds with its 95 % interval; dashed: κ, where κ bounds the behaviour loss.",
            y_label="behaviour loss",
            read=partial(_logged, name="behaviour_loss"),
            references=_bounds,
        ),
        _Curves(
            [row for row in having("lambda") if not bounds_loss(row.trial)],
            name="constraint",
            title="Constraint",
            caption="The quantity that κ bounds, where it is not the online policy's behaviour loss; dashed: κ.",
            y_label="constraint",
            read=_constraint,
            references=_limits,
        ),
        _Curves(
            having("policy_q"),
            name="q_value",
            title="Q estimate against return",
            caption="Line: mean value that the critic gives to the policy's own actions in states of the data. Points: "
            "return of each evaluation on the critic's scale, with the reward spread evenly over the episode. A line far "
            "above the points suggests that the critic overestimates.",
            y_label="discounted return",
            read=_estimates,
        ),
    ]
    return [item.figure() for item in curves if item.rows]


def measures(table: Sequence[Row], columns: Sequence[str]) -> list[Figure]:
    """Each measured quantity over training; none if trials measure only once, at their end."""
    curves = [
        _Curves(
            [row for row in table if len(row.trial.measure(column)[0]) > 1],
            name=f"measure_{column}",
            title=column,
            caption="Mean over seeds with its 95 % interval.",
            y_label=column,
            read=partial(_measured, column=column),
        )
        for column in columns
    ]
    return [item.figure() for item in curves if item.rows]


Points = Sequence[tuple[float, Score]]
"""Value of a setting or of a choice of acting, and the score there, in ascending order."""


def sensitivity(name: str, lines: Sequence[Line]) -> Figure:
    """Last score along one setting, one panel a task."""
    found = [
        (line.task, line.label, [(value, row.last) for value, row in line.points if row.last is not None])
        for line in lines
    ]
    label = symbol(name, [row for line in lines for _, row in line.points])
    return Figure(
        name=f"sensitivity_{name}",
        title=f"Sensitivity to {label}",
        caption="Last score, mean over seeds with its 95 % interval.",
        x_label=label,
        y_label="last score",
        panels=_by_task(found),
    )


def along_acting(name: str, lines: Sequence[tuple[str, str, Points]]) -> Figure:
    """Last score along one choice of acting: task, label and points of each line, one panel a task."""
    return Figure(
        name=f"acting_{name}",
        title=f"Acting by {name}",
        caption="Last score of the same policies, mean over seeds with its 95 % interval.",
        x_label=name,
        y_label="last score",
        panels=_by_task(lines),
    )


def _by_task(lines: Sequence[tuple[str, str, Points]]) -> tuple[Panel, ...]:
    """A panel a task, with its lines."""
    tasks = dict.fromkeys(task for task, *_ in lines)
    return tuple(Panel(task, partial(_along, lines=[line for line in lines if line[0] == task])) for task in tasks)


def profiles(families: Sequence[Sequence[Group]]) -> Figure:
    """Performance profiles of the last scores, one panel a domain."""
    panels = tuple(Panel(" · ".join(family[0].family[:2]), partial(_profiles, family=family)) for family in families)
    return Figure(
        name="profiles",
        title="Performance profiles",
        caption="Share of runs with a last score above τ, each task with the same weight, and its 95 % interval.",
        x_label="τ",
        y_label="share of runs above τ",
        panels=panels,
    )


def budget(found: Sequence[Budget]) -> Figure | None:
    """Expected online performance over the budget, one panel a task; ``None`` without one."""
    panels = tuple(Panel(item.task, partial(_budget, item=item)) for item in found)
    if not panels:
        return None
    return Figure(
        name="budget",
        title="Expected online performance",
        caption="Expected highest last score when k configurations, drawn at random, are tried online; band: ± one standard "
        "deviation.",
        x_label="configurations tried",
        y_label="expected score",
        panels=panels,
    )


def _rows(axes: Axes, rows: Sequence[Row], read: Read, references: References, names: Sequence[str]) -> None:
    styles = _told_apart(rows, names)
    series = [read(row.trial) for row in rows]
    if crowded(len(rows)):
        lines = [np.column_stack(_thinned(item.steps, item.values.mean(axis=1), _FEWER_POINTS)) for item in series]
        axes.add_collection(LineCollection(lines, colors=[colour for colour, _ in styles], linewidths=0.9))
        axes.autoscale_view()
        for colour, label in dict.fromkeys(styles):
            axes.plot([], [], color=colour, label=label)
    else:
        for item, (colour, label) in zip(series, styles, strict=True):
            band(axes, item.steps, item.values, colour=colour, label=label or "mean over seeds")
            if item.points is not None:
                axes.plot(*item.points, color=colour, linestyle="none", marker="o", markersize=3.5)
    references(axes, [row.trial for row in rows])
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))


def _told_apart(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and label of each row's line. Many lines share the colours of the first setting that has few values."""
    profiles = [row.trial.config.profile for row in rows]
    labels = [said(row.trial, names) for row in rows]
    if len(set(profiles)) > 1:
        whole = [f"{profile} {label}".rstrip() for profile, label in zip(profiles, labels, strict=True)]
        # a profile stands for many settings: if its name suffices, they need not fill the panel
        labels = list(profiles) if len(set(whole)) == len(set(profiles)) else whole
    if crowded(len(rows)):
        coarse = ([said(row.trial, [name]) for row in rows] for name in names)
        labels = next((found for found in coarse if not crowded(len(set(found)))), labels)
    distinct = list(dict.fromkeys(labels))
    if len(distinct) == 1 and len(rows) > 1:  # the table has nothing that tells them apart
        return list(zip(colours(len(rows)), labels, strict=True))
    by_label = dict(zip(distinct, colours(len(distinct)), strict=True))
    return [(by_label[label], label) for label in labels]


def _scores(trial: Trial) -> Series:
    return Series(trial.evaluations.steps, trial.scores)


def _logged(trial: Trial, name: str) -> Series:
    return Series(*trial.metric(name))


def _constraint(trial: Trial) -> Series:
    return Series(*bounded(trial)[:2])


def _measured(trial: Trial, column: str) -> Series:
    return Series(*trial.measure(column))


def _estimates(trial: Trial) -> Series:
    return Series(*trial.metric("policy_q"), (trial.evaluations.steps, discounted(trial).mean(axis=1)))


def _behaviour(axes: Axes, trials: Sequence[Trial]) -> None:
    _levels(axes, _distinct(trial.behaviour_score for trial in trials), "behaviour")


def _clips(axes: Axes, trials: Sequence[Trial]) -> None:
    _levels(axes, _distinct(clip for trial in trials for clip in trial.values("lambda_clip") if clip > 0), "λ-clip")
    low, high = axes.get_ylim()
    if high - low < _LEAST * abs(high):  # a λ that hardly moves must not look as if it does
        axes.set_ylim(low - _LEAST / 2 * abs(high), high + _LEAST / 2 * abs(high))


def _bounds(axes: Axes, trials: Sequence[Trial]) -> None:
    _limits(axes, [trial for trial in trials if bounds_loss(trial)])
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:g}")  # powers of ten are too wide for the space beside the axis
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 10 * low:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
    elif high < 200 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _limits(axes: Axes, trials: Sequence[Trial]) -> None:
    _levels(axes, _distinct(float(bounds[-1].mean()) for *_, bounds in map(bounded, trials) if len(bounds)), "κ")


def _levels(axes: Axes, values: Sequence[float], label: str) -> None:
    """A faint line across the panel at each of some values, in ascending order."""
    ends = values if len(values) < 3 else (values[0], values[-1])
    for value in ends:
        axes.axhline(value, label=label, **FAINT)
    if len(values) > len(ends):  # the others as one collection: very many single lines take seconds
        lines = [[(0.0, value), (1.0, value)] for value in values[1:-1]]
        between = LineCollection(lines, transform=axes.get_yaxis_transform(), zorder=2, **FAINT)
        axes.add_collection(between, autolim=False)


def _distinct(values: Iterable[float]) -> list[float]:
    return sorted({value for value in values if np.isfinite(value)})


def band(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], colour: str, label: str) -> None:
    """Mean over seeds and its 95 % percentile-bootstrap interval; values ``[n, K]``."""
    known = np.isfinite(values).all(axis=1)
    steps, values = _thinned(steps[known], values[known], _MOST_POINTS)
    axes.plot(steps, values.mean(axis=1), color=colour, label=label, marker="o" if len(steps) == 1 else None)
    if values.shape[1] > 1 and len(steps):
        low, high = stats.bootstrap_interval(values.T, np.random.default_rng(0), resamples=1000)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _thinned(
    steps: NDArray[np.int64], values: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most ``most`` evenly spread points of a line, the first and the last included."""
    if len(steps) <= most:
        return steps, values
    kept = np.linspace(0, len(steps) - 1, most).astype(np.int64)
    return steps[kept], values[kept]


def _along(axes: Axes, lines: Sequence[tuple[str, str, Points]]) -> None:
    everywhere = [value for *_, points in lines for value, _ in points]
    wide = min(everywhere) > 0 and max(everywhere) >= WIDE * min(everywhere)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    place, back = (np.log, np.exp) if wide else (np.asarray, np.asarray)
    ends = place(np.array([min(everywhere), max(everywhere)]))
    shifts = np.linspace(-1.0, 1.0, len(lines)) * (ends[1] - ends[0]) / 60 if len(lines) > 1 else [0.0]
    for (_, label, points), colour, shift in zip(lines, colours(len(lines)), shifts, strict=True):
        # a small shift, a thirtieth of the axis in all, keeps the intervals of different lines from hiding each other
        values, scores = back(place(np.array([value for value, _ in points])) + shift), [score for _, score in points]
        axes.plot(values, [score.mean for score in scores], color=colour, marker="o", markersize=4, label=label)
        axes.vlines(values, [s.low for s in scores], [s.high for s in scores], color=colour, linewidth=1.2)
    if not crowded(len(set(everywhere))):
        axes.set_xticks(sorted(set(everywhere)))
        axes.xaxis.set_minor_locator(NullLocator())


def _profiles(axes: Axes, family: Sequence[Group]) -> None:
    scores = np.concatenate([task for group in family for task in group.scores()])
    thresholds = np.linspace(min(0.0, float(np.nanmin(scores))), max(100.0, float(np.nanmax(scores))), 201)
    firsts = [group.rows[0] for group in family]
    names = varying([row for group in family for row in group.rows])
    for group, (colour, label) in zip(family, _told_apart(firsts, names), strict=True):
        share, low, high = group.profile_curve(thresholds)
        axes.plot(thresholds, share, color=colour, label=label or "all tasks", drawstyle="steps-post")
        if not crowded(len(family)):
            axes.fill_between(thresholds, low, high, color=colour, alpha=0.15, linewidth=0, step="post")
    axes.set_ylim(-0.02, 1.02)


def _budget(axes: Axes, item: Budget) -> None:
    tried = np.arange(1, len(item.mean) + 1)
    (colour,) = colours(1)
    axes.plot(tried, item.mean, color=colour, marker="o" if len(tried) < 20 else None, markersize=3.5)
    axes.fill_between(tried, item.mean - item.std, item.mean + item.std, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
