"""Panels in rows and columns: by architecture and fork, or one for each architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lmcbench.board.figures.drawing import fork_label
from lmcbench.board.figures.style import label_rows, legend_below, line, panels
from lmcbench.board.probed import Grid, further, of_shift
from lmcbench.results.record import Record

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
