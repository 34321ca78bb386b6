"""How figures look: line styles that grey paper keeps apart, panels, and pictures as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lmcbench.board.statistics import Estimate

COLOURS = ("#00204c", "#c2410c", "#5b7fa6", "#8a8a3a", "#b8a200", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MAP = "cividis"
"""Of even lightness steps, so that it reads the same in grey."""
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
"""Ticks as plain numbers, without powers of ten."""
RULES = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.hashsalt": "lmcbench",
}


def line(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the series `index`."""
    i = index % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


def styled() -> AbstractContextManager[None]:
    """The rules, in force while figures are made."""
    return mpl.rc_context(RULES)


def panels(
    rows: int,
    columns: int,
    *,
    width: float = 2.4,
    height: float = 2.0,
    sharex: Any = False,
    sharey: Any = False,
) -> tuple[Figure, Any]:
    """A figure of `rows` x `columns` panels, sizes in inches; axes as an array `[rows, columns]`."""
    figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    return figure, axes


def label_rows(axes: Any, names: Sequence[str]) -> None:
    """Name each row at its right edge."""
    for row, name in zip(axes, names, strict=True):
        row[-1].annotate(
            name, (1.03, 0.5), xycoords="axes fraction", rotation=270, va="center", ha="left", fontsize=9
        )


def percent_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Error bars of percentages, `[2, n]`: t intervals, drawn as far as the quantity can reach, 0 to 100."""
    known = [(e.mean or 0.0, e.half_width or 0.0) for e in estimates]
    return [
        [min(width, max(mean, 0.0)) for mean, width in known],
        [min(width, max(100 - mean, 0.0)) for mean, width in known],
    ]


def legend_below(figure: Figure, axes: Any, each: float = 1.5) -> None:
    """One legend for all panels, under them; a series is named once, in about `each` inches.

    Long names stand in fewer columns, and smaller where even one column is wider than the figure.
    """
    named: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    renderer, size = FigureCanvasAgg(figure).get_renderer(), float(mpl.rcParams["font.size"])
    columns = max(1, min(len(named), int(figure.get_figwidth() / each)))
    while True:
        # a legend is filled column by column; series in their order are read row by row
        names = [name for first in range(columns) for name in list(named)[first::columns]]
        handles = [named[name] for name in names]
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=size)
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()
        columns, size = (columns - 1, size) if columns > 1 else (1, 0.9 * size)


def logarithmic(axis: Any, values: Any) -> None:
    """A logarithmic y axis with plain numbers, where `values` span more than a factor of five."""
    low, high = min(values), max(values)
    axis.yaxis.set_major_formatter(PLAIN)
    if low > 0 and high / low > 5:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(PLAIN)
        axis.yaxis.set_minor_formatter(NullFormatter())


def picture(figure: Figure, kind: str = "png") -> bytes:
    """The figure as a file's bytes, without a date."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}.get(kind, {})
    with styled():
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()
