"""The barrier that gradients and Hessians predict, drawn beside the measured one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmcbench.board.figures.drawing import Drawing, fork_label, replicates
from lmcbench.board.figures.grid import cell_panels, images_of, label_panels, of_single_cells, on_panels
from lmcbench.board.figures.style import (
    COLOURS,
    MARKERS,
    PLAIN,
    legend_below,
    line,
    logarithmic,
    panels,
)
from lmcbench.board.probed import excess, forks_of, further, held, interior, of_shift, order, shown
from lmcbench.errors import counted
from lmcbench.results.labels import architecture_label
from lmcbench.results.record import Record


def predictions(records: Sequence[Record]) -> Drawing | None:
    """Predicted against measured barrier at every alpha."""
    cells = shown(records, "curvature")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = cell_panels(cells, forks, width=2.1, height=1.7)
    for axis, record in on_panels(axes, cells, forks):
        c = further(record, "curvature")
        kinds = (
            ("measured", excess(c["alphas"], c["loss"]), "-"),
            ("second order, as published", np.array(c["predicted"]), "--"),
            ("with gradients", np.array(c["predicted_with_gradients"]), ":"),
        )
        for k, (name, values, dashes) in enumerate(kinds):
            axis.plot(c["alphas"], values, label=name, linestyle=dashes, color=COLOURS[k])
        axis.margins(y=0.15)
        axis.yaxis.set_major_formatter(PLAIN)
    label_panels(axes, cells, forks, "alpha", "loss above\nchord (nats)")
    legend_below(figure, axes, 2.2)
    return Drawing(
        "predictions",
        "Predicted and measured barrier",
        "Loss above the chord between the siblings, measured, and as their gradients and Hessians "
        f"predict it; each panel has its own scale. Training loss, {images_of(cells, 'curvature')} images; "
        f"{of_shift(cells)}, n = 1.",
        figure,
    )


def scatter(records: Sequence[Record]) -> Drawing | None:
    """Predicted against measured barrier, a point per probe cell."""
    found = [(r, held(r, "curvature")) for r in order(records)]
    kept = [(r, c) for r, c in found if c is not None]
    if not kept:
        return None
    names = list(dict.fromkeys(architecture_label(r) for r, _ in kept))
    figure, axes = panels(1, 2, width=3.6, height=3.2, sharex=True, sharey=True)
    floor = 1e-4
    for axis, key, title in (
        (axes[0][0], "predicted", "as published"),
        (axes[0][1], "predicted_with_gradients", "with gradients"),
    ):
        for k, name in enumerate(names):
            mine = [c for r, c in kept if architecture_label(r) == name]
            x = [max(interior(np.array(c[key])), floor) for c in mine]
            y = [max(interior(excess(c["alphas"], c["loss"])), floor) for c in mine]
            axis.scatter(
                x, y, marker=MARKERS[k % 6], s=26, facecolors="none", edgecolors=COLOURS[k % 6], label=name
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.axline((0.01, 0.01), (1, 1), color="#444444", linewidth=0.7, linestyle=(0, (2, 2)))
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


def spectra(records: Sequence[Record]) -> Drawing | None:
    """Largest eigenvalue and trace of the Hessian at the ends and the midpoint."""
    cells = shown(records, "curvature")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = of_single_cells(
        cells, *panels(2, len(cells), width=2.3, height=1.9, sharex=True, sharey="row")
    )
    for column, (name, by_fork) in zip(axes.T, cells.items(), strict=True):
        for k, fork in enumerate(f for f in forks if f in by_fork):
            at = further(by_fork[fork], "curvature")["hessian"]
            x = [h["alpha"] + 0.02 * (k - 1.5) for h in at]
            label = fork_label(fork)
            column[0].plot(x, [h["top"][0] for h in at], label=label, **line(k))
            column[1].errorbar(
                x,
                [h["trace"] for h in at],
                yerr=[h["trace_standard_error"] for h in at],
                capsize=2,
                **line(k),
            )
        for axis in column:
            axis.set_xticks([0, 0.5, 1], ["A", "midpoint", "B"])
        column[1].set_xlabel("state on the line")
        column[0].set_title(name)
    every = [h for row in cells.values() for r in row.values() for h in further(r, "curvature")["hessian"]]
    for axis in axes[0]:
        logarithmic(axis, [h["top"][0] for h in every])
    for axis in axes[1]:
        logarithmic(axis, [h["trace"] for h in every])
    axes[0][0].set_ylabel("largest eigenvalue\n(nats / weight²)")
    axes[1][0].set_ylabel("trace\n(nats / weight²)")
    legend_below(figure, axes)
    probes = next(c for r in records if (c := held(r, "curvature")) is not None)["hessian"][0]["probes"]
    return Drawing(
        "spectra",
        "Curvature at the ends and in the middle",
        f"Largest eigenvalue (Lanczos) and trace (Hutchinson, {probes} probes, bars are standard errors) "
        f"of the Hessian of the training loss; {images_of(cells, 'curvature')} images, {of_shift(cells)}, n "
        "= 1.",
        figure,
    )
