"""Draw every figure of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcbench.report.figures.barriers import barriers, curves, repaired
from lmcbench.report.figures.curvature import layer_bars, predictions, scatter, spectra, switched
from lmcbench.report.figures.domains import barrier_matrix, domain_accuracy
from lmcbench.report.figures.ensembles import (
    accuracy_and_cost,
    accuracy_and_size,
    between_views,
    disagreement,
    noise_scales,
)
from lmcbench.report.figures.landscape import heat_maps, landscape_curves, motion, planes, similarity
from lmcbench.report.figures.style import Drawing, styled
from lmcbench.results.record import Record
from lmcbench.spec.forks import Fork
from lmcbench.stats.cells import Cells

Drawer = Callable[[Cells], Drawing | None]
"""Cells -> a figure; None if they lack its numbers."""

OF_LINES: tuple[Drawer, ...] = (
    barriers,
    curves,
    barrier_matrix,
    domain_accuracy,
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
    similarity,
)
"""Figures of siblings and independent networks of full length."""

OF_NETWORKS: tuple[Drawer, ...] = (
    disagreement,
    accuracy_and_cost,
    accuracy_and_size,
    between_views,
    noise_scales,
)
"""Figures that include the comparators of equal cost."""


def draw(records: Sequence[Record]) -> list[Drawing]:
    """Return every figure that the records have the numbers for, in the order of a report."""
    # barriers between networks of another length or number are not comparable
    forked = Cells(r for r in records if not Fork.parse(r.fork.name).is_cost_matched)
    everything = Cells(records)
    with styled():
        drawn = [drawer(forked) for drawer in OF_LINES]
        drawn += [drawer(everything) for drawer in OF_NETWORKS]
    return [drawing for drawing in drawn if drawing is not None]
