"""Intervals that contain the sampling of test images beside that of replicates.

An interval over replicates is about the network on these test images: all replicates share them, so that a
choice of images that happens to suit a network moves every replicate alike and does not widen the interval.
With two crossed samples, replicates and images, the variance of a mean is the sum of both parts (Owen, 2007,
The pigeonhole bootstrap, Annals of Applied Statistics 1(2)). Replicates are few, and get Student's t; images
are many, and are bootstrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from lmcbench.results.curves import Array
from lmcbench.stats.estimates import CONFIDENCE, Estimate, estimate

DRAWS = 1000
"""Bootstrap samples of the images; the standard error of their standard deviation is 2 % of it."""


def estimate_over_images(
    statistic: Callable[[Array], Array], images: int, generator: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """Return the mean over replicates with an interval over replicates and test images.

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
