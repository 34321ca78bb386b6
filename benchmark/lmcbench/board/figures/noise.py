"""What noise has to do with the barrier: gradient noise between the views, and the noise scale of SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmcbench.board.figures.drawing import Drawing, replicates, replicates_of
from lmcbench.board.figures.grid import cloud_panels
from lmcbench.board.figures.style import PLAIN, legend_below, line, panels, percent_bars
from lmcbench.board.findings.noise import EPOCHS, STEPS, equal_epochs, equal_steps, noise_points
from lmcbench.board.probed import measured
from lmcbench.board.statistics import estimate
from lmcbench.results.labels import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.results.values import error_barrier

FEWEST_RECIPES = 3
"""Learning rates and batch sizes of one architecture that a figure against their noise needs."""


def between_views(records: Sequence[Record]) -> Drawing | None:
    """Error barrier at the earliest fork against the share of gradient noise between the views."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    forked = [r for r in measured(records) if r.fork.epoch is not None]
    if not forked:
        return None
    first = min(r.fork.epoch for r in forked if r.fork.epoch is not None)
    for record in forked:
        share = ((record.noise or {}).get("gradient") or {}).get("between_share")
        height = error_barrier(record)
        if record.fork.epoch == first and share is not None and height is not None:
            by_shift = points.setdefault(architecture_label(record), {})
            by_shift.setdefault(shift_label(record), []).append((100 * share, 100 * height))
    if len({shift for by_shift in points.values() for shift in by_shift}) < 2:
        return None
    shifts = list(dict.fromkeys(shift for by_shift in points.values() for shift in by_shift))
    figure, axes = cloud_panels(points, {s: s for s in shifts}, "error barrier\n(percentage points)")
    for axis in axes.flat[: len(points)]:
        axis.set_xscale("symlog", linthresh=0.1)
        axis.xaxis.set_major_formatter(PLAIN)
        axis.set_xlim(left=-0.02)
        axis.set_xlabel("share of gradient noise between the views (%)")
    return Drawing(
        "between-views",
        "Barrier against gradient noise between the views",
        f"Error barrier on the test set (chord form) of siblings of fork {first:g} against the share of the "
        "per-image gradient covariance at the fork that lies between the siblings' views; one point a "
        f"replicate, {replicates_of(forked)}. Random halves of m images have a share of about 1 / (m - 1). "
        "The scale is linear up to 0.1 and logarithmic above.",
        figure,
    )


def noise_scales(records: Sequence[Record]) -> Drawing | None:
    """Error barrier at fork 0 against the noise scale g, at equal epochs and at equal steps."""
    points = noise_points(records)
    recipes: dict[str, set[tuple[float, int]]] = {}
    for p in points:
        recipes.setdefault(p.architecture, set()).add((p.lr, p.batch_size))
    names = [name for name, tried in recipes.items() if len(tried) >= FEWEST_RECIPES]
    if not names:
        return None
    figure, axes = panels(len(names), 2, width=3.6, height=2.6, sharex=True, sharey="row")
    most = 0
    for row, name in zip(axes, names, strict=True):
        grid = [p for p in points if p.architecture == name]
        for axis, equal, chosen in zip(
            row, (EPOCHS, STEPS), (equal_epochs(grid), equal_steps(grid)), strict=True
        ):
            for k, shift in enumerate(dict.fromkeys(p.shift for p in chosen)):
                most = max(most, _against_g(axis, [p for p in chosen if p.shift == shift], shift, k))
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(PLAIN)
            axis.set_title(equal)
            axis.set_xlabel("noise scale g = lr (N/B - 1)")
        row[0].set_ylabel(f"{name}\nerror barrier (percentage points)")
    legend_below(figure, axes)
    return Drawing(
        "noise-scale",
        "Barrier against noise scale",
        "Error barrier on the test set (chord form) of siblings of fork 0 against SGD's noise scale, mean "
        f"with its 95 % Student t interval over up to {replicates(most)}; cells whose siblings all reach 2 % "
        "training error. Hollow: recipes of which some replicate did not; its fitted ones are shown.",
        figure,
    )


def _against_g(axis: Any, points: Sequence[Any], shift: str, k: int) -> int:
    """The points of one shift, a mean for each recipe; the largest number of replicates."""
    by_recipe: dict[tuple[float, int, int], list[Any]] = {}
    for p in points:
        by_recipe.setdefault((p.lr, p.batch_size, p.epochs), []).append(p)
    most = 0
    for group in sorted(by_recipe.values(), key=lambda g: g[0].g):
        fitted = [100 * p.error for p in group if p.fitted]
        if fitted:
            mean = estimate(fitted)
            most = max(most, len(fitted))
            style = {**line(k), "linestyle": "none"}
            if len(fitted) < len(group):
                style["markerfacecolor"] = "none"
            axis.errorbar(
                [group[0].g],
                [mean.mean],
                yerr=percent_bars([mean]),
                label=shift,
                capsize=2,
                elinewidth=0.8,
                **style,
            )
    return most
