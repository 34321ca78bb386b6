"""Does the second-order form follow the barrier? Probed cells in, rank correlations out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmcbench.results.record import Record
from lmcbench.stats.cells import Cells, excess, held, interior, line_of
from lmcbench.stats.estimates import Contrast, Estimate, pool, spearman


class Ranked(NamedTuple):
    """A rank correlation of prediction and measurement within a replicate.

    Attributes:
        contrast: the correlation, and what it is of.
        points: how many things are ranked.
    """

    contrast: Contrast
    points: int


@dataclass(frozen=True)
class RankCorrelation:
    """The rank correlations of one architecture, over replicates.

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


def rank_cells(cells: Cells, form: str = "predicted") -> Iterator[Ranked]:
    """Cells of one architecture and recipe that leave the trunk, over shifts and forks.

    Predicted and measured is the greatest inside the line, 0 < alpha < 1, and signed: a maximum over the
    whole line is never below 0, so that all that is predicted to sink would be tied there.

    Args:
        cells: those with `curvature` count.
        form: which prediction, by its name in records.
    """
    groups: dict[tuple[int, tuple[str, ...]], list[tuple[float, float]]] = {}
    for record in cells.forked():
        found = held(record, "curvature")
        if found is not None:
            line = line_of(record)
            point = interior(np.array(found[form])), interior(excess(found["alphas"], found["loss"]))
            groups.setdefault((record.replicate, (line.architecture, line.recipe)), []).append(point)
    for (replicate, what), points in groups.items():
        yield from _ranked(replicate, what, points)


def rank_layers(cells: Cells, *, rise: bool = False) -> Iterator[Ranked]:
    """The layers of each cell that leaves the trunk, moved alone from either end.

    Args:
        cells: those with `layers` count.
        rise: measured is how far the loss rises above the start, instead of above the chord; less than 0
            where it only falls.
    """
    for record in cells.forked():
        found = held(record, "layers")
        if found is None:
            continue
        points = []
        for layer in found["layers"].values():
            for end in ("from_a", "from_b"):
                loss = layer[end]["loss"]
                above = np.array(loss) - loss[0] if rise else excess(found["alphas"], loss)
                points.append((interior(np.array(layer[f"predicted_{end}"])), interior(above)))
        yield from _ranked(record.replicate, (*line_of(record), record.fork.name), points)


def rank_correlations(records: Iterable[Record]) -> list[RankCorrelation]:
    """Whether predicted barriers rank as measured ones: over forks and shifts, and over layers [S].

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    found = []
    for label in cells.architectures():
        mine = cells.of(label)
        tables = (
            ("as published", "forks and shifts", rank_cells(mine)),
            ("with gradients", "forks and shifts", rank_cells(mine, "predicted_with_gradients")),
            ("as published", "layers: barrier", rank_layers(mine)),
            ("as published", "layers: rise above the start", rank_layers(mine, rise=True)),
        )
        for form, over, ranked in tables:
            within = list(ranked)
            effect = pool([r.contrast for r in within]).effect
            if effect.n:
                found.append(RankCorrelation(label, form, over, min(r.points for r in within), effect))
    return found


def _ranked(replicate: int, what: tuple[str, ...], points: Sequence[tuple[float, float]]) -> Iterator[Ranked]:
    found = spearman([x for x, _ in points], [y for _, y in points])
    if found is not None:
        # rounded: else the last bit of a sum decides how 0.975 is printed
        yield Ranked(Contrast(replicate, what, round(found, 12)), len(points))
