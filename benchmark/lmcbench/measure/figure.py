"""The figure of `lmcbench measure`: the curves between networks, and the matrix of their barriers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmcbench.errors import UserError
from lmcbench.measure.verdict import letter_of
from lmcbench.report.figures.networks import draw_lines, draw_matrix
from lmcbench.report.figures.style import panels, picture, styled
from lmcbench.results.atomic_files import check_folder
from lmcbench.results.curves import Array, Curve

KINDS = (".png", ".pdf", ".svg")


def check_figure(path: Path) -> None:
    """Check the name of a figure's file before anything slow.

    Raises:
        UserError: for another ending, or a folder that does not exist or is read-only.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"--figure {path}: the file must end in {', '.join(KINDS)}.")
    check_folder("--figure", path)


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
    curves = {}
    for pair in result["pairs"]:
        curve = pair["curves"][split]
        name = f"{letter_of(pair['i'])} to {letter_of(pair['j'])}"
        curves[name] = Curve(result["alphas"], curve["loss"], curve["error"], curve["n"])
    with styled():
        figure, [axes] = panels(1, 3 if several else 2, width=4.0, height=3.0)
        draw_lines(axes[:2], curves, split)
        if several:
            names = [letter_of(i) for i in range(len(result["siblings"]))]
            label = f"barrier of the {split} error, %"
            draw_matrix(figure, axes[2], _barriers(result, split), names, label)
    return picture(figure, kind)


def _barriers(result: Mapping[str, Any], split: str) -> Array:
    """Return the barrier of each pair in percent, `[networks, networks]`."""
    count = len(result["siblings"])
    values = np.zeros((count, count))
    for pair in result["pairs"]:
        i, j = pair["i"], pair["j"]
        values[i, j] = values[j, i] = 100 * pair["barriers"][split]["error_chord"]
    return values
