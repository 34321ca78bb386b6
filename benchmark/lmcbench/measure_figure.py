"""The figure of `lmcbench measure`: the curves between networks, and the matrix of their barriers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lmcbench.errors import UserError
from lmcbench.measure_verdict import letter_of
from lmcbench.report.figures.style import line, picture, styled

KINDS = (".png", ".pdf", ".svg")


def check_figure(path: Path) -> None:
    """Check the name of a figure's file before anything slow.

    Raises:
        UserError: for another ending, or a folder that does not exist.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"--figure {path}: the file must end in {', '.join(KINDS)}.")
    if not path.parent.is_dir():
        raise UserError(f"--figure {path}: there is no folder {path.parent}.")


def draw_measured(result: Mapping[str, Any], kind: str) -> bytes:
    """Return the figure of a result of `measure`, on its first split.

    Left the loss, then the error along each line; of more than two networks also the matrix of barriers of
    the error, in percent.

    Args:
        result: what `measure` returns.
        kind: `png`, `pdf` or `svg`.
    """
    split = next(iter(result["ensemble"]))
    several = len(result["siblings"]) > 2
    alphas = result["alphas"]
    with styled():
        figure = Figure(figsize=(4 * (3 if several else 2), 3.4), layout="constrained")
        axes = figure.subplots(1, 3 if several else 2, squeeze=False)[0]
        for index, pair in enumerate(result["pairs"]):
            curve, name = pair["curves"][split], f"{letter_of(pair['i'])} to {letter_of(pair['j'])}"
            axes[0].plot(alphas, curve["loss"], label=name, **line(index))
            axes[1].plot(alphas, 100 * np.array(curve["error"]), label=name, **line(index))
        for axis, label in zip(axes, (f"{split} loss, nats", f"{split} error, %"), strict=False):
            axis.set_xlabel("alpha (0: first network, 1: second)")
            axis.set_ylabel(label)
        axes[0].legend(fontsize="small", ncols=1 + len(result["pairs"]) // 8)
        if several:
            _draw_matrix(figure, axes[2], result, split)
    return picture(figure, kind)


def _draw_matrix(figure: Figure, axis: Any, result: Mapping[str, Any], split: str) -> None:
    count = len(result["siblings"])
    values = np.zeros((count, count))
    for pair in result["pairs"]:
        i, j = pair["i"], pair["j"]
        values[i, j] = values[j, i] = 100 * pair["barriers"][split]["error_chord"]
    shown = axis.imshow(values, cmap="viridis")
    names = [letter_of(i) for i in range(count)]
    axis.set_xticks(range(count), names)
    axis.set_yticks(range(count), names)
    if count <= 8:
        for i in range(count):
            for j in range(count):
                dark = values[i, j] < values.max() / 2
                axis.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", color="w" if dark else "k")
    figure.colorbar(shown, ax=axis, label=f"barrier of the {split} error, %")
