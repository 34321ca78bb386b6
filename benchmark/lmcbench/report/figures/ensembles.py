"""What noise has to do with the barrier: gradient noise between the views, and the noise scale of SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmcbench.report.figures.style import (
    PLAIN,
    Drawing,
    cloud_panels,
    legend_below,
    line,
    panels,
    percent_bars,
    recipes_of,
    replicates,
    replicates_of,
)
from lmcbench.report.noise_scale import EPOCHS, STEPS, equal_epochs, equal_steps, noise_points
from lmcbench.results.cell_values import SPLIT, architecture_label, error_barrier, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.forks import WHOLE_BUDGET, Fork
from lmcbench.spec.suite_files import published_suite
from lmcbench.stats.cells import measured, prediction
from lmcbench.stats.estimates import estimate

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


def disagreement(records: Sequence[Record]) -> Drawing | None:
    """Disagreement against error barrier, one point a cell, by fork."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in measured(records):
        height, apart = error_barrier(record), prediction(record, "disagreement")
        if height is not None and apart is not None and not Fork.parse(record.fork.name).is_cost_matched:
            by_fork = points.setdefault(architecture_label(record), {})
            by_fork.setdefault(record.fork.name, []).append((100 * height, 100 * apart))
    if not points:
        return None
    forks = sorted({f for by_fork in points.values() for f in by_fork}, key=lambda f: Fork.parse(f).order)
    figure, axes = cloud_panels(points, {fork: _fork(fork) for fork in forks}, "disagreement (%)")
    for axis in axes.flat[: len(points)]:
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.15, 110)
        axis.set_xticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100], ["0", "", "1", "2", "5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("error barrier (percentage points)")
    return Drawing(
        "disagreement",
        "Disagreement against barrier",
        "How often two networks disagree on the test set, against the error barrier between them (chord "
        f"form), one point a cell: all shifts, {replicates_of(measured(records))}. Linear up to 1, "
        "logarithmic above.",
        figure,
    )


def accuracy_and_cost(records: Sequence[Record]) -> Drawing | None:
    """Ensemble accuracy against training FLOPs, with the comparators of cost."""
    found: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    priced, recipes = False, recipes_of(records)
    for record in measured(records):
        accuracy = prediction(record, "ensemble_accuracy")
        if record.fork.name == WHOLE_BUDGET:
            accuracy = 1 - record.siblings[0].splits[SPLIT].error
        if accuracy is not None and record.cost is not None:
            priced |= Fork.parse(record.fork.name).is_cost_matched
            name = architecture_label(record)
            # recipes cost and reach other things: each has a row of its own
            label = name if len(recipes[name]) == 1 else f"{name}\n{record.recipe['name']}"
            row = found.setdefault(label, {}).setdefault(shift_label(record), {})
            row.setdefault(record.fork.name, []).append((record.cost.train_flop, 100 * accuracy))
    if not priced:
        return None
    shifts = list(dict.fromkeys(shift for row in found.values() for shift in row))
    forks = sorted(
        {f for row in found.values() for cell in row.values() for f in cell},
        key=lambda f: Fork.parse(f).order,
    )
    figure, axes = panels(len(found), len(shifts), width=2.4, height=1.9, sharex=True, sharey="row")
    for row, (name, by_shift) in zip(axes, found.items(), strict=True):
        full = max(flop for cell in by_shift.values() for held in cell.values() for flop, _ in held)
        for axis, shift in zip(row, shifts, strict=True):
            for k, fork in enumerate(forks):
                held = by_shift.get(shift, {}).get(fork, [])
                if held:
                    mean = estimate([accuracy for _, accuracy in held])
                    # beside one another where costs are equal
                    aside = 1 + 0.008 * (k - (len(forks) - 1) / 2)
                    axis.errorbar(
                        [held[0][0] * aside / full],
                        [mean.mean],
                        yerr=percent_bars([mean]),
                        label=_fork(fork),
                        capsize=2,
                        elinewidth=0.8,
                        **{**line(k), "linestyle": "none"},
                    )
            axis.set_xlabel(f"training cost (units of {full:.1e} FLOPs)")
        row[0].set_ylabel(f"{name}\naccuracy (%)", fontsize=7.5)
    for axis, shift in zip(axes[0], shifts, strict=True):
        axis.set_title(shift)
    legend_below(figure, axes, each=2.0)
    n = max(len(held) for row in found.values() for cell in row.values() for held in cell.values())
    return Drawing(
        "accuracy-cost",
        "Ensemble accuracy against training cost",
        "Accuracy on the test set of the ensemble of a cell's networks (whole-budget: of the one network) "
        "against the floating point operations of training them, a shared trunk counted once; mean with its "
        f"95 % Student t interval over {replicates(n)}, drawn as far as an accuracy can reach. Cheaper is "
        "to be read between networks of equal cost only: the latest fork, independent-equal-cost and "
        f"whole-budget.{_only_under(records, shifts)}",
        figure,
    )


def _only_under(records: Sequence[Record], shifts: Sequence[str]) -> str:
    """Why some of the `shifts` that are shown have no comparators of cost, as a further sentence or none."""
    priced = [record for record in records if Fork.parse(record.fork.name).is_cost_matched]
    under = {shift_label(record) for record in priced}
    bare = [shift for shift in shifts if shift not in under]
    if not bare:
        return ""
    names = sorted({record.fork.name for record in priced}, key=lambda name: Fork.parse(name).order)
    of = records[0].suite
    suite = published_suite(of.name, of.version, of.digest)
    meant = None if suite is None else suite.comparator_shifts
    designed = meant is not None and not any(shift in meant for shift in bare)
    where = " and ".join(shift for shift in shifts if shift in under)
    holder = "suite has" if designed else "records have"
    return f" The {holder} {' and '.join(names)} under {where} only."


def _fork(name: str) -> str:
    return name if Fork.parse(name).epoch is None else f"fork {name}"
