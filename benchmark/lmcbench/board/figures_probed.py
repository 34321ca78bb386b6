"""What explains barriers, drawn from the further measures of probe cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure

from lmcbench.board.drawing import Drawing, replicates
from lmcbench.board.probed import (
    Cells,
    excess,
    forks_of,
    held,
    interior,
    of_shift,
    order,
    shown,
)
from lmcbench.board.style import (
    COLOURS,
    DASHES,
    MAP,
    MARKERS,
    PLAIN,
    label_rows,
    legend_below,
    line,
    logarithmic,
    panels,
)
from lmcbench.results.labels import architecture_label
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT


def heat_maps(records: Sequence[Record]) -> Drawing | None:
    """The sibling landscape as heat maps over alpha and epoch."""
    cells = shown(records, "landscape")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _grid(cells, forks, width=2.0, height=1.7)
    norm = SymLogNorm(linthresh=0.01, vmin=0, vmax=_largest(cells))
    for axis, _, record in _cells(axes, cells, forks):
        found = held(record, "landscape") or {}
        points = found["points"]
        values = np.array([excess(found["alphas"], p["curves"]["train"]["loss"]) for p in points])
        mesh = axis.pcolormesh(
            _edges(found["alphas"]), _edges([p["epoch"] for p in points]), values.clip(0), cmap=MAP, norm=norm
        )
        axis.grid(visible=False)
    figure.colorbar(
        mesh,
        ax=axes,
        label="loss above the chord (nats)",
        ticks=[0, 0.01, 0.1, 1],
        shrink=0.9 if len(axes) < 3 else 0.6,
    )
    figure.axes[-1].set_yticklabels(["0", "0.01", "0.1", "1"])
    _label(axes, cells, forks, "alpha", "epoch")
    return Drawing(
        "landscape-maps",
        "Sibling landscape",
        "How far the line between two siblings rises above the chord between its ends, at every logged "
        f"epoch since their fork (training loss, {_images(cells, 'landscape')} images; {of_shift(cells)}, "
        "n = 1). What lies on or below the chord is darkest; the scale is linear up to 0.01.",
        figure,
    )


def landscape_curves(records: Sequence[Record]) -> Drawing | None:
    """The same as curves, one per epoch."""
    cells = shown(records, "landscape")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _grid(cells, forks, width=2.0, height=1.7)
    for axis, _, record in _cells(axes, cells, forks):
        found = held(record, "landscape") or {}
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
    _label(axes, cells, forks, "alpha", "loss (nats)")
    return Drawing(
        "landscape-curves",
        "Sibling landscape as curves",
        "Training loss along the line between two siblings, one curve per logged epoch from their fork "
        f"(light) to the end of training (black); {_images(cells, 'landscape')} images, "
        f"{of_shift(cells)}, n = 1. Losses under 0.0001 are drawn there.",
        figure,
    )


def motion(records: Sequence[Record]) -> Drawing | None:
    """Distances, path length and angle over time."""
    cells = shown(records, "landscape")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _of_one(cells, *panels(3, len(cells), width=2.3, height=1.8, sharex=True))
    for column, (name, by_fork) in zip(axes.T, cells.items(), strict=True):
        for k, fork in enumerate(forks):
            if fork not in by_fork:
                continue
            points = (held(by_fork[fork], "landscape") or {})["points"]
            epochs = [p["epoch"] for p in points]
            label = fork if fork == INDEPENDENT else f"fork {fork}"
            column[0].plot(epochs, [p["distance_ab"] for p in points], label=label, **line(k))
            lengths = [(p["length_a"] + p["length_b"]) / 2 for p in points]
            column[1].plot(epochs, lengths, **line(k))
            turned = [(p["epoch"], np.degrees(p["angle"])) for p in points if p["angle"] is not None]
            if turned:
                column[2].plot(*zip(*turned, strict=True), **line(k))
        column[2].axhline(90, color="#444444", linewidth=0.7, linestyle=(0, (2, 2)))
        column[2].set_ylim(0, 105)
        column[0].set_title(name)
        column[2].set_xlabel("epoch")
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
        f"common stand at 90 degrees. {of_shift(cells)[0].upper()}{of_shift(cells)[1:]}, n = 1. "
        "Independent networks have no fork, hence no angle.",
        figure,
    )


def predictions(records: Sequence[Record]) -> Drawing | None:
    """Predicted against measured barrier at every alpha."""
    cells = shown(records, "curvature")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _grid(cells, forks, width=2.1, height=1.7)
    for axis, _, record in _cells(axes, cells, forks):
        c = held(record, "curvature") or {}
        kinds = (
            ("measured", excess(c["alphas"], c["loss"]), "-"),
            ("second order, as published", np.array(c["predicted"]), "--"),
            ("with gradients", np.array(c["predicted_with_gradients"]), ":"),
        )
        for k, (name, values, dashes) in enumerate(kinds):
            axis.plot(c["alphas"], values, label=name, linestyle=dashes, color=COLOURS[k])
        axis.margins(y=0.15)
        axis.yaxis.set_major_formatter(PLAIN)
    _label(axes, cells, forks, "alpha", "loss above\nchord (nats)")
    legend_below(figure, axes, 2.2)
    return Drawing(
        "predictions",
        "Predicted and measured barrier",
        "Loss above the chord between the siblings, measured, and as their gradients and Hessians "
        f"predict it; each panel has its own scale. Training loss, {_images(cells, 'curvature')} images; "
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
    figure.suptitle(f"{len(kept)} cells, {replicates(n)}", fontsize=8, x=0.01, ha="left")
    return Drawing(
        "predicted-measured",
        "Does the prediction follow the barrier?",
        "Every probe cell: greatest loss above the chord inside the line, predicted and measured "
        f"({len(kept)} cells, {replicates(n)}; training loss). The "
        f"dashed line is equality; what is below {floor:g} is drawn there.",
        figure,
    )


def spectra(records: Sequence[Record]) -> Drawing | None:
    """Largest eigenvalue and trace of the Hessian at the ends and the midpoint."""
    cells = shown(records, "curvature")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _of_one(cells, *panels(2, len(cells), width=2.3, height=1.9, sharex=True, sharey="row"))
    for column, (name, by_fork) in zip(axes.T, cells.items(), strict=True):
        for k, fork in enumerate(f for f in forks if f in by_fork):
            at = (held(by_fork[fork], "curvature") or {})["hessian"]
            x = [h["alpha"] + 0.02 * (k - 1.5) for h in at]
            label = fork if fork == INDEPENDENT else f"fork {fork}"
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
    every = [
        h for row in cells.values() for r in row.values() for h in (held(r, "curvature") or {})["hessian"]
    ]
    for axis in axes[0]:
        logarithmic(axis, [h["top"][0] for h in every])
    for axis in axes[1]:
        logarithmic(axis, [h["trace"] for h in every])
    axes[0][0].set_ylabel("largest eigenvalue\n(nats / weight²)")
    axes[1][0].set_ylabel("trace\n(nats / weight²)")
    legend_below(figure, axes)
    probes = next(iter(held(r, "curvature") for r in records if held(r, "curvature")), None)
    count = 0 if probes is None else probes["hessian"][0]["probes"]
    return Drawing(
        "spectra",
        "Curvature at the ends and in the middle",
        f"Largest eigenvalue (Lanczos) and trace (Hutchinson, {count} probes, bars are standard errors) "
        f"of the Hessian of the training loss; {_images(cells, 'curvature')} images, {of_shift(cells)}, n "
        "= 1.",
        figure,
    )


def layer_bars(records: Sequence[Record]) -> Drawing | None:
    """What moving each layer alone costs, its barrier and the prediction, for the earliest fork."""
    cells = shown(records, "layers")
    if not cells:
        return None
    fork = forks_of(cells)[0]
    rows = {name: by_fork[fork] for name, by_fork in cells.items() if fork in by_fork}
    most = max(len((held(r, "layers") or {})["layers"]) for r in rows.values())
    height = max(1.8, 0.17 * most + 0.4)
    figure, axes = _of_one(cells, *panels(2, len(rows), width=2.8, height=height, sharex="row"))
    for column, (name, record) in zip(axes.T, rows.items(), strict=True):
        found = held(record, "layers") or {}
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
        f"{_images(cells, 'layers')} images, {of_shift(cells)}, n = 1. Linear up to 0.001, logarithmic "
        "above; no bar: nothing above the start, or the chord.",
        figure,
    )


def switched(records: Sequence[Record]) -> Drawing | None:
    """Loss while A becomes B layer by layer."""
    cells = shown(records, "layers")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _grid(cells, forks, width=2.0, height=1.6, share="row")
    for axis, _, record in _cells(axes, cells, forks):
        found = (held(record, "layers") or {})["cumulative"]
        for k, (key, text) in enumerate(
            (("from_input", "from the input on"), ("from_output", "from the output on"))
        ):
            axis.plot(found[key]["loss"], label=text, **line(k))
        axis.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, cells, forks, "layers switched to B", "loss (nats)")
    legend_below(figure, axes, 2.0)
    return Drawing(
        "switched",
        "A becomes B, layer by layer",
        "Training loss while A's layers are replaced by B's one after another; each panel has its own "
        f"scale. {_images(cells, 'layers')} images, {of_shift(cells)}, n = 1.",
        figure,
    )


def planes(records: Sequence[Record]) -> Drawing | None:
    """Loss on the plane through fork and siblings."""
    cells = shown(records, "plane")
    if not cells:
        return None
    forks = forks_of(cells)
    figure, axes = _grid(cells, forks, width=2.2, height=1.9, share=False)
    norm = LogNorm(1e-3, 10)
    for axis, _, record in _cells(axes, cells, forks):
        mesh = draw_plane(axis, held(record, "plane") or {}, norm)
    shrink = 0.9 if len(axes) < 3 else 0.6
    figure.colorbar(mesh, ax=axes, label="loss (nats)", shrink=shrink, extend="both")
    _label(axes, cells, forks, "fork to A (weights' units)", "across\n(weights' units)")
    return Drawing(
        "planes",
        "Planes through fork and siblings",
        "Training loss on the plane that holds the fork (F) and both siblings (A, B), in units of the "
        f"weights; lines are at 0.01, 0.1 and 1 nats. {_images(cells, 'plane')} images, "
        f"{of_shift(cells)}, n = 1.",
        figure,
    )


def draw_plane(
    axis: Any, found: dict[str, Any], norm: Any, levels: Sequence[float] = (0.01, 0.1, 1.0)
) -> Any:
    """One plane with its anchors; returns what a colour bar needs."""
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


def repaired(records: Sequence[Record]) -> Drawing | None:
    """Curves of independent networks as they are, repaired and aligned."""
    every = shown(records, "align")
    cells = {name: row for name, row in every.items() if INDEPENDENT in row}
    if not cells:
        return None
    figure, axes = _of_one(cells, *panels(1, len(cells), width=2.4, height=2.2, sharey=True))
    for axis, (name, row) in zip(axes[0], cells.items(), strict=True):
        fixed, found = held(row[INDEPENDENT], "repair"), held(row[INDEPENDENT], "align") or {}
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
    n = (held(next(iter(cells.values()))[INDEPENDENT], "align") or {})["n"]["test"]
    return Drawing(
        "aligned",
        "Independent networks, repaired and aligned",
        "Test error on the line between two independently trained networks: with statistics blended as "
        "they are, repaired (reset, where there is BatchNorm; REPAIR elsewhere), and after the second "
        f"network's units were permuted to match the first's. {n} images, {of_shift(cells)}, n = 1.",
        figure,
    )


PROBED: tuple[Callable[[Sequence[Record]], Drawing | None], ...] = (
    heat_maps,
    landscape_curves,
    motion,
    predictions,
    scatter,
    spectra,
    layer_bars,
    switched,
    planes,
    repaired,
)


# --- grids of architectures and forks ------------------------------------------------------------


def _grid(
    cells: Cells, forks: Sequence[str], *, width: float, height: float, share: Any = True
) -> tuple[Figure, Any]:
    return _of_one(cells, *panels(len(cells), len(forks), width=width, height=height, sharex=share))


def _of_one(cells: Cells, figure: Figure, axes: Any) -> tuple[Figure, Any]:
    """Says on a figure of single cells which they are, and that they are one replicate."""
    figure.suptitle(f"{of_shift(cells)}, n = 1", fontsize=8, x=0.01, ha="left")
    return figure, axes


def _cells(axes: Any, cells: Cells, forks: Sequence[str]) -> list[tuple[Any, str, Record]]:
    """Axis, fork and record of every cell that there is; the other panels are blanked."""
    found = []
    for row, by_fork in zip(axes, cells.values(), strict=True):
        for axis, fork in zip(row, forks, strict=True):
            if fork in by_fork:
                found.append((axis, fork, by_fork[fork]))
            else:
                axis.set_visible(False)
    return found


def _label(axes: Any, cells: Cells, forks: Sequence[str], x: str, y: str) -> None:
    for axis, fork in zip(axes[0], forks, strict=True):
        axis.set_title(fork if fork == INDEPENDENT else f"fork {fork}")
    for axis in axes[-1]:
        axis.set_xlabel(x)
    for row in axes:
        row[0].set_ylabel(y)
    label_rows(axes, list(cells))


def _images(cells: Cells, name: str) -> int:
    n = (held(next(iter(next(iter(cells.values())).values())), name) or {})["n"]
    return int(n["train"] if isinstance(n, dict) else n)


def _largest(cells: Cells) -> float:
    values = [
        interior(excess(found["alphas"], p["curves"]["train"]["loss"]))
        for row in cells.values()
        for record in row.values()
        if (found := held(record, "landscape")) is not None
        for p in found["points"]
    ]
    return max(*values, 0.02)


def _edges(centres: Sequence[float]) -> Any:
    """Borders of cells around `centres`."""
    c = np.array(centres, dtype=np.float64)
    if len(c) == 1:
        return np.array([c[0] - 0.5, c[0] + 0.5])
    middle = (c[1:] + c[:-1]) / 2
    return np.concatenate([[2 * c[0] - middle[0]], middle, [2 * c[-1] - middle[-1]]])
