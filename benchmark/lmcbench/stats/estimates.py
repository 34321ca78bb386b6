"""Means over replicates with their confidence intervals, also over test images, and rank correlations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from lmcbench.results.curves import Array

CONFIDENCE = 0.95

FITTED = 0.02
"""Maximum training error of every sibling for its cell to count: underfit siblings are not at a minimum."""

ROUNDING = 1e-12
"""Numbers that differ by less count as equal: such ranked values are ties, and an interval this narrow means
that the replicates do not differ."""

MIN_POINTS = 3
"""Minimum number of points for a rank correlation."""


@dataclass(frozen=True)
class Estimate:
    """A mean over replicates.

    Attributes:
        mean: the mean; None without values.
        half_width: of the two-sided 95 % Student t interval; None for fewer than two values.
        n: number of replicates.
    """

    mean: float | None
    half_width: float | None
    n: int

    def text(self, digits: int = 1, *, unit: float = 1, sign: bool = False, among: int = 0) -> str:
        """Return it as `12.4 ± 1.3`; a dash without values.

        Args:
            digits: decimals.
            unit: factor: 100 for percent.
            sign: whether a positive mean has a sign too.
            among: replicates that there are; where `n` is less, it is appended, as in `12.4 ± 1.3 (2)`.
        """
        if self.mean is None:
            return "–"
        # adding 0.0 keeps a rounded zero from showing a minus
        mean = f"{round(unit * self.mean, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
        half = "" if self.half_width is None else f" ± {unit * self.half_width:.{digits}f}"
        return f"{mean}{half}{f' ({self.n})' if self.n < among else ''}"


class Contrast(NamedTuple):
    """One number measured within a replicate.

    Attributes:
        replicate: its number.
        what: the contrast's name, architecture first; the same in every replicate.
        value: in its own unit; positive where it agrees with the claim.
    """

    replicate: int
    what: tuple[str, ...]
    value: float


class Pooled(NamedTuple):
    """Contrasts averaged within replicates.

    Attributes:
        effect: mean over replicates, each the mean of its contrasts.
        contrasts: number of contrasts per replicate.
        excluded: number of contrasts that are missing in some replicate.
    """

    effect: Estimate
    contrasts: int
    excluded: int


def pool(contrasts: Iterable[Contrast]) -> Pooled:
    """Average contrasts within replicates, then over replicates: the replicate is the unit of inference.

    Contrasts that are missing in some replicate are excluded, so that all replicates average the same ones.
    """
    replicates: dict[int, dict[tuple[str, ...], float]] = {}
    for replicate, what, value in contrasts:
        replicates.setdefault(replicate, {})[what] = value
    values = [replicates[replicate] for replicate in sorted(replicates)]
    common = sorted(set.intersection(*map(set, values))) if values else []
    means = [math.fsum(found[what] for what in common) / len(common) for found in values if common]
    return Pooled(estimate(means), len(common), len(set().union(*values)) - len(common))


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and t interval of one finite value per replicate."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, 0)
    # exact sums give the same bits on every machine
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * math.sqrt(variance / n), n)


def spearman(x: Iterable[float], y: Iterable[float]) -> float | None:
    """Return Spearman's rank correlation, with ties (up to `ROUNDING`) at their mean rank.

    None for fewer than `MIN_POINTS` points, and if all of `x` or all of `y` are equal.
    """
    # rounding makes values differ that are mathematically equal, such as errors minus their chord
    points = [pd.Series([round_ties(value) for value in values], dtype=float) for values in (x, y)]
    if len(points[0]) < MIN_POINTS or any(values.nunique() == 1 for values in points):
        return None
    # importing scipy.stats takes half a second
    return float(points[0].rank().corr(points[1].rank()))


def round_ties(value: float) -> float:
    """Round to `ROUNDING`, so that values equal up to rounding compare equal."""
    return round(value, 12)


@lru_cache
def _quantile(df: int) -> float:
    # scipy.special: importing scipy.stats takes half a second
    return float(stdtrit(df, (1 + CONFIDENCE) / 2))


DRAWS = 1000
"""Bootstrap samples of the images; the standard error of their standard deviation is 2 % of it."""


def estimate_over_images(
    statistic: Callable[[Array], Array], images: int, generator: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """Return the mean over replicates with an interval over replicates and test images.

    An interval over replicates is about the network on these test images: all replicates share them, so that
    a choice of images that happens to suit a network moves every replicate alike and does not widen the
    interval. With two crossed samples the variance of a mean is the sum of both parts (Owen, 2007, The
    pigeonhole bootstrap, Annals of Applied Statistics 1(2)). Replicates are few, and get Student's t; images
    are many, and are bootstrapped.

    The half-width is the root of the sum of squares of two: the 95 % t interval over replicates, and 1.96
    standard deviations of the mean under resampling of the images with replacement, the same ones in all
    replicates. What varies with both at once is counted twice, so that the interval is slightly too wide.

    Args:
        statistic: image weights `[draws, images]`, rows of sum 1 -> values `[draws, replicates]`; NaN where a
            value is undefined.
        images: number of test images.
        generator: source of the resamples.
        draws: number of resamples.

    Returns:
        The estimate. Its mean is None where a replicate's value is undefined; its half-width is None for one
        replicate, and where the statistic is undefined for more than a twentieth of the resamples.
    """
    even = np.full((1, images), 1 / images)
    values = statistic(even)[0]
    if not np.isfinite(values).all():
        return Estimate(None, None, len(values))
    alone = estimate(values.tolist())
    if alone.half_width is None:
        return alone
    weights = generator.multinomial(images, even[0], size=draws) / images
    means = statistic(weights).mean(axis=1)
    known = means[np.isfinite(means)]
    if len(known) < 0.95 * draws:
        return Estimate(alone.mean, None, alone.n)
    half = float(ndtri((1 + CONFIDENCE) / 2)) * float(known.std(ddof=1))
    return Estimate(alone.mean, math.hypot(alone.half_width, half), alone.n)
