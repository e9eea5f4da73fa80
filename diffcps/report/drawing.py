"""Draws figures: all panels as one PNG for a folder, each panel as an SVG for a page.

An SVG takes its colour from the surrounding text (``currentColor``), so it is readable on a light and on a dark page.
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imsave
from matplotlib.rcsetup import cycler
from matplotlib.ticker import AutoLocator, MaxNLocator
from numpy.typing import NDArray

from diffcps.report.document import Figure, Panel

INK = "#15191e"
"""Colour of text and axes; in an SVG it is replaced by the colour of the surrounding text."""
GROUND = "#fcfdfc"
"""Colour under a legend; in an SVG it is replaced by the background of the page."""
_PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d8794", "#8a3ffc",
    "#c8505a", "#6fae3a", "#5b5bd6", "#a5673f", "#d98fb5", "#4f8f8b", "#d6b43c", "#93395e",
)  # fmt: skip
"""Colours that can be told apart on a light and on a dark page. The first six are those of Okabe and Ito but for black and
yellow, which colour-blind people can distinguish."""
STYLE: dict[Any, Any] = {
    "font.size": 9, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.2, "axes.titlesize": 10, "legend.fontsize": 8,
    "legend.facecolor": GROUND, "legend.edgecolor": "none", "legend.framealpha": 0.75,
    "figure.dpi": 110, "svg.fonttype": "none", "lines.linewidth": 1.6,
    **{f"{part}.color": INK for part in ("text", "grid", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("edge", "label")}, "axes.prop_cycle": cycler(color=_PALETTE),
}  # fmt: skip
"""How every figure of a report or a study looks."""
_EASY = 8
"""Lines with a band and a label of full size each; more are crowded."""
_ROOM = 5
"""Most entries of a legend that does not hide the lines of its panel."""
_PANEL = 4.2, 3.0
"""Width and height of a panel, inches."""


def colours(count: int) -> list[str]:
    """Colours for ``count`` lines: from a palette if it has enough, else along a colour scale."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    scale = mpl.colormaps["viridis"]
    return [mpl.colors.to_hex(scale(0.15 + 0.75 * index / (count - 1))) for index in range(count)]


def crowded(count: int) -> bool:
    """Whether ``count`` lines are too many for bands around them."""
    return count > _EASY


class Drawn(NamedTuple):
    """A figure in both formats."""

    png: bytes
    """All panels, up to three in a row."""
    svgs: tuple[str, ...]
    """Each panel as an SVG element with ids that are unique in a page; then the legend, if it has a place of its own."""


def draw(figure: Figure) -> Drawn:
    """Both formats from one drawing of each panel: laying out lines and ticks takes as long as writing them.

    A legend that would hide the lines of a panel has a place of its own, once for all panels.
    """
    tiles, found = [], []
    with mpl.rc_context({**STYLE, "svg.hashsalt": figure.name}):
        canvases = [_canvas(panel, figure) for panel in figure.panels]
        legends = [_entries(canvas.axes[0]) for canvas in canvases]
        shared = {label: handle for legend in legends for label, handle in legend.items()}
        if max(map(len, legends), default=0) <= _ROOM:
            for canvas, legend in zip(canvases, legends, strict=True):
                _add_legend(canvas.axes[0], legend)
        elif len(shared) <= len(_PALETTE) + 1:  # more colours cannot be told apart
            canvases.append(_legend(shared))
        for index, canvas in enumerate(canvases):
            found.append(_svg(canvas, f"{figure.name}-{index}"))
            tiles.append(_pixels(canvas))
    return Drawn(_together(tiles), tuple(found))


def drawn(figures: Iterable[Figure]) -> dict[str, Drawn]:
    """Figures by their names."""
    return {figure.name: draw(figure) for figure in figures}


def _canvas(panel: Panel, figure: Figure) -> Canvas:
    canvas = Canvas(figsize=_PANEL)
    _fill(canvas.add_axes((0.17, 0.17, 0.8, 0.71)), panel, figure)
    return canvas


def _svg(canvas: Canvas, name: str) -> str:
    FigureCanvasSVG(canvas)
    out = io.StringIO()
    canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(out.getvalue(), name)


def _pixels(canvas: Canvas) -> NDArray[np.uint8]:
    """``[height, width, 4]``."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    return np.array(agg.buffer_rgba())


def _together(tiles: Sequence[NDArray[np.uint8]]) -> bytes:
    """Pictures of one size as one PNG, up to three in a row."""
    width = min(3, len(tiles))
    empty = [np.full_like(tiles[0], 255)] * (-len(tiles) % width)
    rows = [np.hstack([*tiles, *empty][first : first + width]) for first in range(0, len(tiles), width)]
    out = io.BytesIO()
    imsave(out, np.vstack(rows)[:, :, :3], format="png", metadata={"Software": "DiffCPS"})
    return out.getvalue()


def _fill(axes: Axes, panel: Panel, figure: Figure) -> None:
    panel.draw(axes)
    # with a fixed position matplotlib need not search for one, which takes as long as drawing the lines
    axes.set_title(panel.title, y=1.0)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_locator(), AutoLocator):  # the default locator takes most of a panel's time
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _entries(axes: Axes) -> dict[str, Any]:
    """Label -> what shows it."""
    handles, labels = axes.get_legend_handles_labels()
    return {str(label): handle for label, handle in zip(labels, handles, strict=True)}


def _add_legend(axes: Axes, entries: dict[str, Any]) -> None:
    """A legend among the lines of a panel."""
    if entries:
        # "best" searches among all points, which takes long if there are very many
        many = any(crowded(len(collection.get_paths())) for collection in axes.collections)
        axes.legend(list(entries.values()), list(entries), loc="upper right" if many else "best")


def _legend(entries: dict[str, Any]) -> Canvas:
    """A legend alone, as large as a panel."""
    canvas = Canvas(figsize=_PANEL)
    canvas.legend(list(entries.values()), list(entries), loc="center")
    return canvas


def _inlined(svg: str, name: str) -> str:
    """The ``<svg>`` element alone, as wide as its container, with unique ids and the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return svg.replace(INK, "currentColor").replace(GROUND, "var(--ground)").strip()
