"""The papers' claims, each with its test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lmcbench.report import contrasts
from lmcbench.stats.cells import Cells
from lmcbench.stats.estimates import Contrast

Contrasts = Callable[[Cells, str], Iterable[Contrast]]
"""Cells and a split -> contrasts; the docstring is printed as the exact test."""

Unit = Literal["points", "points per 0.1 of share", "exponent", "fraction", "correlation"]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper and its test.

    Attributes:
        name: a slug.
        source: the paper: authors and year.
        statement: the claim, in words.
        unit: of the effect; `points` are percentage points.
        margin: effects that are certainly smaller than this, in the unit (points as fractions), are none.
        contrasts: the test.
        everywhere: also test it under every evaluation shift.
        controlled: the convex baseline is a negative control: nothing depends on its connectivity, so that an
            effect found there too is not one of connectivity.
    """

    name: str
    source: str
    statement: str
    unit: Unit
    margin: float
    contrasts: Contrasts
    everywhere: bool = False
    controlled: bool = False


HEPBURN, SINGH, FRANKLE = "Hepburn et al., 2025", "Singh et al., 2024", "Frankle et al., 2020"
PAPERS = {HEPBURN: "arXiv 2511.04514", SINGH: "arXiv 2406.16300", FRANKLE: "arXiv 1912.05671"}
"""Papers of the claims -> where they are."""

HEIGHT, WORTH, ORDER, EXPONENT, SHARE = 0.02, 0.01, 0.2, 0.2, 0.05
"""Margins: of barriers (the criterion of connectivity, Frankle et al., 2020, section 3.1) and accuracies, as
fractions; of correlations; of exponents; of shares of training and ratios of distances."""

CLAIMS = (
    Claim(
        "shift-raises-barrier",
        HEPBURN,
        "A training shift raises the barrier over its same(...) control, own noise",
        "points",
        HEIGHT,
        contrasts.shift_against_control,
    ),
    Claim(
        "labels-raise-barrier",
        HEPBURN,
        "With shared noise, other labels raise the barrier over other images",
        "points",
        HEIGHT,
        contrasts.labels_against_images,
    ),
    Claim(
        "skew-dose",
        HEPBURN,
        "With shared noise, more label-skew raises the barrier",
        "points per 0.1 of share",
        HEIGHT,
        contrasts.dose_of_skew,
    ),
    Claim(
        "learning-rate",
        HEPBURN,
        "A smaller learning rate lowers the barrier",
        "exponent",
        EXPONENT,
        contrasts.learning_rate,
    ),
    Claim(
        "batch-size",
        HEPBURN,
        "A larger batch lowers the barrier",
        "exponent",
        EXPONENT,
        contrasts.batch_size,
    ),
    Claim(
        "shift-and-noise",
        HEPBURN,
        "The barrier rises faster with the learning rate under shift",
        "exponent",
        EXPONENT,
        contrasts.shift_and_noise,
    ),
    Claim(
        "between-view-noise",
        HEPBURN,
        "The barrier rises with the share of gradient noise that lies between the views",
        "correlation",
        ORDER,
        contrasts.gradient_noise,
    ),
    Claim(
        "recalibration",
        HEPBURN,
        "Recalibrating BatchNorm statistics recovers connectivity",
        "points",
        HEIGHT,
        contrasts.recalibration,
    ),
    Claim(
        "disagreement-follows",
        HEPBURN,
        "Siblings with a higher barrier disagree more",
        "correlation",
        ORDER,
        contrasts.disagreement_follows,
        controlled=True,
    ),
    Claim(
        "overlap-follows",
        HEPBURN,
        "Siblings with a higher barrier overlap less in their errors",
        "correlation",
        ORDER,
        contrasts.overlap_follows,
        controlled=True,
    ),
    Claim(
        "gain-follows",
        HEPBURN,
        "Ensembles of siblings with a higher barrier gain more",
        "correlation",
        ORDER,
        contrasts.gain_follows,
        controlled=True,
    ),
    Claim(
        "equal-cost",
        HEPBURN,
        "At equal training cost and data, an ensemble of siblings beats one of independent networks",
        "points",
        WORTH,
        contrasts.equal_cost,
        everywhere=True,
    ),
    Claim(
        "whole-budget",
        HEPBURN,
        "At equal training cost and data, an ensemble of siblings beats one network",
        "points",
        WORTH,
        contrasts.whole_budget,
        everywhere=True,
    ),
    Claim(
        "later-forks",
        SINGH,
        "Later forks lower the barrier",
        "points",
        HEIGHT,
        contrasts.later_forks,
    ),
    Claim(
        "separation-falls",
        SINGH,
        "Siblings of later forks separate less in proportion to the way they travel",
        "fraction",
        SHARE,
        contrasts.separation_falls,
    ),
    Claim(
        "second-order",
        SINGH,
        "The second-order form ranks barriers better than distance does",
        "correlation",
        ORDER,
        contrasts.second_order,
    ),
    Claim(
        "second-order-gradients",
        SINGH,
        "The second-order form with gradients ranks barriers better than distance does",
        "correlation",
        ORDER,
        contrasts.second_order_with_gradients,
    ),
    Claim(
        "layer-ranking",
        SINGH,
        "The second-order form with gradients ranks layers by the barrier that each gives alone",
        "correlation",
        ORDER,
        contrasts.layer_ranking,
    ),
    Claim(
        "stable-early",
        FRANKLE,
        "Networks become stable early: within the first fifth of training",
        "fraction",
        SHARE,
        contrasts.stable_early,
    ),
)
