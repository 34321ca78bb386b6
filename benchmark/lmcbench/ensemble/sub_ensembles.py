"""Ensembles of 2 to K of the members: what each further member is worth."""

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
    checked,
    compare_predictions,
    expected_calibration_error,
    nll,
)

MOST_SUBSETS = 70
"""Subsets of one size that are all taken: every one up to K = 8."""


def ensembles_by_size(probs: ArrayLike, labels: ArrayLike) -> dict[str, dict[str, float]]:
    """Scores of ensembles of 2, 3, ... K members, each averaged over the subsets of that size.

    An ensemble predicts the mean of its members' probabilities. Where there are more than
    `MOST_SUBSETS` subsets, the K runs of consecutive members (in a circle) stand for them: there too
    every member counts equally often, so that the mean member is the same at every size.

    Args:
        probs: softmax probabilities `[K, n, classes]`, K >= 2.
        labels: `[n]` integers.

    Returns:
        By number of members, in text as JSON has it: `accuracy`, `nll` (nats), `brier` (summed over
        classes), `ece`, and `gain`: accuracy less that of the mean member (fractions).

    Raises:
        UserError: as `compare_predictions`.
    """
    p, y, tiny = checked(probs, labels)
    member = float((p.argmax(-1) == y).mean())
    found = {}
    for size in range(2, len(p) + 1):
        scores = [_scores(p[list(chosen)].mean(0), y, tiny) for chosen in _subsets(len(p), size)]
        mean = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        found[str(size)] = {**mean, "gain": mean["accuracy"] - member}
    return found


def _scores(p: Array, y: Labels, tiny: float) -> dict[str, float]:
    return {
        "accuracy": float((p.argmax(-1) == y).mean()),
        "nll": nll(p, y, tiny),
        "brier": brier(p, y),
        "ece": expected_calibration_error(p, y),
    }


def _subsets(k: int, size: int) -> list[tuple[int, ...]]:
    if comb(k, size) <= MOST_SUBSETS:
        return list(combinations(range(k), size))
    return [tuple((start + i) % k for i in range(size)) for start in range(k)]


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
