"""Figures of named networks: the curves between them, and the matrix of their barriers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmcbench.report.figures.style import MAP, line
from lmcbench.results.curves import Array, Curve

MOST_NUMBERS = 8
"""Networks up to which the cells of a matrix have numbers."""


def draw_lines(axes: Sequence[Any], curves: Mapping[str, Curve], split: str = "") -> None:
    """Draw loss and error along each line between two networks.

    Args:
        axes: for loss and error.
        curves: by the name in the legend.
        split: in the labels of the axes, if given.
    """
    for index, (name, curve) in enumerate(curves.items()):
        every = max(1, len(curve.alphas) // 5)
        axes[0].plot(curve.alphas, curve.loss, label=name, markevery=every, **line(index))
        axes[1].plot(curve.alphas, 100 * curve.error, label=name, markevery=every, **line(index))
    for axis, label in zip(axes, ("loss (nats)", "error (%)"), strict=True):
        axis.set_xlabel("alpha (0: A, 1: B)")
        axis.set_ylabel(f"{split} {label}".strip())
    if len(curves) > 1:
        axes[0].legend(fontsize="small", ncols=1 + len(curves) // 8)


def draw_matrix(figure: Any, axis: Any, values: Array, names: Sequence[str], label: str) -> None:
    """Draw a value for each pair of networks as a map, with its numbers for few networks.

    Args:
        figure: gets a colour bar.
        axis: gets the map.
        values: `[n, n]`; NaN is left white.
        names: of the networks.
        label: of the colour bar, with the unit.
    """
    count = len(names)
    low, high = np.nanmin(values), np.nanmax(values)
    high = high if high > low else low + 1  # equal values would be in the middle of a scale around them
    shown = axis.imshow(values, cmap=MAP, vmin=low, vmax=high)
    axis.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axis.set_yticks(range(count), names)
    axis.grid(visible=False)
    if count <= MOST_NUMBERS:
        for i, j in np.argwhere(np.isfinite(values)):
            dark = values[i, j] < (low + high) / 2
            axis.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", color="w" if dark else "k")
    figure.colorbar(shown, ax=axis, label=label)
