"""What siblings are worth: their disagreement, and the accuracy of their ensembles at its cost."""

from __future__ import annotations

from collections.abc import Sequence

from lmcbench.board.figures.drawing import Drawing, recipes_of, replicates, replicates_of
from lmcbench.board.figures.grid import cloud_panels
from lmcbench.board.figures.style import legend_below, line, panels, percent_bars
from lmcbench.board.observations import prediction
from lmcbench.board.probed import measured
from lmcbench.board.statistics import estimate
from lmcbench.results.labels import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.results.values import SPLIT, error_barrier
from lmcbench.spec.forks import WHOLE_BUDGET, Fork
from lmcbench.spec.published import published_suite


def disagreement(records: Sequence[Record]) -> Drawing | None:
    """Disagreement against error barrier, one point a cell, by fork."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in measured(records):
        height, apart = error_barrier(record), prediction(record, "disagreement")
        if height is not None and apart is not None and not Fork.parse(record.fork.name).priced:
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
            priced |= Fork.parse(record.fork.name).priced
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
    priced = [record for record in records if Fork.parse(record.fork.name).priced]
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
