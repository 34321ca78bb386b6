"""The figure of features: how similar points on the line are to both siblings."""

from __future__ import annotations

import numpy as np

from lmcbench.report.figures.style import (
    Drawing,
    cell_panels,
    example_text,
    label_panels,
    legend_below,
    line,
    on_panels,
)
from lmcbench.results.cell_values import SPLIT
from lmcbench.stats.cells import Cells, analysis, example_cells, forks_of_grid


def similarity(cells: Cells) -> Drawing | None:
    """Draw the CKA of the features on the line with those of either end."""
    grid = example_cells(cells.records, "features")
    if not grid:
        return None
    forks = forks_of_grid(grid)
    figure, axes = cell_panels(grid, forks, width=2.1, height=1.8)
    for axis, record in on_panels(axes, grid, forks):
        found = analysis(record, "features")
        for k, (key, text) in enumerate((("to_a", "with A"), ("to_b", "with B"))):
            # features that do not vary have no CKA
            values = [np.nan if v is None else v for v in found["splits"][SPLIT][key]]
            axis.plot(found["alphas"], values, label=text, **line(k))
        axis.set_ylim(0, 1.05)
    label_panels(axes, grid, forks, "alpha", "linear CKA (0 to 1)")
    legend_below(figure, axes)
    n = analysis(next(iter(next(iter(grid.values())).values())), "features")["splits"][SPLIT]["n"]
    return Drawing(
        "features",
        "Similarity of features",
        "Linear CKA of the penultimate features at each point of the line with those of the siblings at its "
        "ends: 1 for features that are equal up to rotation and scale, near 0 for unrelated ones. "
        f"{n} test images, {example_text(grid)}, n = 1.",
        figure,
    )
