"""The page of results: what each method reaches on each data set, over how long, on what data, by which command."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from diffcps import algorithms, stats
from diffcps.report.across import Estimate
from diffcps.report.analysis import Score
from diffcps.report.document import Block, Bullets, Document, Figure, Panel, Prose, Section, Sheet
from diffcps.report.drawing import colours
from diffcps.report.figures import FAINT, band
from diffcps.report.tables import score, score_interval
from diffcps.text import Column, counted, duration, interval, number, short, signed

READINGS = {
    "last": "The last checkpoint",
    "one": "The last checkpoint, a single action (N = 1)",
    "student": "The one-step student of the last checkpoint",
    "newest": "Mean of the last ten evaluations, of all where there are fewer",
    "best": "The best evaluation of each seed: an oracle",
}
"""Column of the record -> what its table is called."""
ENOUGH = 2
"""Data sets that an average over them needs."""
_CURVES = "Mean over seeds with its 95 % interval; dashed: the data's own trajectories."
_LENGTH = (
    "moved: the mean score of the last quarter of evaluations less that of the quarter before, in points: how far the curve "
    "still goes up or down. The time is that of one trial, all seeds together, on a machine that others may share."
)


def document(scores: pd.DataFrame, curves: pd.DataFrame) -> Document:
    """The whole page from a record's frames; see ``results_record.ResultsRecord``."""
    if scores.empty:
        return Document("Results", (Section("", (Prose(("No trial is complete yet.",)),)),))
    scores = told_apart(scores)
    curves = curves[curves["key"].isin(scores["key"])]
    shown = [name for name in READINGS if scores[name].notna().any()]
    sections = [
        Section("", (Prose(_head(scores)),)),
        *(Section(READINGS[name], (_scores(scores, name),)) for name in shown),
        *_averages(scores),
        Section("Learning curves", (Prose((_CURVES,)), _curves(scores, curves))),
        Section("How long, and whether it still moves", (Prose((_LENGTH,)), _length(scores))),
        Section("Data", (_data(scores),)),
        Section("Commands", (Bullets(tuple(scores.drop_duplicates("key")["command"]), code=True),)),
    ]
    return Document("Results", tuple(sections))


def told_apart(scores: pd.DataFrame) -> pd.DataFrame:
    """The frame with data sets and methods named so that each pair of them has one trial, methods in a fixed order.

    A task with several data sets or physics is named with them, a method with the settings in which its policies on a task
    differ. Of trials with the same policies, the one with most seeds (or the newest) is kept.
    """
    scores = scores.assign(settings=scores["settings"].astype(str).map(_of_policy))
    for task, own in scores.groupby("task", sort=False):
        if len(own[["checksum", "physics"]].drop_duplicates()) > 1:
            scores.loc[own.index, "task"] = [
                f"{task} ({int(row['rows']):,} rows, {row['checksum'][:8]}, {row['physics']})"
                for _, row in own.iterrows()
            ]
    alike = scores.groupby(["task", "method", "settings", "steps"], sort=False)
    scores = pd.concat([own[own["key"] == _most(own["key"])] for _, own in alike])
    for method, own in scores.groupby("method", sort=False):
        said = [frozenset(_said(row)) for _, row in own.iterrows()]
        differ: set[str] = set()
        for task in own["task"].unique():
            of_task = [words for words, at in zip(said, own["task"], strict=True) if at == task]
            differ |= frozenset.union(*of_task) - frozenset.intersection(*of_task)
        names = {word.partition("=")[0] for word in differ}
        scores.loc[own.index, "method"] = [
            " ".join([str(method), *(word for word in _said(row) if word.partition("=")[0] in names)])
            for _, row in own.iterrows()
        ]
    order = {name: place for place, name in enumerate(algorithms.names())}
    rank = scores["method"].map(lambda name: (order.get(name.split()[0], len(order)), name))
    return scores.iloc[sorted(range(len(scores)), key=lambda place: rank.iloc[place])].reset_index(drop=True)


def _of_policy(settings: str) -> str:
    """Settings without how often the policy is evaluated."""
    return ", ".join(word for word in settings.split(", ") if not word.startswith("evaluation.every="))


def _most(keys: "pd.Series[str]") -> str:
    """The most frequent key; of several, the last."""
    counts = keys.value_counts()
    return str(next(key for key in reversed(keys.tolist()) if counts[key] == counts.max()))


def _said(row: "pd.Series[str]") -> list[str]:
    """The settings of a record, and its length."""
    return [*filter(None, str(row["settings"]).split(", ")), f"{short(int(row['steps']))} steps"]


def _head(scores: pd.DataFrame) -> tuple[str, ...]:
    trials, sets = scores["key"].nunique(), _sets(scores)
    others = scores.loc[~scores["data"].astype(str).str.startswith("D4RL"), "task"].nunique()
    caution = (
        f"Data sets that are not D4RL's: {others} of {len(sets)}. Compare columns with each other and with the behaviour, not "
        "with published tables."
    )
    size = f"{counted(trials, 'trial')}, {len(scores)} policies, {counted(len(sets), 'data set')}."
    if (scores.groupby("task")["steps"].nunique() > 1).any():
        size += " Methods were trained for different numbers of steps, and may differ in settings: see *How long* and *Commands*."
    return (
        f"{size} {caution}" if others else size,
        "Mean over seeds ± their standard deviation, and the 95 % bootstrap interval of the mean, which few seeds make too "
        "narrow. Behaviour: the mean score of the data's own trajectories. In a row all methods have the same data and physics. "
        "`diffcps results` makes this page from run folders; `scores.csv` and `curves.csv` beside it have every number.",
    )


def _sets(scores: pd.DataFrame) -> list[str]:
    return sorted(str(task) for task in scores["task"].unique())


def _methods(scores: pd.DataFrame) -> list[str]:
    return [str(name) for name in scores["method"].unique()]


def _cell(values: NDArray[np.float64], measured: bool) -> str:
    """``92.0 ± 1.5 [90.8, 93.1]``; a dash where it was not measured; a policy without a score has diverged."""
    if not len(values) or not measured:
        return "–"
    if lost := int(np.isnan(values).sum()):
        return f"{lost} of {len(values)} diverged"
    (found,) = Score.of(values[:, None])
    return f"{score(found)} {score_interval(found)}".rstrip()


def _of(scores: pd.DataFrame, task: str, method: str, reading: str) -> NDArray[np.float64]:
    """The scores of a cell."""
    return scores.loc[(scores["task"] == task) & (scores["method"] == method), reading].to_numpy(np.float64)


def _scores(scores: pd.DataFrame, reading: str) -> Sheet:
    sets = _sets(scores)
    behaviour = scores.groupby("task")["behaviour"].first()
    columns = [Column("data", sets, right=False), Column("behaviour", [number(behaviour[task]) for task in sets])]
    for method in _methods(scores):
        found = [_of(scores, task, method, reading) for task in sets]
        # another way to act is measured of all seeds or of none
        measured = [reading not in ("one", "student") or bool(np.isfinite(values).any()) for values in found]
        cells = [_cell(values, known) for values, known in zip(found, measured, strict=True)]
        columns += [Column(method, cells)] if set(cells) != {"–"} else []
    return Sheet(tuple(columns))


def _averages(scores: pd.DataFrame) -> Iterator[Section]:
    """A table for each domain, kind of data and physics, which are never averaged together."""
    families = scores[scores["domain"] != ""].groupby(["domain", "data", "physics"], sort=True)
    tables: list[Block] = []
    for (domain, data, physics), own in families:
        if own["task"].nunique() >= ENOUGH and (table := _average(own)).columns[0].cells:
            tables.append(Sheet(table.columns, title=f"{domain}, {data}, {physics} physics"))
    if tables:
        said = (
            "Interquartile mean of the last scores of all seeds and data sets of a domain, with its stratified-bootstrap "
            "interval, and how far it is above that of the first method on the data sets that both have."
        )
        yield Section("Over data sets", (Prose((said,)), *tables))


def _average(scores: pd.DataFrame) -> Sheet:
    """IQM of each method, and its distance from the first one's."""
    sets, (first, *others) = _sets(scores), _methods(scores)
    rows = []
    for method in (first, *others):
        own, reference = ([_of(scores, task, name, "last") for task in sets] for name in (method, first))
        both = [(x, y) for x, y in zip(own, reference, strict=True) if len(x) and len(y)]
        if len(both) >= ENOUGH:
            rows.append((method, len(both), *_distance([x for x, _ in both], [y for _, y in both])))
    return Sheet(
        (
            Column("method", [method for method, *_ in rows], right=False),
            Column("data sets", [str(count) for _, count, *_ in rows]),
            Column("IQM", [iqm for *_, iqm, _ in rows]),
            Column(f"above {first}", ["" if method == first else above for method, *_, above in rows]),
        )
    )


def _distance(own: Sequence[NDArray[np.float64]], reference: Sequence[NDArray[np.float64]]) -> tuple[str, str]:
    """IQM over data sets with its interval, and its distance from the reference's with that one's interval."""
    iqm = Estimate.over_tasks(own, stats.interquartile_mean)
    above = iqm.value - float(stats.interquartile_mean(reference))
    ends = stats.difference_interval(own, reference, stats.interquartile_mean, np.random.default_rng(0))
    return str(iqm), f"{signed(above)} {interval(*ends)}".rstrip()


def _curves(scores: pd.DataFrame, curves: pd.DataFrame) -> Block:
    tints = dict(zip(_methods(scores), colours(len(_methods(scores))), strict=True))
    panels = tuple(
        Panel(task, partial(_panel, scores=scores[scores["task"] == task], curves=curves, tints=tints))
        for task in _sets(scores)
    )
    return Figure("curves", "Learning curves", _CURVES, "gradient steps", y_label="score", panels=panels)


def _panel(axes: Axes, scores: pd.DataFrame, curves: pd.DataFrame, tints: dict[str, str]) -> None:
    for method, own in scores.groupby("method", sort=False):
        points = curves[(curves["key"] == own["key"].iloc[0]) & curves["seed"].isin(own["seed"])]
        points = points.pivot_table(index="step", columns="seed", values="score")
        band(axes, points.index.to_numpy(), points.to_numpy(), colour=tints[str(method)], label=str(method))
    axes.axhline(float(scores["behaviour"].iloc[0]), label="behaviour", **FAINT)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))


def _length(scores: pd.DataFrame) -> Sheet:
    rows = [own for _, own in scores.groupby(["task", "method"], sort=True)]
    first = [own.iloc[0] for own in rows]
    return Sheet(
        (
            Column("data", [str(row["task"]) for row in first], right=False),
            Column("method", [str(row["method"]) for row in first], right=False),
            Column("seeds", [str(len(own)) for own in rows]),
            Column("gradient steps", [short(int(row["steps"])) for row in first]),
            Column("width", [short(int(row["width"])) for row in first]),
            Column("episodes", [str(int(row["episodes"])) for row in first]),
            Column("moved", [signed(float(own["moved"].mean(skipna=False))) for own in rows]),
            Column("time", [duration(float(row["seconds"])) for row in first]),
            Column("commit", [str(row["commit"]) for row in first], right=False),
        )
    )


def _data(scores: pd.DataFrame) -> Sheet:
    first = [own.iloc[0] for _, own in scores.groupby("task", sort=True)]
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
