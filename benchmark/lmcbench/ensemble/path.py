"""Ensembles of points on the path between two networks: members that cost no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.ensemble.predictions import compare_predictions

PATH_MEMBERS = (3, 5)
"""Sizes of ensembles of points on the path; two are its ends, which are the siblings."""


def path_members(grid: NDArray[np.float64], size: int) -> list[int]:
    """Positions in `grid` of `size` points, ends included, as evenly spaced as it allows; none if too few."""
    if size > len(grid):
        return []
    chosen = [int(np.abs(grid - target).argmin()) for target in np.arange(size) / (size - 1)]
    return chosen if len(set(chosen)) == size else []


def path_ensembles(
    probs: ArrayLike, labels: ArrayLike, alphas: ArrayLike, sizes: Sequence[int] = PATH_MEMBERS
) -> dict[str, dict[str, Any]]:
    """Ensembles of points on the path [H], ends included, as evenly spaced as the grid allows.

    Sizes that the grid has too few points for are left out.

    Args:
        probs: softmax probabilities at every alpha, `[A, n, classes]`.
        labels: `[n]` integers.
        alphas: the grid, `[A]`.
        sizes: numbers of members, at least 2.

    Returns:
        By number of members: `alphas` of the members and the keys of `compare_predictions`.

    Raises:
        UserError: as `compare_predictions`.
    """
    p, grid = np.asarray(probs), np.asarray(alphas, dtype=np.float64)
    found: dict[str, dict[str, Any]] = {}
    for size in sizes:
        chosen = path_members(grid, size)
        if chosen:
            found[str(size)] = {"alphas": grid[chosen].tolist(), **compare_predictions(p[chosen], labels)}
    return found
