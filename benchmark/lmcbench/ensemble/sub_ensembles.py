"""Ensembles of 2 to K members, and of points on the path between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.ensemble.predictions import (
    Array,
    Labels,
    brier,
    compare_predictions,
    expected_calibration_error,
    nll,
    validate,
)

MAX_SUBSETS = 70
"""All subsets of a size are used up to this number, which is reached at K = 8."""


def ensembles_by_size(probs: ArrayLike, labels: ArrayLike) -> dict[str, dict[str, float]]:
    """Return scores of ensembles of 2, 3, ... K members, averaged over the subsets of each size.

    An ensemble predicts the mean of its members' probabilities. If there are more than `MAX_SUBSETS` subsets,
    the K cyclic runs of consecutive members are used, in which every member also has the same weight.

    Args:
        probs: softmax probabilities, `[K, n, classes]`, K >= 2.
        labels: true classes, `[n]` integers.

    Returns:
        Number of members, as a string for JSON -> `accuracy`, `nll` (nats), `brier` (summed over classes),
        `ece`, and `gain`: accuracy minus mean accuracy of the K members (fractions).

    Raises:
        UserError: as in `compare_predictions`.
    """
    p, y, tiny = validate(probs, labels)
    member = float((p.argmax(-1) == y).mean())
    by_size = {}
    for size in range(2, len(p) + 1):
        scores = [_scores(p[list(chosen)].mean(0), y, tiny) for chosen in _subsets(len(p), size)]
        mean = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        by_size[str(size)] = {**mean, "gain": mean["accuracy"] - member}
    return by_size


def _scores(p: Array, y: Labels, tiny: float) -> dict[str, float]:
    return {
        "accuracy": float((p.argmax(-1) == y).mean()),
        "nll": nll(p, y, tiny),
        "brier": brier(p, y),
        "ece": expected_calibration_error(p, y),
    }


def _subsets(k: int, size: int) -> list[tuple[int, ...]]:
    if comb(k, size) <= MAX_SUBSETS:
        return list(combinations(range(k), size))
    return [tuple((start + i) % k for i in range(size)) for start in range(k)]


PATH_MEMBERS = (3, 5)
"""Sizes of ensembles of points on the path; an ensemble of two would be the siblings."""


def path_members(grid: NDArray[np.float64], size: int) -> list[int]:
    """Return positions in `grid` of `size` evenly spaced points, ends included; empty if it has too few."""
    if size > len(grid):
        return []
    chosen = [int(np.abs(grid - target).argmin()) for target in np.arange(size) / (size - 1)]
    return chosen if len(set(chosen)) == size else []


def path_ensembles(
    probs: ArrayLike, labels: ArrayLike, alphas: ArrayLike, sizes: Sequence[int] = PATH_MEMBERS
) -> dict[str, dict[str, Any]]:
    """Return scores of ensembles of evenly spaced points on the path, ends included.

    (Hepburn, Zielke and Raulf, 2025, arXiv 2511.04514.) Sizes for which the grid has too few points are
    skipped.

    Args:
        probs: softmax probabilities at every alpha, `[A, n, classes]`.
        labels: true classes, `[n]` integers.
        alphas: the grid, `[A]`.
        sizes: numbers of members, at least 2.

    Returns:
        Number of members, as a string -> `alphas` of the members and the keys of `compare_predictions`.

    Raises:
        UserError: as in `compare_predictions`.
    """
    p, grid = np.asarray(probs), np.asarray(alphas, dtype=np.float64)
    by_size: dict[str, dict[str, Any]] = {}
    for size in sizes:
        chosen = path_members(grid, size)
        if chosen:
            by_size[str(size)] = {"alphas": grid[chosen].tolist(), **compare_predictions(p[chosen], labels)}
    return by_size
