"""Barriers and curves, which every record has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcbench.report.figures.style import (
    COLOURS,
    DASHES,
    MARKERS,
    Drawing,
    blank,
    fork_label,
    legend_below,
    line,
    of_single_cells,
    panels,
    percent_bars,
    replicates,
    several_recipes,
)
from lmcbench.results.cell_values import CONNECTED, SPLIT, architecture_label, error_barrier, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT, Fork
from lmcbench.stats.cells import further, held, of_shift, order, shown
from lmcbench.stats.estimates import Contrast, Estimate, pool


def barriers(records: Sequence[Record]) -> Drawing | None:
    """Error barrier against fork, a line per shift."""
    found = [
        (architecture_label(r), shift_label(r), r.fork.name, r.replicate, r.recipe["name"], error_barrier(r))
        for r in records
    ]
    columns = ["architecture", "shift", "fork", "replicate", "recipe", "height"]
    values = pd.DataFrame(found, columns=columns).dropna()
    if values.empty:
        return None
    names = list(dict.fromkeys(architecture_label(r) for r in order(records)))
    names = [name for name in names if name in set(values["architecture"])]
    shifts = list(dict.fromkeys(shift_label(r) for r in order(records)))
    forks = sorted(values["fork"].unique(), key=lambda name: Fork.parse(name).order)
    abreast = min(len(names), 2)
    figure, axes = panels(-(-len(names) // abreast), abreast, width=3.6, height=2.6, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        mine = values[values["architecture"] == name]
        n = mine["replicate"].nunique()
        for k, shift in enumerate(shifts):
            here = mine[mine["shift"] == shift]
            points = [(x, _height(here[here["fork"] == f])) for x, f in enumerate(forks)]
            points = [(x, e) for x, e in points if e.mean is not None]
            offset = 0.08 * (k - (len(shifts) - 1) / 2)
            if points:
                axis.errorbar(
                    [x + offset for x, _ in points],
                    [e.mean for _, e in points],
                    yerr=percent_bars([e for _, e in points]),
                    label=shift,
                    capsize=2,
                    elinewidth=0.8,
                    **line(k),
                )
        axis.axhline(100 * CONNECTED, color="#444444", linewidth=0.7, linestyle=(0, (2, 2)))
        axis.set_yscale("symlog", linthresh=2)
        axis.set_ylim(-0.2, 110)
        axis.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], ["0", "1", "2", "5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.set_xticks(range(len(forks)), forks)
        axis.set_title(f"{name} ({replicates(n)})")
        axis.set_xlabel("fork (epoch)")
    blank(axes, len(names))
    for row in axes:
        row[0].set_ylabel("error barrier\n(percentage points)")
    legend_below(figure, axes)
    return Drawing(
        "barriers",
        "Barrier against fork",
        "Error barrier on the test set (chord form) of siblings that leave the trunk at a fork, mean "
        "over replicates with 95 % Student t intervals (none for n = 1). Below the dashed line, 2 "
        "points, siblings count as connected. Intervals are drawn as far as a barrier can reach, 0 to "
        f"100. The scale is linear up to 2 and logarithmic above.{several_recipes(records)}",
        figure,
    )


def _height(cells: pd.DataFrame) -> Estimate:
    """The error barrier of one network, shift and fork in percentage points, over replicates."""
    rows = cells[["replicate", "recipe", "height"]].itertuples(index=False, name=None)
    return pool(Contrast(replicate, (recipe,), 100 * height) for replicate, recipe, height in rows).effect


def curves(records: Sequence[Record]) -> Drawing | None:
    """Loss and error along the line, a line per fork, for one shift."""
    whole = [r for r in order(records) if r.pairs and SPLIT in r.pairs[0].curves]
    if not whole:
        return None
    shift = shift_label(min(whole, key=lambda r: shift_label(r) != "none"))
    whole = [r for r in whole if shift_label(r) == shift]
    cells: dict[str, dict[str, list[Record]]] = {}
    for record in whole:
        cells.setdefault(architecture_label(record), {}).setdefault(record.fork.name, []).append(record)
    forks = sorted({f for row in cells.values() for f in row}, key=lambda f: Fork.parse(f).order)
    figure, axes = panels(2, len(cells), sharex=True)
    for column, (name, by_fork) in zip(axes.T, cells.items(), strict=True):
        n = max(len({r.replicate for r in found}) for found in by_fork.values())
        for k, fork in enumerate(forks):
            found = by_fork.get(fork, [])
            if not found:
                continue
            alphas = found[0].protocol["alphas"]
            for axis, what, factor in ((column[0], "loss", 1), (column[1], "error", 100)):
                # pairs are averaged within a replicate, which all have the same number of them
                mean = factor * np.mean(
                    [getattr(p.curves[SPLIT], what) for r in found for p in r.pairs], axis=0
                )
                label = fork_label(fork)
                axis.plot(alphas, mean, label=label, markevery=max(1, len(alphas) // 5), **line(k))
        images = whole[0].pairs[0].curves[SPLIT].n
        column[0].set_title(f"{name}\n({replicates(n)})")
        column[1].set_xlabel("alpha (0: A, 1: B)")
    axes[0][0].set_ylabel("loss (nats)")
    axes[1][0].set_ylabel("error (%)")
    legend_below(figure, axes)
    return Drawing(
        "curves",
        "Along the line",
        f"Loss and error on the test set ({images} images) at every point of the straight line between "
        f"two siblings, mean over replicates, shift {shift}.{several_recipes(whole)}",
        figure,
    )


def repaired(records: Sequence[Record]) -> Drawing | None:
    """Curves of independent networks as they are, repaired and aligned."""
    every = shown(records, "align")
    cells = {name: row for name, row in every.items() if INDEPENDENT in row}
    if not cells:
        return None
    figure, axes = of_single_cells(cells, *panels(1, len(cells), width=2.4, height=2.2, sharey=True))
    for axis, (name, row) in zip(axes[0], cells.items(), strict=True):
        fixed, found = held(row[INDEPENDENT], "repair"), further(row[INDEPENDENT], "align")
        kinds = [] if fixed is None else [("as they are", fixed["blended"]), ("repaired", fixed["repaired"])]
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
        axis.set_title(name)
        axis.set_xlabel("alpha")
    axes[0][0].set_ylabel("test error (%)")
    legend_below(figure, axes, 1.8)
    n = further(next(iter(cells.values()))[INDEPENDENT], "align")["n"]["test"]
    return Drawing(
        "aligned",
        "Independent networks, repaired and aligned",
        "Test error on the line between two independently trained networks: with statistics blended as "
        "they are, repaired (reset, where there is BatchNorm; REPAIR elsewhere), and after the second "
        f"network's units were permuted to match the first's. {n} images, {of_shift(cells)}, n = 1.",
        figure,
    )
