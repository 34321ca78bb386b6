"""Which records hold the further measures, and what follows from them in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmcbench.board.statistics import Estimate, estimate
from lmcbench.results.labels import architecture_label, shift_label
from lmcbench.results.measures import Array, chord_excess
from lmcbench.results.record import Record
from lmcbench.spec.forks import Fork

Cells = dict[str, dict[str, Record]]
"""Architecture -> fork -> record."""


def order(records: Iterable[Record]) -> list[Record]:
    """Small networks first, then by replicate, shift (none first) and fork."""

    def rank(record: Record) -> tuple[Any, ...]:
        shift = shift_label(record)
        return (
            record.architecture.params or 0,
            architecture_label(record),
            record.replicate,
            shift != "none",
            shift,
            Fork.parse(record.fork.name).order,
        )

    return sorted(records, key=rank)


def held(record: Record, name: str) -> dict[str, Any] | None:
    """A further measure of the record's first pair; None where it was not, or could not be, taken."""
    if not record.pairs:
        return None
    found = (record.pairs[0].model_extra or {}).get(name)
    return found if isinstance(found, dict) and "skipped" not in found else None


def shown(records: Iterable[Record], name: str) -> Cells:
    """One shift and replicate of every architecture that has the measure: none and the lowest first."""
    cells: Cells = {}
    chosen: dict[str, tuple[int, str]] = {}
    for record in order(records):
        if held(record, name) is None:
            continue
        label, which = architecture_label(record), (record.replicate, shift_label(record))
        if chosen.setdefault(label, which) == which:
            cells.setdefault(label, {})[record.fork.name] = record
    return cells


def of_shift(cells: Cells) -> str:
    """What the cells have in common, for captions."""
    one = next(iter(next(iter(cells.values())).values()))
    return f"shift {shift_label(one)}, replicate {one.replicate}"


def forks_of(cells: Cells) -> list[str]:
    """Every fork of the cells, in order."""
    return sorted({f for row in cells.values() for f in row}, key=lambda name: Fork.parse(name).order)


def excess(alphas: Sequence[float], values: Sequence[float]) -> Array:
    """S(alpha), how far values are above the chord between their ends."""
    return chord_excess(np.array(alphas), np.array(values))


def interior(values: Array) -> float:
    """The greatest inside 0 < alpha < 1, signed."""
    return float(values[1:-1].max())


# --- does the second-order form follow the barrier? ----------------------------------------------


@dataclass(frozen=True)
class Follows:
    """Rank correlation of prediction and measurement, one value per replicate.

    Attributes:
        architecture: its label.
        form: `as published` or `with gradients`.
        over: what is ranked.
        points: how many things are ranked in a replicate (the fewest).
        correlation: Spearman's, over replicates.
    """

    architecture: str
    form: str
    over: str
    points: int
    correlation: Estimate


def follows(records: Iterable[Record]) -> list[Follows]:
    """Whether predicted barriers rank as measured ones: over forks and shifts, and over layers [S]."""
    cells: dict[str, dict[int, list[Record]]] = {}
    for record in order(records):
        label = architecture_label(record)
        cells.setdefault(label, {}).setdefault(record.replicate, []).append(record)
    found = []
    for label, replicates in cells.items():
        for form, key in (("as published", "predicted"), ("with gradients", "predicted_with_gradients")):
            per = [_over_cells(mine, key) for mine in replicates.values()]
            found += _estimated(label, form, "forks and shifts", per)
        for over, rise in (("layers: barrier", False), ("layers: rise above the start", True)):
            per = [_over_layers(mine, rise) for mine in replicates.values()]
            found += _estimated(label, "as published", over, per)
    return found


def _estimated(label: str, form: str, over: str, per: list[tuple[int, float | None]]) -> list[Follows]:
    values = [(n, value) for n, value in per if value is not None]
    if not values:
        return []
    return [Follows(label, form, over, min(n for n, _ in values), estimate([v for _, v in values]))]


def _over_cells(records: list[Record], key: str) -> tuple[int, float | None]:
    pairs = []
    for record in records:
        c = held(record, "curvature")
        if c is not None:
            pairs.append((interior(np.array(c[key])), interior(excess(c["alphas"], c["loss"]))))
    return len(pairs), spearman(*zip(*pairs, strict=True)) if pairs else None


def _over_layers(records: list[Record], rise: bool) -> tuple[int, float | None]:
    """Layers from both ends ranked within each cell, then averaged over the replicate's cells."""
    sizes, values = [], []
    for record in records:
        layers = held(record, "layers")
        if layers is None:
            continue
        pairs = []
        for layer in layers["layers"].values():
            for end in ("from_a", "from_b"):
                loss = layer[end]["loss"]
                measured = max(loss) - loss[0] if rise else interior(excess(layers["alphas"], loss))
                pairs.append((interior(np.array(layer[f"predicted_{end}"])), measured))
        value = spearman(*zip(*pairs, strict=True))
        if value is not None:
            sizes.append(len(pairs))
            values.append(value)
    return (min(sizes), float(np.mean(values))) if values else (0, None)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None for fewer than three points or constant values.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    if len(x) < 3:
        return None
    a, b = (_ranks(np.array(v, dtype=np.float64)) for v in (x, y))
    if a.std() == 0 or b.std() == 0:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), 12)


def _ranks(values: Array) -> Array:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[where]
    return ranks
