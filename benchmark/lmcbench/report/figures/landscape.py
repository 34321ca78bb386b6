"""Figures of landscapes: the line between siblings over training, distances, planes, and features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, SymLogNorm

from lmcbench.report.figures.style import (
    LIMIT,
    MAP,
    Drawing,
    cell_panels,
    colour_bar,
    example_text,
    images_of,
    label_panels,
    legend_below,
    line,
    logarithmic,
    note_example,
    on_columns,
    on_panels,
    panels,
    taken_on,
)
from lmcbench.results.cell_values import SPLIT
from lmcbench.stats.cells import (
    Cells,
    Grid,
    analysis,
    example_cells,
    excess,
    forks_of_grid,
    interior_maximum,
)


def heat_maps(cells: Cells) -> Drawing | None:
    """Draw the sibling landscape as heat maps over alpha and epoch."""
    grid = example_cells(cells.records, "landscape")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.0, height=1.7)
    norm = SymLogNorm(linthresh=0.01, vmin=0, vmax=_largest(grid))
    for axis, record in on_panels(axes, grid, forks):
        found = analysis(record, "landscape")
        points = found["points"]
        values = np.array([excess(found["alphas"], p["curves"]["train"]["loss"]) for p in points])
        mesh = axis.pcolormesh(
            _edges(found["alphas"]), _edges([p["epoch"] for p in points]), values.clip(0), cmap=MAP, norm=norm
        )
        axis.grid(visible=False)
    colour_bar(figure, mesh, axes, "loss above the chord (nats)", ticks=[0, 0.01, 0.1, 1])
    figure.axes[-1].set_yticklabels(["0", "0.01", "0.1", "1"])
    label_panels(axes, grid, forks, "alpha", "epoch")
    return Drawing(
        "landscape-maps",
        "Sibling landscape",
        "How far the line between two siblings rises above the chord between its ends, at every logged "
        f"epoch since their fork (training loss, {images_of(grid, 'landscape')} images; {example_text(grid)}"
        ", n = 1). What lies on or below the chord is darkest; the scale is linear up to 0.01.",
        figure,
    )


def landscape_curves(cells: Cells) -> Drawing | None:
    """Draw the sibling landscape as curves, one per epoch."""
    grid = example_cells(cells.records, "landscape")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.0, height=1.7)
    for axis, record in on_panels(axes, grid, forks):
        found = analysis(record, "landscape")
        points = found["points"]
        for k, point in enumerate(points):
            shade = 0.8 * (1 - k / max(len(points) - 1, 1))
            last = k == len(points) - 1
            axis.plot(
                found["alphas"],
                np.maximum(point["curves"]["train"]["loss"], 1e-4),
                color=str(shade),
                linewidth=2 if last else 1,
            )
        every = [max(v, 1e-4) for p in points for v in p["curves"]["train"]["loss"]]
        logarithmic(axis, every)
    label_panels(axes, grid, forks, "alpha", "loss (nats)")
    return Drawing(
        "landscape-curves",
        "Sibling landscape as curves",
        "Training loss along the line between two siblings, one curve per logged epoch from their fork "
        f"(light) to the end of training (black); {taken_on(grid, 'landscape')} Losses under 0.0001 are "
        "drawn there.",
        figure,
    )


def motion(cells: Cells) -> Drawing | None:
    """Draw distance, path length and angle over time."""
    grid = example_cells(cells.records, "landscape")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = note_example(grid, *panels(3, len(grid), width=2.3, height=1.8, sharex=True))
    for column, k, label, record in on_columns(axes, grid, forks):
        points = analysis(record, "landscape")["points"]
        epochs = [p["epoch"] for p in points]
        column[0].plot(epochs, [p["distance_ab"] for p in points], label=label, **line(k))
        lengths = [(p["length_a"] + p["length_b"]) / 2 for p in points]
        column[1].plot(epochs, lengths, **line(k))
        turned = [(p["epoch"], np.degrees(p["angle"])) for p in points if p["angle"] is not None]
        if turned:
            column[2].plot(*zip(*turned, strict=True), **line(k))
    for axis in axes[2]:
        axis.axhline(90, color=LIMIT, linewidth=0.7, linestyle=(0, (2, 2)))
        axis.set_ylim(0, 105)
        axis.set_xlabel("epoch")
    for axis, text in zip(
        axes[:, 0],
        (
            "distance A to B\n(weights' units)",
            "path length\n(weights' units)",
            "angle at the fork\n(degrees)",
        ),
        strict=True,
    ):
        axis.set_ylabel(text)
    legend_below(figure, axes)
    return Drawing(
        "motion",
        "Distance and angle over time",
        "Euclidean distance between the siblings, length of their way since the fork (mean of both, over "
        "logged epochs), and the angle at which they left each other; displacements without anything in "
        f"common stand at 90 degrees. {example_text(grid)[0].upper()}{example_text(grid)[1:]}, n = 1. "
        "Independent networks have no fork, hence no angle.",
        figure,
    )


def planes(cells: Cells) -> Drawing | None:
    """Draw the loss on the plane through fork and siblings."""
    grid = example_cells(cells.records, "plane")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.2, height=1.9, share=False)
    norm = LogNorm(1e-3, 10)
    for axis, record in on_panels(axes, grid, forks):
        mesh = draw_plane(axis, analysis(record, "plane"), norm)
    colour_bar(figure, mesh, axes, "loss (nats)", extend="both")
    label_panels(axes, grid, forks, "fork to A (weights' units)", "across\n(weights' units)")
    return Drawing(
        "planes",
        "Planes through fork and siblings",
        "Training loss on the plane that holds the fork (F) and both siblings (A, B), in units of the "
        f"weights; lines are at 0.01, 0.1 and 1 nats. {taken_on(grid, 'plane')}",
        figure,
    )


def similarity(cells: Cells) -> Drawing | None:
    """Draw the CKA of the features on the line with those of either end."""
    grid = example_cells(cells.records, "features")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.1, height=1.8)
    for axis, record in on_panels(axes, grid, forks):
        found = analysis(record, "features")
        for k, (key, text) in enumerate((("to_a", "with A"), ("to_b", "with B"))):
            # features that do not vary have no CKA
            values = [np.nan if v is None else v for v in found["splits"][SPLIT][key]]
            axis.plot(found["alphas"], values, label=text, **line(k))
        axis.set_ylim(0, 1.05)
    label_panels(axes, grid, forks, "alpha", "linear CKA (0 to 1)")
    legend_below(figure, axes)
    n = analysis(next(iter(next(iter(grid.values())).values())), "features")["splits"][SPLIT]["n"]
    return Drawing(
        "features",
        "Similarity of features",
        "Linear CKA of the penultimate features at each point of the line with those of the siblings at its "
        "ends: 1 for features that are equal up to rotation and scale, near 0 for unrelated ones. "
        f"{n} test images, {example_text(grid)}, n = 1.",
        figure,
    )


def draw_plane(
    axis: Any, found: dict[str, Any], norm: Any, levels: Sequence[float] = (0.01, 0.1, 1.0)
) -> Any:
    """Draw one plane with its anchors; return the mesh for a colour bar."""
    loss = np.array(found["loss"]).clip(norm.vmin, norm.vmax)
    mesh = axis.pcolormesh(
        found["x"], found["y"], loss, cmap=MAP, norm=norm, shading="gouraud", rasterized=True
    )
    axis.contour(found["x"], found["y"], loss, levels=levels, colors="white", linewidths=0.6)
    anchors = np.array(found["anchors"])
    axis.plot(*np.vstack([anchors[1], anchors[2]]).T, color="white", linewidth=0.9, linestyle="--")
    for (x, y), name in zip(anchors, "FAB", strict=True):
        axis.plot(x, y, "o", color="white", markeredgecolor="black", markersize=4)
        axis.annotate(
            name,
            (x, y),
            textcoords="offset points",
            xytext=(5, 4),
            fontsize=8,
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
    axis.grid(visible=False)
    return mesh


def _largest(grid: Grid) -> float:
    found = [analysis(record, "landscape") for row in grid.values() for record in row.values()]
    values = [
        interior_maximum(excess(f["alphas"], p["curves"]["train"]["loss"]))
        for f in found
        for p in f["points"]
    ]
    return max(*values, 0.02)


def _edges(centres: Sequence[float]) -> Any:
    """Return the edges of cells around `centres`."""
    c = np.array(centres, dtype=np.float64)
    if len(c) == 1:
        return np.array([c[0] - 0.5, c[0] + 0.5])
    middle = (c[1:] + c[:-1]) / 2
    return np.concatenate([[2 * c[0] - middle[0]], middle, [2 * c[-1] - middle[-1]]])
