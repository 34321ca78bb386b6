"""What would show a claim, as numbers within a replicate: cells in, contrasts out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from lmcbench.report.rank_correlation import rank_cells, rank_layers
from lmcbench.results.cell_values import error_barrier, is_connected
from lmcbench.results.record import Record
from lmcbench.spec.forks import EQUAL_COST, INDEPENDENT, WHOLE_BUDGET
from lmcbench.spec.recipe import noise_scale
from lmcbench.stats.cells import (
    Cells,
    distance,
    else_equal_recipe,
    is_control,
    is_fitted,
    line_of,
    prediction,
    uncalibrated_barrier,
    view_size,
)
from lmcbench.stats.estimates import Contrast, spearman
from lmcbench.stats.stability import stability_points

EARLY = 0.2
"""Share of training within which a stability point is early: the latest that [F] reports, of ResNet-50 on
ImageNet (section 3.2; read at second hand)."""

MIN_FORKS = 2
"""Forks of the trunk that a stability point needs: at one alone there is no earlier or later."""


Groups = dict[tuple[int, tuple[str, ...]], list[tuple[float, float]]]
"""Replicate, and what is compared there -> its points."""


# --- [H]: shift and noise ------------------------------------------------------------------------


def shift_against_control(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier under shift s less that under same(s): same architecture, recipe, parameters and fork
    of the trunk; shifts without such a control in the records are not compared.
    """
    for record, control in controlled(cells):
        yield from _difference(record, error_barrier(record, split), error_barrier(control, split))


def controlled(cells: Cells) -> Iterator[tuple[Record, Record]]:
    """Shifted cells that leave the trunk, each with its control."""
    for record in cells.forked():
        control = None if is_control(record) else cells.control(record)
        if control is not None:
            yield record, control


def noise_without_shift(cells: Cells, split: str) -> Iterator[Contrast]:
    """Least-squares slope of the error barrier over log2 g, among recipes of one architecture that differ
    in learning rate and batch size only; cells without shift and controls, by fork of the trunk, whose
    siblings all reach 2 % error on their own view. g is taken with N of that view.
    """
    yield from _noise_slopes((r for r in cells.forked() if is_control(r)), split)


def noise_with_shift(cells: Cells, split: str) -> Iterator[Contrast]:
    """The same slope among cells whose siblings have different views."""
    yield from _noise_slopes((r for r in cells.forked() if not is_control(r)), split)


def recalibration(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier with BatchNorm statistics blended as they are, less that with statistics recalibrated
    at every alpha; forks of the trunk of networks that have such layers.
    """
    for record in cells.forked():
        yield from _difference(record, uncalibrated_barrier(record, split), error_barrier(record, split))


def gradient_noise(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over training shifts (three or more, controls included) of the share of the gradient
    covariance at the fork that lies between the views, with the error barrier; by architecture, recipe
    and fork.
    """
    groups: Groups = {}
    for record in cells.forked():
        share = ((record.noise or {}).get("gradient") or {}).get("between_share")
        height = error_barrier(record, split)
        if share is not None and height is not None:
            line = line_of(record)
            place = (record.replicate, (line.architecture, line.recipe, record.fork.name))
            groups.setdefault(place, []).append((share, height))
    yield from _rank_correlations(groups)


# --- [H]: what siblings are worth ----------------------------------------------------------------


def disagree_less(cells: Cells, split: str) -> Iterator[Contrast]:
    """Disagreement of independent networks less that of connected siblings (error barrier under 2 %), on
    the same shift; only shifts and forks that are connected in every replicate count.
    """
    yield from _independent_less_siblings(cells, "disagreement", split)


def overlap_more(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error overlap (both wrong over either wrong) of connected siblings less that of independent networks,
    on the same shift; only shifts and forks that are connected in every replicate count.
    """
    for contrast in _independent_less_siblings(cells, "error_overlap", split):
        yield contrast._replace(value=-contrast.value)


def gain_less(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble gain over the mean member of independent networks less that of connected siblings, K of
    each, on the same shift; only shifts and forks that are connected in every replicate count.
    """
    yield from _independent_less_siblings(cells, "ensemble_gain", split)


def equal_cost(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less that of K independent networks with a full schedule each and,
    together, the siblings' training steps (up to rounding).
    """
    for record in cells.forked():
        other = cells.beside(record, EQUAL_COST)
        if other is not None and _same_cost(record, other):
            theirs = prediction(other, "ensemble_accuracy", split)
            yield from _difference(record, prediction(record, "ensemble_accuracy", split), theirs)


def whole_budget(cells: Cells, split: str) -> Iterator[Contrast]:
    """Ensemble accuracy of siblings less the accuracy of one network trained for as many steps as all of
    them and their trunk.
    """
    for record in cells.forked():
        other = cells.beside(record, WHOLE_BUDGET)
        if other is not None and _same_cost(record, other) and split in other.siblings[0].splits:
            single = 1 - other.siblings[0].splits[split].error
            yield from _difference(record, prediction(record, "ensemble_accuracy", split), single)


# --- [S] and [F] ---------------------------------------------------------------------------------


def later_forks(cells: Cells, split: str) -> Iterator[Contrast]:
    """Error barrier at the line's earliest fork less that at its latest."""
    for first, last in _first_and_last(cells):
        yield from _difference(
            first, error_barrier(first, split), error_barrier(last, split), "to", last.fork.name
        )


def distance_falls(cells: Cells, split: str) -> Iterator[Contrast]:
    """1 less the distance between siblings at the line's latest fork over that at its earliest."""
    for first, last in _first_and_last(cells):
        early, late = distance(first), distance(last)
        if early and late is not None:
            yield from _difference(first, 1.0, late / early, "to", last.fork.name)


def second_order(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over cells that leave the trunk (shifts and forks of one architecture and recipe) of
    the largest loss that the published second-order form predicts inside the line (0 < alpha < 1, signed)
    with the largest measured loss above the chord there, on the images that curvature was taken on.
    """
    return (ranked.contrast for ranked in rank_cells(cells))


def layer_ranking(cells: Cells, split: str) -> Iterator[Contrast]:
    """Rank correlation over a network's layers, moved alone from either end, of the largest loss that the
    published second-order form predicts inside that line (signed) with the largest measured loss above
    its chord there; forks of the trunk.
    """
    return (ranked.contrast for ranked in rank_layers(cells))


def stable_early(cells: Cells, split: str) -> Iterator[Contrast]:
    """0.2 less the stability point as a fraction of training, without shift; a replicate that is never
    connected counts as 1. Forks set how finely it is known; of fewer than two nothing is said.
    """
    for point in stability_points(r for r in cells.records if r.shift.name == "none"):
        if len(point.forks) < MIN_FORKS:
            continue
        for replicate, onset in point.points.items():
            fraction = 1.0 if onset is None else onset.fraction
            yield Contrast(replicate, point.line, EARLY - fraction)


# --- shared --------------------------------------------------------------------------------------


def _difference(record: Record, more: float | None, less: float | None, *what: str) -> Iterator[Contrast]:
    if more is not None and less is not None:
        yield Contrast(record.replicate, (*line_of(record), record.fork.name, *what), more - less)


def _independent_less_siblings(cells: Cells, name: str, split: str) -> Iterator[Contrast]:
    for record in cells.forked():
        other = cells.beside(record, INDEPENDENT) if is_connected(record) else None
        if other is not None:
            yield from _difference(record, prediction(other, name, split), prediction(record, name, split))


def _noise_slopes(records: Iterable[Record], split: str) -> Iterator[Contrast]:
    groups: Groups = {}
    for record in records:
        height, size = error_barrier(record, split), view_size(record)
        batch = record.recipe.get("batch_size")
        if height is None or size is None or batch is None or size <= batch or not is_fitted(record):
            continue
        line = line_of(record)
        place = (
            record.replicate,
            (line.architecture, else_equal_recipe(record), line.shift, record.fork.name),
        )
        g = noise_scale(record.recipe["lr"], round(size), batch)
        groups.setdefault(place, []).append((math.log2(g), height))
    for (replicate, what), points in groups.items():
        x, y = np.array(points).T
        if np.ptp(x) > 0:
            yield Contrast(replicate, what, float(np.polyfit(x, y, 1)[0]))


def _rank_correlations(groups: Groups) -> Iterator[Contrast]:
    for (replicate, what), points in groups.items():
        found = spearman([x for x, _ in points], [y for _, y in points])
        if found is not None:
            yield Contrast(replicate, what, found)


def _first_and_last(cells: Cells) -> Iterator[tuple[Record, Record]]:
    for record in cells.forked():
        forks = cells.forks(record)
        last = cells.beside(record, forks[-1]) if record.fork.name == forks[0] != forks[-1] else None
        if last is not None:
            yield record, last


def _same_cost(record: Record, other: Record) -> bool:
    """Equal up to each network's length being a whole number of steps."""
    if record.cost is None or other.cost is None:
        return False
    return abs(record.cost.train_steps - other.cost.train_steps) <= len(record.siblings) / 2
