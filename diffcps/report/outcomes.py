"""The page of results: what each method reaches on each data set, over how long, on what data, by which command."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from diffcps import stats
from diffcps.report.document import Block, Bullets, Document, Figure, Panel, Prose, Section, Sheet
from diffcps.report.drawing import INK, colours
from diffcps.report.figures import band
from diffcps.text import Column, counted, duration, interval, number, short

READINGS = {
    "last": "The last checkpoint",
    "one": "The last checkpoint, a single action (N = 1)",
    "student": "The one-step student of the last checkpoint",
    "newest": "Mean of the last ten evaluations",
    "best": "The best evaluation of each seed: an oracle",
}
"""Column of the record -> what its table is called."""
ENOUGH = 2
"""Sets that an average over sets needs."""


def document(scores: pd.DataFrame, curves: pd.DataFrame) -> Document:
    """The whole page from a record's frames; see ``evidence.Evidence``."""
    if scores.empty:
        return Document("Results", (Section("", (Prose(("No trial is complete yet.",)),)),))
    scores = told_apart(scores)
    sections = [
        Section("", (Prose(_head(scores)),)),
        *(Section(title, (_scores(scores, name),)) for name, title in READINGS.items() if scores[name].notna().any()),
        *_averages(scores),
        Section("Learning curves", (Prose((_CURVES,)), _curves(scores, curves))),
        Section("How long, and whether it still moves", (Prose((_LENGTH,)), _length(scores))),
        Section("Data", (_data(scores),)),
        Section("Commands", (Bullets(tuple(scores.drop_duplicates("key")["command"])),)),
    ]
    return Document("Results", tuple(sections))


def told_apart(scores: pd.DataFrame) -> pd.DataFrame:
    """The frame with data sets and methods named so that each pair of them has one trial.

    A task with several data sets or physics is named with them, a method with the settings in which its trials on a task differ.
    """
    scores = scores.copy()
    for task, own in scores.groupby("task", sort=False):
        if own[["checksum", "physics"]].drop_duplicates().shape[0] > 1:
            scores.loc[own.index, "task"] = [
                f"{task} ({int(row['rows']):,} rows, {str(row['checksum'])[:8]}, {row['physics']})"
                for _, row in own.iterrows()
            ]
    for method, own in scores.groupby("method", sort=False):
        differ: dict[str, None] = {}
        for _, alike in own.groupby("task", sort=False):
            settings = [set(text.split(", ")) for text in alike.drop_duplicates("key")["settings"]]
            lengths = [f"{short(steps)} steps" for steps in alike.drop_duplicates("key")["steps"]]
            settings = [{*known, length} for known, length in zip(settings, lengths, strict=True)]
            shared = set.intersection(*settings)
            differ |= dict.fromkeys(sorted(set.union(*settings) - shared))
        names = {text.partition("=")[0] for text in differ}
        scores.loc[own.index, "method"] = [
            " ".join([str(method), *(text for text in _said(row) if text.partition("=")[0] in names)])
            for _, row in own.iterrows()
        ]
    return scores


def _said(row: "pd.Series[Any]") -> list[str]:
    """The settings of a record, and its length."""
    return [*filter(None, str(row["settings"]).split(", ")), f"{short(int(row['steps']))} steps"]


_CURVES = "Mean over seeds with its 95 % interval; dashed: the data's own trajectories."
_LENGTH = (
    "moved: the mean score of the last quarter of evaluations less that of the quarter before, in points: how far the curve "
    "still goes up or down. The time is that of one trial, all seeds together, on a machine that others may share."
)


def _head(scores: pd.DataFrame) -> tuple[str, ...]:
    trials, sets = scores["key"].nunique(), _sets(scores)
    others = scores.loc[~scores["data"].astype(str).str.startswith("D4RL"), "task"].nunique()
    caution = (
        f"{others} of the data sets are not D4RL's: compare columns with each other and with the behaviour, not with published "
        "tables."
    )
    size = f"{counted(trials, 'trial')}, {len(scores)} policies, {counted(len(sets), 'data set')}."
    return (
        f"{size} {caution}" if others else size,
        "Mean over seeds ± their standard deviation, and the 95 % bootstrap interval of the mean, which few seeds make too "
        "narrow. Behaviour: the mean score of the data's own trajectories. In a row all methods have the same data and physics. "
        "`diffcps results` makes this page from run folders; `scores.csv` and `curves.csv` beside it have every number.",
    )


def _sets(scores: pd.DataFrame) -> list[str]:
    return [str(task) for task in scores["task"].unique()]


def _methods(scores: pd.DataFrame) -> list[str]:
    return [str(name) for name in scores["method"].unique()]


def _cell(values: NDArray[np.float64]) -> str:
    """``92.0 ± 1.5 [90.8, 93.1]``."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    mean, std = stats.mean_std(values)
    low, high = stats.bootstrap_interval(values, np.random.default_rng(0))
    spread = "" if len(values) < ENOUGH else f" ± {number(std)} {interval(float(low), float(high))}"
    return f"{number(mean)}{spread}"


def _of(scores: pd.DataFrame, task: str, method: str, reading: str) -> NDArray[np.float64]:
    """The scores of a cell."""
    own = scores[(scores["task"] == task) & (scores["method"] == method)]
    return own[reading].to_numpy(np.float64)


def _scores(scores: pd.DataFrame, reading: str) -> Sheet:
    sets = _sets(scores)
    behaviour = scores.groupby("task")["behaviour"].first()
    columns = [Column("data", sets, right=False), Column("behaviour", [number(behaviour[task]) for task in sets])]
    for method in _methods(scores):
        cells = [_cell(_of(scores, task, method, reading)) for task in sets]
        columns += [Column(method, cells)] if set(cells) != {"–"} else []
    return Sheet(tuple(columns))


def _averages(scores: pd.DataFrame) -> Iterator[Section]:
    """IQM over the sets that a method shares with the first one, and its distance from the first one's."""
    sets, (first, *others) = _sets(scores), _methods(scores)
    if len(sets) < ENOUGH:
        return
    rows = []
    for method in (first, *others):
        shared = [
            task for task in sets if len(_of(scores, task, method, "last")) and len(_of(scores, task, first, "last"))
        ]
        if len(shared) >= ENOUGH:
            rows.append((method, shared, *_distance(scores, shared, method, first)))
    said = (
        f"Interquartile mean of the last scores of all seeds and data sets, and how far it lies above that of {first} on the "
        "sets that both have, with stratified-bootstrap intervals."
    )
    table = Sheet(
        (
            Column("method", [method for method, *_ in rows], right=False),
            Column("data sets", [str(len(shared)) for _, shared, *_ in rows]),
            Column("IQM", [iqm for *_, iqm, _ in rows]),
            Column(f"above {first}", ["" if method == first else above for method, *_, above in rows]),
        )
    )
    yield Section("Over all data sets", (Prose((said,)), table))


def _distance(scores: pd.DataFrame, tasks: Sequence[str], method: str, first: str) -> tuple[str, str]:
    """IQM with its interval, and its distance from the first method's with its."""
    rng = np.random.default_rng(0)
    own, other = ([_of(scores, task, name, "last") for task in tasks] for name in (method, first))
    low, high = stats.stratified_interval(own, stats.interquartile_mean, rng)
    iqm = float(stats.interquartile_mean(own))
    drawn = [_resampled(part, rng) for part in own], [_resampled(part, rng) for part in other]
    distances = stats.interquartile_mean(drawn[0]) - stats.interquartile_mean(drawn[1])
    ends = stats.percentile_ends(distances, 0.95)
    above = iqm - float(stats.interquartile_mean(other))
    return (
        f"{number(iqm)} {interval(low, high)}".rstrip(),
        f"{above:+.1f} {interval(float(ends[0]), float(ends[1]))}".rstrip(),
    )


def _resampled(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """``[resamples, n]``."""
    return values[rng.integers(len(values), size=(stats.STRATIFIED_RESAMPLES, len(values)))]


def _curves(scores: pd.DataFrame, curves: pd.DataFrame) -> Block:
    tints = dict(zip(_methods(scores), colours(len(_methods(scores))), strict=True))
    panels = tuple(
        Panel(task, partial(_panel, scores=scores[scores["task"] == task], curves=curves, tints=tints))
        for task in _sets(scores)
    )
    return Figure("curves", "Learning curves", _CURVES, "gradient steps", y_label="score", panels=panels)


def _panel(axes: Axes, scores: pd.DataFrame, curves: pd.DataFrame, tints: dict[str, str]) -> None:
    for (method, _), own in scores.groupby(["method", "key"], sort=False):
        points = curves[curves["key"] == own["key"].iloc[0]].pivot_table(index="step", columns="seed", values="score")
        band(axes, points.index.to_numpy(), points.to_numpy(), colour=tints[str(method)], label=str(method))
    faint: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0, "color": INK, "alpha": 0.55}
    axes.axhline(float(scores["behaviour"].iloc[0]), label="behaviour", **faint)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))


def _length(scores: pd.DataFrame) -> Sheet:
    rows = list(scores.groupby("key", sort=False))
    first = [own.iloc[0] for _, own in rows]
    return Sheet(
        (
            Column("data", [str(row["task"]) for row in first], right=False),
            Column("method", [str(row["method"]) for row in first], right=False),
            Column("seeds", [str(len(own)) for _, own in rows]),
            Column("gradient steps", [short(int(row["steps"])) for row in first]),
            Column("width", [str(row["width"]) for row in first]),
            Column("episodes", [str(row["episodes"]) for row in first]),
            Column("moved", [_signed(own["moved"].to_numpy(np.float64)) for _, own in rows]),
            Column("time", [duration(float(row["seconds"])) for row in first]),
            Column("commit", [str(row["commit"]) for row in first], right=False),
        )
    )


def _signed(values: NDArray[np.float64]) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():+.1f}" if len(known) else "–"


def _data(scores: pd.DataFrame) -> Sheet:
    first = [own.iloc[0] for _, own in scores.groupby(["task", "checksum"], sort=False)]
    return Sheet(
        (
            Column("data", [str(row["task"]) for row in first], right=False),
            Column("what it is", [str(row["data"]) for row in first], right=False),
            Column("rows", [f"{int(row['rows']):,}" for row in first]),
            Column("behaviour", [number(float(row["behaviour"])) for row in first]),
            Column("physics", [str(row["physics"]) for row in first], right=False),
            Column("checksum", [str(row["checksum"])[:16] for row in first], right=False),
        )
    )
