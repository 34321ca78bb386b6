"""Figures of curvature: predicted barriers, spectra, and layers."""

from __future__ import annotations

import numpy as np

from lmcbench.errors import counted
from lmcbench.report.figures.style import (
    COLOURS,
    LIMIT,
    MARKERS,
    PLAIN,
    Drawing,
    cell_panels,
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
    replicates,
    taken_on,
)
from lmcbench.results.cell_values import architecture_label
from lmcbench.spec.architectures import short_labels
from lmcbench.stats.cells import (
    Cells,
    analysis,
    example_cells,
    excess,
    forks_of_grid,
    has_analysis,
    interior_maximum,
)


def predictions(cells: Cells) -> Drawing | None:
    """Draw the predicted and the measured barrier at every alpha."""
    grid = example_cells(cells.records, "curvature")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.1, height=1.7)
    for axis, record in on_panels(axes, grid, forks):
        c = analysis(record, "curvature")
        kinds = (
            ("measured", excess(c["alphas"], c["loss"]), "-"),
            ("second order, as published", np.array(c["predicted"]), "--"),
            ("with gradients", np.array(c["predicted_with_gradients"]), ":"),
        )
        for k, (name, values, dashes) in enumerate(kinds):
            axis.plot(c["alphas"], values, label=name, linestyle=dashes, color=COLOURS[k])
        axis.margins(y=0.15)
        axis.yaxis.set_major_formatter(PLAIN)
    label_panels(axes, grid, forks, "alpha", "loss above\nchord (nats)")
    legend_below(figure, axes, 2.2)
    return Drawing(
        "predictions",
        "Predicted and measured barrier",
        "Loss above the chord between the siblings, measured, and as their gradients and Hessians "
        f"predict it; each panel has its own scale. Training loss, {images_of(grid, 'curvature')} images; "
        f"{example_text(grid)}, n = 1.",
        figure,
    )


def scatter(cells: Cells) -> Drawing | None:
    """Draw the predicted against the measured barrier, a point per analysed cell."""
    kept = [(r, analysis(r, "curvature")) for r in cells.records if has_analysis(r, "curvature")]
    if not kept:
        return None
    names = list(dict.fromkeys(architecture_label(r) for r, _ in kept))
    short = short_labels(names)
    figure, axes = panels(1, 2, width=3.6, height=3.2, sharex=True, sharey=True)
    floor = 1e-4
    for axis, key, title in (
        (axes[0][0], "predicted", "as published"),
        (axes[0][1], "predicted_with_gradients", "with gradients"),
    ):
        for k, name in enumerate(names):
            mine = [c for r, c in kept if architecture_label(r) == name]
            x = [max(interior_maximum(np.array(c[key])), floor) for c in mine]
            y = [max(interior_maximum(excess(c["alphas"], c["loss"])), floor) for c in mine]
            axis.scatter(
                x,
                y,
                marker=MARKERS[k % 6],
                s=26,
                facecolors="none",
                edgecolors=COLOURS[k % 6],
                label=short[name],
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.axline((0.01, 0.01), (1, 1), color=LIMIT, linewidth=0.7, linestyle=(0, (2, 2)))
        axis.set_xlabel("predicted barrier (nats)")
        axis.set_title(title)
    axes[0][0].set_ylabel("measured barrier (nats)")
    legend_below(figure, axes)
    n = len({r.replicate for r, _ in kept})
    counts = f"{counted(len(kept), 'cell')}, {replicates(n)}"
    figure.suptitle(counts, fontsize=8, x=0.01, ha="left")
    return Drawing(
        "predicted-measured",
        "Does the prediction follow the barrier?",
        "Every probe cell: greatest loss above the chord inside the line, predicted and measured "
        f"({counts}; training loss). The "
        f"dashed line is equality; what is below {floor:g} is drawn there.",
        figure,
    )


def spectra(cells: Cells) -> Drawing | None:
    """Draw the largest eigenvalue and the trace of the Hessian at the ends and the midpoint."""
    grid = example_cells(cells.records, "curvature")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = note_example(grid, *panels(2, len(grid), width=2.3, height=1.9, sharex=True, sharey="row"))
    for column, k, label, record in on_columns(axes, grid, forks):
        at = analysis(record, "curvature")["hessian"]
        x = [h["alpha"] + 0.02 * (k - 1.5) for h in at]
        column[0].plot(x, [h["top"][0] for h in at], label=label, **line(k))
        column[1].errorbar(
            x, [h["trace"] for h in at], yerr=[h["trace_standard_error"] for h in at], capsize=2, **line(k)
        )
    for axis in axes.flat:
        axis.set_xticks([0, 0.5, 1], ["A", "midpoint", "B"])
    for axis in axes[1]:
        axis.set_xlabel("state on the line")
    every = [h for row in grid.values() for r in row.values() for h in analysis(r, "curvature")["hessian"]]
    for axis in axes[0]:
        logarithmic(axis, [h["top"][0] for h in every])
    for axis in axes[1]:
        logarithmic(axis, [h["trace"] for h in every])
    axes[0][0].set_ylabel("largest eigenvalue\n(nats / weight²)")
    axes[1][0].set_ylabel("trace\n(nats / weight²)")
    legend_below(figure, axes)
    probes = every[0]["probes"]
    return Drawing(
        "spectra",
        "Curvature at the ends and in the middle",
        f"Largest eigenvalue (Lanczos) and trace (Hutchinson, {probes} probes, bars are standard errors) "
        f"of the Hessian of the training loss; {taken_on(grid, 'curvature')}",
        figure,
    )


def layer_bars(cells: Cells) -> Drawing | None:
    """Draw the rise, barrier and predicted barrier of each layer moved alone, for the earliest fork."""
    grid = example_cells(cells.records, "layers")
    if not grid:
        return None
    fork = forks_of_grid(grid)[0]
    rows = {name: by_fork[fork] for name, by_fork in grid.items() if fork in by_fork}
    most = max(len(analysis(r, "layers")["layers"]) for r in rows.values())
    height = max(1.8, 0.17 * most + 0.4)
    figure, axes = note_example(grid, *panels(2, len(rows), width=2.8, height=height, sharex="row"))
    for column, (name, record) in zip(axes.T, rows.items(), strict=True):
        found = analysis(record, "layers")
        layers, alphas = list(found["layers"]), found["alphas"]
        y = np.arange(len(layers))
        for k, (end, text) in enumerate(
            (("from_a", "A with this layer of B"), ("from_b", "B with this layer of A"))
        ):
            mine = [found["layers"][layer] for layer in layers]
            losses = [m[end]["loss"] for m in mine]
            style = {"color": (COLOURS[0], "#b9c4d6")[k], "edgecolor": COLOURS[0], "linewidth": 0.5}
            at = y + (0.2 if k else -0.2)
            column[0].barh(at, [max(max(v) - v[0], 0) for v in losses], 0.36, label=text, **style)
            column[1].barh(at, [max(interior_maximum(excess(alphas, v)), 0) for v in losses], 0.36, **style)
            guess = [max(interior_maximum(np.array(m[f"predicted_{end}"])), 0) for m in mine]
            label = None if k else "predicted: second order, with gradients"
            column[1].plot(guess, at, "|", color=COLOURS[1], markersize=6, markeredgewidth=1.5, label=label)
        for axis in column:
            axis.set_yticks(y, layers, fontsize=6.5)
            axis.invert_yaxis()
            axis.set_xscale("symlog", linthresh=1e-3)
            axis.set_xlim(left=0)
            axis.set_xticks([0, 1e-3, 1e-2, 0.1, 1, 10], ["0", "0.001", "0.01", "0.1", "1", "10"], fontsize=7)
            axis.grid(visible=False, axis="y")
        column[0].set_title(short_labels(rows)[name])
        column[0].set_xlabel("rise above the start (nats)")
        column[1].set_xlabel("barrier over the chord (nats)")
    legend_below(figure, axes, 2.8)
    return Drawing(
        "layers",
        "Layer by layer",
        "One layer alone moves to the other sibling's, from either end. Above: how far the loss rises "
        "over where it started. Below: its barrier, the greatest loss above the chord between start and "
        f"end, and what the second-order form predicts for it. Input first; fork {fork}; training loss, "
        f"{taken_on(grid, 'layers')} Linear up to 0.001, logarithmic above; no bar: nothing above the start, "
        "or the chord.",
        figure,
    )


def switched(cells: Cells) -> Drawing | None:
    """Draw the loss while A becomes B layer by layer."""
    grid = example_cells(cells.records, "layers")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.0, height=1.6, share="row")
    for axis, record in on_panels(axes, grid, forks):
        found = analysis(record, "layers")["cumulative"]
        for k, (key, text) in enumerate(
            (("from_input", "from the input on"), ("from_output", "from the output on"))
        ):
            axis.plot(found[key]["loss"], label=text, **line(k))
        axis.xaxis.get_major_locator().set_params(integer=True)
    label_panels(axes, grid, forks, "layers switched to B", "loss (nats)")
    legend_below(figure, axes, 2.0)
    return Drawing(
        "switched",
        "A becomes B, layer by layer",
        "Training loss while A's layers are replaced by B's one after another; each panel has its own "
        f"scale. {taken_on(grid, 'layers')}",
        figure,
    )
