"""Ensembles of 2 to K of the members: what each further member is worth."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from lmcbench.ensemble.predictions import Array, Labels, brier, checked, expected_calibration_error, nll

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
