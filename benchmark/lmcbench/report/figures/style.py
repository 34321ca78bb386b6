"""The look of figures: line styles that differ in grey, panels, legends, and export."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter

from lmcbench.errors import counted
from lmcbench.output import terminal_text
from lmcbench.results.cell_values import shift_label
from lmcbench.results.record import Record
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import Fork
from lmcbench.stats.cells import Cells, Grid, analysis
from lmcbench.stats.estimates import Estimate

COLOURS = ("#00204c", "#c2410c", "#5b7fa6", "#8a8a3a", "#b8a200", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
LIMIT = "#444444"
"""Colour of reference lines, such as limits and equality."""
MAP = "cividis"
"""Colour map with even steps of lightness, readable in grey."""
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
"""Tick labels without powers of ten."""
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
    """Return colour, marker and dashes of the series `index`."""
    kinds = {"color": COLOURS, "marker": MARKERS, "linestyle": DASHES}
    return {name: among[index % len(among)] for name, among in kinds.items()}


class NotebookFigure(Figure):
    """A figure that a notebook shows as the value of a cell, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return picture(self)


def styled() -> AbstractContextManager[None]:
    """Apply `RULES` while figures are made."""
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
    """Return a figure and its axes `[rows, columns]`; sizes of a panel in inches."""
    figure = NotebookFigure(figsize=(width * columns + 0.6, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    return figure, axes


def label_rows(axes: Any, names: Sequence[str]) -> None:
    """Label each row at its right edge."""
    for row, name in zip(axes, names, strict=True):
        row[-1].annotate(
            name, (1.03, 0.5), xycoords="axes fraction", rotation=270, va="center", ha="left", fontsize=9
        )


def percent_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Return error bars of percentages, `[2, n]`: t intervals clipped to 0..100."""
    known = [(e.mean or 0.0, e.half_width or 0.0) for e in estimates]
    return [
        [min(width, max(mean, 0.0)) for mean, width in known],
        [min(width, max(100 - mean, 0.0)) for mean, width in known],
    ]


def legend_below(figure: Figure, axes: Any, each: float = 1.5) -> None:
    """Add one legend for all panels below them, with columns of about `each` inches.

    Long names take fewer columns, and a smaller font if one column is wider than the figure.
    """
    named: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    renderer, size = FigureCanvasAgg(figure).get_renderer(), float(mpl.rcParams["font.size"])
    columns = max(1, min(len(named), int(figure.get_figwidth() / each)))
    while True:
        # matplotlib fills a legend column by column; the series are in order when read row by row
        names = [name for first in range(columns) for name in list(named)[first::columns]]
        handles = [named[name] for name in names]
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=size)
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()
        columns, size = (columns - 1, size) if columns > 1 else (1, 0.9 * size)


def logarithmic(axis: Any, values: Any) -> None:
    """Make the y axis logarithmic if `values` span more than a factor of five."""
    low, high = min(values), max(values)
    axis.yaxis.set_major_formatter(PLAIN)
    if low > 0 and high / low > 5:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(PLAIN)
        axis.yaxis.set_minor_formatter(NullFormatter())


def picture(figure: Figure, kind: str = "png", transparent: bool = False) -> bytes:
    """Return the figure as the bytes of a file, the same for every call: without date and random names."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and (label := text.get_text()):
            text.set_text(terminal_text(label))
            text.set_parse_math("$" not in label)  # of a name: it is not a formula
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        with styled():  # each pass moves things a little: the layout is fixed here, for all formats
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    none = {"png": ("Software",), "svg": ("Date",), "pdf": ("CreationDate",)}.get(kind, ())
    with styled():
        figure.savefig(buffer, format=kind, dpi=130, metadata=dict.fromkeys(none), transparent=transparent)
    return buffer.getvalue()


THEME = {
    **{colour: f"var(--s{k})" for k, colour in enumerate(COLOURS[:5])},
    COLOURS[5]: "var(--grey)",
    LIMIT: "var(--muted)",
    "#666666": "var(--muted)",
    "#dddddd": "var(--line)",
    "#000000": "var(--ink)",
}
"""Colours of figures -> variables of the pages' style sheet."""


def inline_svg(figure: Figure) -> str:
    """Return the figure as an SVG element for a page: its text and colours are those of the page.

    Text stays text. The background is transparent. Widths and heights are in CSS pixels, 4/3 of a point.
    """
    with mpl.rc_context({"svg.fonttype": "none"}):
        text = picture(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # only names with a hash are referred to
    text = re.sub(r'\s(?:id="[A-Za-z0-9_.]+_\d+"|xmlns(?::xlink)?="[^"]*")', "", text).replace(
        "xlink:href", "href"
    )
    width, height = (f"{size * 96:.0f}" for size in figure.get_size_inches())
    text = re.sub(
        r'<svg width="[^"]*" height="[^"]*"', f'<svg width="{width}" height="{height}"', text, count=1
    )
    text = re.sub("|".join(THEME), lambda found: THEME[found[0]], text)
    return re.sub(r"\n\s*", "\n", text).strip()


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name, heading and caption.

    Attributes:
        name: of its file.
        title: the heading.
        caption: what is drawn.
        figure: for a desktop.
        narrow: the same for a phone, if it is drawn in another way there.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    narrow: Figure | None = None


def replicates(*counts: int) -> str:
    """Return the number of replicates in words; the fewest and most of several series."""
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"n = {fewest}{counted(max(counts), 'replicate')}"


def replicates_of(cells: pd.DataFrame) -> str:
    """Return the number of replicates per architecture in words."""
    return replicates(*cells.groupby("architecture")["replicate"].nunique())


def several_recipes(cells: Cells) -> str:
    """Return a sentence for the caption if a network has several recipes, else nothing."""
    if (cells.rows.groupby("architecture")["recipe"].nunique() == 1).all():
        return ""
    return " Of a network with several recipes, a replicate's value is their mean."


def fork_label(name: str) -> str:
    """Return a fork as printed in titles and legends."""
    return f"fork {name}" if Fork.parse(name).has_trunk else name


# --- example cells: a row for each architecture, a column for each fork ----------------------------


def cell_panels(
    cells: Grid, forks: Sequence[str], *, width: float, height: float, share: Any = True
) -> tuple[Figure, Any]:
    """Return a figure and its axes `[architectures, forks]`; sizes of a panel in inches."""
    return note_example(cells, *panels(len(cells), len(forks), width=width, height=height, sharex=share))


def note_example(cells: Grid, figure: Figure, axes: Any) -> tuple[Figure, Any]:
    """Print on a figure which single cells it shows."""
    figure.suptitle(f"{example_text(cells)}, n = 1", fontsize=8, x=0.01, ha="left")
    return figure, axes


def example_text(cells: Grid) -> str:
    """Return the shift and replicate of the cells."""
    record = next(iter(next(iter(cells.values())).values()))
    return f"shift {shift_label(record)}, replicate {record.replicate}"


def on_panels(axes: Any, cells: Grid, forks: Sequence[str]) -> list[tuple[Any, Record]]:
    """Return the panel and record of every cell, and hide the other panels."""
    found = []
    for row, by_fork in zip(axes, cells.values(), strict=True):
        for axis, fork in zip(row, forks, strict=True):
            if fork in by_fork:
                found.append((axis, by_fork[fork]))
            else:
                axis.set_visible(False)
    return found


def label_panels(axes: Any, cells: Grid, forks: Sequence[str], x: str, y: str) -> None:
    """Label columns, rows and axes."""
    for axis, fork in zip(axes[0], forks, strict=True):
        axis.set_title(fork_label(fork))
    for axis in axes[-1]:
        axis.set_xlabel(x)
    for row in axes:
        row[0].set_ylabel(y)
    label_rows(axes, list(short_labels(cells).values()))


def on_columns(axes: Any, cells: Grid, forks: Sequence[str]) -> list[tuple[Any, int, str, Record]]:
    """Return the column of panels, the place of its fork, the fork's label and the record of every cell.

    A column is an architecture, which becomes its title. A fork has the same place in all columns.
    """
    short = short_labels(cells)
    found = []
    for column, (name, by_fork) in zip(axes.T, cells.items(), strict=True):
        column[0].set_title(short[name])
        found += [(column, k, fork_label(f), by_fork[f]) for k, f in enumerate(forks) if f in by_fork]
    return found


def colour_bar(figure: Figure, mesh: Any, axes: Any, label: str, **options: Any) -> None:
    """Draw the colour bar of all panels; `options` are matplotlib's."""
    figure.colorbar(mesh, ax=axes, label=label, shrink=0.9 if len(axes) < 3 else 0.6, **options)


def taken_on(cells: Grid, name: str) -> str:
    """Return the images, shift and replicate that an analysis of the cells was taken on, for captions."""
    return f"{images_of(cells, name)} images, {example_text(cells)}, n = 1."


def images_of(cells: Grid, name: str) -> int:
    """Return the number of images of an analysis."""
    n = analysis(next(iter(next(iter(cells.values())).values())), name)["n"]
    return int(n["train"] if isinstance(n, dict) else n)


# --- a panel for each architecture -----------------------------------------------------------------


def cloud_panels(
    cells: pd.DataFrame, x: str, y: str, series: Mapping[str, str], by: str
) -> tuple[Figure, Any]:
    """Draw the columns `x` and `y` in percent, a point per cell.

    Args:
        cells: with the columns `architecture`, `x`, `y` and `by`.
        x: a column of fractions.
        y: a column of fractions.
        series: value of the column `by` -> its name in the legend.
        by: the column that tells series apart.
    """
    names = cells["architecture"].unique()
    short = short_labels(names)
    columns = min(len(names), 2 if len(names) in (2, 4) else 3)
    figure, axes = panels(-(-len(names) // columns), columns, width=3.3, height=2.5)
    for axis, name in zip(axes.flat, names, strict=False):
        here = cells[cells["architecture"] == name]
        for k, (value, label) in enumerate(series.items()):
            points = here[here[by] == value]
            style = {**line(k), "linestyle": "none"}
            axis.plot(100 * points[x], 100 * points[y], label=label, **style, alpha=0.8)
        axis.set_title(short[name])
    blank(axes, len(names))
    legend_below(figure, axes)
    return figure, axes


def blank(axes: Any, used: int) -> None:
    """Hide the panels after the first `used`."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
