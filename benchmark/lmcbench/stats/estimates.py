"""Means over replicates and their intervals, rank correlations, and which cells count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import pandas as pd
from scipy.special import stdtrit

CONFIDENCE = 0.95

FITTED = 0.02
"""Training error that every sibling must reach for its cell to count: an underfit pair is at no minimum."""

ROUNDING = 1e-12
"""Up to which numbers are equal but for rounding: replicates that agree have no spread to take an interval
from, and values that are ranked are ties."""

MIN_POINTS = 3
"""Points that a rank correlation needs."""


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


class Contrast(NamedTuple):
    """One number that was measured within a replicate.

    Attributes:
        replicate: where it was measured.
        what: which contrast it is; the same in every replicate.
        value: in its own unit; positive is what is claimed.
    """

    replicate: int
    what: tuple[str, ...]
    value: float


class Pooled(NamedTuple):
    """Contrasts, as one number of each replicate.

    Attributes:
        effect: over replicates; each one's number is the mean of its contrasts.
        contrasts: how many that mean is of.
        left_out: contrasts that were not measured in every replicate, and are therefore not counted.
    """

    effect: Estimate
    contrasts: int
    left_out: int


def pool(contrasts: Iterable[Contrast]) -> Pooled:
    """The replicate is the unit: its contrasts are averaged, and the effect is the mean over replicates.

    Only contrasts that were measured in every replicate count, so that replicates are means of the same
    things.
    """
    replicates: dict[int, dict[tuple[str, ...], float]] = {}
    for contrast in contrasts:
        replicates.setdefault(contrast.replicate, {})[contrast.what] = contrast.value
    held = [set(found) for _, found in sorted(replicates.items())]
    common = sorted(set.intersection(*held)) if held else []
    left_out = len(set().union(*held)) - len(common)
    means = [
        math.fsum(found[what] for what in common) / len(common)
        for _, found in sorted(replicates.items())
        if common
    ]
    return Pooled(estimate(means), len(common), left_out)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per replicate with its t interval (`values` must be finite)."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, 0)
    # exact sums: the same bits on every machine, whatever its vector units
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * math.sqrt(variance / n), n)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties (up to `ROUNDING`) at their mean rank; None where it is not defined.

    That is for fewer than `MIN_POINTS` points, and where all of `x` or all of `y` are equal.
    """
    # equal shares of images come out of a chord with other last bits
    points = [pd.Series([alike(value) for value in values], dtype=float) for values in (x, y)]
    if len(x) < MIN_POINTS or any(values.nunique() == 1 for values in points):
        return None
    # not scipy.stats, which takes half a second to import
    return float(points[0].rank().corr(points[1].rank()))


def alike(value: float) -> float:
    """The value to `ROUNDING`, so that numbers that are equal but for it compare as equal."""
    return round(value, 12)


@lru_cache
def _quantile(df: int) -> float:
    # scipy.special rather than scipy.stats, which takes half a second to import
    return float(stdtrit(df, (1 + CONFIDENCE) / 2))
