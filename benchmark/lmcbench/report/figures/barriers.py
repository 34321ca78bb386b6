"""Figures of barriers and curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lmcbench.report.figures.style import (
    COLOURS,
    DASHES,
    LIMIT,
    MARKERS,
    Drawing,
    blank,
    example_text,
    fork_label,
    legend_below,
    line,
    note_example,
    panels,
    percent_bars,
    replicates,
    several_recipes,
)
from lmcbench.results.cell_values import CONNECTED, SPLIT
from lmcbench.spec.architectures import short_labels
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.stats.cells import Cells, analysis, example_cells, forks_in, has_analysis, sort_shifts
from lmcbench.stats.estimates import Contrast, Estimate, pool

_STEP, _SPREAD = 0.08, 0.7
"""Distance of two shifts at a fork, and largest one of all shifts; forks are 1 apart."""

_MANY = 8
"""With more shifts, panels are wider, two in a row."""


def barriers(cells: Cells) -> Drawing | None:
    """Draw the error barrier against the fork, a panel per architecture and a line per shift."""
    values = cells.measured().dropna(subset="error_chord")
    if values.empty:
        return None
    return Drawing(
        "barriers",
        "Barrier against fork",
        "Error barrier on the test set (chord form) of siblings that leave the trunk at a fork, mean "
        "over replicates with 95 % Student t intervals (none for n = 1). Below the dashed line, 2 "
        "points, siblings count as connected. Independent networks have no trunk and stand apart. "
        "Intervals are drawn as far as a barrier can reach, 0 to 100. The scale is linear up to 2 and "
        f"logarithmic above.{several_recipes(cells)}",
        draw_barriers(values),
        narrow=draw_barriers(values, abreast=1),
    )


def draw_barriers(values: pd.DataFrame, abreast: int = 3) -> Figure:
    """Draw the error barrier against the fork, a panel per architecture and a line per shift.

    Args:
        values: one row per cell, as `average_pairs` returns them.
        abreast: largest number of panels in a row.
    """
    figure, axes = draw_against_fork(
        values, "error_chord", "error barrier\n(percentage points)", factor=100, clipped=True, abreast=abreast
    )
    for axis in axes:
        axis.axhline(100 * CONNECTED, color=LIMIT, linewidth=0.7, linestyle=(0, (2, 2)))
        axis.set_yscale("symlog", linthresh=2)
        axis.set_ylim(-0.2, 110)
        axis.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], ["0", "1", "2", "5", "10", "20", "50", "100"])
        axis.minorticks_off()
    return figure


def draw_against_fork(
    values: pd.DataFrame,
    measure: str,
    label: str,
    *,
    factor: float = 1,
    clipped: bool = False,
    abreast: int = 3,
) -> tuple[Figure, list[Any]]:
    """Draw a measure against the fork, a panel per architecture and a line per shift.

    Args:
        values: one row per cell, as `average_pairs` returns them.
        measure: a column of numbers.
        label: of the vertical axis, with the unit.
        factor: that the column is multiplied by: 100 for percent.
        clipped: whether intervals are drawn as far as a percentage can reach, 0 to 100.
        abreast: largest number of panels in a row.

    Returns:
        The figure, and its panels in the order of the architectures.
    """
    names, shifts = list(values["architecture"].unique()), sort_shifts(values["shift"])
    short = short_labels(names)
    forks = forks_in(values)
    trunk = [fork for fork in forks if Fork.parse(fork).has_trunk]
    # networks without a trunk are no continuation of the line
    places = {fork: k + (0.3 if fork not in trunk and trunk else 0.0) for k, fork in enumerate(forks)}
    wide = len(shifts) > _MANY and abreast > 1
    if wide or abreast < len(names) == 4:
        abreast = min(abreast, 2)
    abreast = min(abreast, len(names))
    width, height = (5.0, 3.0) if wide else (3.3, 2.5)
    figure, axes = panels(-(-len(names) // abreast), abreast, width=width, height=height, sharey=True)
    step = min(_STEP, _SPREAD / max(len(shifts) - 1, 1))
    for axis, name in zip(axes.flat, names, strict=False):
        mine = values[values["architecture"] == name]
        for k, shift in enumerate(shifts):
            here = mine[mine["shift"] == shift]
            heights = {fork: _mean(here[here["fork"] == fork], measure, factor) for fork in forks}
            offset = step * (k - (len(shifts) - 1) / 2)
            for among, joined in ((trunk, True), ([f for f in forks if f not in trunk], False)):
                points = [(places[f] + offset, heights[f]) for f in among if heights[f].mean is not None]
                if points:
                    estimates = [e for _, e in points]
                    axis.errorbar(
                        [x for x, _ in points],
                        [e.mean for e in estimates],
                        yerr=percent_bars(estimates) if clipped else [e.half_width or 0 for e in estimates],
                        label=shift,
                        capsize=2,
                        elinewidth=0.8,
                        **{**line(k), **({} if joined else {"linestyle": "none"})},
                    )
        axis.set_xticks(list(places.values()), forks)
        axis.set_xlim(-0.5, max(places.values()) + 0.5)
        axis.set_title(f"{short[name]} ({replicates(mine['replicate'].nunique())})")
        axis.set_xlabel("fork (epoch or share of training)")
    blank(axes, len(names))
    for row in axes:
        row[0].set_ylabel(label)
    legend_below(figure, axes)
    return figure, list(axes.flat[: len(names)])


def _mean(cells: pd.DataFrame, measure: str, factor: float) -> Estimate:
    """Return a measure over replicates, each the mean of its recipes."""
    known = cells.dropna(subset=measure)
    columns = zip(known["replicate"], known["recipe"], factor * known[measure], strict=True)
    return pool(Contrast(replicate, (recipe,), height) for replicate, recipe, height in columns).effect


def curves(cells: Cells) -> Drawing | None:
    """Draw loss and error along the line, a line per fork, for one shift."""
    rows = with_curves(cells.rows)
    if rows.empty:
        return None
    shift = first_shift(rows)
    rows = rows[rows["shift"] == shift]
    return Drawing(
        "curves",
        "Along the line",
        f"Loss and error on the test set ({rows['n'].iloc[0]:.0f} images) at every point of the straight "
        f"line between two siblings, mean over replicates, shift {shift}.{several_recipes(cells)}",
        draw_curves(rows),
    )


def with_curves(rows: pd.DataFrame, split: str = SPLIT) -> pd.DataFrame:
    """Return the rows of the table of `load_records` that have a curve on a split."""
    if "loss_curve" not in rows:  # no cell has a pair
        return rows.iloc[:0]
    return rows[(rows["split"] == split) & rows["loss_curve"].notna()]


def first_shift(rows: pd.DataFrame) -> str:
    """Return the shift of which a figure of one shift is: `none`, else the first."""
    return str(min(rows["shift"], key=lambda shift: shift != "none"))


def draw_curves(rows: pd.DataFrame) -> Figure:
    """Draw loss and error along the line, a column of panels per architecture and a line per fork.

    Args:
        rows: of `with_curves`, of one shift; the mean over replicates and pairs is drawn.
    """
    names, forks = list(rows["architecture"].unique()), forks_in(rows)
    short = short_labels(names)
    figure, axes = panels(2, len(names), sharex=True)
    for column, name in zip(axes.T, names, strict=True):
        mine = rows[rows["architecture"] == name]
        n = mine.groupby("fork")["replicate"].nunique().max()
        for k, fork in enumerate(forks):
            found = mine[mine["fork"] == fork]
            if found.empty:
                continue
            alphas = found["alphas"].iloc[0]
            for axis, kind, factor in ((column[0], "loss_curve", 1), (column[1], "error_curve", 100)):
                # all replicates have the same number of pairs
                mean = factor * np.mean(list(found[kind]), axis=0)
                label = fork_label(fork)
                axis.plot(alphas, mean, label=label, markevery=max(1, len(alphas) // 5), **line(k))
        column[0].set_title(f"{short[name]}\n({replicates(n)})")
        column[1].set_xlabel("alpha (0: A, 1: B)")
    axes[0][0].set_ylabel("loss (nats)")
    axes[1][0].set_ylabel("error (%)")
    legend_below(figure, axes)
    return figure


def repaired(cells: Cells) -> Drawing | None:
    """Draw the curves of independent networks without changes, repaired, and aligned."""
    every = example_cells(cells.records, "align")
    grid = {name: row for name, row in every.items() if INDEPENDENT in row}
    if not grid:
        return None
    figure, axes = note_example(grid, *panels(1, len(grid), width=2.4, height=2.2, sharey=True))
    for axis, (name, row) in zip(axes[0], grid.items(), strict=True):
        found, kinds = analysis(row[INDEPENDENT], "align"), []
        if has_analysis(row[INDEPENDENT], "repair"):
            repair = analysis(row[INDEPENDENT], "repair")
            kinds = [("as they are", repair["blended"]), ("repaired", repair["repaired"])]
        kinds += [("aligned", found["aligned"]), ("aligned and repaired", found["aligned_and_repaired"])]
        for k, (text, curves_) in enumerate(kinds):
            axis.plot(
                found["alphas"],
                100 * np.array(curves_["test"]["error"]),
                label=text,
                color=COLOURS[k],
                linestyle=DASHES[k],
                marker=MARKERS[k],
                markevery=4,
            )
        axis.set_title(short_labels(grid)[name])
        axis.set_xlabel("alpha")
    axes[0][0].set_ylabel("test error (%)")
    legend_below(figure, axes, 1.8)
    n = analysis(next(iter(grid.values()))[INDEPENDENT], "align")["n"]["test"]
    return Drawing(
        "aligned",
        "Independent networks, repaired and aligned",
        "Test error on the line between two independently trained networks: with statistics blended as "
        "they are, repaired (reset, where there is BatchNorm; REPAIR elsewhere), and after the second "
        f"network's units were permuted to match the first's. {n} images, {example_text(grid)}, n = 1.",
        figure,
    )
