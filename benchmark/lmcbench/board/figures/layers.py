"""What each layer has to do with the barrier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmcbench.board.figures.drawing import Drawing
from lmcbench.board.figures.grid import cell_panels, images_of, label_panels, of_single_cells, on_panels
from lmcbench.board.figures.style import (
    COLOURS,
    legend_below,
    line,
    panels,
)
from lmcbench.board.probed import excess, forks_of, further, interior, of_shift, shown
from lmcbench.results.record import Record


def layer_bars(records: Sequence[Record]) -> Drawing | None:
    """What moving each layer alone costs, its barrier and the prediction, for the earliest fork."""
    cells = shown(records, "layers")
    if not cells:
        return None
    fork = forks_of(cells)[0]
    rows = {name: by_fork[fork] for name, by_fork in cells.items() if fork in by_fork}
    most = max(len(further(r, "layers")["layers"]) for r in rows.values())
    height = max(1.8, 0.17 * most + 0.4)
    figure, axes = of_single_cells(cells, *panels(2, len(rows), width=2.8, height=height, sharex="row"))
    for column, (name, record) in zip(axes.T, rows.items(), strict=True):
        found = further(record, "layers")
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
            column[1].barh(at, [max(interior(excess(alphas, v)), 0) for v in losses], 0.36, **style)
            guess = [max(interior(np.array(m[f"predicted_{end}"])), 0) for m in mine]
            label = None if k else "predicted: second order, as published"
            column[1].plot(guess, at, "|", color=COLOURS[1], markersize=6, markeredgewidth=1.5, label=label)
        for axis in column:
            axis.set_yticks(y, layers, fontsize=6.5)
            axis.invert_yaxis()
            axis.set_xscale("symlog", linthresh=1e-3)
            axis.set_xlim(left=0)
            axis.set_xticks([0, 1e-3, 1e-2, 0.1, 1, 10], ["0", "0.001", "0.01", "0.1", "1", "10"], fontsize=7)
            axis.grid(visible=False, axis="y")
        column[0].set_title(name)
        column[0].set_xlabel("rise above the start (nats)")
        column[1].set_xlabel("barrier over the chord (nats)")
    legend_below(figure, axes, 2.8)
    return Drawing(
        "layers",
        "Layer by layer",
        "One layer alone moves to the other sibling's, from either end. Above: how far the loss rises "
        "over where it started. Below: its barrier, the greatest loss above the chord between start and "
        f"end, and what the second-order form predicts for it. Input first; fork {fork}; training loss, "
        f"{images_of(cells, 'layers')} images, {of_shift(cells)}, n = 1. Linear up to 0.001, logarithmic "
        "above; no bar: nothing above the start, or the chord.",
        figure,
    )


def switched(records: Sequence[Record]) -> Drawing | None:
    """Loss while A becomes B layer by layer."""
    cells = shown(records, "layers")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = cell_panels(cells, forks, width=2.0, height=1.6, share="row")
    for axis, record in on_panels(axes, cells, forks):
        found = further(record, "layers")["cumulative"]
        for k, (key, text) in enumerate(
            (("from_input", "from the input on"), ("from_output", "from the output on"))
        ):
            axis.plot(found[key]["loss"], label=text, **line(k))
        axis.xaxis.get_major_locator().set_params(integer=True)
    label_panels(axes, cells, forks, "layers switched to B", "loss (nats)")
    legend_below(figure, axes, 2.0)
    return Drawing(
        "switched",
        "A becomes B, layer by layer",
        "Training loss while A's layers are replaced by B's one after another; each panel has its own "
        f"scale. {images_of(cells, 'layers')} images, {of_shift(cells)}, n = 1.",
        figure,
    )
