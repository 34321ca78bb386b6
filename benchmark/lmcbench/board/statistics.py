"""Means over replicates and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over replicates.

    Attributes:
        mean: the mean; None without values.
        half_width: of its two-sided 95 % Student t interval; None for fewer than two values.
        n: number of replicates.
    """

    mean: float | None
    half_width: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per replicate with its t interval (`values` must be finite)."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, None, 1)
    # scipy.special rather than scipy.stats, which takes half a second to import
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Estimate(mean, quantile * float(np.std(values, ddof=1)) / n**0.5, n)
