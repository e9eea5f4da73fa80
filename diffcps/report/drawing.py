"""Draws a figure: all panels in one PNG for a folder, each panel as an SVG of its own for a page.

The SVG takes its ink from the text around it (``currentColor``), so it is readable on light and dark ground.
"""

import io
import math
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from diffcps.report.document import Figure, Panel

INK = "#15191e"
"""Text and axes; in an SVG it stands for the colour of the surrounding text."""
GROUND = "#fcfdfc"
"""What lies under a legend; in an SVG it stands for the ground of the page."""
_STYLE: dict[Any, Any] = {
    "font.size": 9, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.2, "axes.titlesize": 10, "legend.fontsize": 8,
    "legend.facecolor": GROUND, "legend.edgecolor": "none", "legend.framealpha": 0.75,
    "figure.dpi": 110, "svg.fonttype": "none", "lines.linewidth": 1.6,
    **{f"{part}.color": INK for part in ("text", "grid", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("edge", "label")},
}  # fmt: skip
_PALETTE = "#2f7fc1", "#e07b28", "#2f9e6e", "#c2549d", "#8a72c9", "#b08a1e", "#38a9b5", "#c8505a"
"""Tell up to eight lines apart, on light and dark ground."""
_MOST_LABELS = len(_PALETTE)
"""A legend with more entries than this hides what it explains."""
_PANEL = 4.2, 3.0
"""Width and height of a panel, inches."""


def colours(count: int) -> list[str]:
    """One for each of ``count`` lines: of a palette where it suffices, else in the order of a scale."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    scale = mpl.colormaps["viridis"]
    return [mpl.colors.to_hex(scale(0.15 + 0.75 * index / (count - 1))) for index in range(count)]


def crowded(count: int) -> bool:
    """Whether ``count`` lines in a panel leave no room for bands around them."""
    return count > len(_PALETTE)


def png(figure: Figure) -> bytes:
    """All panels of a figure, up to three in a row."""
    width = min(3, len(figure.panels))
    height = math.ceil(len(figure.panels) / width)
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(_PANEL[0] * width, _PANEL[1] * height))
        FigureCanvasAgg(canvas)
        # margins in inches around each panel: measuring every label instead would double the time that a figure takes
        margins = {"left": 0.62 / _PANEL[0] / width, "right": 1 - 0.15 / _PANEL[0] / width}
        margins |= {"bottom": 0.5 / _PANEL[1] / height, "top": 1 - 0.35 / _PANEL[1] / height}
        grid = {**margins, "wspace": 0.2, "hspace": 0.45}
        axes = canvas.subplots(height, width, squeeze=False, gridspec_kw=grid).ravel()
        for index, panel in enumerate(figure.panels):
            _fill(axes[index], panel, figure, first=index % width == 0)
        for empty in axes[len(figure.panels) :]:
            empty.set_axis_off()
        out = io.BytesIO()
        canvas.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def svgs(figure: Figure) -> list[str]:
    """Each panel as an SVG element to stand in a page, without anything that a page may have but once."""
    found = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": figure.name}):
        for index, panel in enumerate(figure.panels):
            canvas = Canvas(figsize=_PANEL)
            FigureCanvasSVG(canvas)
            axes = canvas.add_axes((0.15, 0.17, 0.82, 0.71))
            _fill(axes, panel, figure, first=True)
            out = io.StringIO()
            canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            found.append(_inlined(out.getvalue(), f"{figure.name}-{index}"))
    return found


def _fill(axes: Axes, panel: Panel, figure: Figure, first: bool) -> None:
    panel.draw(axes)
    axes.set_title(panel.title)
    axes.set_xlabel(figure.x_label)
    if first:
        axes.set_ylabel(figure.y_label)
    handles, labels = axes.get_legend_handles_labels()
    unique = {str(label): handle for label, handle in zip(labels, handles, strict=True)}
    if 0 < len(unique) <= _MOST_LABELS + 1:
        # the best place is searched for among all points, which takes long where they are very many
        many = any(crowded(len(collection.get_paths())) for collection in axes.collections)
        axes.legend(list(unique.values()), list(unique), loc="upper right" if many else "best")


def _inlined(svg: str, name: str) -> str:
    """The ``<svg>`` element alone, as wide as its place, with ids that are unique in the page and the page's own colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return svg.replace(INK, "currentColor").replace(GROUND, "var(--ground)").strip()
