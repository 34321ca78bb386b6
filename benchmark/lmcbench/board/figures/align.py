"""Lines between independent networks, repaired and aligned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmcbench.board.figures.drawing import Drawing
from lmcbench.board.figures.grid import of_single_cells
from lmcbench.board.figures.style import (
    COLOURS,
    DASHES,
    MARKERS,
    legend_below,
    panels,
)
from lmcbench.board.probed import further, held, of_shift, shown
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT


def repaired(records: Sequence[Record]) -> Drawing | None:
    """Curves of independent networks as they are, repaired and aligned."""
    every = shown(records, "align")
    cells = {name: row for name, row in every.items() if INDEPENDENT in row}
    if not cells:
        return None
    figure, axes = of_single_cells(cells, *panels(1, len(cells), width=2.4, height=2.2, sharey=True))
    for axis, (name, row) in zip(axes[0], cells.items(), strict=True):
        fixed, found = held(row[INDEPENDENT], "repair"), further(row[INDEPENDENT], "align")
        kinds = [] if fixed is None else [("as they are", fixed["blended"]), ("repaired", fixed["repaired"])]
        kinds += [("aligned", found["aligned"]), ("aligned and repaired", found["aligned_and_repaired"])]
        for k, (text, curves_) in enumerate(kinds):
            axis.plot(
                found["alphas"],
                100 * np.array(curves_["test"]["error"]),
                label=text,
                color=COLOURS[k],
                linestyle=DASHES[k],
                marker=MARKERS[k],
                markevery=4,
            )
        axis.set_title(name)
        axis.set_xlabel("alpha")
    axes[0][0].set_ylabel("test error (%)")
    legend_below(figure, axes, 1.8)
    n = further(next(iter(cells.values()))[INDEPENDENT], "align")["n"]["test"]
    return Drawing(
        "aligned",
        "Independent networks, repaired and aligned",
        "Test error on the line between two independently trained networks: with statistics blended as "
        "they are, repaired (reset, where there is BatchNorm; REPAIR elsewhere), and after the second "
        f"network's units were permuted to match the first's. {n} images, {of_shift(cells)}, n = 1.",
        figure,
    )
