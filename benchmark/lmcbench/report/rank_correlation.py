"""Rank correlations of measured barriers with those that the second-order form predicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lmcbench.results.cell_values import architecture_label, shift_label
from lmcbench.results.record import Record
from lmcbench.stats.cells import Cells, analysis, excess, has_analysis, interior_maximum
from lmcbench.stats.estimates import Contrast, Estimate, pool, spearman

DISTANCE = "distance"
"""The null predictor: the distance between the siblings in weight space."""


class Ranked(NamedTuple):
    """A rank correlation of prediction and measurement within a replicate.

    Attributes:
        contrast: the correlation.
        points: number of ranked cells or layers.
    """

    contrast: Contrast
    points: int


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation of one architecture over replicates.

    Attributes:
        architecture: its label.
        form: `as published`, `with gradients`, or none: the distance alone.
        over: what is ranked.
        points: number of ranked cells or layers in a replicate (the fewest).
        correlation: Spearman's.
    """

    architecture: str
    form: str
    over: str
    points: int
    correlation: Estimate


def rank_cells(cells: Cells, form: str = "predicted", *, over_distance: bool = False) -> Iterator[Ranked]:
    """Rank the cells of one architecture and recipe with a shared trunk, over shifts and forks.

    Predicted and measured is the signed maximum at 0 < alpha < 1: with the ends included, all cells with a
    negative prediction would be tied at 0.

    Args:
        cells: records without `curvature` are ignored.
        form: key of the prediction in records, or `DISTANCE`.
        over_distance: subtract the rank correlation of the null predictor, the distance between the siblings,
            over the same cells; cells without a distance are ignored.
    """
    groups: dict[tuple[int, tuple[str, ...]], list[tuple[float, float, float | None]]] = {}
    for record in _analysed(cells, "curvature"):
        found = analysis(record, "curvature")
        measured = excess(found["alphas"], found["loss"])
        place = (record.replicate, (architecture_label(record), record.recipe["name"]))
        distance: Any = (record.pairs[0].geometry or {}).get("distance_ab")
        if distance is None and (over_distance or form == DISTANCE):
            continue
        predicted = float(distance) if form == DISTANCE else interior_maximum(np.array(found[form]))
        groups.setdefault(place, []).append((predicted, interior_maximum(measured), distance))
    for (replicate, what), points in groups.items():
        own = list(_ranked(replicate, what, [(x, y) for x, y, _ in points]))
        if not over_distance:
            yield from own
            continue
        null = spearman([d for *_, d in points if d is not None], [y for _, y, _ in points])
        for contrast, count in own:
            if null is not None:
                yield Ranked(contrast._replace(value=round(contrast.value - null, 12)), count)


def rank_layers(cells: Cells, *, rise: bool = False) -> Iterator[Ranked]:
    """Rank the layers of each cell with a shared trunk, each moved alone from either end.

    Args:
        cells: records without `layers` are ignored.
        rise: measure the loss above its start instead of above the chord; negative for a layer that only
            lowers the loss.
    """
    for record in _analysed(cells, "layers"):
        found = analysis(record, "layers")
        points = []
        for layer in found["layers"].values():
            for end in ("from_a", "from_b"):
                loss = layer[end]["loss"]
                measured = np.array(loss) - loss[0] if rise else excess(found["alphas"], loss)
                predicted = np.array(layer[f"predicted_{end}"])
                points.append((interior_maximum(predicted), interior_maximum(measured)))
        yield from _ranked(
            record.replicate,
            (architecture_label(record), record.recipe["name"], shift_label(record), record.fork.name),
            points,
        )


def rank_correlations(records: Iterable[Record]) -> list[RankCorrelation]:
    """Correlate predicted and measured barriers over forks and shifts, and over layers (Singh et al., 2024).

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    tables = [
        ("as published", "forks and shifts", list(rank_cells(cells))),
        ("with gradients", "forks and shifts", list(rank_cells(cells, "predicted_with_gradients"))),
        ("none: distance alone", "forks and shifts", list(rank_cells(cells, DISTANCE))),
        ("with gradients", "layers: barrier", list(rank_layers(cells))),
        ("with gradients", "layers: rise above the start", list(rank_layers(cells, rise=True))),
    ]
    results = []
    for label in cells.architectures():
        for form, over, ranked in tables:
            mine = [r for r in ranked if r.contrast.what[0] == label]
            effect = pool(r.contrast for r in mine).effect
            if effect.n:
                results.append(RankCorrelation(label, form, over, min(r.points for r in mine), effect))
    return results


def _analysed(cells: Cells, name: str) -> Iterator[Record]:
    return (r for r in cells.records if r.fork.fraction is not None and has_analysis(r, name))


def _ranked(replicate: int, what: tuple[str, ...], points: Sequence[tuple[float, float]]) -> Iterator[Ranked]:
    correlation = spearman([x for x, _ in points], [y for _, y in points])
    if correlation is not None:
        # rounded: else the last bit of a sum decides how 0.975 is printed
        yield Ranked(Contrast(replicate, what, round(correlation, 12)), len(points))
