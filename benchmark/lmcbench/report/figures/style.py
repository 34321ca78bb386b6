"""How figures look: line styles that grey paper keeps apart, panels, and pictures as bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lmcbench.errors import counted
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT
from lmcbench.stats.cells import Grid, further, of_shift
from lmcbench.stats.estimates import Estimate

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


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that belong to it.

    Attributes:
        name: of its file.
        title: its heading.
        caption: what is shown, on what, with n.
        figure: the picture.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def replicates(*counts: int) -> str:
    """How many replicates, in words; of several series, the fewest and the most."""
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"n = {fewest}{counted(max(counts), 'replicate')}"


def replicates_of(records: Iterable[Record]) -> str:
    """How many replicates there are of an architecture, in words."""
    seen: dict[str, set[int]] = {}
    for record in records:
        seen.setdefault(architecture_label(record), set()).add(record.replicate)
    return replicates(*(len(found) for found in seen.values()))


def recipes_of(records: Iterable[Record]) -> dict[str, set[str]]:
    """Architecture -> its recipes."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(architecture_label(record), set()).add(record.recipe["name"])
    return found


def several_recipes(records: Iterable[Record]) -> str:
    """What is said below a mean over replicates where a network has several recipes; else nothing."""
    if all(len(recipes) == 1 for recipes in recipes_of(records).values()):
        return ""
    return " Of a network with several recipes, a replicate's value is their mean."


def fork_label(name: str) -> str:
    """A fork in titles and legends."""
    return name if name == INDEPENDENT else f"fork {name}"


Clouds = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
"""Architecture -> name of a series -> its points."""


# --- single cells: a row for each architecture, a column for each fork -------------------------------


def cell_panels(
    cells: Grid, forks: Sequence[str], *, width: float, height: float, share: Any = True
) -> tuple[Figure, Any]:
    """A panel for each cell, sizes in inches; axes `[architectures, forks]`."""
    return of_single_cells(cells, *panels(len(cells), len(forks), width=width, height=height, sharex=share))


def of_single_cells(cells: Grid, figure: Figure, axes: Any) -> tuple[Figure, Any]:
    """Say on a figure of single cells which they are, and that they are one replicate."""
    figure.suptitle(f"{of_shift(cells)}, n = 1", fontsize=8, x=0.01, ha="left")
    return figure, axes


def on_panels(axes: Any, cells: Grid, forks: Sequence[str]) -> list[tuple[Any, Record]]:
    """Panel and record of every cell that there is; the other panels are blanked."""
    found = []
    for row, by_fork in zip(axes, cells.values(), strict=True):
        for axis, fork in zip(row, forks, strict=True):
            if fork in by_fork:
                found.append((axis, by_fork[fork]))
            else:
                axis.set_visible(False)
    return found


def label_panels(axes: Any, cells: Grid, forks: Sequence[str], x: str, y: str) -> None:
    """Name columns, rows and axes."""
    for axis, fork in zip(axes[0], forks, strict=True):
        axis.set_title(fork_label(fork))
    for axis in axes[-1]:
        axis.set_xlabel(x)
    for row in axes:
        row[0].set_ylabel(y)
    label_rows(axes, list(cells))


def images_of(cells: Grid, name: str) -> int:
    """How many images a further measure of the cells was taken on."""
    n = further(next(iter(next(iter(cells.values())).values())), name)["n"]
    return int(n["train"] if isinstance(n, dict) else n)


# --- a panel for each architecture -----------------------------------------------------------------


def cloud_panels(clouds: Clouds, series: Mapping[str, str], ylabel: str) -> tuple[Figure, Any]:
    """Points of every architecture; `series`: name of a group of them -> its label."""
    columns = min(len(clouds), 2)
    figure, axes = panels(-(-len(clouds) // columns), columns, width=3.6, height=2.6)
    for axis, (name, groups) in zip(axes.flat, clouds.items(), strict=False):
        for k, (group, label) in enumerate(series.items()):
            x, y = np.array(groups.get(group, [])).reshape(-1, 2).T
            axis.plot(x, y, label=label, **{**line(k), "linestyle": "none"}, alpha=0.8)
        axis.set_title(name)
    for row in axes:
        row[0].set_ylabel(ylabel)
    blank(axes, len(clouds))
    legend_below(figure, axes)
    return figure, axes


def blank(axes: Any, used: int) -> None:
    """Hide the panels after the first `used`."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
