"""Does the second-order form follow the barrier? Probed records in, rank correlations out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmcbench.board.probed import excess, held, interior, order
from lmcbench.board.statistics import Estimate, estimate, spearman
from lmcbench.results.labels import architecture_label
from lmcbench.results.record import Record


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
    return len(pairs), _rank_correlation(pairs)


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
        value = _rank_correlation(pairs)
        if value is not None:
            sizes.append(len(pairs))
            values.append(value)
    return (min(sizes), float(np.mean(values))) if values else (0, None)


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, rounded: else the last bit of a sum decides how 0.975 is printed."""
    found = spearman([x for x, _ in pairs], [y for _, y in pairs])
    return None if found is None else round(found, 12)
